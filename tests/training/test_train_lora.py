import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from diffusers_jova import JoVATransformer3DModel, JoVAWanTransformer3DModel
from diffusers_jova.training.loop.lora import ADAPTER_FILE, TARGETS, quantize_nf4_
from diffusers_jova.training.loop.model import load_transformer
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.training.train_lora import main
from diffusers_jova.weight_branches import branch_of
from tests.tiny_pipeline import build_tiny_pipeline
from tests.tiny_training import MODEL, forget_accelerate, tiny_config, write_clips


WAN_MODEL = {name: MODEL[name] for name in MODEL if name in inspect.signature(JoVAWanTransformer3DModel).parameters}
WAN_MODEL |= {"ffn_dim": 32, "freq_dim": 32}
TRANSFORMERS = {"jova": (JoVATransformer3DModel, MODEL), "wan": (JoVAWanTransformer3DModel, WAN_MODEL)}


@pytest.fixture(params=TRANSFORMERS)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A saved transformer of each kind with every weight random: the gates of a new one are zero."""
    torch.manual_seed(1)
    cls, config = TRANSFORMERS[request.param]
    transformer = cls(**config)
    for parameter in transformer.parameters():
        nn.init.normal_(parameter, std=0.2)
    transformer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def lora_config(folder: Path, base: Path, **values: Any) -> Any:
    return tiny_config(folder, model=str(base), train="lora", lora_rank=4, lora_alpha=8, learning_rate=1e-2, **values)


def velocities(transformer: nn.Module) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    sizes = ((2, 8, 3, 4, 4), (2, 8, 6), (2, 5, 10))
    latents = [torch.randn(size, generator=generator) for size in sizes]
    timestep = torch.tensor([300.0, 700.0])
    with torch.no_grad():
        return transformer(*latents, timestep, frame_rate=32.0, audio_latent_rate_hz=31.25, return_dict=False)


def test_the_adapter_file_gives_the_pipeline_the_output_of_training(tmp_path: Path, base: Path) -> None:
    trainer = Trainer(lora_config(tmp_path, base, lora_targets="attention_ff"))
    trainer.train()
    pipe = build_tiny_pipeline()
    pipe.transformer = load_transformer(str(base))
    before = velocities(pipe.transformer)
    pipe.load_lora_weights(tmp_path / "run", weight_name=ADAPTER_FILE)
    for trained, loaded, untouched in zip(
        velocities(trainer.transformer.eval()), velocities(pipe.transformer.eval()), before, strict=True
    ):
        torch.testing.assert_close(loaded, trained)
        assert (loaded - untouched).abs().max() > 1e-3


@pytest.mark.parametrize("settings", [{"stage": "video"}, {"stage": "audio"}, {"video_learning_rate": 0}])
def test_an_adapter_of_one_branch_loads_without_a_word_about_the_other(
    tmp_path: Path, base: Path, settings: dict[str, Any]
) -> None:
    trainer = Trainer(lora_config(tmp_path, base, **settings))
    trainer.train()
    trained = {branch_of(name) for name, weight in trainer.transformer.named_parameters() if weight.requires_grad}
    adapter = load_file(tmp_path / "run" / ADAPTER_FILE)
    assert {branch_of(name) for name in adapter} == trained == {settings.get("stage", "audio")}
    pipe = build_tiny_pipeline()
    pipe.transformer = load_transformer(str(base))
    pipe.load_lora_weights(tmp_path / "run", weight_name=ADAPTER_FILE)  # a warning would be an error
    for loaded, expected in zip(velocities(pipe.transformer), velocities(trainer.transformer.eval()), strict=True):
        torch.testing.assert_close(loaded, expected)


def test_an_adapter_that_would_train_nothing_is_refused(tmp_path: Path, base: Path) -> None:
    with pytest.raises(ValueError, match="no weight is left to train; check `stage`, `lora_targets`"):
        Trainer(lora_config(tmp_path, base, lora_targets="video", video_learning_rate=0))


def test_the_frozen_weights_keep_the_formats_that_loading_gives_them(tmp_path: Path, base: Path) -> None:
    trained = Trainer(lora_config(tmp_path, base, mixed_precision="bf16")).transformer
    loaded = type(load_transformer(str(base))).from_pretrained(base, torch_dtype=torch.bfloat16)
    formats = {name.replace(".base_layer", ""): weight.dtype for name, weight in trained.named_parameters()}
    assert {name: weight.dtype for name, weight in loaded.named_parameters()}.items() <= formats.items()
    assert torch.float32 in {weight.dtype for weight in loaded.parameters()}


def test_the_header_of_the_adapter_holds_its_configuration(tmp_path: Path, base: Path) -> None:
    Trainer(lora_config(tmp_path, base, steps=1)).train()
    with safe_open(tmp_path / "run" / ADAPTER_FILE, framework="pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
        names = list(file.keys())
    assert (metadata["transformer.r"], metadata["transformer.lora_alpha"]) == (4, 8)
    assert metadata["transformer.target_modules"] == TARGETS["attention"]
    first = {"transformer.transformer_blocks.0.attn.video.to_q", "transformer.blocks.0.attn1.video.to_q"}
    assert len(first & {name.removesuffix(".lora_A.weight") for name in names}) == 1


@pytest.mark.parametrize(
    ("targets", "reached", "modules"),
    [
        ("video", {"video", "video_text"}, {"attn", "ff"}),
        ("audio", {"audio", "audio_text"}, {"attn", "ff"}),
        ("joint", {"video", "audio"}, {"attn"}),
        ("attention", {"video", "video_text", "audio", "audio_text"}, {"attn"}),
        ("attention_ff", {"video", "video_text", "audio", "audio_text"}, {"attn", "ff"}),
    ],
)
def test_targets_reach_what_their_name_says(
    tmp_path: Path, base: Path, targets: str, reached: set[str], modules: set[str]
) -> None:
    trainer = Trainer(lora_config(tmp_path, base, lora_targets=targets))
    names = [name.split(".") for name, p in trainer.transformer.named_parameters() if p.requires_grad]
    parts = {part for name in names for part in name}
    is_wan = "blocks" in parts
    assert parts & {"video", "video_text", "audio", "audio_text"} == reached & (
        {"video", "audio"} if is_wan else reached
    )
    ours = {"attn1": "attn", "attn2": "attn", "ffn": "ff"}
    assert {ours.get(part, part) for part in parts} & {"attn", "ff", "modulation", "embed"} == modules


@pytest.mark.parametrize("targets", ["video", "audio"])
def test_the_other_modality_is_bit_identical_after_training(tmp_path: Path, base: Path, targets: str) -> None:
    trainer = Trainer(lora_config(tmp_path, base, lora_targets=targets, steps=2))
    trainer.train()
    original = load_file(base / "diffusion_pytorch_model.safetensors")
    for name, parameter in trainer.transformer.named_parameters():
        if "lora_" in name:
            assert branch_of(name) == targets
        else:
            assert torch.equal(parameter, original[name.replace(".base_layer", "")])
    assert {branch_of(name) for name in load_file(tmp_path / "run" / ADAPTER_FILE)} == {targets}


def test_an_adapter_run_resumes_with_the_same_bits(tmp_path: Path, base: Path) -> None:
    settings = {"lora_dropout": 0.2, "ema_decay": 0.9}
    Trainer(lora_config(tmp_path, base, output_dir=str(tmp_path / "whole"), **settings)).train()
    stopped = Trainer(lora_config(tmp_path, base, stop_after_minutes=0, log_every=4, **settings))
    stopped.train()
    assert 0 < stopped.step < 6
    Trainer(lora_config(tmp_path, base, **settings)).train()
    whole, resumed = (load_file(tmp_path / run / ADAPTER_FILE) for run in ("whole", "run"))
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_four_bit_layers_stay_near_the_originals_and_train_an_adapter(tmp_path: Path, base: Path) -> None:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    layers, data = nn.Sequential(nn.Linear(64, 64)), torch.randn(32, 64)
    expected = layers(data)
    quantize_nf4_(layers)
    error = (layers(data) - expected).norm() / expected.norm()
    assert 0 < error < 0.2  # 4 bit: about 0.1
    assert layers[0].weight.dtype == torch.uint8
    trainer = Trainer(lora_config(tmp_path, base, quantize="nf4", steps=3))
    trainer.train()
    assert len(load_file(tmp_path / "run" / ADAPTER_FILE)) > 0


def test_the_command_trains_an_adapter_and_says_how_to_load_it(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_clips(tmp_path / "prepared")
    words = ["steps=1", "warmup_steps=0", "mixed_precision=no", "gradient_checkpointing=false", "tensorboard=false"]
    main([str(data), str(tmp_path / "run"), "--model", str(base), "--targets", "video", *words])
    assert "1 of 1 steps are done" in capsys.readouterr().out
    assert "pipe.load_lora_weights" in (tmp_path / "run" / "README.md").read_text()
    assert (tmp_path / "run" / ADAPTER_FILE).exists()


def go_on(folder: Path, base: Path, adapter: Path, **values: Any) -> Any:
    """A run that goes on from an adapter."""
    settings = {"output_dir": str(folder / "next"), "steps": 2, "learning_rate": 1e-2, **values}
    return tiny_config(folder, model=str(base), train="lora", init_adapter=str(adapter), **settings)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    Trainer(lora_config(tmp_path, base, steps=2, lora_targets="attention_ff")).train()
    return tmp_path / "run" / ADAPTER_FILE


def test_a_run_goes_on_from_an_adapter_with_its_weights_rank_alpha_and_targets(
    tmp_path: Path, base: Path, adapter: Path
) -> None:
    first = load_file(adapter)
    forget_accelerate()
    trainer = Trainer(go_on(tmp_path, base, adapter, mixed_precision="bf16"))
    begun = {name.replace(".default", ""): weight for name, weight in trainer.transformer.named_parameters()}
    for name, weight in first.items():
        assert torch.equal(begun[name.removeprefix("transformer.")], weight)  # in float32 over bfloat16
    trainer.train()
    second = load_file(tmp_path / "next" / ADAPTER_FILE)
    assert {name: tensor.shape for name, tensor in second.items()} == {name: t.shape for name, t in first.items()}
    assert all(not torch.equal(second[name], first[name]) for name in first)
    with safe_open(tmp_path / "next" / ADAPTER_FILE, framework="pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
    assert (metadata["transformer.r"], metadata["transformer.lora_alpha"]) == (4, 8)


def test_a_run_that_went_on_from_an_adapter_resumes_with_the_same_bits(
    tmp_path: Path, base: Path, adapter: Path
) -> None:
    Trainer(go_on(tmp_path, base, adapter, steps=6, output_dir=str(tmp_path / "whole"))).train()
    settings = {"steps": 6, "log_every": 4}
    stopped = Trainer(go_on(tmp_path, base, adapter, stop_after_minutes=0, **settings))
    stopped.train()
    assert 0 < stopped.step < 6
    moved = adapter.rename(tmp_path / "moved.safetensors")
    Trainer(go_on(tmp_path, base, moved, **settings)).train()
    whole, resumed = (load_file(tmp_path / run / ADAPTER_FILE) for run in ("whole", "next"))
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    with pytest.raises(ValueError, match=r"`init_adapter` is another one, or one of both runs has none"):
        Trainer(lora_config(tmp_path, base, output_dir=str(tmp_path / "next"), lora_targets="attention_ff"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_rank": 8}, "`lora_rank` must be that of `init_adapter`, 4, got 8; leave it out"),
        ({"lora_alpha": 4}, "`lora_alpha` must be that of `init_adapter`, 8, got 4; leave it out"),
        ({"lora_targets": "attention"}, "`lora_targets` must be those of `init_adapter`, which changes other modules"),
        ({"stage": "video"}, "`init_adapter` must change what the run trains alone, got .*audio"),
        ({"output_dir": "run"}, "`output_dir` must be another folder than that of `init_adapter`"),
    ],
)
def test_settings_that_contradict_the_adapter_are_refused(
    tmp_path: Path, base: Path, adapter: Path, settings: dict[str, Any], message: str
) -> None:
    settings = {**settings, **({"output_dir": str(tmp_path / "run")} if "output_dir" in settings else {})}
    with pytest.raises(ValueError, match=message):
        Trainer(go_on(tmp_path, base, adapter, **settings))
    Trainer(go_on(tmp_path, base, adapter, lora_rank=4, lora_alpha=8, lora_targets="attention_ff"))


def test_the_command_goes_on_from_an_adapter_whatever_the_preset_says(
    tmp_path: Path, base: Path, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_clips(tmp_path / "prepared")
    words = ["steps=1", "warmup_steps=0", "mixed_precision=no", "gradient_checkpointing=false", "tensorboard=false"]
    command = [str(data), str(tmp_path / "next"), "--model", str(base), "--init-adapter"]
    main([*command, str(adapter.parent), *words])  # the folder of a run
    assert "1 of 1 steps are done" in capsys.readouterr().out
    assert load_file(tmp_path / "next" / ADAPTER_FILE).keys() == load_file(adapter).keys()
    assert str(tmp_path) not in (tmp_path / "next" / "README.md").read_text()
    with pytest.raises(SystemExit, match="2"):
        main([*command, str(tmp_path / "missing.safetensors"), *words])
    assert "`--init-adapter` must be an existing path or a hub name" in capsys.readouterr().err


def test_more_steps_in_the_same_folder_go_on_at_the_rate_that_was_reached(tmp_path: Path, base: Path) -> None:
    settings = {"learning_rate_schedule": "linear", "log_every": 1}
    Trainer(lora_config(tmp_path, base, steps=6, **settings)).train()
    Trainer(lora_config(tmp_path, base, steps=9, **settings)).train()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rates = {line["step"]: line["learning_rate"] for line in map(json.loads, lines)}
    sixth = 1e-2 / 6
    assert [rates[step] for step in (6, 7, 8, 9)] == pytest.approx([sixth, sixth, sixth * 2 / 3, sixth / 3])
