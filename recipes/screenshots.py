"""Photograph the page of `jova app`, or a workflow in ComfyUI, after a clip was made on it in a real browser.

    python -m diffusers_jova.recipes.screenshots page
    python -m diffusers_jova.recipes.screenshots comfyui http://127.0.0.1:8188

The first starts `jova app` and writes `page/page.png`. The second asks the ComfyUI that runs at the address, with the
pack installed, and writes `comfyui/graph.png`. Both need Chromium and `pip install playwright`.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from diffusers_jova.recipes.pictures import PROMPT
from jova_cli.parser import Parser


if TYPE_CHECKING:
    from playwright.sync_api import Page


WORKFLOW = Path("comfyui/example_workflows/text_to_video.json")
SEED = 7
TIMEOUT_MS = 600_000  # only to end a hang: a clip takes seconds on an idle machine
NUM_COLOURS = 128  # a third of the bytes, and nobody sees it
SECOND_S = 0.8  # of the clip that the picture shows: the mouth is open
# fmt: off
HAS_CLIP = "() => [...document.querySelectorAll('video')].some(video => video.readyState >= 2 && video.duration > 0)"
PAUSE = """async second => {
    for (const video of document.querySelectorAll('video')) {
        if (video.readyState < 2) continue;  // empty: it would never say that it is there
        video.pause();
        await new Promise(done => { video.onseeked = done; video.currentTime = second; });
    }
    document.activeElement.blur();
    scrollTo(0, 0);
}"""
# fmt: on


def find_chromium() -> str | None:
    """Where a Chromium of this machine lies, if there is one."""
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    return next((path for path in found if path), None)


@contextmanager
def open_browser(width_px: int, height_px: int) -> Iterator[Page]:
    """Open an empty page in a browser without a window.

    Raises:
        RuntimeError: Without a Chromium.
    """
    from playwright.sync_api import sync_playwright

    chromium = find_chromium()
    if chromium is None:
        raise RuntimeError("a picture of a page needs Chromium on the PATH, found none; install `chromium`")
    with sync_playwright() as playwright:
        # nobody else's page is opened, so the sandbox, which root cannot have, protects from nothing
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width_px, "height": height_px})
        page.set_default_timeout(TIMEOUT_MS)
        yield page
        browser.close()


@contextmanager
def jova_app(*options: str) -> Iterator[str]:
    """Start `jova app` on a free port of this machine, and end it as Ctrl-C does.

    Args:
        options: Further words of its command line.

    Yields:
        Its address.
    """
    words = [sys.executable, "-m", "jova_cli", "app", "--device", "cpu", *options]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield next(word for word in line.split() if word.startswith("http"))
        finally:
            process.send_signal(signal.SIGINT)


def make_clip(page: Page, address: str, **fields: str) -> None:
    """Fill the form of `jova app`, press the button and wait for the clip.

    Args:
        page: Of a browser.
        address: Of the page.
        fields: Label of a text field or number -> what is typed into it.
    """
    ask_for_clip(page, address, **fields)
    page.wait_for_function(HAS_CLIP)


def ask_for_clip(page: Page, address: str, **fields: str) -> None:
    """As `make_clip`, without waiting."""
    page.goto(address)
    page.get_by_text("More settings").click()
    for label, text in fields.items():
        page.get_by_label(label, exact=True).first.fill(text)
    page.get_by_text("More settings").click()  # folds them again
    page.get_by_role("button", name="Make it").click()


def run_workflow(page: Page, address: str, workflow: dict[str, Any]) -> None:
    """Open a workflow in ComfyUI, press Run and wait for the clip.

    Args:
        page: Of a browser.
        address: Of a running ComfyUI.
        workflow: In the format of its user interface.
    """
    page.goto(address)
    page.wait_for_function("() => window.app?.graph")
    page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
    page.keyboard.press("Escape")  # a first visit is offered templates
    page.get_by_role("button", name="Run", exact=True).first.click()
    page.wait_for_function(HAS_CLIP)


def photograph(page: Page, path: Path) -> None:
    """Stop all clips at the same second and write what the browser shows."""
    page.evaluate(PAUSE, SECOND_S)
    page.mouse.move(5, 5)
    with Image.open(BytesIO(page.screenshot())) as picture:
        picture.convert("RGB").quantize(NUM_COLOURS).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def main(argv: Sequence[str] | None = None) -> None:
    """Make one of the pictures and say how large it is."""
    parser = Parser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("page", help="the page of `jova app`").add_argument(
        "--output", type=Path, default=Path("page/page.png")
    )
    comfyui = kinds.add_parser("comfyui", help="a workflow in ComfyUI")
    comfyui.add_argument("address", help="of a running ComfyUI with the pack")
    comfyui.add_argument("--workflow", type=Path, default=WORKFLOW)
    comfyui.add_argument("--output", type=Path, default=Path("comfyui/graph.png"))
    args = parser.parse_args(argv)
    if args.kind == "page":
        with open_browser(1280, 1310) as page, jova_app() as address:
            make_clip(page, address, Seen=PROMPT.video, Heard=PROMPT.audio, Said=PROMPT.transcript, Seed=str(SEED))
            photograph(page, args.output)
    else:
        with open_browser(1500, 770) as page:
            run_workflow(page, args.address, json.loads(args.workflow.read_text()))
            photograph(page, args.output)


if __name__ == "__main__":
    main()
