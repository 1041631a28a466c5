"""The page as those meet it who use it: through a server on a free port, by the calls that a browser makes."""

import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from diffusers_jova import media
from diffusers_jova.drawn.avatars import make_clip


pytest.importorskip("gradio")

import gradio as gr
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import Status

from diffusers_jova.clip_call import call_arguments, load_pipeline
from diffusers_jova.devices import choose_device
from diffusers_jova.page.app import Page, open_page
from diffusers_jova.provenance import read_provenance
from jova_cli.app import parse
from jova_cli.clip_settings import MEDIA
from jova_cli.generate import Adapter
from jova_cli.generate import parse as parse_words
from jova_cli.model_info import front_matter
from tests.interrupts import heeding_interrupts
from tests.places import ROOT


DOG = {"video_caption": "A cartoon dog barks on a blue background.", "audio_caption": "a dog barking"}
SHORT = {**DOG, "steps": 2, "num_frames": 9}  # of jova-tiny, whose clips have 33 frames
FRAME_RATE = 16.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the page keeps its files."""
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setattr("gradio.utils.get_heartbeat_rate", lambda: 0.25, raising=False)  # 15 s until a page is gone
        yield folder


@pytest.fixture(scope="module")
def page() -> Page:
    _, args = parse(["--device", "cpu", "--queue-size", "1", "--port", str(free_port())])
    return Page(args, load_pipeline(args, choose_device(args.device)))


@pytest.fixture(scope="module")
def blocks(page: Page) -> Iterator[gr.Blocks]:
    opened = open_page(page)
    yield opened
    opened.close(verbose=False)


@pytest.fixture(scope="module")
def user(blocks: gr.Blocks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Somebody who has the page open all the time."""
    downloads = tmp_path_factory.mktemp("downloads")
    client = Client(blocks.local_url, verbose=False, download_files=downloads, analytics_enabled=False)
    yield client
    client.close()


@pytest.fixture
def visit(blocks: gr.Blocks, tmp_path: Path) -> Iterator[Callable[[], Client]]:
    """Open the page as one more user, whose downloads lie in a folder of the test."""
    clients = []

    def open_as_one_more() -> Client:
        downloads = tmp_path / f"user-{len(clients)}"
        clients.append(Client(blocks.local_url, verbose=False, download_files=downloads, analytics_enabled=False))
        return clients[-1]

    yield open_as_one_more
    for client in clients:
        client.close()


class Gate:
    """Holds the transformer at the start of its n-th step until the test lets it go."""

    def __init__(self, page: Page, step: int) -> None:
        self.num_steps, self.step = 0, step
        self.reached, self.opened = threading.Event(), threading.Event()
        self.handle = page.pipeline.transformer.register_forward_pre_hook(self.hold)

    def hold(self, *_: Any) -> None:
        self.num_steps += 1
        if self.num_steps == self.step:
            self.reached.set()
            self.opened.wait()


@pytest.fixture
def gate(page: Page) -> Iterator[Callable[[int], Gate]]:
    gates = []

    def close_at(step: int) -> Gate:
        gates.append(Gate(page, step))
        return gates[-1]

    yield close_at
    for closed in gates:
        closed.opened.set()
        closed.handle.remove()


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def test_the_page_is_for_this_machine_alone_and_tells_nobody(blocks: gr.Blocks) -> None:
    assert blocks.server_name == "127.0.0.1"
    assert blocks.local_url.startswith("http://127.0.0.1:")
    assert not blocks.share
    assert not blocks.analytics_enabled
    assert not blocks.run_history


def test_a_prompt_becomes_the_clip_of_the_command_its_sound_its_settings_and_an_estimate(
    user: Client, page: Page, tmp_path: Path
) -> None:
    shown = (33, 64, 64, 16.0, 8, 1.5, "", ["video", "audio"])
    assert page.estimate(*shown).startswith("33 frames are 2.06 s. How long it takes is not known yet")
    clip, sound, settings, seed, _ = user.predict(**SHORT, seed=7, api_name="/generate")
    video = media.read_video(clip)
    assert video.frames.shape == (9, 64, 64, 3)
    assert video.frame_rate == FRAME_RATE
    assert video.audio is not None
    for waveform, rate in ((video.audio, video.sampling_rate), media.read_audio(sound)):
        assert abs(waveform.shape[1] / rate - 9 / FRAME_RATE) < 1 / FRAME_RATE
        assert np.abs(waveform).max() > 0
    assert seed == 7
    assert re.search(r"Estimate: \d+ s to make it, from the 2 measured steps", page.estimate(*shown))
    assert page.estimate(None, *shown[1:]) == ""

    for path in (clip, sound):
        record = read_provenance(path)
        assert (record["model"], record["seed"], record["settings"]["num_inference_steps"]) == ("jova-tiny", 7, 2)

    _, args = parse_words(["--prompts", settings, "--output", str(tmp_path)])  # the settings are a row of a list
    (row,) = args.rows
    again = row.args
    made: Any = page.pipeline(**call_arguments(again), generator=torch.Generator().manual_seed(again.seed))
    made.save(again.output)
    same = media.read_video(again.output)
    assert np.array_equal(same.frames, video.frames)
    assert np.array_equal(same.audio, video.audio)


@pytest.mark.usefixtures("blocks")
def test_settings_fill_the_form_again_and_others_are_refused(page: Page, tmp_path: Path) -> None:
    names = [name for name in page.field_names if name not in MEDIA]
    path = tmp_path / "settings.jsonl"
    path.write_text(json.dumps({"model": "jova-tiny", "seed": 5, "transcript": "hello"}))
    filled = dict(zip(names, page.fill(str(path)), strict=True))
    assert (filled["seed"], filled["transcript"]) == (5, "hello")  # the component makes a text of a number
    assert filled["steps"] == gr.skip()
    assert filled["as_given"] is True
    path.write_text(json.dumps({"audio": "voice.wav", "num_frames": 33}))
    with pytest.warns(UserWarning, match="give these again"):
        filled = dict(zip(names, page.fill(str(path)), strict=True))
    assert filled["as_given"] is False  # the number is meant
    for text, message in (
        ("[]", r"got \[\]"),
        ('{"sed": 1}', "got sed"),
        ("no", "must be a JSON object"),
        ('{"lora": 5}', "`Adapters` must be a list of texts, got int"),
    ):
        path.write_text(text)
        with pytest.raises(gr.Error, match=message):
            page.fill(str(path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"video_caption": "", "audio_caption": ""}, r"`Seen`, `Heard` and `Said`, got neither"),
        ({"steps": 0}, r"`Steps` must be at least 1, got 0"),
        ({"num_frames": 10}, r"`Frames` must be 4k \+ 1 .*, got 10; use 9 or 13"),
        ({"height": 20}, r"`Height` must be a positive multiple of 16, got 20; use 16"),
        ({"num_frames": 65}, r"^`Frames` must be from 1 to 61, got 65; choose another$"),
        ({"width": 0}, r"^`Width` must be from 16 to \d+, got 0; choose another$"),
        ({"num_frames": 8.6}, r"^`Frames` must be a whole number, got 8.6; round it$"),
        ({"steps": 2.7}, r"^`Steps` must be a whole number, got 2.7; round it$"),
        ({"fit": "bend"}, r"^`Other shapes` must be of cover, contain, stretch, got 'bend'; choose another$"),
        ({"modalities": ["text"]}, r"^`Made` must be of video, audio, got \['text'\]; choose another$"),
        ({"modalities": []}, r"^`Made` must be a choice of .*, got \[\]; tick one or both$"),
        ({"seed": -1}, r"`Seed` must be from 0"),
        ({"seed": "1.5"}, r"`Seed` must be a whole number, got 1.5; or leave it empty"),
        ({"audio_guidance_scale": "loud"}, r"`Guidance of the sound` must be a number, got loud"),
        ({"modalities": None}, r"`Made` must hold what the field is for, got None"),
    ],
)
def test_bad_input_is_shown_as_a_sentence_with_the_names_of_the_page(
    user: Client, files: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(AppError, match=message):
        user.predict(**{**SHORT, **fields}, api_name="/generate")
    assert not list(files.rglob("running"))


def test_a_file_that_is_none_of_its_kind_is_named_as_its_owner_knows_it(user: Client, tmp_path: Path) -> None:
    text = tmp_path / "portrait.png"
    text.write_text("no picture")
    with pytest.raises(
        AppError, match=r"`First frame` must .*, got portrait.png \(Unidentif.*; open and save it again"
    ):
        user.predict(**SHORT, image=handle_file(text), api_name="/generate")
    text = text.rename(tmp_path / "voice.wav")
    with pytest.raises(AppError, match=r"`Own voice` must be a media file that libav can decode, got voice.wav \("):
        user.predict(**SHORT, audio=handle_file(text), api_name="/generate")


@pytest.mark.slow
def test_two_users_get_two_clips_one_after_the_other_and_a_third_finds_the_queue_full(
    visit: Callable[[], Client], gate: Callable[[int], Gate]
) -> None:
    held = gate(1)
    users = [visit() for _ in range(3)]
    jobs = [users[0].submit(**SHORT, seed=1, api_name="/generate")]
    held.reached.wait()
    jobs.append(users[1].submit(**SHORT, seed=2, api_name="/generate"))
    wait_until(lambda: jobs[1].status().code is Status.IN_QUEUE)
    assert jobs[1].status().rank == 0
    with pytest.raises(Exception, match=r"[Qq]ueue is full"):
        users[2].predict(**SHORT, api_name="/generate")
    assert held.num_steps == 1  # the second waits for the first
    held.opened.set()
    clips = [media.read_video(job.result()[0]) for job in jobs]
    assert [json.loads(Path(job.result()[2]).read_text())["seed"] for job in jobs] == [1, 2]
    assert not np.array_equal(clips[0].frames, clips[1].frames)


def test_cancelling_ends_a_clip_with_its_step_and_clips_go_with_their_session(
    visit: Callable[[], Client], gate: Callable[[int], Gate], files: Path
) -> None:
    before = set(files.rglob("clip.mp4"))
    held, user, other = gate(2), visit(), visit()
    job = user.submit(**{**SHORT, "steps": 50}, api_name="/generate")
    held.reached.wait()
    assert other.predict(api_name="/cancel") == "Nothing of yours was running."
    assert user.predict(api_name="/cancel") == "Cancelled."
    held.opened.set()
    with pytest.raises(AppError, match="the clip was cancelled"):
        job.result()
    assert held.num_steps == 2
    assert set(files.rglob("clip.mp4")) <= before  # of others, whose pages may close meanwhile
    user.predict(**SHORT, api_name="/generate")  # of the same user
    (clip,) = set(files.rglob("clip.mp4")) - before
    user.close()
    wait_until(lambda: not clip.exists())


@pytest.mark.filterwarnings("ignore:unclosed file.*portrait.png:ResourceWarning")  # which gradio leaves open
def test_an_own_voice_and_a_first_frame_are_used_and_what_is_left_out_is_told(user: Client, tmp_path: Path) -> None:
    drawn = make_clip(3, subject="speaker", num_frames=33)
    media.write_audio(tmp_path / "voice.wav", drawn.waveform[:16000], drawn.sampling_rate)
    media.write_video(tmp_path / "clip.mp4", drawn.frames[:9], FRAME_RATE, drawn.waveform[:9000], drawn.sampling_rate)
    media.write_video(tmp_path / "tall.mp4", drawn.frames[:9, :, :32], FRAME_RATE)
    voice, video = handle_file(tmp_path / "voice.wav"), handle_file(tmp_path / "clip.mp4")
    portrait = tmp_path / "portrait.png"
    PIL.Image.fromarray(drawn.frames[0]).save(portrait)
    given = {"image": handle_file(portrait), "audio": voice}
    clip, _, settings, _, said = user.predict(**SHORT, **given, api_name="/generate")
    assert len(media.read_video(clip).frames) == 17  # what a second of sound fills
    values = json.loads(Path(settings).read_text())
    assert (values["image"], values["audio"]) == ("portrait.png", "voice.wav")
    assert "num_frames" not in values  # a number would let the model go on where the sound falls short of it
    assert "other pictures" in said
    *_, said = user.predict(**SHORT, video=video, api_name="/generate")
    assert "the sound of `Own video` is left out" in said
    assert "frames per second, as this model" not in said  # it was read at the rate of the form
    *_, said = user.predict(**SHORT, video=handle_file(tmp_path / "tall.mp4"), api_name="/generate")
    assert "are cut" in said


def test_a_setting_that_nobody_touched_is_not_told_to_be_unused(user: Client) -> None:
    alone = {**SHORT, "modalities": ["audio"]}
    *_, said = user.predict(**alone, api_name="/generate")
    assert said == ""
    *_, said = user.predict(**alone, height=32, api_name="/generate")
    assert said == "`Height` is not used: video takes no part"


def test_the_mouth_mask_of_a_clip_is_shown_by_its_boxes(user: Client, tmp_path: Path) -> None:
    drawn = make_clip(3, subject="speaker", num_frames=33)
    media.write_video(tmp_path / "a.mp4", drawn.frames, FRAME_RATE, drawn.waveform, drawn.sampling_rate)
    boxes = tmp_path / "a.boxes.json"
    boxes.write_text(json.dumps(np.asarray(drawn.mouth_boxes).tolist()))
    preview, said = user.predict(handle_file(tmp_path / "a.mp4"), handle_file(boxes), api_name="/preview")
    assert len(media.read_video(preview).frames) == 33
    assert "1 mouth, in 100% of the frames" in said
    with pytest.raises(AppError, match="`clip` must be a video, got none"):
        user.predict(None, None, api_name="/preview")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(AppError, match=r"`source` must be a whole file, got .*, which is empty"):
        user.predict(handle_file(tmp_path / "empty.mp4"), None, api_name="/preview")


def test_only_the_adapters_of_the_page_can_be_chosen(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = "/home/anna/one.safetensors", "/home/anna/old/one.safetensors"
    monkeypatch.setattr(page.args, "lora", [Adapter(first, 1.0), Adapter(second, 0.5)])
    assert page.weighed(["one-2:0.25"]) == [Adapter(first, 0.0), Adapter(second, 0.25)]
    assert page.weighed([]) == [Adapter(first, 0.0), Adapter(second, 0.0)]
    with pytest.raises(ValueError, match="`lora` must be one of one, one-2, got three"):
        page.weighed(["three"])
    with pytest.raises(ValueError, match=r"`lora` must name each adapter once, got one:0\.5, one:0\.7; leave"):
        page.weighed(["one:0.5", "one:0.7"])


def test_examples_and_licences_are_those_of_the_model(blocks: gr.Blocks) -> None:
    components = blocks.get_config_file()["components"]
    (examples,) = (part["props"]["samples"] for part in components if part["type"] == "dataset")
    assert len(examples) == 4  # of jova-tiny's world
    texts = [str(part["props"].get("value")) for part in components if part["type"] == "markdown"]
    assert any("| vae | AutoencoderKLWan | apache-2.0 |" in text for text in texts)


def test_no_number_field_is_empty_because_a_browser_would_send_zero(blocks: gr.Blocks) -> None:
    components = blocks.get_config_file()["components"]
    numbers = [part["props"] for part in components if part["type"] in ("number", "slider")]
    filled = [props for props in numbers if props.get("interactive") is not False]
    assert len(filled) > 4
    assert all(props.get("value") is not None for props in filled), filled


def test_what_zerogpu_runs_elsewhere_can_be_sent_there_and_back(
    page: Page, user: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_if_elsewhere(*arguments: Any) -> Any:
        return pickle.loads(pickle.dumps(page.make_clip(*pickle.loads(pickle.dumps(arguments)))))

    monkeypatch.setattr(page, "compute", as_if_elsewhere)
    clip, sound, *_ = user.predict(**SHORT, modalities=["audio"], api_name="/generate")
    assert clip is None
    waveform, rate = media.read_audio(sound)  # sound alone is a wav
    assert abs(waveform.shape[1] / rate - 9 / FRAME_RATE) < 1 / FRAME_RATE


def test_a_space_gets_the_gradio_that_is_tested() -> None:
    values = front_matter(ROOT / "page")
    assert f"gradio=={values['sdk_version']}" in (ROOT / "constraints.txt").read_text().split()
    assert (ROOT / "page" / values["app_file"]).is_file()
    assert values["license"] == "apache-2.0"


def test_a_clip_beyond_the_machine_is_refused_before_it_is_begun(user: Client, gate: Callable[[int], Gate]) -> None:
    held = gate(1)
    said = r"a clip must .* (hours|days|years) at least; use fewer `Frames` or `Steps` or .* `jova app --yes`"
    with pytest.raises(AppError, match=said):
        user.predict(**{**SHORT, "steps": 10**9}, api_name="/generate")
    assert held.num_steps == 0


def test_an_estimate_of_what_is_half_typed_is_nothing(page: Page) -> None:
    shown = [33, 64, 64, 16.0, 8, 1.5, "", ["video", "audio"]]
    assert page.estimate(*shown).startswith("33 frames are 2.06 s.")
    for place, half in ((0, None), (3, 0), (4, -2), (6, "-"), (7, [])):
        assert page.estimate(*shown[:place], half, *shown[place + 1 :]) == ""


@pytest.mark.slow
def test_ctrl_c_ends_the_page_with_one_line_and_removes_its_files(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "jova_cli", "app", "--device", "cpu", "--port", str(free_port())]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("GRADIO_TEMP_DIR", None)
    opened = subprocess.Popen(heeding_interrupts(words), cwd=ROOT, env=environment, text=True, stdout=-1, stderr=-1)
    assert opened.stdout is not None
    assert opened.stdout.readline().startswith("the page is open at http://127.0.0.1:")
    opened.send_signal(signal.SIGINT)
    said, complained = opened.communicate()
    assert said == ""
    assert complained.splitlines()[-1] == "jova app: ended by Ctrl-C"
    assert "Traceback" not in complained
    assert opened.returncode == 130
    assert list(tmp_path.glob("jova-app-*")) == []
