import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_jova import JoVATransformer3DModel
from diffusers_jova.training.data.record import RecordHeader
from diffusers_jova.training.loop.model import check_keyframes, describe_start, load_transformer, prepare_transformer
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.weight_branches import branch_of
from tests.tiny_pipeline import build_wan_transformer
from tests.tiny_training import MODEL, tiny_config


@pytest.mark.parametrize("version", ["2.7.1", "2.7.0+cpu"])
def test_compiling_below_torch_2_8_is_refused_before_it_begins(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))
    with pytest.raises(ValueError, match=rf"`compile` must have torch 2\.8 or later, got {version.replace('+', '.')}"):
        prepare_transformer(tiny_config(tmp_path, compile=True))


@pytest.mark.parametrize("version", ["2.8.0", "2.10.1", "2.15.0+cpu"])
def test_versions_are_compared_as_numbers(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))
    transformer = prepare_transformer(tiny_config(tmp_path, compile=True))
    assert all(block._compiled_call_impl is not None for block in transformer.transformer_blocks)


@pytest.mark.parametrize("lost", ["embed.video.patch_embedding.proj.weight", "head.audio.proj_out.bias"])
def test_a_checkpoint_that_lacks_a_weight_is_not_trained(lost: str, tmp_path: Path) -> None:
    JoVATransformer3DModel(**MODEL).save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    del tensors[lost]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"weights of `model` must all be in its checkpoint, got none for `{lost}`"):
        load_transformer(str(tmp_path))


@pytest.mark.parametrize(
    ("channels", "metadata", "message"),
    [
        (
            8,
            {},
            r"every clip must have `keyframe_latents` .*, got none in `clip`; run `jova prepare --keyframes`",
        ),
        (4, {}, "must be 0 for a `model` that has no mask in its condition channels, got 0.5; leave it out"),
    ],
)
def test_keyframes_that_the_model_or_the_clips_do_not_allow_are_refused(
    channels: int, metadata: dict[str, str], message: str, tmp_path: Path
) -> None:
    config = tiny_config(tmp_path, keyframe_probability=0.5)
    transformer = JoVATransformer3DModel(**{**MODEL, "in_channels": channels})
    header = RecordHeader(Path("clip"), {"video_latents": (2, 3, 4, 4)}, {}, metadata)
    with pytest.raises(ValueError, match=message):
        check_keyframes([header], transformer, config)
    check_keyframes([header], transformer, tiny_config(tmp_path))
    check_keyframes([RecordHeader(Path("still"), {"video_latents": (2, 1, 4, 4)}, {}, {})], transformer, config)


@pytest.mark.parametrize("number", [4, None])
def test_keyframes_are_of_the_kind_that_the_pipeline_of_the_model_encodes(number: int | None, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, keyframe_probability=0.5)
    channels = {4: 8, None: 2}[number]
    transformer = build_wan_transformer(in_channels=channels, out_channels=2)

    def check(pipeline_fills: bool, *more: str) -> None:
        shapes = {"video_latents": (2, 3, 4, 4), **dict.fromkeys(("keyframe_latents", *more), (2, 2, 4, 4))}
        filled = {"fills_image_with_grey": str(int(pipeline_fills))}
        check_keyframes([RecordHeader(Path("clip"), shapes, {}, filled)], transformer, config)

    check(False)
    among, single = r"pictures among grey frames", r"single pictures"
    with pytest.raises(ValueError, match=rf"must be {single} for this `model`, got {among} in `clip`; run `jova prep"):
        check(False, "keyframe_frames")
    if number is None:  # clean latents have no grey frames among them, whatever the pipeline says
        check(True)
        return
    check(True, "keyframe_frames")
    with pytest.raises(ValueError, match=rf"must be {among} for this `model`, got {single} in `clip`"):
        check(True)


def test_a_run_says_what_its_weights_begin_as(tmp_path: Path) -> None:
    copied = {"stage": "audio", "init_audio_from_video": True}
    random = tiny_config(tmp_path, **copied)
    JoVATransformer3DModel(**MODEL).save_pretrained(tmp_path / "trained")
    loaded = tiny_config(tmp_path, model=str(tmp_path / "trained"), **copied)
    said = [describe_start(prepare_transformer(config), config) for config in (random, loaded, tiny_config(tmp_path))]
    start = f"the weights begin at random, in the sizes of `{tmp_path / 'model.json'}`"
    assert re.fullmatch(
        re.escape(start)
        + r", the audio branch as a copy of the random video branch: \d+ of its \d+ tensors, the others "
        r"have no twin of their shape; `model` may name a trained one, such as the result of stage 1 for video",
        said[0],
    )
    assert said[1].startswith(
        f"the weights begin as those of `{loaded.model}`, the audio branch as a copy of the loaded video branch: "
    )
    assert said[2] == start
    onward = tiny_config(tmp_path, train="lora", init_adapter="mine")
    assert describe_start(prepare_transformer(random), onward) == f"{start}, the adapter as `mine`"
    num_copied, num_all = map(int, re.findall(r"(\d+) of its (\d+)", said[1])[0])
    own = [name for name, _ in JoVATransformer3DModel(**MODEL).named_parameters() if branch_of(name) == "audio"]
    assert 0 < num_copied < num_all == len(own)


@pytest.mark.parametrize(
    ("stage", "fields", "message"),
    [
        (
            "joint",
            {"patch_size": [1, 3, 3]},
            r"`video_latents` must .*`patch_size`, \[1, 3, 3\], got \[3, 4",
        ),
        (
            "video",
            {"position_table_sizes": [2, 4, 4]},
            r"at most \[2, 8, 8\], .*`position_table_sizes`, got \[3, 4, 4\]",
        ),
        (
            "joint",
            {"audio_position_table_size": 7},
            r"`audio_latents` must .*`audio_position_table_size`, 7, got 8",
        ),
        ("audio", {"audio_position_table_size": 7}, "`audio_latents` must have at most as many latents"),
        (
            "joint",
            {"text_dim_2": 64},
            r"every clip must have `prompt_embeds_2`, 64 wide, for this `model`",
        ),
        (
            "joint",
            {"in_channels": 3},
            r"`in_channels` of this `model` must be .*, 2, or from 4 on, .*got 3",
        ),
    ],
)
def test_clips_that_the_model_has_no_rows_for_are_refused_before_the_first_step(
    stage: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        Trainer(tiny_config(tmp_path, {**MODEL, **fields}, stage=stage))


@pytest.mark.parametrize(
    ("stage", "field"), [("audio", {"patch_size": [1, 3, 3]}), ("video", {"audio_position_table_size": 7})]
)
def test_what_a_stage_does_not_read_need_not_fit(stage: str, field: dict[str, Any], tmp_path: Path) -> None:
    Trainer(tiny_config(tmp_path, {**MODEL, **field}, stage=stage))
