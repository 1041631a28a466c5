"""The `config.json` beside the weights of a checkpoint: it tells what no shape does, and must not contradict the rest.

Without one the heads are those of the releases. Fields that no table here names are not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers_jova.number_arguments import positive_number, whole_number
from jova_cli.json_text import read_object


HEAD_DIM = 128  # of every released Wan, Ovi and NAVA model
EPS = 1e-6
HEADS = ("attention_head_dim", "num_attention_heads")
# fmt: off
NAMES = {  # ours             diffusers', and Wan's own
    "attention_head_dim":    ("attention_head_dim", "head_dim"),
    "num_attention_heads":   ("num_attention_heads", "num_heads"),
    "in_channels":           ("in_channels", "in_dim"),
    "out_channels":          ("out_channels", "out_dim"),
    "ffn_dim":               ("ffn_dim",),
    "num_layers":            ("num_layers",),
    "text_dim":              ("text_dim",),
    "freq_dim":              ("freq_dim",),
    "patch_size":            ("patch_size",),
}
ROTATION = {  # what no weights tell and the transformers here do in one way: values that mean it
    "rope_theta":            (10000.0,),
    "window_size":           ([-1, -1],),
}
WAN_BLOCKS = {
    **ROTATION,
    "model_type":            ("t2v", "i2v", "ti2v"),
    "qk_norm":               ("rms_norm_across_heads", True),
    "cross_attn_norm":       (True,),
    "image_dim":             (None,),
    "added_kv_proj_dim":     (None,),
    "pos_embed_seq_len":     (None,),
}
# fmt: on


@dataclass(frozen=True)
class SourceConfig:
    """What a config says of the weights beside it.

    Args:
        path: Of the file.
        values: Its fields; empty where there is no file.
    """

    path: Path
    values: Mapping[str, Any]

    def check_fixed(self, fixed: Mapping[str, Sequence[Any]], releases: str) -> None:
        """Refuse a config that asks for what the transformers here do not compute.

        Args:
            fixed: Values that fields may have, if they are there.
            releases: Whose they are, for the message.

        Raises:
            ValueError: Naming the field.
        """
        for name, allowed in fixed.items():
            if name in self.values and self.values[name] not in allowed:
                raise ValueError(
                    f"`{name}` in `{self.path}` must be {' or '.join(map(repr, allowed))}, as in {releases}, got "
                    f"{self.values[name]!r}; the converted model would compute something else"
                )

    def count(self, *names: str) -> int | None:
        """The first of the fields of these names that is there, a number from 1 on; None without."""
        found = next((name for name in names if self.values.get(name) is not None), None)
        return None if found is None else whole_number(f"{found} in {self.path}", self.values[found], least=1)

    def head_dim(self) -> int | None:
        """Channels of one head; None where it does not tell."""
        dim, heads = self.count("dim"), self.count(*NAMES["num_attention_heads"])
        stated = self.count(*NAMES["attention_head_dim"])
        return dim // heads if stated is None and dim is not None and heads is not None else stated

    def check(self, config: Mapping[str, Any], names: Iterable[str] = NAMES) -> None:
        """Refuse a config that contradicts its weights.

        Args:
            config: Of the converted transformer, as its weights and this config's heads have it.
            names: Fields of it that are compared.

        Raises:
            ValueError: Naming the field.
        """
        head_dim = config["attention_head_dim"]
        wanted = {own: config[name] for name in names for own in NAMES[name]}
        for name, value in {"dim": head_dim * config["num_attention_heads"], **wanted}.items():
            given = self.values.get(name)
            if given is not None and given != (list(value) if isinstance(value, tuple) else value):
                raise ValueError(
                    f"`{name}` in `{self.path}` must be {value}, as the weights beside it with heads of {head_dim} "
                    f"channels have it, got {given!r}; take both from one place, or move away a config of another "
                    "model"
                )

    def complete(self, config: Mapping[str, Any], names: Iterable[str] = NAMES) -> dict[str, Any]:
        """Give the config of a transformer what no shape tells, once both agree; see `check`."""
        self.check(config, names)
        if self.values.get("eps") is None:
            return dict(config)
        advice = "take the config of the release"
        return {**config, "eps": positive_number(f"eps in {self.path}", self.values["eps"], advice)}


def read_beside(path: Path) -> SourceConfig:
    """Read the config beside the weights that `open_checkpoint` finds.

    Raises:
        ValueError: It is no JSON object.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and (path / "transformer").is_dir():
        folder = path / "transformer"
    config = folder / "config.json"
    return SourceConfig(config, read_object(config) if config.is_file() else {})


def print_lost(path: Path) -> None:
    """Say what the file of a model that is written back does not tell, where it is not what the releases have.

    Args:
        path: Of the model's folder, with its own config.
    """
    given = read_beside(path)
    heads, head_dim, eps = given.count("num_attention_heads"), given.head_dim(), given.values.get("eps", EPS)
    if heads is not None and head_dim is not None and (head_dim, eps) != (HEAD_DIM, EPS):
        print(
            f"put a `config.json` with `dim` {heads * head_dim}, `num_heads` {heads} and `eps` {eps:g} beside the "
            "file, whose weights do not tell them"
        )


def released_config(
    path: Path, fixed: Mapping[str, Sequence[Any]] = ROTATION, releases: str = "the releases"
) -> tuple[SourceConfig, int]:
    """The config beside a checkpoint and the channels of its heads, without a config those of the releases.

    Args:
        path: As for `open_checkpoint`.
        fixed: As for `SourceConfig.check_fixed`.
        releases: As there.

    Raises:
        ValueError: It is no JSON object, or asks for what the transformers here do not compute.
    """
    given = read_beside(path)
    given.check_fixed(fixed, releases)
    return given, given.head_dim() or HEAD_DIM
