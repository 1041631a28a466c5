"""Evidence: clips are kept, the measures judge the references rightly, the report says what was measured."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from diffusers_jova import JoVAPipeline
from diffusers_jova.drawn.avatars import AvatarClip, make_clip
from diffusers_jova.drawn.object_evaluation import evaluate_object
from diffusers_jova.drawn.sounding_objects import SOUNDING_OBJECTS
from diffusers_jova.evaluation.summary import summarize
from diffusers_jova.recipes import evidence, generation
from diffusers_jova.recipes.evidence import GOALS, judge, measure, mismatch, result_table
from diffusers_jova.recipes.generation import fingerprint, generate, held_out_clips
from diffusers_jova.recipes.model_card import fill_section, markdown_table
from tests.tiny_pipeline import DEFAULTS, build_tiny_pipeline


@pytest.fixture(scope="module")
def pipeline() -> JoVAPipeline:
    return build_tiny_pipeline(
        defaults={**DEFAULTS, "height": 64, "width": 64, "num_frames": 17, "num_inference_steps": 1}
    )


@pytest.fixture(scope="module")
def references(pipeline: JoVAPipeline) -> list[AvatarClip]:
    return held_out_clips(pipeline, range(11_000_000, 11_000_003), subject="speaker", speech="formant")


def perfect_summaries() -> dict[str, dict[str, dict[str, float]]]:
    tasks = ("text", "audio", "image", "plain", "ground_truth", "mismatched", "codecs")
    figures = {goal.measure: {"mean": 1.0, "standard_error": 0.0, "count": 4} for goal in GOALS}
    return {task: dict(figures) for task in tasks}


def test_generated_clips_are_kept_and_only_the_missing_ones_are_made_again(
    pipeline: JoVAPipeline, references: list[AvatarClip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = generate(pipeline, references, tmp_path, batch_size=2)
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == [f"speaker-{11_000_000 + index}.npz" for index in range(3)]
    files[1].unlink()
    made = []
    task = generation.TASKS["text"]
    monkeypatch.setitem(generation.TASKS, "text", lambda pipe, clips: made.extend(clips) or task(pipe, clips))
    again = generate(pipeline, references, tmp_path, batch_size=2)
    assert [clip.seed for clip in made] == [references[1].seed]
    assert again[0].seconds == first[0].seconds
    # alone in its batch a clip is the same up to rounding
    assert np.abs(again[1].frames.astype(int) - first[1].frames).max() <= 1


def test_a_given_voice_comes_back_and_a_given_portrait_changes_the_picture(
    pipeline: JoVAPipeline, references: list[AvatarClip], tmp_path: Path
) -> None:
    made = {
        task: generate(pipeline, references[:1], tmp_path / task, task=task)[0] for task in ("text", "audio", "image")
    }
    voice = references[0].waveform
    np.testing.assert_allclose(made["audio"].waveform[: len(voice)], voice, atol=1e-6)
    assert not np.array_equal(made["text"].frames, made["image"].frames)
    assert all(clip.frames.shape == (17, 64, 64, 3) for clip in made.values())


def test_held_out_clips_have_the_geometry_of_the_pipeline_and_colours_of_the_palette(
    references: list[AvatarClip],
) -> None:
    assert {clip.frames.shape for clip in references} == {(17, 64, 64, 3)}
    truth = summarize(measure([(clip.frames, clip.waveform) for clip in references], references, "formant"))
    assert truth["identity_correct"] == {"mean": 1.0, "standard_error": 0.0, "count": 3}


def test_wrong_sound_loses_sync_but_keeps_the_colours() -> None:
    references = [make_clip(seed, subject="speaker") for seed in range(3)]
    truth, wrong = (
        summarize(measure(pairs, references, "formant"))
        for pairs in ([(clip.frames, clip.waveform) for clip in references], mismatch(references))
    )
    assert wrong["envelope_correlation"]["mean"] < truth["envelope_correlation"]["mean"] - 0.2
    assert wrong["lse_c"]["mean"] < truth["lse_c"]["mean"]
    assert wrong["skin_correct"] == truth["skin_correct"]


def test_a_summary_leaves_out_what_does_not_apply() -> None:
    summary = summarize([{"hair": 1.0, "word": 0.0}, {"hair": float("nan"), "word": 1.0}])
    assert summary["hair"] == {"mean": 1.0, "standard_error": 0.0, "count": 1}
    assert summary["word"]["standard_error"] == pytest.approx(0.5)


@pytest.mark.parametrize("goal", [goal for goal in GOALS if goal.least is not None], ids=lambda goal: goal.label)
def test_a_goal_is_missed_by_falling_short_of_it_alone(goal: evidence.Goal) -> None:
    summaries = perfect_summaries()
    assert all(verdict["is_met"] for verdict in judge(summaries))
    summaries[goal.task][goal.measure] = {"mean": goal.least - 1e-3, "standard_error": 0.1, "count": 4}
    missed = [verdict for verdict in judge(summaries) if not verdict["is_met"]]
    assert [(verdict["task"], verdict["measure"]) for verdict in missed] == [(goal.task, goal.measure)]
    assert result_table(summaries).count("**no**") == 1


def test_a_measure_that_applied_to_no_clip_misses_its_goal() -> None:
    summaries = perfect_summaries()
    del summaries["text"]["hair_correct"]
    assert sum(not verdict["is_met"] for verdict in judge(summaries)) == 1
    assert result_table(summaries).count("**no**") == 1


def test_drawn_objects_are_recognised_and_a_dog_is_no_bell() -> None:
    for kind in SOUNDING_OBJECTS:
        clip = make_clip(5, subject=kind)
        measures = evaluate_object(clip.frames, clip.waveform, clip)
        assert measures["shape_correct"] == measures["background_correct"] == 1
    dog, bell = (make_clip(5, subject=kind) for kind in ("dog", "bell"))
    own, swapped = (evaluate_object(clip.frames, clip.waveform, dog) for clip in (dog, bell))
    assert own["sound_correct"] == 1
    assert own["movement_correlation"] > 0.85
    assert swapped["shape_correct"] == swapped["sound_correct"] == 0
    assert np.isnan(evaluate_object(bell.frames, bell.waveform, bell)["movement_correlation"])


def test_objects_are_told_from_their_sound_and_the_sound_of_the_next_kind_is_wrong() -> None:
    references = [make_clip(11_100_000 + row, subject=kind) for row, kind in enumerate(SOUNDING_OBJECTS)]
    own = [(clip.frames, clip.waveform) for clip in references]
    heard = [
        np.mean([evaluate_object(*pair, clip)["sound_correct"] for pair, clip in zip(pairs, references, strict=True)])
        for pairs in (own, mismatch(references, 1))
    ]
    assert heard == [1, 0]


def test_a_portrait_is_given_with_a_prompt_that_does_not_describe_it(references: list[AvatarClip]) -> None:
    asked = {}

    def pipeline(**given: Any) -> SimpleNamespace:
        asked.update(given)
        return SimpleNamespace(frames=None, audio=np.zeros((1, 2, 4)))

    generation.from_image(cast("JoVAPipeline", pipeline), references[:1])
    assert asked["prompt"][0].startswith(f"A cartoon {references[0].identity.voice} speaks. <S>")
    assert np.array_equal(np.asarray(asked["image"][0]), references[0].frames[0])


def test_the_folder_of_clips_changes_with_weights_and_settings(tmp_path: Path) -> None:
    weights = tmp_path / "transformer" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"a")
    first = fingerprint(tmp_path, {"guidance_scale": 3})
    assert fingerprint(tmp_path, {"guidance_scale": 2}) != first
    (tmp_path / "evidence.json").write_text("{}")
    assert fingerprint(tmp_path, {"guidance_scale": 3}) == first
    weights.write_bytes(b"b")
    assert fingerprint(tmp_path, {"guidance_scale": 3}) != first


def test_a_section_of_a_card_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("before\n<!-- evidence -->\nold\n<!-- /evidence -->\nafter\n")
    fill_section(card, "evidence", markdown_table(["a", "b"], [["\\1", "2"]]))
    assert card.read_text() == (
        "before\n<!-- evidence -->\n| a | b |\n| --- | --- |\n| \\1 | 2 |\n<!-- /evidence -->\nafter\n"
    )
    with pytest.raises(ValueError, match="must have a line '<!-- ablations -->'"):
        fill_section(card, "ablations", "")


def test_the_command_writes_table_figures_and_examples_and_fails_where_goals_are_missed(
    pipeline: JoVAPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.save_pretrained(tmp_path / "model")
    (tmp_path / "README.md").write_text("# Model\n<!-- evidence -->\n<!-- /evidence -->\n")
    places = ["--output", str(tmp_path / "evidence.json"), "--work", str(tmp_path / "work")]
    arguments = ["--model", str(tmp_path / "model"), "--clips", "2", "--speech", "formant", *places]
    assert evidence.main([*arguments, "num_inference_steps=1"]) == 1
    assert "| prompt: skin right | >= 95.0 % |" in capsys.readouterr().out
    report = json.loads((tmp_path / "evidence.json").read_text())
    assert report["settings"] == report["settings"] | {"clips": 2, "num_inference_steps": 1, "speech": "formant"}
    assert report["tasks"]["ground_truth"]["skin_correct"]["mean"] == 1
    assert len(report["goals"]) == sum(goal.least is not None for goal in GOALS)
    assert "## Evidence" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "evidence.png").exists()
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {
        *("text-0.mp4", "text-1.mp4", "audio-0.mp4", "image-0.mp4")
    }


def test_what_cannot_be_measured_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evidence.main(["--model", str(tmp_path)])
    assert "`model` must be the folder of a saved JoVAPipeline" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evidence.main(["--model", str(tmp_path), "--clips", "1"])
    assert "`--clips` must be at least 2" in capsys.readouterr().err
    dog = make_clip(0, subject="speaker")
    with pytest.raises(ValueError, match="`reference` must be one of dog, bell, lamp, rain, ball, got a speaker"):
        evaluate_object(dog.frames, dog.waveform, dog)
