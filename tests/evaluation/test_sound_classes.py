"""Classes of sound are those of the network over all of a sound; the divergence of two clips comes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor, ASTForAudioClassification

from diffusers_jova.evaluation.evaluate import main
from diffusers_jova.evaluation.sound_classes import SoundClassifier, measure_classes, windows_of
from diffusers_jova.media import write_audio
from tests.tiny_networks import save_clap, save_classifier


RATE_HZ = 16000


def noise(seed: int, duration_s: float, level: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, (1, round(duration_s * RATE_HZ))).astype(np.float32)


def hum(duration_s: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 150 * np.arange(round(duration_s * RATE_HZ)) / RATE_HZ)).astype(np.float32)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("classifier") / "ast")


@pytest.fixture(scope="module")
def classifier(folder: Path) -> SoundClassifier:
    return SoundClassifier(folder)


def test_windows_are_ten_seconds_every_five_as_verse_bench_takes_them() -> None:
    sound = np.arange(1.0, 24.0)
    assert [part[part > 0].tolist() for part in windows_of(sound, 10, 5)] == [
        list(range(start, min(start + 10, 24))) for start in (1, 6, 11, 16)
    ]
    assert [len(part) for part in windows_of(sound[:3], 10, 5)] == [10]
    assert [part[0] for part in windows_of(sound[:16], 10, 5)] == [1, 6, 11]
    assert [part[0] for part in windows_of(np.arange(1.0, 2.0), 10, 5)] == [1]  # short as it is, the only one


def test_probabilities_are_the_softmax_of_the_mean_of_the_networks_logits(
    classifier: SoundClassifier, folder: Path
) -> None:
    sound = noise(0, 3.0)
    network = ASTForAudioClassification.from_pretrained(folder).eval()
    peak = sound[0].astype(np.float64) / np.abs(sound).max() * 10 ** (-1 / 20)
    window = np.pad(peak, (0, 10 * RATE_HZ - len(peak))).astype(np.float32)
    features = ASTFeatureExtractor.from_pretrained(folder)(window, sampling_rate=RATE_HZ, return_tensors="pt")
    with torch.inference_mode():
        expected = network(**features).logits[0].log_softmax(-1).numpy()
    found = classifier(sound, RATE_HZ)
    assert found == pytest.approx(expected, abs=1e-4)
    assert np.exp(found).sum() == pytest.approx(1)
    assert classifier(sound / 30, RATE_HZ) == pytest.approx(found, abs=1e-3)  # how loud it is decides nothing


def test_all_of_a_long_sound_counts_and_silence_is_a_reason(classifier: SoundClassifier) -> None:
    measured = measure_classes(noise(0, 1.0), RATE_HZ, classifier)
    assert measured.texts["classes"].split()[0] in {"Hum", "Rain", "Dog", "Speech"}
    assert measured.values["class_share"] == pytest.approx(max(np.exp(measured.vectors["classes"])), abs=1e-6)
    long = np.concatenate([hum(10.0), 0.3 * np.ones((1, 10 * RATE_HZ), np.float32)], axis=1)
    assert np.abs(classifier(long, RATE_HZ) - classifier(hum(10.0), RATE_HZ)).max() > 0.01
    assert np.exp(classifier(long, RATE_HZ)).sum() == pytest.approx(
        1
    )  # of the mean of logits, not of their logarithms
    assert measure_classes(None, 0, classifier).reason == "no sound"
    assert measure_classes(np.zeros((1, 1600), np.float32), RATE_HZ, classifier).reason == "the sound is silence"
    cancelled = measure_classes(np.concatenate([hum(1.0), -hum(1.0)]), RATE_HZ, classifier)
    assert (cancelled.values, cancelled.reason) == ({}, "the channels cancel each other")
    with pytest.raises(ValueError, match="must be the folder of an AST that transformers reads"):
        SoundClassifier(Path("tests"))


def test_the_command_compares_two_folders_as_sets_and_by_pairs(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in ("ours", "same", "theirs"):
        (tmp_path / side).mkdir()
        for index in range(4):
            sound = noise(index, 1.0) if side != "theirs" else hum(1.0) * (1 + noise(index, 1.0))
            write_audio(tmp_path / side / f"clip{index}.wav", sound, RATE_HZ)
            (tmp_path / side / f"clip{index}.json").write_text('{"audio_caption": "rain"}')
    words = ["--measures", "clap", "classes", "--clap", str(save_clap(tmp_path / "clap")), "--classifier", str(folder)]
    values = {}
    for other in ("same", "theirs"):
        report = tmp_path / f"report-{other}"
        main([str(tmp_path / "ours"), "--against", str(tmp_path / other), "--output", str(report), *words])
        sets = json.loads((report / "report.json").read_text())["against"]["sets"]
        values[other] = {one["name"]: one["value"] for one in sets}
        assert "4 and 4 clips for 12 numbers of an embedding: mostly chance" in capsys.readouterr().out
        assert "Distances of sets" in (report / "report.html").read_text()
    told = json.loads((tmp_path / "report-theirs" / "report.json").read_text())
    (ours,), (theirs,) = told["set_scores"], told["against"]["set_scores"]
    assert (ours["name"], ours["num_clips"], theirs["num_clips"]) == ("is_classes", 4, 4)
    main([str(tmp_path / "ours"), "--output", str(tmp_path / "alone"), *words[:1], "classes", *words[-2:]])
    (alone,) = json.loads((tmp_path / "alone" / "report.json").read_text())["set_scores"]
    assert alone["value"] == pytest.approx(ours["value"], rel=1e-5)
    assert "IS of the sound (classes)" in capsys.readouterr().out
    assert set(values["same"]) == {
        *("fd_clap", "fd_clap_corrected", "fd_clap_verse_bench", "kl_verse_bench", "kl_av_benchmark"),
    }
    assert max(values["same"].values()) < 1e-5  # 1e-6 that Verse-Bench adds to probabilities, and rounding
    assert values["theirs"]["fd_clap"] > 0.01
    assert min(values["theirs"][name] for name in ("kl_verse_bench", "kl_av_benchmark")) > 1e-4
