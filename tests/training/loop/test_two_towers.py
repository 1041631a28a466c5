"""Runs of models of two towers as their papers train them: rates by part, experts, face masks, presets."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusers_jova import JoVADualTowerTransformer3DModel
from diffusers_jova.training.data.dataset import PrecomputedDataset
from diffusers_jova.training.loop.branches import parameter_groups
from diffusers_jova.training.loop.conditioning import Conditioning
from diffusers_jova.training.loop.config import load_yaml
from diffusers_jova.training.loop.model import prepare_transformer
from diffusers_jova.training.loop.objective import face_mask_factor, face_mask_loss
from diffusers_jova.training.loop.publish import write_model_card
from diffusers_jova.training.loop.trainer import Trainer
from jova_cli.presets import describe_presets
from tests.processes import launch
from tests.tiny_training import MODEL, different, dual_tower, forget_accelerate, result, tiny_config, write_clips


EXPERTS = dual_tower("bridge", boundary=0.5)
ALIGNED = dual_tower("aligned")
CARDS = ("mova-720p", "uniavgen")
RATES = {"fusion": 2e-3, "video_low": 0.0, "audio": 5e-4}
PRESETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # with the model and the header of the clips
    "mova": (dual_tower("bridge", boundary=0.9), {"loudness_lufs": -23.0}),
    "mova_lora": (dual_tower("bridge", boundary=0.9), {}),
    "uniavgen": (ALIGNED, {}),
    "uniavgen_tasks": (ALIGNED, {}),
}


def clips(folder: Path, **settings: Any) -> Path:
    return write_clips(folder / "prepared", **{"channels": (16, 4, 16), "num_recordings": 2} | settings)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.transformer.named_parameters()}


# 1. Learning rates by part


def test_every_part_learns_at_its_own_rate(tmp_path: Path) -> None:
    clips(tmp_path)
    config = tiny_config(tmp_path, EXPERTS, learning_rate=1e-3, learning_rates=RATES)
    transformer = prepare_transformer(config)
    rates = {id(p): group["peak_lr"] for group in parameter_groups(transformer, config) for p in group["params"]}
    for name, parameter in transformer.named_parameters():
        is_fusion, is_low = ".fusion." in name, "video_low" in name
        expected = 2e-3 if is_fusion else 5e-4 if re.search(r"(^|\.)audio\.", name) else 1e-3
        assert parameter.requires_grad is not is_low
        assert is_low or rates[id(parameter)] == expected, name


def test_the_smallest_part_of_a_weight_names_its_rate(tmp_path: Path) -> None:
    clips(tmp_path)
    rates = {"joint": 1e-5, "fusion": 2e-5, "mask_head": 3e-5}
    config = tiny_config(tmp_path, ALIGNED, learning_rates=rates)
    transformer = prepare_transformer(config)
    found = {id(p): group["peak_lr"] for group in parameter_groups(transformer, config) for p in group["params"]}
    for name, parameter in transformer.named_parameters():
        if ".fusion." in name:
            assert found[id(parameter)] == (3e-5 if "mask_head" in name else 2e-5)


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (
            MODEL,
            {"learning_rates": {"fusion": 1e-5}},
            "`learning_rates.fusion` must be of a part that this `model` has",
        ),
        (ALIGNED, {"learning_rates": {"video_low": 1e-5}}, r"which are audio, fusion, .* got video_low; leave it out"),
        (dual_tower("bridge"), {"learning_rates": {"mask_head": 1e-5}}, "got mask_head"),
        (ALIGNED, {"experts": "alternate"}, "`experts` must be drawn for a `model` of one video tower, got alternate"),
        (EXPERTS, {"face_mask_weight": 0.1}, "`face_mask_weight` must be 0 for a `model` without face masks"),
    ],
)
def test_settings_of_a_part_that_the_model_lacks_are_refused(
    tmp_path: Path, model: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_transformer(tiny_config(tmp_path, model, **settings))


def test_a_run_with_rates_and_experts_resumes_with_the_same_bits_and_refuses_other_rates(tmp_path: Path) -> None:
    clips(tmp_path)
    settings: dict[str, Any] = {"learning_rates": {"fusion": 2e-3, "audio": 5e-4}, "experts": "alternate"}
    Trainer(tiny_config(tmp_path, EXPERTS, output_dir=str(tmp_path / "whole"), **settings)).train()
    shutil.copytree(tmp_path / "whole" / "checkpoint-00000003", tmp_path / "run" / "checkpoint-00000003")
    Trainer(tiny_config(tmp_path, EXPERTS, **settings)).train()
    assert different(result(tmp_path / "whole"), result(tmp_path / "run")) == []
    with pytest.raises(ValueError, match=r"`learning_rates` is .* there and .* here"):
        Trainer(tiny_config(tmp_path, EXPERTS, **settings | {"learning_rates": {"fusion": 1e-3, "audio": 5e-4}}))


# 2. Experts, sigmas and captions


def test_experts_take_turns_and_each_learns_on_its_own_side(tmp_path: Path) -> None:
    clips(tmp_path)
    trainer = Trainer(tiny_config(tmp_path, EXPERTS, experts="alternate", ema_decay=None))
    moved = []

    def note(before: dict[str, Tensor]) -> None:
        now = weights(trainer)
        names = {name for name in now if not torch.equal(now[name], before[name])}
        moved.append((any("video_low" in n for n in names), any(re.search(r"attn1\.video\.", n) for n in names)))

    for step in range(4):
        trainer.optimizer.optimizer.state.clear()  # AdamW's averages would move a tower that rests
        inputs = trainer.conditioning(trainer.dataset.batch(range(4)), seed=1 + step, step=step)
        assert ((inputs.sigma >= 0.5) == (step % 2 == 0)).all()
        before = weights(trainer)
        trainer.accelerator.backward(trainer.loss(inputs).total.mean())
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        note(before)
    assert moved == [(False, True), (True, False)] * 2


@pytest.mark.parametrize(("experts", "frozen"), [("high", "video_low"), ("low", "video")])
def test_one_expert_alone_is_trained_and_the_other_stays_bit_for_bit(
    tmp_path: Path, experts: str, frozen: str
) -> None:
    clips(tmp_path)
    trainer = Trainer(tiny_config(tmp_path, EXPERTS, experts=experts))
    before = weights(trainer)
    trainer.train()
    after = load_file(tmp_path / "run" / "transformer" / "diffusion_pytorch_model.safetensors")
    own, other = (
        rf"(^|\.){name}\." for name in (("video", "video_low") if experts == "high" else ("video_low", "video"))
    )
    towers = {name for name in after if ".fusion." not in name}
    assert not different(
        {n: before[n] for n in towers if re.search(other, n)}, {n: after[n] for n in towers if re.search(other, n)}
    )
    assert different(
        {n: before[n] for n in towers if re.search(own, n)}, {n: after[n] for n in towers if re.search(own, n)}
    )
    assert frozen in other


def test_a_density_that_never_comes_to_the_side_of_an_expert_is_refused(tmp_path: Path) -> None:
    clips(tmp_path)
    with pytest.raises(
        ValueError, match=r"must bring levels to both sides of the `boundary` 0\.5, got 0\.\d+% for the high"
    ):
        Trainer(tiny_config(tmp_path, EXPERTS, experts="high", shift=1e-4, density="uniform"))
    Trainer(tiny_config(tmp_path, EXPERTS, experts="low", shift=1e-4, density="uniform"))


def test_captions_of_the_two_modalities_are_dropped_apart(tmp_path: Path) -> None:
    write_clips(tmp_path / "prepared", num_clips=400)
    config = tiny_config(tmp_path, caption_dropout=0.5, audio_caption_dropout=0.25)
    dataset = PrecomputedDataset(config.data)
    conditioning = Conditioning(config, dataset.empty_prompt(), 4, 32.0, 31.25, 4, torch.device("cpu"))
    arguments = conditioning(dataset.batch(range(400)), 0).arguments
    video, audio = (arguments[f"{name}encoder_attention_mask"].sum(1) == 1 for name in ("", "audio_"))
    for dropped, share in ((video, 0.5), (audio, 0.25), (video & audio, 0.125)):
        assert abs(dropped.float().mean() - share) < 4 * (share * (1 - share) / 400) ** 0.5
    for dropped, name in ((video, ""), (audio, "audio_")):
        assert not arguments[f"{name}encoder_hidden_states"][dropped].any()
        assert arguments[f"{name}encoder_hidden_states"][~dropped].any((1, 2)).all()


# 3. Face masks


def test_the_face_loss_is_the_squared_distance_of_every_fusion_averaged_over_rows() -> None:
    faces = torch.zeros(2, 1, 2, 4, 4)
    faces[0, 0, 1, 1, 2] = 1  # one latent marks its row of 2 x 2
    masks = torch.full((2, 3, 2, 2, 2), 0.25)
    loss = face_mask_loss(masks, faces)
    expected = 3 * (0.75**2 + 7 * 0.25**2) / 8
    torch.testing.assert_close(loss, torch.tensor([expected, 0.0]))  # a clip without a known face has no part in it
    perfect = torch.zeros(2, 3, 2, 2, 2)
    perfect[0, :, 1, 0, 1] = 1
    assert not face_mask_loss(perfect, faces).any()


def test_the_weight_of_the_face_loss_falls_on_a_line_to_zero() -> None:
    factors = [face_mask_factor(step, 0.1, 30000) for step in (0, 7500, 15000, 30000, 40000)]
    assert factors == pytest.approx([0.1, 0.075, 0.05, 0.0, 0.0])


def test_the_face_loss_moves_the_mask_heads_to_the_faces_beside_the_mouth_loss(tmp_path: Path) -> None:
    clips(tmp_path)
    settings = {"face_mask_weight": 1.0, "face_mask_steps": 1000, "mouth_weight": 5, "learning_rate": 1e-2}
    trainer = Trainer(tiny_config(tmp_path, ALIGNED, image_probability=1.0, **settings))
    inputs = trainer.conditioning(trainer.dataset.batch(range(4)), seed=1)  # 0 is the seed of the clips
    first = trainer.loss(inputs)
    assert (first.face > 0).all()
    assert (first.mouth > 0).all()
    expected = first.video + first.audio + 5 * first.mouth + first.face
    torch.testing.assert_close(first.total, expected)
    trainer.step = 500
    torch.testing.assert_close(trainer.loss(inputs).total, expected - 0.5 * first.face)
    trainer.step = 0
    trainer.train()
    last = trainer.loss(inputs)
    assert (last.face < first.face).all()
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "loss/face" in log


def test_without_its_weight_masks_have_no_loss_and_no_line(tmp_path: Path) -> None:
    clips(tmp_path)
    Trainer(tiny_config(tmp_path, ALIGNED)).train()
    assert "face" not in (tmp_path / "run" / "metrics.jsonl").read_text()


# 4. Presets


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains_the_model_that_it_is_for(tmp_path: Path, name: str) -> None:
    model, header = PRESETS[name]
    data = clips(tmp_path, **header)
    where = {"model": tiny_config(tmp_path, model).model, "data": str(data), "output_dir": str(tmp_path / "run")}
    small = {"steps": 4, "warmup_steps": 0, "distribution": "none", "mixed_precision": "no", "num_workers": 0}
    config = load_yaml(Path("training/configs", f"{name}.yaml"), where | small | {"log_every": 1, "batch_size": 2})
    trainer = Trainer(config)
    trainer.train()
    assert trainer.step == 4
    assert name in describe_presets()
    card = write_model_card(tmp_path / "run", config).read_text()
    assert (", with sound of -23 LUFS." in card) == (name == "mova")


def test_the_presets_hold_the_numbers_of_their_papers() -> None:
    paths = {"model": "m", "data": "d", "output_dir": "o"}
    mova, lora, joint, tasks = (load_yaml(Path("training/configs", f"{name}.yaml"), paths) for name in PRESETS)
    assert (mova.learning_rate, mova.learning_rates, mova.weight_decay) == (1e-5, {"fusion": 2e-5}, 1e-3)
    assert (mova.audio_weight, mova.caption_dropout, mova.shift, mova.audio_shift) == (0.2, 0.2, 5, 5)
    assert (mova.density, mova.coupling, mova.experts) == ("uniform", "independent", "alternate")
    assert 64 * mova.batch_size * mova.gradient_accumulation_steps == 128
    assert (lora.lora_rank, lora.lora_alpha, lora.learning_rate, lora.weight_decay) == (16, 16, 1e-4, 0.01)
    assert lora.learning_rate * lora.final_learning_rate == pytest.approx(1e-6)
    assert (lora.steps, lora.warmup_steps, lora.gradient_accumulation_steps) == (50000, 500, 4)
    assert (joint.learning_rate, joint.steps, joint.betas) == (5e-6, 30000, (0.9, 0.999))
    assert (joint.face_mask_weight, joint.face_mask_steps) == (0.1, joint.steps)
    assert 8 * joint.batch_size * joint.gradient_accumulation_steps == 32
    assert tasks.steps == 10000
    assert [*tasks.tasks.values()] == [4, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("preset", "card", "boundary", "num_bytes"),
    [("mova", "mova-720p", 0.9, 16), ("mova_lora", "mova-720p", 0.9, 2), ("uniavgen", "uniavgen", None, 16)],
)
def test_the_memory_that_a_preset_states_is_that_of_its_model(
    preset: str, card: str, boundary: float | None, num_bytes: int
) -> None:
    config = JoVADualTowerTransformer3DModel.load_config(f"model_cards/{card}", subfolder="transformer")
    with torch.device("meta"):
        model = JoVADualTowerTransformer3DModel.from_config(config, boundary=boundary)
    billions = sum(parameter.numel() for parameter in model.parameters()) / 1e9
    text = Path("training/configs", f"{preset}.yaml").read_text()
    stated = re.search(r"by calculation: (\d+) GB = ([\d.]+) B (?:frozen )?weights x (\d+) bytes", text)
    assert stated is not None
    assert stated.groups() == (f"{billions * num_bytes:.0f}", f"{billions:.2f}", str(num_bytes))


# 5. Loudness and processes


def test_clips_of_another_loudness_than_the_run_asks_for_are_refused(tmp_path: Path) -> None:
    clips(tmp_path, loudness_lufs=-16.0)
    with pytest.raises(ValueError, match=r"got -23 for `.*` of -16\.0; run `jova prepare` with `--loudness-lufs=-23`"):
        Trainer(tiny_config(tmp_path, ALIGNED, loudness_lufs=-23))
    Trainer(tiny_config(tmp_path, ALIGNED, loudness_lufs=-16))
    clips(tmp_path)
    with pytest.raises(ValueError, match="of unchanged loudness; run"):
        Trainer(tiny_config(tmp_path, ALIGNED, loudness_lufs=-23))
    Trainer(tiny_config(tmp_path, ALIGNED))


def train(config: Any) -> None:
    forget_accelerate()
    Trainer(config).train()


def test_two_processes_take_the_steps_of_one_in_every_task(tmp_path: Path) -> None:
    clips(tmp_path)
    tasks = {"joint": 1, "voice": 1, "continuation": 1, "video_to_audio": 1, "audio_to_video": 1}
    settings = {"batch_size": 2, "gradient_accumulation_steps": 2, "tasks": tasks, "face_mask_weight": 0.1}
    Trainer(tiny_config(tmp_path, ALIGNED, image_probability=1.0, **settings)).train()
    split = settings | {"gradient_accumulation_steps": 1, "distribution": "ddp", "output_dir": str(tmp_path / "two")}
    launch(train, tiny_config(tmp_path, ALIGNED, image_probability=1.0, **split))
    one, two = result(tmp_path / "run"), result(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)  # sums in another order


def test_the_memory_that_the_recipe_states_is_that_of_the_models() -> None:
    ovi = {
        "in_channels": 48, "out_channels": 48, "audio_in_channels": 20, "num_layers": 30, "num_attention_heads": 24,
        "audio_num_attention_heads": 24, "ffn_dim": 14336, "audio_ffn_dim": 14336, "audio_embedding": "conv",
        "fusion": "text_cross",
    }  # fmt: skip
    cards = {name: JoVADualTowerTransformer3DModel.load_config(f"model_cards/{name}/transformer") for name in CARDS}
    mova, uniavgen = ({n: v for n, v in cards[name].items() if not n.startswith("_")} for name in CARDS)
    numbers = []
    for config in (mova | {"boundary": 0.9}, uniavgen, ovi):
        with torch.device("meta"):
            model = JoVADualTowerTransformer3DModel(**config)
        numbers.append(sum(parameter.numel() for parameter in model.parameters()) / 1e9)
    text = Path("training/README.md").read_text()
    for number in numbers:
        assert f"({number:.2f} B)" in text
    for first, num_bytes in (("adapter: ", 2), ("whole: ", 16)):
        row = next(line for line in text.splitlines() if line.startswith(f"| {first}"))
        assert re.findall(r"(\d+) GB", row) == [f"{number * num_bytes:.0f}" for number in numbers]
