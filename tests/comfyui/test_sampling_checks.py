"""What is sampled belongs together, or one sentence says what does not; without ComfyUI."""

import logging
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tests.comfyui.stub import PACK, loaded_pack


@pytest.fixture(scope="module", autouse=True)
def pack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("comfyui")
    (folder / "input").mkdir()
    with loaded_pack(folder) as loaded:
        yield loaded


def part(name: str) -> Any:
    """A module of the pack."""
    return import_module(f"{PACK}.{name}")


def refused(message: str) -> Any:
    """An error of one sentence."""
    return pytest.raises(ValueError, match=f"^{message}[^\n]*$")


# --- patches ---


PATCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "scaled positions": ({"transformer_options": {"rope_options": {"scale_x": 2.0}}}, {}),
    "another attention": ({"transformer_options": {"optimized_attention_override": print}}, {}),
    "windows of a long clip": ({"context_handler": object()}, {}),
    "another type to compute in": ({}, {"manual_cast_dtype": torch.bfloat16}),
}


@pytest.mark.parametrize("name", PATCHES)
def test_what_the_model_would_not_read_is_refused_by_its_name(name: str) -> None:
    with refused(f"a JoVA model must be sampled without patches of its inside, got {name}"):
        part("sampling_checks").check_patches(*PATCHES[name])


def test_what_core_itself_writes_into_a_handle_is_no_patch() -> None:
    written = {
        "transformer_options": {"wrappers": {}, "callbacks": {}, "rope_options": {}},
        "sampler_cfg_function": print,
    }
    part("sampling_checks").check_patches(written, {"model_sampling": object()})


# --- masks ---


@pytest.mark.parametrize("value", [1 + 2.4e-7, -2.4e-7, 1.08])
def test_a_mask_that_overshoots_a_little_is_clipped(value: float, caplog: pytest.LogCaptureFixture) -> None:
    mask = torch.tensor([0.5, value])
    with caplog.at_level(logging.WARNING):
        found = part("overshoot").to_unit("the noise mask of `latent`", mask, "correct it")
    assert found.tolist() == [0.5, float(value > 0)]
    assert ["reaches from 0.5 to 1.08" in record.message for record in caplog.records] == [True] * (value == 1.08)


@pytest.mark.parametrize(("value", "found"), [(2.0, "0.5 to 2"), (-1.0, "-1 to 0.5"), (float("nan"), "nan to nan")])
def test_a_mask_of_other_values_is_refused_with_its_range(value: float, found: str) -> None:
    latent = {"samples": SimpleNamespace(unbind=lambda: [torch.zeros(1, 1, 1, 1, 2), torch.zeros(1, 1, 2)])}
    latent["noise_mask"] = torch.tensor([0.5, value])
    with refused(f"the noise mask of `latent_image` must hold values from 0 to 1, got {found}; correct it, or leave"):
        part("clips").masks_of(latent, "latent_image")


def test_a_mask_of_a_clip_is_clipped_where_it_is_read() -> None:
    latent = {"samples": SimpleNamespace(unbind=lambda: [torch.zeros(1, 1, 1, 1, 2), torch.zeros(1, 1, 2)])}
    video, audio = part("clips").masks_of({**latent, "noise_mask": torch.tensor([0.5, 1 + 2.4e-7])})
    assert video.flatten().tolist() == [0.5, 1.0]
    assert audio.flatten().tolist() == [1.0, 1.0]


# --- what stands beside a prompt ---


OF_CORE = {"cross_attn": torch.ones(1, 2, 3), "model_conds": {}, "uuid": object(), "pooled_output": None}
OF_CORE |= {"start_percent": 0.0, "end_percent": 0.5, "strength": 0.5, "jova_pictures": object(), "frame_rate": 16.0}


def belongings(**more: Any) -> dict[str, list[dict[str, Any]]]:
    """Conditionings whose negative one has something beside it."""
    return {"positive": [OF_CORE], "negative": [OF_CORE, {**OF_CORE, **more}]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clip_vision_output", object()),
        ("unclip_conditioning", [{"strength": 1.0}]),
        ("camera_conditions", {"poses": []}),
        ("reference_latents", [torch.ones(1)]),
        ("concat_latent_image", torch.ones(1)),
    ],
)
def test_what_no_jova_model_reads_is_refused_by_its_key(key: str, value: Any) -> None:
    with refused(f"`negative` must hold a prompt, with what JoVA nodes add to it, got `{key}` as well; take the node"):
        part("sampling_checks").check_belongings(belongings(**{key: value}))


@pytest.mark.parametrize(("key", "value"), [("area", (8, 8, 0, 0)), ("mask", torch.ones(1, 4, 4))])
def test_a_prompt_of_a_part_of_the_clip_is_refused(key: str, value: Any) -> None:
    with refused(f"`negative` must hold for the whole clip, got `{key}`, which limits it to a part; take "):
        part("sampling_checks").check_belongings(belongings(**{key: value}))


def test_a_number_that_is_not_read_is_told_and_what_is_read_is_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        part("sampling_checks").check_belongings(belongings(guidance=None))
        assert not caplog.records
        part("sampling_checks").check_belongings(belongings(guidance=3.5))
    assert "`negative` brings `guidance`, which no JoVA model reads" in caplog.text


# --- pictures ---


def pictures(*frames: int, num_clips: int = 1) -> Any:
    """Pictures of a clip of 17 frames of 16 x 16."""
    given = {frame: torch.zeros(num_clips, 3, 1, 16, 16) for frame in frames}
    latents = torch.zeros(num_clips, 2, len(frames), 2, 2)
    indices = [(frame + 3) // 4 for frame in frames]
    return part("given_pictures").GivenPictures(given, latents, indices, 17)


@pytest.mark.parametrize("frame", [1, 4, 8])
def test_a_picture_within_given_frames_is_refused(frame: int) -> None:
    share = torch.tensor([[0.0, 0, 0, 1, 1]])  # 9 frames are given
    with refused("`image` must be behind the given frames of the clip, got a picture within them; move it, or give"):
        part("sampling_checks").check_pictures(pictures(0, frame), share, 4)


def test_pictures_behind_given_frames_and_the_first_one_are_not() -> None:
    check = part("sampling_checks").check_pictures
    check(pictures(0, 9, 16), torch.tensor([[0.0, 0, 0, 1, 1]]), 4)
    check(pictures(0), torch.tensor([[0.0, 0, 0, 1, 1]]), 4)
    check(pictures(4), None, 4)
    check(None, torch.tensor([[0.0, 0, 0, 1, 1]]), 4)


def test_a_picture_for_another_number_of_clips_than_those_before_it_is_refused() -> None:
    shape = SimpleNamespace(num_frames=17, height=16, width=16, batch_size=2)
    check = part("given_pictures").check_same_clip
    check(pictures(4, num_clips=2), shape)
    with refused(
        "`latent` must be that of the pictures before this one, 17 frames of 16 x 16 in a batch of 1, got 17 frames "
        "of 16 x 16 in a batch of 2; give all of them the latent that is sampled"
    ):
        check(pictures(4), shape)


@pytest.mark.parametrize(("num_clips", "num_sampled"), [(2, 1), (2, 4), (3, 2)])
def test_pictures_of_another_number_of_clips_than_are_sampled_are_refused(num_clips: int, num_sampled: int) -> None:
    places = SimpleNamespace(encodes_grey=False, temporal_factor=4)
    check = part("given_pictures").check_clip
    check(pictures(4, num_clips=num_clips), [num_clips, 2, 5, 2, 2], places)
    check(pictures(4), [num_sampled, 2, 5, 2, 2], places)
    with refused(f"`image` must be one for all clips that are sampled or one per clip, got {num_clips} for "
                 f"{num_sampled}; give JoVA Image to Video and JoVA Keyframe the latent"):  # fmt: skip
        check(pictures(4, num_clips=num_clips), [num_sampled, 2, 5, 2, 2], places)


@pytest.mark.parametrize(
    ("frame", "name", "message"),
    [
        (4, "frame", "`frame` must be behind the 9 frames of JoVA Given Video, got frame 4; leave it out, or raise "
                     "`length`"),
        (4, "last_image", "`last_image` must be behind the 9 frames of `own_video`, got frame 4; leave it out, or "
                          "raise `length`"),
        (0, "frame", "`frame` must be at a frame from 1 to 16 of .*, got 0; the first frame is JoVA Image to Video"),
        (99, "last_image", "`last_image` must be at a frame from 1 to 16 of .*, got 99; the first frame is `image`"),
    ],
)  # fmt: skip
def test_a_frame_that_cannot_be_is_refused_in_the_words_of_the_nodes(frame: int, name: str, message: str) -> None:
    places = import_module("diffusers_jova.keyframes").PicturePlaces(4, None, encodes_grey=False)
    clip = SimpleNamespace(num_frames=17, given_video=torch.zeros(9, 16, 16, 3), places=places)
    with refused(f"{message}$"):
        part("given_pictures").place_picture(frame, None, clip, name)


def test_a_model_without_places_for_pictures_says_which_node_to_leave_out() -> None:
    places = import_module("diffusers_jova.keyframes").PicturePlaces(4, 0, encodes_grey=False)
    for name, shown in (("frame", "JoVA Keyframe"), ("last_image", "`last_image`")):
        clip = SimpleNamespace(num_frames=17, given_video=None, places=places)
        with refused(f"{shown} must be left out for a model whose condition channels hold no mask, "):
            part("given_pictures").place_picture(4, None, clip, name)
