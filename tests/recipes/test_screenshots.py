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


SOURCE = "document.querySelector('video').currentSrc"


def test_two_people_at_once_each_get_their_own_clip(address: str, page: Page) -> None:
    browser = page.context.browser
    assert browser is not None
    pages = [browser.new_context().new_page() for _ in range(2)]
    for seed, own in enumerate(pages):
        own.set_default_timeout(screenshots.TIMEOUT_MS)
        screenshots.ask_for_clip(own, address, **DOG, Seed=str(seed))
    for seed, own in enumerate(pages):
        own.wait_for_function(screenshots.HAS_CLIP)
        expect(own.get_by_label("Its seed", exact=True).first).to_have_value(str(seed))
    first, second = (own.evaluate(SOURCE) for own in pages)
    assert first != second
    bodies = [own.request.get(own.evaluate(SOURCE)).body() for own in pages]
    assert bodies[0] != bodies[1]


def test_a_clip_that_is_cancelled_ends_and_the_next_one_is_made(address: str, page: Page) -> None:
    screenshots.ask_for_clip(page, address, **DOG, Steps="1000")
    page.get_by_text("/1000 steps").first.wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("the clip was cancelled").first.wait_for()
    assert not page.evaluate(screenshots.HAS_CLIP.removeprefix("() => "))
    screenshots.make_clip(page, address, **DOG, Steps="1")
