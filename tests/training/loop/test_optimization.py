from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_jova import JoVATransformer3DModel
from diffusers_jova.training.loop.branches import parameter_groups
from diffusers_jova.training.loop.model import load_transformer
from diffusers_jova.training.loop.optimization import (
    build_optimizer,
    continued_course,
    learning_rate_factor,
    new_course,
)
from tests.tiny_training import MODEL, WAN_MODEL, tiny_config


def test_the_learning_rate_warms_up_and_falls_to_its_end(tmp_path: Path) -> None:
    falls = {"decay_start": 0.5, "final_learning_rate": 0.1}
    for schedule, middle, end in (("linear", 0.55, falls), ("cosine", 0.55, falls), ("constant", 1.0, {})):
        config = tiny_config(tmp_path, learning_rate_schedule=schedule, steps=100, warmup_steps=10, **end)
        factors = [learning_rate_factor(step, config) for step in range(101)]
        assert factors[0] == 0.1  # the first of ten steps up, not 0: no step is wasted
        assert factors[9] == factors[10] == factors[50] == 1
        assert factors[75] == pytest.approx(middle)
        assert factors[100] == pytest.approx(1.0 if schedule == "constant" else 0.1)
        assert all(later <= earlier for earlier, later in pairwise(factors[10:]))


def test_the_cosine_leaves_the_plateau_more_slowly_than_the_line(tmp_path: Path) -> None:
    line, cosine = (tiny_config(tmp_path, steps=100, learning_rate_schedule=name) for name in ("linear", "cosine"))
    assert learning_rate_factor(10, cosine) > learning_rate_factor(10, line)
    assert learning_rate_factor(90, cosine) < learning_rate_factor(90, line)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("step", "steps"), [(6, 20), (3, 20), (3, 5), (1, 9)])
def test_a_run_with_other_steps_goes_on_without_a_jump_of_the_learning_rate(
    tmp_path: Path, schedule: str, step: int, steps: int
) -> None:
    floor = {} if schedule == "constant" else {"final_learning_rate": 0.1}
    settings = {"learning_rate_schedule": schedule, "warmup_steps": 2, **floor}
    first, longer = (tiny_config(tmp_path, steps=number, **settings) for number in (6, steps))
    course = continued_course(new_course(first), step, longer)
    before = [learning_rate_factor(number, first) for number in range(step)]
    after = [learning_rate_factor(number, longer, course) for number in range(step, steps + 1)]
    assert [learning_rate_factor(number, longer, course) for number in range(step)] == before
    assert after[0] == pytest.approx(before[-1] if step > 2 else 1.0)
    assert after[-1] == pytest.approx(1.0 if schedule == "constant" else 0.1)
    assert all(later <= earlier for earlier, later in pairwise(after))
    assert continued_course(course, step + 1, longer) == course


def test_a_longer_run_with_a_longer_warmup_goes_on_from_the_rate_that_the_shorter_one_had(tmp_path: Path) -> None:
    first = tiny_config(tmp_path, steps=3, warmup_steps=0, learning_rate_schedule="linear")
    longer = tiny_config(tmp_path, steps=12, warmup_steps=1, learning_rate_schedule="linear")
    course = continued_course(new_course(first), 3, longer, warmup_steps=0)
    after = [learning_rate_factor(step, longer, course) for step in range(3, 13)]
    assert after[0] == learning_rate_factor(2, first) == pytest.approx(1 / 3)
    assert after[-1] == 0
    assert all(later < earlier for earlier, later in pairwise(after))


def test_each_branch_learns_at_its_own_rate_and_vectors_do_not_decay(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, learning_rate=1e-3, audio_learning_rate=1e-4, weight_decay=0.1)
    transformer = JoVATransformer3DModel(**MODEL)
    optimizer = build_optimizer(transformer, config, torch.device("cpu"))
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    weights = dict(transformer.named_parameters())
    assert len(groups) == len(weights)
    rates = {name: groups[id(parameter)]["peak_lr"] for name, parameter in weights.items()}
    assert {rate for name, rate in rates.items() if ".audio" in name} == {1e-4}
    assert {rate for name, rate in rates.items() if ".video" in name} == {1e-3}
    decays = {name: groups[id(parameter)]["weight_decay"] for name, parameter in weights.items()}
    assert decays["transformer_blocks.0.attn.video.to_q.weight"] == 0.1
    assert decays["transformer_blocks.0.attn.video.to_q.bias"] == 0
    assert decays["embed.video.position_embedding.tables.0"] == 0


def test_tables_of_wan_blocks_do_not_decay_either(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, WAN_MODEL, weight_decay=0.1)
    transformer = load_transformer(config.model)
    decays = {id(p): group["weight_decay"] for group in parameter_groups(transformer, config) for p in group["params"]}
    for name, parameter in transformer.named_parameters():
        if "scale_shift_table" in name or parameter.ndim == 1:
            assert decays[id(parameter)] == 0, name
        else:
            assert decays[id(parameter)] == 0.1, name


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = tiny_config(tmp_path, optimizer="muon", learning_rate=1e-2, weight_decay=0.0)
    transformer = JoVATransformer3DModel(**MODEL)
    optimizer = build_optimizer(transformer, config, torch.device("cpu"))
    weights = dict(transformer.named_parameters())
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    for weight in weights.values():
        uneven = torch.logspace(0, -1, len(weight)).view(-1, *[1] * (weight.ndim - 1))  # singular values far apart
        weight.grad = uneven * torch.randn_like(weight).sign() * (0.5 + torch.rand_like(weight))
    optimizer.step()
    moved = {name: weight.detach() - before[name] for name, weight in weights.items()}
    orthogonal = {name for group in optimizer.param_groups if group["orthogonal"] for name in _names(weights, group)}
    assert "transformer_blocks.0.attn.audio_text.to_q.weight" in orthogonal
    assert "single_transformer_blocks.0.ff.video.net.2.weight" in orthogonal
    assert not any("modulation" in name or "embed" in name or "head" in name for name in orthogonal)
    for name, step in moved.items():
        if name in orthogonal:  # singular values of one size; as large in root mean square as 0.2 of AdamW
            values = torch.linalg.svdvals(step)
            assert values.max() < 2 * values.median()  # Newton-Schulz leaves them within 0.7 and 1.2
            assert 0.1 < step.square().mean().sqrt() / (1e-2 * 0.2) < 2
        else:
            torch.testing.assert_close(step.abs(), torch.full_like(step, 1e-2), rtol=1e-3, atol=0)


def _names(weights: dict[str, torch.nn.Parameter], group: dict[str, Any]) -> list[str]:
    return [name for name, weight in weights.items() if any(weight is member for member in group["params"])]
