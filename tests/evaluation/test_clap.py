"""CLAP tells sounds that fit their captions from others, hears all of a long sound, and nothing in silence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ClapModel, ClapProcessor

from diffusers_jova.evaluation.clap import Clap, measure_clap
from diffusers_jova.evaluation.clip_list import Captions, list_clips
from diffusers_jova.evaluation.evaluate import main
from diffusers_jova.evaluation.measured_clips import MeasuredClips
from diffusers_jova.evaluation.meter import Meter
from diffusers_jova.media import write_audio
from tests.tiny_networks import save_clap, teach_texts


RATE_HZ = 16000
TEXTS = ("a low hum", "hissing rain")


def low_hum(draw: int, duration_s: float = 1.0) -> np.ndarray:
    times_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    phase = np.random.default_rng(draw).uniform(0, 6)
    return (0.3 * np.sin(2 * np.pi * 150 * times_s + phase)).astype(np.float32)[None]


def hissing_rain(draw: int, duration_s: float = 1.0) -> np.ndarray:
    noise = np.random.default_rng(draw).normal(0, 0.1, (1, round(duration_s * RATE_HZ)))
    return noise.astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLAP whose texts were taught what two kinds of sound are."""
    folder = save_clap(tmp_path_factory.mktemp("clap") / "taught")
    network, processor = ClapModel.from_pretrained(folder), ClapProcessor.from_pretrained(folder)
    clap = Clap(folder)
    heard = torch.tensor(np.stack([clap.embed_sound(sound(0), RATE_HZ) for sound in (low_hum, hissing_rain)])).float()
    teach_texts(network, processor.tokenizer(list(TEXTS), padding=True, return_tensors="pt"), heard)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clap(folder: Path) -> Clap:
    return Clap(folder)


def score(clap: Clap, sound: np.ndarray, text: str, name: str = "clap_score") -> float:
    value = measure_clap(sound, RATE_HZ, Captions(heard=text), clap).values[name]
    assert value is not None
    return value


@pytest.mark.parametrize("name", ["clap_score", "clap_score_verse_bench"])
def test_sounds_fit_their_own_captions_better_than_those_of_others(clap: Clap, name: str) -> None:
    for draw in (1, 2):
        hum, rain = low_hum(draw), hissing_rain(draw)
        assert score(clap, hum, TEXTS[0], name) > score(clap, hum, TEXTS[1], name) + 0.05
        assert score(clap, rain, TEXTS[1], name) > score(clap, rain, TEXTS[0], name) + 0.05
        assert score(clap, hum, TEXTS[0], name) > score(clap, rain, TEXTS[0], name) + 0.05


def test_silence_and_no_sound_are_reasons_and_the_time_of_a_sound_decides_little(clap: Clap) -> None:
    wanted = Captions(heard=TEXTS[0])
    assert measure_clap(None, 0, wanted, clap).reason == "no sound"
    silent = measure_clap(np.zeros((2, 8000), np.float32), RATE_HZ, wanted, clap)
    assert (silent.values, silent.reason, silent.vectors) == ({}, "the sound is silence", {})
    cancelled = measure_clap(np.concatenate([low_hum(1), -low_hum(1)]), RATE_HZ, wanted, clap)
    assert (cancelled.values, cancelled.reason, cancelled.vectors) == ({}, "the channels cancel each other", {})
    hum = low_hum(1)
    assert score(clap, np.roll(hum, 4000, axis=1), TEXTS[0]) == pytest.approx(score(clap, hum, TEXTS[0]), abs=0.05)


def test_all_of_a_long_sound_counts_and_the_same_sound_has_the_same_score(clap: Clap) -> None:
    long = np.concatenate([low_hum(1, 2.0), hissing_rain(1, 0.5)], axis=1)  # of which a window holds a second
    hum, rain, both = (score(clap, sound, TEXTS[1]) for sound in (low_hum(1), hissing_rain(1), long))
    assert hum + 0.02 < both < rain
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    first = measure_clap(long, RATE_HZ, Captions(heard=TEXTS[1]), clap)
    assert np.random.random() == expected
    np.random.seed(4)
    assert measure_clap(long, RATE_HZ, Captions(heard=TEXTS[1]), clap) == first


def test_the_peak_decides_nothing_as_verse_bench_hears_it(clap: Clap) -> None:
    hum = low_hum(1) + hissing_rain(1)
    names = ("clap_score", "clap_score_verse_bench")
    own, verse = (abs(score(clap, hum, TEXTS[0], name) - score(clap, hum / 50, TEXTS[0], name)) for name in names)
    assert verse < 1e-4 < own


def test_an_unfused_network_is_read_as_well(tmp_path: Path) -> None:
    unfused = Clap(save_clap(tmp_path / "clap", fusion=False))
    vector = unfused.embed_sound(hissing_rain(0, 2.5), RATE_HZ)
    assert np.linalg.norm(vector) == pytest.approx(1)
    assert np.array_equal(vector, unfused.embed_sound(hissing_rain(0, 2.5), RATE_HZ))


def test_the_caption_of_the_picture_stands_in_and_what_is_not_read_is_told(clap: Clap) -> None:
    hum = low_hum(1)
    measured = measure_clap(hum, RATE_HZ, Captions(seen="a man", heard="a low hum"), clap)
    assert measured.texts["clap"] == "a low hum"
    measured = measure_clap(hum, RATE_HZ, Captions(seen="a low hum"), clap)
    assert measured.values["clap_score"] == pytest.approx(score(clap, hum, "a low hum"))
    assert "of the picture" in measured.texts["clap"]
    nothing = measure_clap(hum, RATE_HZ, Captions(), clap)
    assert (nothing.values, nothing.reason) == ({}, "nobody wrote what should be heard")
    assert set(nothing.vectors) == {"clap", "clap_verse_bench"}
    long = measure_clap(hum, RATE_HZ, Captions(heard="hum " * 25), clap)  # 102 tokens of a byte each
    assert long.texts["clap"].endswith("(without its last 25 tokens)")


def test_the_command_scores_clips_by_their_captions_and_measures_again_by_others(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clips").mkdir()
    for name, sound in (("hum", low_hum(1)), ("rain", hissing_rain(1))):
        write_audio(tmp_path / "clips" / f"{name}.wav", sound, RATE_HZ)
        (tmp_path / "clips" / f"{name}.json").write_text(json.dumps({"audio_caption": TEXTS[0]}))
    words = [
        str(tmp_path / "clips"),
        "--output",
        str(tmp_path / "report"),
        "--measures",
        "clap",
        "--clap",
        str(folder),
    ]
    main(words)
    assert "sound as in the caption (CLAP)" in capsys.readouterr().out
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    scores = {row["clip"]: row["values"]["clap_score"] for row in report["rows"]}
    assert scores["hum"] > scores["rain"]
    assert "vectors" not in report["rows"][0]

    def key() -> str | None:
        meter = Meter(clap=folder)
        (clip, _) = list_clips([tmp_path / "clips"])
        return MeasuredClips(tmp_path / "report", meter).key(clip, "clap")

    before = key()
    assert before == key()
    (tmp_path / "clips" / "hum.json").write_text(json.dumps({"audio_caption": TEXTS[1]}))
    assert key() != before


def test_without_its_folder_it_is_left_out_and_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "hum.wav", low_hum(1), RATE_HZ)
    main([str(tmp_path / "hum.wav"), "--output", str(tmp_path / "report")])
    told = capsys.readouterr()
    (line,) = [line for line in told.err.splitlines() if line.startswith("not measured")]
    assert "syncnet (`--syncnet`), clap (`--clap`)" in line
    assert "clap" not in told.out
    main([str(tmp_path / "hum.wav"), "--output", str(tmp_path / "report"), "--measures", "clap"])
    assert "clap: no CLAP, which `--clap` gives: 1 of 1" in capsys.readouterr().out
