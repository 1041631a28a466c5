"""The report in a real browser, without a network: its players play what was measured."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diffusers_jova.evaluation.evaluate import main
from diffusers_jova.evaluation.report import Report
from diffusers_jova.evaluation.report_page import write_page
from diffusers_jova.media import write_audio
from diffusers_jova.recipes import screenshots
from tests.evaluation.speaking import write_speaker
from tests.evaluation.test_set_score import rows_of, sure


pytest.importorskip("playwright")

from playwright.sync_api import Page


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(screenshots.find_chromium() is None, reason="needs Chromium on the PATH"),
]
PLAYED_S = 0.5
PLAY = """async ([name, seconds]) => {
  const card = [...document.querySelectorAll('#shown .card')].find(one => one.querySelector('b').textContent === name);
  const [player, sound] = card.querySelectorAll('video, audio');
  player.muted = true;  // a browser lets nobody play aloud without a click
  if (sound) sound.muted = true;
  await player.play();
  await new Promise(done => {
    player.addEventListener('timeupdate', () => { if (player.currentTime >= seconds) done(); });
    player.addEventListener('ended', done);
  });
  const far = sound ? Math.abs(sound.currentTime - player.currentTime) : 0;
  player.pause();
  await new Promise(done => setTimeout(done, 0));
  return { far, hasPaused: !sound || sound.paused, tags: [...card.querySelectorAll('svg, video, audio')].length };
}"""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """The report of a clip, of the same with another sound beside it, and of a sound."""
    clips = tmp_path / "clips"
    for name in ("own", "beside"):
        write_speaker(clips, name, seed=0)
    tone = np.sin(np.arange(32000, dtype=np.float32))[None] / 2
    for name in ("beside", "alone"):
        write_audio(clips / f"{name}.wav", tone, 16000)
    main([str(clips), "--output", str(tmp_path / "report"), "--measures", "sync", "timing", "sound"])
    with screenshots.open_browser(1280, 1260) as page:
        page.context.set_offline(True)
        yield page


def test_the_players_play_what_was_measured(page: Page, tmp_path: Path) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto((tmp_path / "report" / "report.html").as_uri())
    page.get_by_label("measure").select_option("true_peak_dbtp")
    for name, num_parts in {"own": 2, "beside": 3, "alone": 2}.items():  # a curve and players
        played = page.evaluate(PLAY, [name, PLAYED_S])
        assert played["far"] < 0.2, name
        assert played["hasPaused"], name
        assert played["tags"] == num_parts, name
    assert not errors


def test_the_page_tells_what_each_side_is_worth_as_a_set(tmp_path: Path) -> None:
    report = Report(["varied"], rows_of(sure([0, 1, 2] * 4)), "alike", rows_of(sure([0] * 12)))
    write_page(tmp_path / "report.html", report)
    errors: list[str] = []
    with screenshots.open_browser(1280, 1260) as page:
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((tmp_path / "report.html").as_uri())
        told = page.locator("#set-scores tbody tr").all_inner_texts()
        warning = page.locator("#score-warnings").inner_text()
    assert not errors
    assert [line.split("\t")[:2] for line in told] == [
        ["IS of the sound (classes)", "varied"],
        ["IS of the sound (classes)", "alike"],
    ]
    assert warning == ""
