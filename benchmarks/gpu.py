"""Everything that only a GPU can show, in one run: the tests marked `gpu`, then times and memory of real sizes.

    python -m benchmarks.gpu [--output gpu.json] [--minutes 8] [--sections tests blocks ...] [--toy]

Each section runs in a process of its own, within its share of the minutes that are left, and reports every figure at
once: what fails, runs out of memory or is ended costs only itself. `gpu.json` is whole after every section. The exit
code is 1 if anything failed or was not reached. Without a GPU, or with `--toy`, the same code runs on models of a few
thousand weights, whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


ROOT = Path(__file__).parents[1]
SECTIONS = {"tests": 4.0, "denoising": 2.5, "training": 2.0, "blocks": 2.0}  # in order, with their shares of the time
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "bitsandbytes", "numpy", "triton")
OUTCOMES = ("ok", "failed", "skipped", "not reached")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sections; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="file to write")
    parser.add_argument("--minutes", type=float, default=8.0, help="time of all sections together")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what to run")
    parser.add_argument("--toy", action="store_true", help="models of a few thousand weights")
    parser.add_argument("--only", choices=SECTIONS, help=argparse.SUPPRESS)  # the process of one section
    args = parser.parse_args(argv)
    if args.only:
        run_section(args.only, args.toy, Reporter(args.output))
        return 0
    is_toy = args.toy or not torch.cuda.is_available()
    if is_toy and not args.toy:
        print("no GPU here: models of a few thousand weights on the CPU, whose figures mean nothing")
    return run_all(args.sections, args.output, args.minutes, is_toy)


def run_all(sections: Sequence[str], output: Path, minutes: float, is_toy: bool) -> int:
    """Run each section within its share of the time left and write the results after each."""
    report: dict[str, Any] = {"machine": describe_machine(), "toy": is_toy, "sections": {}}
    print(json.dumps(report["machine"]), flush=True)
    started = time.monotonic()
    for position, name in enumerate(sections):
        left_s = 60 * minutes - (time.monotonic() - started)
        limit_s = left_s * SECTIONS[name] / sum(SECTIONS[later] for later in sections[position:])
        print(f"\n## {name}, at most {limit_s:.0f} s", flush=True)
        section_start = time.monotonic()
        rows = run_process(name, is_toy, limit_s)
        report["sections"][name] = {"seconds": time.monotonic() - section_start, "rows": rows}
        output.write_text(json.dumps(report, indent=1) + "\n")
        print("\n" + markdown_table(rows), flush=True)
    outcomes = [row["outcome"] for section in report["sections"].values() for row in section["rows"]]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in OUTCOMES if outcome in outcomes)
    print(f"\n{counts}; {time.monotonic() - started:.0f} s; wrote {output}")
    return int("failed" in outcomes or "not reached" in outcomes)


def run_process(section: str, is_toy: bool, limit_s: float) -> list[dict[str, Any]]:
    """Run one section in a process of its own and read what it reported."""
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "rows.jsonl"
        command = [sys.executable, "-m", "benchmarks.gpu", "--only", section, "--output", str(lines)]
        try:
            done = subprocess.run([*command, *(["--toy"] if is_toy else [])], cwd=ROOT, timeout=max(1.0, limit_s))
            end = f"the process ended with code {done.returncode}"
        except subprocess.TimeoutExpired:
            end = f"ended after its {limit_s:.0f} s"
        return read_rows(lines, end)


def read_rows(lines: Path, end: str) -> list[dict[str, Any]]:
    """Rows that a section reported; what it announced without a result failed if it had begun."""
    rows: dict[str, dict[str, Any]] = {}
    for line in lines.read_text().splitlines() if lines.exists() else []:
        values = json.loads(line)
        rows[values["name"]] = values
    if not rows:
        return [{"name": "start", "outcome": "failed", "error": end}]
    for row in rows.values():
        if row["outcome"] == "running":
            row |= {"outcome": "failed", "error": end}
    return list(rows.values())


class Reporter:
    """Writes rows to a file, a line each, at once; a later row of a name counts. It is a plugin of pytest too.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, outcome: str, **values: Any) -> None:
        """Report one row."""
        with self.path.open("a") as file:
            file.write(json.dumps({"name": name, "outcome": outcome, **finite(values)}) + "\n")

    def pytest_collection_finish(self, session: Any) -> None:
        """Announce all tests."""
        for item in session.items:
            self.write(item.name, "not reached")

    def pytest_collectreport(self, report: Any) -> None:
        """Report a file of tests that could not be read."""
        if report.failed:
            self.write(report.nodeid, "failed", error=str(report.longrepr)[-2000:])

    def pytest_runtest_logstart(self, location: tuple[str, int, str]) -> None:
        """Report that a test begins."""
        self.write(location[2], "running")

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Report how a test ended, with the figures that it recorded."""
        name, values = report.location[2], dict(report.user_properties)
        if report.failed:
            crash = getattr(getattr(report.longrepr, "reprcrash", None), "message", "")
            error = f"{report.longreprtext[-2000:]}\n{' '.join(crash.split())}"
            self.write(name, "failed", error=error, **values)
        elif report.skipped:
            self.write(name, "skipped", error=report.longrepr[2])
        elif report.when == "call":
            self.write(name, "ok", seconds=report.duration, **values)


def run_section(section: str, is_toy: bool, reporter: Reporter) -> None:
    """Run one section in this process."""
    if section == "tests":
        run_tests(reporter)
        return
    from benchmarks import gpu_work  # imports everything, which is not the parent's

    device = "cuda" if torch.cuda.is_available() else "cpu"
    measurements = getattr(gpu_work, section)(is_toy)
    for name in measurements:
        reporter.write(name, "not reached")
    for name, measure in measurements.items():
        reporter.write(name, "running")
        start = time.monotonic()
        try:
            row = measure(device)
            reporter.write(name, "ok", **row, seconds=time.monotonic() - start)
            print(f"{time.monotonic() - start:6.1f} s  {name}", flush=True)
        except Exception:
            reporter.write(name, "failed", error=traceback.format_exc()[-2000:], seconds=time.monotonic() - start)
            print(f"{time.monotonic() - start:6.1f} s  {name} FAILED\n{traceback.format_exc()}", flush=True)
        release_memory()


def run_tests(reporter: Reporter) -> None:
    """Run the tests marked `gpu`; without a GPU they skip, which shows that they can be read."""
    import pytest

    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    options = ["-m", "gpu", "-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "--durations=5"]
    # what installed libraries warn of is shown and no error: their versions need not be those tested together
    pytest.main([*files, *options, "-W", "default"], plugins=[reporter])


def release_memory() -> None:
    """Give back what a measurement held, so that the next starts from nothing."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def describe_machine() -> dict[str, Any]:
    """Card, driver, and the versions that matter."""
    machine: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            machine[package] = version(package)
        except PackageNotFoundError:
            machine[package] = None
    if not torch.cuda.is_available():
        return machine | {"card": None}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader"]
    try:
        card = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        card = f"nvidia-smi: {error}"
    return machine | {"card": card, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def finite(value: Any) -> Any:
    """The same with NaN and infinity as words, which JSON has no numbers for."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per row, one column per figure; the last line of an error."""
    shown = [{name: cell(name, value) for name, value in row.items()} for row in rows]
    columns = list(dict.fromkeys(name for row in shown for name in row))
    lines = [columns, ["---"] * len(columns), *([row.get(column, "") for column in columns] for row in shown)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(name: str, value: Any) -> str:
    """One figure as a reader wants it."""
    if isinstance(value, dict):
        return ", ".join(f"{key.removeprefix('aten::')} {part:.0%}" for key, part in value.items())
    if name == "parameters" or name.endswith("_parameters"):
        return f"{value / 1e9:.2f} B" if value > 1e8 else f"{value / 1e6:.2f} M"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.strip().splitlines()[-1][:160].replace("|", "/") if text.strip() else ""


if __name__ == "__main__":
    sys.exit(main())
