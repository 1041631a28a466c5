"""What the parsers list of modules that they cannot import is what those modules know."""

from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

import jova_cli
from diffusers_jova import __version__
from diffusers_jova.conversion import convert as conversion
from diffusers_jova.conversion import lora
from diffusers_jova.conversion.output import Options
from diffusers_jova.memory_fitting import GIVEN
from diffusers_jova.pictures import Fit
from diffusers_jova.training.data.clip import ClipSettings
from diffusers_jova.training.loop.config import LoraTargets
from diffusers_jova.training.loop.lora import TARGETS
from diffusers_jova.transformer_jova import MODALITIES
from jova_cli import clip_arguments, convert, estimate, file_arguments, model_clips, parser, train_lora


def test_choices_are_those_of_the_modules_that_do_the_work() -> None:
    assert model_clips.MODALITIES == MODALITIES
    assert estimate.GIVEN == GIVEN
    assert get_args(Fit) == file_arguments.FITS
    assert set(convert.KINDS) == set(conversion.KINDS)
    assert set(convert.LAYOUTS) == set(lora.LAYOUTS)
    assert set(train_lora.TARGETS) == set(TARGETS) == set(get_args(LoraTargets))
    assert get_args(get_type_hints(ClipSettings)["cut"]) == clip_arguments.CUTS
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in parser.DTYPES)
    assert set(parser.SHORT_DTYPES.values()) == set(parser.DTYPES)


def test_defaults_are_those_of_the_modules_that_do_the_work() -> None:
    _, args = convert.parse(["wan", "owner/name", "there"])
    options = Options()
    assert (args.shard_gb, args.audio_channels, args.to) == (options.shard_gb, options.audio_channels, options.layout)
    assert jova_cli.__version__ == __version__


@pytest.mark.parametrize(
    "words",
    [
        ["wan", "--to", "comfy"],
        ["mmaudio", "--components", "parts"],
        ["lora", "--audio-channels", "40"],
        ["lora", "--shard-gb", "1"],
        ["nava", "--reverse", "--components", "parts"],
        ["nava", "--reverse", "--shard-gb", "1"],
        ["wan", "--reverse", "--audio-channels", "40"],
        ["lora", "--shard-gb", "5"],  # what the others have, if not told
        ["ovi", "--audio-channels", "20"],
        ["mova", "--to", "diffusers"],
        ["uniavgen", "--to", "diffusers"],
        ["mmaudio", "--to", "diffusers"],
        ["lora", "--skip-unknown", "--components", "parts"],
        *(["wan", "--shard-gb", value] for value in ("nan", "inf", "0", "-1")),
        *(["wan", "--audio-channels", value] for value in ("0", "-20")),
    ],
)
def test_options_that_a_conversion_does_not_read_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        convert.parse([words[0], "source", "output", *words[1:]])
    assert f"`{words[-2]}` must " in capsys.readouterr().err


def test_the_size_of_a_shard_is_read_where_one_file_becomes_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    words = ["--shard-gb", "5"]
    for source in (str(tmp_path / "one.safetensors"), "owner/name:one.safetensors"):
        assert convert.parse(["single_file", source, "output", *words])[1].shard_gb == 5
    for source in (str(tmp_path), "owner/name"):
        with pytest.raises(SystemExit):
            convert.parse(["single_file", source, "output", *words])
        assert "`--shard-gb` must be left out where a folder becomes one file, got 5" in capsys.readouterr().err
