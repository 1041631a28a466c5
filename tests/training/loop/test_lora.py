"""Which modules of each class of transformer the presets of adapters reach."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diffusers_jova import JoVATransformer3DModel
from diffusers_jova.adapter_file import read_adapter
from diffusers_jova.conversion import lora
from diffusers_jova.training.loop.config import LoraTargets
from diffusers_jova.training.loop.lora import reached_modules
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.weight_branches import branch_of
from jova_cli.adapter_info import check_adapter, describe_adapter, find_adapter
from tests.tiny_pipeline import NAVA_SHARING, build_dual_tower, build_transformer, build_wan_transformer
from tests.tiny_training import MODEL, forget_accelerate, tiny_config, write_clips


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("net.0.proj", "net.2")
KEYS = ("to_k", "to_v")


def layers(*groups: tuple[str, str, tuple[str, ...]]) -> set[str]:
    """Names behind that of the block: layers, owners, parts."""
    return {
        f"{layer}.{owner}.{part}"
        for names, owners, parts in groups
        for layer in names.split()
        for owner in owners.split()
        for part in parts
    }


MODELS: dict[str, tuple[Any, dict[str, set[str]]]] = {  # what each preset reaches in any of the blocks
    "jova": (
        build_transformer,
        {
            "video": layers(("attn", "video video_text", ATTENTION), ("ff", "video video_text", FEED_FORWARD)),
            "audio": layers(("attn", "audio audio_text", ATTENTION), ("ff", "audio audio_text", FEED_FORWARD)),
            "joint": layers(("attn", "video audio", ATTENTION)),
            "attention": layers(("attn", "video video_text audio audio_text", ATTENTION)),
            "attention_ff": layers(
                ("attn", "video video_text audio audio_text", ATTENTION),
                ("ff", "video video_text audio audio_text", FEED_FORWARD),
            ),
        },
    ),
    "jova, cross_linear": (
        lambda: build_transformer(fusion="cross_linear"),
        {
            "video": layers(
                ("attn", "video video_text", ATTENTION),
                ("attn", "video", ("to_cross",)),
                ("ff", "video video_text", FEED_FORWARD),
            ),
            "joint": layers(("attn", "video audio", (*ATTENTION, "to_cross"))),
        },
    ),
    "wan": (
        build_wan_transformer,
        {
            "video": layers(("attn1 attn2", "video", ATTENTION), ("ffn", "video", FEED_FORWARD)),
            "audio": layers(("attn1 attn2", "audio", ATTENTION), ("ffn", "audio", FEED_FORWARD)),
            "joint": layers(("attn1", "video audio", ATTENTION)),
            "attention": layers(("attn1 attn2", "video audio", ATTENTION)),
            "attention_ff": layers(("attn1 attn2", "video audio", ATTENTION), ("ffn", "video audio", FEED_FORWARD)),
        },
    ),
    "wan, shared": (
        lambda: build_wan_transformer(**NAVA_SHARING),
        {
            "video": layers(("attn1 attn2", "video", ATTENTION)),
            "joint": layers(("attn1", "video audio shared", ATTENTION)),
            "attention_ff": layers(("attn1 attn2", "video audio shared", ATTENTION), ("ffn", "shared", FEED_FORWARD)),
        },
    ),
    "bridge, two experts": (
        lambda: build_dual_tower("bridge", boundary=0.9),
        {
            "video": layers(("attn1 attn2", "video video_low", ATTENTION), ("ffn", "video video_low", FEED_FORWARD)),
            "audio": layers(("attn1 attn2", "audio", ATTENTION), ("ffn", "audio", FEED_FORWARD)),
            "joint": layers(("fusion", "video audio", ATTENTION)),
            "attention": layers(
                ("attn1 attn2", "video video_low audio", ATTENTION), ("fusion", "video audio", ATTENTION)
            ),
            "attention_ff": layers(
                ("attn1 attn2", "video video_low audio", ATTENTION),
                ("fusion", "video audio", ATTENTION),
                ("ffn", "video video_low audio", FEED_FORWARD),
            ),
        },
    ),
    "aligned": (
        lambda: build_dual_tower("aligned"),
        {
            "video": layers(("attn1 attn2", "video", ATTENTION), ("ffn", "video", FEED_FORWARD)),
            "joint": layers(("fusion", "video audio", ATTENTION)),
            "attention": layers(("attn1 attn2 fusion", "video audio", ATTENTION)),
        },
    ),
    "text_cross": (
        lambda: build_dual_tower("text_cross"),
        {
            "joint": layers(("fusion", "video audio", KEYS)),
            "attention": layers(("attn1 attn2", "video audio", ATTENTION), ("fusion", "video audio", KEYS)),
        },
    ),
}
CASES = [(model, preset) for model, (_, presets) in MODELS.items() for preset in presets]


def in_block(name: str) -> str:
    return re.sub(r"^\w*blocks\.\d+\.", "", name)


@pytest.mark.parametrize(("model", "preset"), CASES)
def test_a_preset_reaches_what_its_name_says_in_every_class(model: str, preset: str) -> None:
    build, presets = MODELS[model]
    assert {in_block(name) for name in reached_modules(build(), preset)} == presets[preset]


@pytest.mark.parametrize("model", MODELS)
def test_no_projection_of_a_block_is_out_of_reach_of_every_preset(model: str) -> None:
    transformer = MODELS[model][0]()
    reached = {name for preset in get_args(LoraTargets) for name in reached_modules(transformer, preset)}
    linear = {name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}
    left = {in_block(name) for name in linear - reached if "blocks." in name and ".modulation." not in name}
    assert left == ({"fusion.mask_head.proj_out"} if model == "aligned" else set())  # a head, as those of the towers


@pytest.mark.parametrize(("stage", "targets"), [("video", "attention"), ("joint", "joint")])
def test_an_adapter_of_two_towers_is_trained_where_its_stage_uses_it(tmp_path: Path, stage: str, targets: str) -> None:
    build_dual_tower("bridge").save_pretrained(tmp_path / "base")
    write_clips(tmp_path / "prepared", channels=(16, 4, 16))
    settings = {"stage": stage, "lora_targets": targets, "model": str(tmp_path / "base"), "train": "lora"}
    forget_accelerate()
    trainer = Trainer(tiny_config(tmp_path, **settings))
    adapter = {name: weight for name, weight in trainer.transformer.named_parameters() if "lora_" in name}
    assert all(weight.requires_grad for weight in adapter.values())
    assert {branch_of(name) for name in adapter} == {stage}
    assert any(".fusion." in name for name in adapter) == (stage == "joint")


def test_a_coupling_that_the_stage_does_not_use_is_no_adapter_to_go_on_from(tmp_path: Path) -> None:
    build_dual_tower("bridge").save_pretrained(tmp_path / "base")
    write_clips(tmp_path / "prepared", channels=(16, 4, 16))
    settings = {"model": str(tmp_path / "base"), "train": "lora"}
    forget_accelerate()
    Trainer(tiny_config(tmp_path, **settings, steps=1)).train()
    again = {"output_dir": str(tmp_path / "next"), "init_adapter": str(tmp_path / "run"), "stage": "video"}
    with pytest.raises(ValueError, match=r"`init_adapter` must change what the run trains alone, got .*fusion"):
        Trainer(tiny_config(tmp_path, **settings | again))


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_checkpoint_of_an_adapter_is_the_adapter_of_its_step(tmp_path: Path, ema_decay: float | None) -> None:
    JoVATransformer3DModel(**MODEL).save_pretrained(tmp_path / "base")
    settings = {"train": "lora", "lora_rank": 2, "lora_alpha": 8, "lora_targets": "joint", "steps": 3}
    config = tiny_config(tmp_path, model=str(tmp_path / "base"), ema_decay=ema_decay, **settings)
    Trainer(config).train()
    checkpoint = tmp_path / "run" / "checkpoint-00000003"
    result, of_step = read_adapter(tmp_path / "run"), read_adapter(checkpoint)
    assert set(of_step.alphas.values()) == {8.0}
    assert of_step.alphas == result.alphas
    assert of_step.tensors.keys() == result.tensors.keys()
    assert all(torch.equal(of_step.tensors[name], tensor) for name, tensor in result.tensors.items())
    file = find_adapter(checkpoint)
    assert file is not None
    assert "base model  base\nrank        2\nalpha       8\n" in describe_adapter(file)


def test_prepared_clips_are_no_adapter_and_one_that_lies_among_them_is(tmp_path: Path) -> None:
    record, adapter = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"video_latents": torch.ones(4)}, record)
    (tmp_path / "prepare.unfinished").touch()
    for read in (read_adapter, lora.read):
        for path, what in ((tmp_path, "which holds prepared clips"), (record, "which is a prepared clip")):
            with pytest.raises(
                ValueError, match=rf"must be an adapter, got {path}, {what}; name the folder that `jova"
            ):
                read(path)
    save_file({f"blocks.0.attn.video.to_q.lora_{part}.weight": torch.ones(4, 4) for part in "AB"}, adapter)
    assert read_adapter(adapter).modules() == ["blocks.0.attn.video.to_q"]
    check_adapter("--lora", adapter)
    adapter.rename(tmp_path / "pytorch_lora_weights.safetensors")
    assert read_adapter(tmp_path).modules() == ["blocks.0.attn.video.to_q"]


def test_a_folder_of_several_adapters_is_not_chosen_from_by_chance(tmp_path: Path) -> None:
    tensors = {f"blocks.0.attn.video.to_q.lora_{part}.weight": torch.ones(4, 4) for part in "AB"}
    save_file(tensors, tmp_path / "my-checkpoint.safetensors")
    assert read_adapter(tmp_path).modules() == ["blocks.0.attn.video.to_q"]
    save_file(tensors, tmp_path / "b.safetensors")
    refusal = r"must be a folder of one adapter, got .* with b.safetensors, my-checkpoint.safetensors; name the file"
    for folder in (tmp_path, str(tmp_path)):
        with pytest.raises(ValueError, match=f"`adapter` {refusal}"):
            read_adapter(folder)
    with pytest.raises(ValueError, match=f"`--lora` {refusal}"):
        check_adapter("--lora", tmp_path)
    assert find_adapter(tmp_path) is None
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors")
    assert read_adapter(tmp_path).modules() == ["blocks.0.attn.video.to_q"]
