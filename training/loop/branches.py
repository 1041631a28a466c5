"""Which weights belong to which branch: what a stage trains, at which rate, and how the audio branch starts."""

from __future__ import annotations

import hashlib
import json
from typing import Any, get_args

import torch
from torch import Tensor, nn

from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.tasks import tasks_of
from diffusers_jova.transformer_jova_dual_tower import LOW_NOISE
from diffusers_jova.weight_branches import Branch, branch_of


TABLES = ("position_embedding", "scale_shift_table")  # matrices by shape, biases by what they do
MEETING = {"fusion", "to_cross"}  # parts of the names of what works only where video and audio see each other
OWN_PARTS = ("mask_head", "fusion", "to_cross", LOW_NOISE)  # that may have rates; what lies in another one first
CACHED, AT_ONCE = 1 << 16, 1 << 24  # numbers whose bits are summed together by a processor, for its cache, and a GPU
NOTHING_TO_TRAIN = "no weight is left to train; check `stage`, `lora_targets` and the learning rates"


@torch.no_grad()
def copy_video_to_audio(transformer: nn.Module) -> list[str]:
    """Copies the video branch's weights into the audio branch, as the paper initialises it (Sec. 3.2.1).

    Returns:
        The audio parameters that have no video twin of their shape and keep their values: latents in and out.
    """
    kept = []
    for name, (parameter, twin) in audio_twins(transformer).items():
        if twin is None:
            kept.append(name)
        else:
            parameter.copy_(twin)
    return kept


def audio_twins(transformer: nn.Module) -> dict[str, tuple[nn.Parameter, nn.Parameter | None]]:
    """Lists the audio parameters by name, each with its video twin; None where there is none of its shape."""
    parameters = dict(transformer.named_parameters())
    pairs = {name: (x, parameters.get(_video_twin(name))) for name, x in parameters.items()}
    return {
        name: (parameter, twin if twin is not None and twin.shape == parameter.shape else None)
        for name, (parameter, twin) in pairs.items()
        if branch_of(name) == "audio"
    }


@torch.no_grad()
def copy_branch(source: nn.Module, target: nn.Module, branch: Branch) -> None:
    """Copies the weights of one branch between transformers of the same sizes."""
    parameters = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        if branch_of(name) == branch:
            parameter.copy_(parameters[name])


def freeze(transformer: nn.Module, config: TrainConfig) -> None:
    """Leaves gradients only to what the stage trains with a learning rate above 0."""
    for name, parameter in transformer.named_parameters():
        if not learns(name, config):
            parameter.requires_grad_(False)


def learns(name: str, config: TrainConfig) -> bool:
    """Tells whether the run trains a parameter or module: its stage uses it, and its branch has a rate above 0."""
    parts, branch = set(name.split(".")), branch_of(name)
    is_alone = config.stage != "joint" and not (MEETING.isdisjoint(parts) and branch in (config.stage, "joint"))
    unused = {"high": LOW_NOISE in parts, "low": branch == "video" and LOW_NOISE not in parts}  # of two experts
    return not is_alone and not unused.get(config.experts, False) and learning_rate_of(name, config) > 0


def check_learning_rates(transformer: nn.Module, config: TrainConfig) -> None:
    """Refuse learning rates of parts that the model has not, which nothing would read.

    Raises:
        ValueError: There is one.
    """
    found = {part for name, _ in transformer.named_parameters() for part in parts_of(name)}
    branches = {f"{branch}_learning_rate": branch for branch in get_args(Branch)}
    given = {f"learning_rates.{part}": part for part in config.learning_rates or {}}
    given |= {name: branch for name, branch in branches.items() if getattr(config, name) is not None}
    for name, part in given.items():
        if part not in found:
            raise ValueError(
                f"`{name}` must be of a part that this `model` has, which are {', '.join(sorted(found))}, got {part}; "
                "leave it out"
            )


def idles(transformer: nn.Module, config: TrainConfig) -> bool:
    """Tells whether steps may leave trained weights unused even where every clip has video and audio.

    Those are what meets where a step keeps video and audio apart or one of them does not read the other, one of two
    video towers, and what embeds speakers.
    """
    rare = {LOW_NOISE, "speaker_embedding"}
    trained = trained_parts(transformer)
    reads_one_way = any(task.coupled is not True for task in tasks_of(config)) and not MEETING.isdisjoint(trained)
    return meets_rarely(transformer, config) or reads_one_way or not rare.isdisjoint(trained)


def meets_rarely(transformer: nn.Module, config: TrainConfig) -> bool:
    """Tells whether the run trains what meets and keeps video and audio apart in some steps."""
    return config.uncoupled_probability > 0 and not MEETING.isdisjoint(trained_parts(transformer))


def trained_parts(transformer: nn.Module) -> set[str]:
    """Lists the parts of the names of what has gradients."""
    trained = (name for name, parameter in transformer.named_parameters() if parameter.requires_grad)
    return {part for name in trained for part in name.split(".")}


def parts_of(name: str) -> tuple[str, ...]:
    """Lists the parts with rates of their own that a weight belongs to, the smallest first, last its branch."""
    parts = name.split(".")
    return (*(part for part in OWN_PARTS if part in parts), branch_of(name))


def learning_rate_of(name: str, config: TrainConfig) -> float:
    """Resolves the learning rate of a weight: of its smallest part that has one; a zero is a zero."""
    rates: dict[str, float | None] = {
        "video": config.video_learning_rate,
        "audio": config.audio_learning_rate,
        "joint": config.joint_learning_rate,
        **{str(part): rate for part, rate in (config.learning_rates or {}).items()},
    }
    own = (rate for part in parts_of(name) if (rate := rates.get(part)) is not None)
    return next(own, config.learning_rate)


def parameter_groups(transformer: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Groups what is trained; `peak_lr` is the rate that the schedule scales, `orthogonal` what Muon takes."""
    groups: dict[tuple[Branch, float, bool, bool], list[Tensor]] = {}
    for name, parameter in transformer.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not any(table in name for table in TABLES)
            is_orthogonal = config.optimizer == "muon" and is_block_matrix(name, parameter)
            rate = learning_rate_of(name, config)
            groups.setdefault((branch_of(name), rate, decays, is_orthogonal), []).append(parameter)
    if not groups:
        raise ValueError(NOTHING_TO_TRAIN)
    return [
        {
            "params": parameters,
            "peak_lr": rate,
            "weight_decay": config.weight_decay if decays else 0.0,
            "orthogonal": is_orthogonal,
        }
        for (_, rate, decays, is_orthogonal), parameters in groups.items()
    ]


def is_block_matrix(name: str, parameter: Tensor) -> bool:
    """Tells whether a parameter is a matrix of a block's attention or feed-forward layers."""
    return "blocks." in name and ".modulation." not in name and parameter.ndim == 2


@torch.no_grad()
def frozen_checksums(transformer: nn.Module) -> dict[str, tuple[int, int]]:
    """Computes two sums over the bits of every weight that has no gradient, or of this process's shard."""
    return {name: _checksum(p.detach()) for name, p in transformer.named_parameters() if not p.requires_grad}


def digest_of_kept(transformer: nn.Module, config: TrainConfig) -> str | None:
    """Digest of the weights that a run starts from and no checkpoint holds: a run that continues must find them again.

    Those are what is frozen, and all of a model that teaches a copy of itself. Weights in 4 bit, which another version
    of their library may round otherwise, are left out, and so are random ones, which nothing was learned on.

    Args:
        transformer: From `prepare_transformer`, before it is spread over processes.
        config: The run's settings.
    """
    if config.model.endswith(".json"):
        return None
    teaches_a_copy = config.student_steps is not None and config.train == "full"
    kept = [p.detach() for p in transformer.parameters() if teaches_a_copy or not p.requires_grad]
    sums = sorted(_checksum(weight) for weight in kept if weight.is_floating_point())
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()[:16] if sums else None


def check_frozen(transformer: nn.Module, before: dict[str, tuple[int, int]]) -> None:
    """Raises if a frozen weight differs from what `frozen_checksums` saw in any bit."""
    after = frozen_checksums(transformer)
    changed = [name for name, checksum in before.items() if after.get(name) != checksum]
    if changed:
        names = ", ".join(changed[:3])
        raise RuntimeError(f"frozen weights must be bit-identical after training, but {len(changed)} changed: {names}")


def _checksum(tensor: Tensor) -> tuple[int, int]:
    tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    sums = torch.zeros(2, dtype=torch.int64, device=tensor.device)
    for part in tensor.contiguous().view(integer).flatten().split(CACHED if tensor.device.type == "cpu" else AT_ONCE):
        bits = part.long()
        sums += torch.stack([bits.sum(), (bits * bits).sum()])
    found, squares = sums.tolist()
    return found, squares


def _video_twin(name: str) -> str:
    swap = {"audio": "video", "audio_text": "video_text"}
    return ".".join(swap.get(part, part) for part in name.split("."))
