"""The options of `jova generate` that give the speakers of a prompt their voices, as vectors or as recordings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from diffusers_jova.media import read_video, write_audio
from diffusers_jova.provenance import read_provenance
from diffusers_jova.speaker_encoder import SpeakerEncoder
from jova_cli.main import main as cli
from tests.diffusers_jova.test_speakers import DIALOGUE, build_pipeline
from tests.speaker_checkpoints import voice, write_checkpoint


RATE = 16_000


class Desk(NamedTuple):
    """A folder with a model that reads two voices, their recordings, and a speaker encoder of its width."""

    folder: Path
    words: list[str]

    def path(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    build_pipeline().save_pretrained(folder / "nava")
    for name, pitch_hz in (("low", 120.0), ("high", 240.0)):
        write_audio(folder / f"{name}.wav", voice(1.0, pitch_hz)[None], RATE)
    write_checkpoint(folder / "M.pt")
    write_checkpoint(folder / "wide.pt", embed_dim=7)
    words = ["generate", "--model", str(folder / "nava"), "--prompt", DIALOGUE, "--seed", "0"]
    return Desk(folder, [*words, "--steps", "1", "--num-frames", "5"])


def sound(path: Path) -> np.ndarray:
    audio = read_video(path).audio
    assert audio is not None
    return audio


def test_recordings_speak_as_their_vectors_do_in_a_single_clip_and_in_a_list(desk: Desk, tmp_path: Path) -> None:
    recordings, encoder = ["low.wav", "high.wav"], SpeakerEncoder.from_file(desk.path("M.pt"))
    vectors = np.concatenate([encoder(desk.path(name)).numpy() for name in recordings])
    np.save(desk.folder / "voices.npy", vectors)
    rows = desk.folder / "list.jsonl"
    rows.write_text(
        json.dumps({"output": "recorded.mp4", "speaker_audio": recordings, "speaker_encoder": "M.pt"})
        + "\n"
        + json.dumps({"output": "given.mp4", "speaker_embeds": "voices.npy"})
        + "\n"
        + json.dumps({"output": "nobody.mp4"})
        + "\n"
    )
    spoken = ["--speaker-audio", *map(desk.path, recordings), "--speaker-encoder", desk.path("M.pt")]
    cli([*desk.words, *spoken, "--output", str(tmp_path / "one.mp4")])
    assert "speaker_embeds" in read_provenance(tmp_path / "one.mp4")["given"]
    cli([*desk.words, "--prompts", str(rows), "--output", str(tmp_path / "clips")])
    recorded, given, nobody = (sound(tmp_path / "clips" / f"{name}.mp4") for name in ("recorded", "given", "nobody"))
    np.testing.assert_array_equal(recorded, sound(tmp_path / "one.mp4"))
    np.testing.assert_array_equal(recorded, given)
    assert not np.array_equal(recorded, nobody)


def test_rows_come_before_the_voices_and_the_encoder_of_the_command_line(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "voices.npy", np.ones((1, 5), np.float32))
    rows = tmp_path / "list.jsonl"
    own = ({"speaker_audio": [desk.path("low.wav")]}, {}, {"speaker_embeds": "voices.npy"})
    rows.write_text("".join(json.dumps({"output": f"{n}.mp4", **cells}) + "\n" for n, cells in enumerate(own)))
    words = [*desk.words, "--prompts", str(rows), "--speaker-encoder", desk.path("M.pt")]
    cli([*words, "--output", str(tmp_path / "own")])
    cli([*words, "--speaker-audio", desk.path("low.wav"), "--output", str(tmp_path / "common")])
    assert capsys.readouterr().out.count("made 3") == 2
    own_sounds, common = ([sound(tmp_path / name / f"{n}.mp4") for n in range(3)] for name in ("own", "common"))
    for row, is_same in enumerate((True, False, True)):  # the second has nobody's voice without a common one
        assert np.array_equal(own_sounds[row], common[row]) == is_same


def test_a_list_knows_a_recording_by_its_content(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, recording = tmp_path / "list.csv", tmp_path / "voice.wav"
    rows.write_text(f"output,speaker_audio,speaker_encoder\none.mp4,voice.wav,{desk.path('M.pt')}\n")
    words = [*desk.words, "--prompts", str(rows), "--output", str(tmp_path / "clips")]
    for pitch_hz, said in ((120.0, "made 1"), (120.0, "there already 1"), (240.0, "refused 1")):
        write_audio(recording, voice(1.0, pitch_hz)[None], RATE)
        try:
            cli(words)
        except SystemExit as exit_:
            assert exit_.code == 1  # noqa: PT017
        told = capsys.readouterr()
        assert said in told.out
    assert "must be made with the present settings" in told.err


REFUSED = {
    "both": (
        ["--speaker-embeds", "voices.npy", "--speaker-audio", "low.wav", "--speaker-encoder", "M.pt"],
        "`--speaker-audio` must be given without `--speaker-embeds`, got both; leave one out",
    ),
    "no encoder": (["--speaker-audio", "low.wav"], "`--speaker-audio` must go with `--speaker-encoder`, got it alone"),
    "no recording": (
        ["--speaker-encoder", "M.pt"],
        "`--speaker-encoder` must go with `--speaker-audio`, got it alone",
    ),
    "no file": (
        ["--speaker-audio", "none.wav", "--speaker-encoder", "M.pt"],
        "`--speaker-audio` must be an existing file, got .*none.wav",
    ),
    "no checkpoint": (
        ["--speaker-audio", "low.wav", "--speaker-encoder", "none.pt"],
        "`--speaker-encoder` must be an existing file, got .*none.pt",
    ),
    "no sound": (
        ["--speaker-audio", "M.pt", "--speaker-encoder", "M.pt"],
        "`--speaker-audio` must be a media file that libav can decode",
    ),
    "video alone": (
        ["--speaker-audio", "low.wav", "--speaker-encoder", "M.pt", "--modalities", "video"],
        "`--speaker-audio` must go with sound, got `--modalities video`",
    ),
    "too many": (
        ["--speaker-audio", "low.wav", "high.wav", "low.wav", "--speaker-encoder", "M.pt"],
        "`--speaker-audio` must be at most one recording for each `<S>` of the prompt, .* got 3 for 2; mark what",
    ),
    "width of vectors": (
        ["--speaker-embeds", "wide.npy"],
        "`--speaker-embeds` must hold vectors of 5 values for this model, got 7; use the speaker encoder",
    ),
    "width": (
        ["--speaker-audio", "low.wav", "--speaker-encoder", "wide.pt"],
        "`--speaker-encoder` must make vectors of 5 values for this model, got 7; use the speaker encoder",
    ),
    "short": (
        ["--speaker-audio", "blink.wav", "--speaker-encoder", "M.pt"],
        r"`--speaker-audio .*blink.wav` must last 0.5 s or longer for a voice to be told, got 0.200 s",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_voices_are_refused_before_the_model_is_loaded(
    desk: Desk, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = REFUSED[name]
    monkeypatch.setattr("diffusers_jova.pipeline_jova.JoVAPipeline.from_pretrained", None)
    np.save(desk.folder / "wide.npy", np.ones((1, 7), np.float32))
    write_audio(desk.folder / "blink.wav", voice(0.2)[None], RATE)
    given = [desk.path(word) if "." in word else word for word in words]
    with pytest.raises(SystemExit, match="2"):
        cli([*desk.words, *given, "--output", str(tmp_path / "clip.mp4")])
    assert re.search(message, capsys.readouterr().err)


def test_a_model_without_voices_refuses_recordings_at_once(
    desk: Desk, tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoken = ["--speaker-audio", desk.path("low.wav"), "--speaker-encoder", desk.path("M.pt")]
    words = ["generate", "--model", str(tiny_pipeline_folder), "--prompt", DIALOGUE, *spoken]
    with pytest.raises(SystemExit, match="2"):
        cli([*words, "--output", str(tmp_path / "clip.mp4")])
    assert "`--speaker-audio` must go with a model that reads vectors of a speaker encoder" in capsys.readouterr().err
