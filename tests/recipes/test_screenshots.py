"""The page in a real browser, by the code that photographs it."""

import json
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest

from diffusers_jova.recipes import screenshots


pytest.importorskip("gradio")
pytest.importorskip("playwright")

from playwright.sync_api import Page, expect


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(screenshots.find_chromium() is None, reason="needs Chromium on the PATH"),
]
DOG = {"Seen": "A cartoon dog barks on a blue background.", "Heard": "a dog barking"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with screenshots.jova_app() as address:
        yield address


@pytest.fixture
def page() -> Iterator[Page]:
    with screenshots.open_browser(1280, 1260) as page:
        yield page


def test_a_clip_is_made_played_photographed_and_its_seed_is_taken_again(
    address: str, page: Page, tmp_path: Path
) -> None:
    screenshots.make_clip(page, address, **DOG)
    screenshots.photograph(page, tmp_path / "page.png")
    with PIL.Image.open(tmp_path / "page.png") as picture:
        assert picture.size == (1280, 1260)
    assert page.evaluate("document.querySelector('video').currentTime") == pytest.approx(screenshots.SECOND_S, abs=0.1)
    with page.expect_download() as download:
        page.locator("a[href*='settings.jsonl']").first.click()
    seed = str(json.loads(Path(download.value.path()).read_text())["seed"])
    assert page.get_by_label("Seed", exact=True).first.input_value() != seed
    page.get_by_role("button", name="Take this seed again").click()
    expect(page.get_by_label("Seed", exact=True).first).to_have_value(seed)


def test_a_form_without_words_is_answered_and_no_clip_appears(address: str, page: Page) -> None:
    page.goto(address)
    for label in ("Seen", "Heard", "Said"):
        page.get_by_label(label, exact=True).first.fill("")
    page.get_by_role("button", name="Make it").click()
    page.get_by_text("the prompt must be given").first.wait_for()
    assert not page.evaluate(screenshots.HAS_CLIP.removeprefix("() => "))
