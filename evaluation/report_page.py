"""The report as one HTML file without a network: tables to sort, distributions, the worst and best clips to play."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from diffusers_jova.evaluation.measures import WAYS
from diffusers_jova.evaluation.report import Report, Row, verdict
from diffusers_jova.whole_files import write_text


TEMPLATE = Path(__file__).with_name("report_page.html")
PLACE = "@@REPORT@@"


def write_page(path: Path, report: Report) -> None:
    """Write the page; clips are played from where they lie, by links relative to it."""
    text = json.dumps(page_data(report, path.parent), allow_nan=False)
    text = text.replace("<", "\\u003c")  # no tag can end the script that holds it
    write_text(path, TEMPLATE.read_text(encoding="utf-8").replace(PLACE, text))


def page_data(report: Report, folder: Path) -> dict[str, Any]:
    """What the page shows, for a page in a folder."""
    written = report.as_json()
    differences = report.differences()
    return {
        "package": written["package"],
        "date": written["date"],
        "sources": report.sources,
        "against": report.against,
        "paired": report.is_paired,
        "left_out": report.missing,
        "summary": written["summary"],
        "other_summary": written.get("against", {}).get("summary", {}),
        "protocol": written.get("protocol"),
        "sets": written.get("against", {}).get("sets", []),
        "set_scores": [
            {**score, "against": is_other}
            for is_other, side in enumerate((written, written.get("against", {})))
            for score in side.get("set_scores", [])
        ],
        "differences": {
            name: {**difference._asdict(), "verdict": verdict(measure, difference)}
            for measure in report.measures
            if (difference := differences.get(name := measure.name)) is not None
        },
        "measures": [{**measure._asdict(), "way": WAYS.get(measure.name, "")} for measure in report.measures],
        "rows": [*_rows(report.rows, folder, 0), *_rows(report.other_rows, folder, 1)],
    }


def _rows(rows: Iterable[Row], folder: Path, side: int) -> Iterable[dict[str, Any]]:
    for row in rows:
        yield {
            "name": row.name,
            "side": side,
            "link": _link(row.file, folder),
            "sound": None if row.sound is None else _link(row.sound, folder),
            "error": row.error,
            "values": row.values,
            "reasons": row.reasons,
            "texts": row.texts,
            "curves": row.curves,
        }


def _link(file: Path, folder: Path) -> str:
    """To a file, from a page in a folder."""
    return quote(Path(os.path.relpath(file, folder)).as_posix())
