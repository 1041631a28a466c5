"""How much memory a conversion takes.

`make memory` runs the slow tests: the command itself on checkpoints of 2 B parameters, and of 11 B if the disk has
room.
"""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_jova.adapter_keys import MOVA_EXPERTS
from diffusers_jova.conversion import dual_tower, mova, ovi, uniavgen, wan
from diffusers_jova.conversion.convert import main
from diffusers_jova.conversion.output import Parameter, write_safetensors, write_weights
from diffusers_jova.conversion.rules import Rule, inverse, plan, prefixed
from diffusers_jova.conversion.wan import HEAD_DIM
from diffusers_jova.spoken_text_encoder import JoVASpokenTextEncoder
from tests.places import ROOT


STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
COMMAND = """
import sys
from diffusers_jova.conversion.convert import main
from tests.conversion.test_memory import peak_bytes

main(sys.argv[1:])
print("peak", peak_bytes())
"""
FULL = {"num_attention_heads": 24, "ffn_dim": 14336, "text_dim": 4096, "in_channels": 48, "out_channels": 48}
SMALL = {"num_attention_heads": 4, "ffn_dim": 2048, "text_dim": 64, "in_channels": 16, "out_channels": 16}
MOVA_FULL = {"num_attention_heads": 40, "audio_num_attention_heads": 12, "ffn_dim": 13824, "audio_ffn_dim": 8960}
MOVA_FULL |= {"text_dim": 4096, "audio_text_dim": 4096, "audio_in_channels": 128, "freq_dim": 256}
UNIAVGEN_FULL = {"num_attention_heads": 24, "audio_num_attention_heads": 12, "ffn_dim": 14336, "audio_ffn_dim": 8960}
UNIAVGEN_FULL |= {"text_dim": 4096, "audio_text_dim": 512, "in_channels": 48, "out_channels": 48}
UNIAVGEN_FULL |= {"audio_in_channels": 80, "freq_dim": 256}
TOWERS: dict[str, Any] = {  # tiny ones, with heads of the released width
    "num_attention_heads": 2,
    "audio_num_attention_heads": 1,
    "attention_head_dim": HEAD_DIM,
    "rope_axes_dim": (44, 42, 42),
    "audio_rope_axes_dim": (HEAD_DIM, 0, 0),
    "ffn_dim": 32,
    "audio_ffn_dim": 16,
    "text_dim": 16,
    "temporal_alignment": "none",
}
SHARD_GB = 1.0
needs_proc = pytest.mark.skipif(not CLEAR.exists(), reason="peak memory is read from /proc")


def peak_bytes() -> int:
    """Most memory that this process has held, in bytes."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def ovi_shapes(num_layers: int, **sizes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint in Ovi's layout, its fusion included."""
    model = wan.build({**sizes, "audio_in_channels": 20, "audio_embedding": "conv", "num_layers": num_layers})
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    table = [
        *prefixed(ovi.tower_rules("video", ()), "video_model.", ""),
        *prefixed(ovi.tower_rules("audio", ()), "audio_model.", ""),
    ]
    shapes = {move.targets[0]: ours[move.sources[0]] for move in plan(ours, inverse(table))}
    dim = 128 * sizes["num_attention_heads"]
    fusion = {"norm_k_fusion.weight": (dim,)}
    for name, shape in (("k_fusion", (dim, dim)), ("v_fusion", (dim, dim)), ("pre_attn_norm_fusion", (dim,))):
        fusion |= {f"{name}.weight": shape, f"{name}.bias": (dim,)}
    for tower in ("video_model", "audio_model"):
        for index in range(num_layers):
            shapes |= {f"{tower}.blocks.{index}.cross_attn.{name}": shape for name, shape in fusion.items()}
    return shapes


def mova_shapes(**sizes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of MOVA's folders; tiny if no sizes are given: video towers of two blocks, audio of one."""
    config = {
        "num_layers": 2,
        "audio_num_layers": 1,
        **TOWERS,
        "in_channels": 36,
        "out_channels": 16,
        "audio_in_channels": 6,
        "audio_text_dim": 16,
        "fusion": "bridge",
        "boundary": 0.9,
        **sizes,
    }
    ours = {name: tuple(tensor.shape) for name, tensor in dual_tower.build(config).state_dict().items()}
    table = [Rule(rule.source, rule.target) for rule in mova.rules(MOVA_EXPERTS, HEAD_DIM)]
    shapes = {move.targets[0]: ours[move.sources[0]] for move in plan(ours, inverse(table))}
    return shapes | {"audio_dit.patch_embedding.weight": (*shapes["audio_dit.patch_embedding.weight"], 1)}


def uniavgen_shapes(**sizes: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of UniAVGen's file, its encoder of spoken text included; tiny if no sizes are given."""
    config: dict[str, Any] = {
        "num_layers": 2,
        "audio_num_layers": 2,
        **TOWERS,
        "in_channels": 4,
        "out_channels": 4,
        "audio_in_channels": 6,
        "audio_text_dim": 8,
        "audio_embedding": "mlp",
        "audio_text_embedding": "linear",
        "fusion": "aligned",
        "fusion_layers": [0],
        **sizes,
    }
    encoder = JoVASpokenTextEncoder(vocab_size=9, dim=8, hidden_dim=16, num_layers=1).state_dict()
    shapes = {"audio_padding": (HEAD_DIM,)}
    table = [rule for rule in uniavgen.rules(len(config["fusion_layers"])) if rule.targets]
    for ours, rules, prefix in (
        (dual_tower.build(config).state_dict(), table, ""),
        (encoder, uniavgen.SPOKEN_TEXT, uniavgen.TEXT_ENCODER),
    ):
        moves = plan(ours, inverse(rules))
        shapes |= {f"{prefix}{move.targets[0]}": tuple(ours[move.sources[0]].shape) for move in moves}
    return shapes


def zeros(shapes: Mapping[str, tuple[int, ...]]) -> list[Parameter]:
    """Weights in bfloat16 that are zero."""
    return [
        Parameter(name, shape, torch.bfloat16, lambda shape=shape: torch.zeros(shape, dtype=torch.bfloat16))
        for name, shape in shapes.items()
    ]


def write_ovi(path: Path, num_layers: int, **sizes: int) -> int:
    """Write a checkpoint of zeros in bfloat16 and return its size in bytes."""
    write_safetensors(path, zeros(ovi_shapes(num_layers, **sizes)))
    return path.stat().st_size


def write_mova(folder: Path, num_layers: int) -> list[int]:
    """Write the folders of a release of full width, in shards of zeros; return the sizes of the files in bytes."""
    found = zeros(mova_shapes(**MOVA_FULL, num_layers=num_layers, audio_num_layers=num_layers))
    for name in mova.FOLDERS:
        prefix = f"{name}."
        part = [replace(one, name=one.name.removeprefix(prefix)) for one in found if one.name.startswith(prefix)]
        (folder / name).mkdir(parents=True)
        write_weights(folder / name, part, SHARD_GB)
    return [path.stat().st_size for path in folder.rglob("*.safetensors")]


def write_uniavgen(folder: Path, num_layers: int) -> list[int]:
    """Write a release of full width and half of its fusions, in shards of zeros; return the sizes in bytes."""
    sizes = {"num_layers": num_layers, "audio_num_layers": num_layers, "fusion_layers": list(range(0, num_layers, 2))}
    folder.mkdir(parents=True)
    write_weights(folder, zeros(uniavgen_shapes(**UNIAVGEN_FULL, **sizes)), SHARD_GB)
    return [path.stat().st_size for path in folder.rglob("*.safetensors")]


@needs_proc
def test_a_conversion_holds_a_small_part_of_its_checkpoint_in_memory(tmp_path: Path) -> None:
    size = write_ovi(tmp_path / "model.safetensors", num_layers=16, **SMALL)
    assert size > 250e6
    CLEAR.write_text("5")  # peak = present
    before = peak_bytes()
    main(["ovi", str(tmp_path / "model.safetensors"), str(tmp_path / "out")])
    assert peak_bytes() - before < size / 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_proc
@pytest.mark.parametrize(("num_layers", "billions"), [(4, 2), (30, 11)], ids=["2B", "11B"])
def test_a_large_checkpoint_converts_in_little_memory_and_prints_progress(
    num_layers: int, billions: int, tmp_path: Path
) -> None:
    if shutil.disk_usage(tmp_path).free < (room := 5e9 * billions):
        pytest.skip(f"{room / 1e9:.0f} GB must be free in {tmp_path}")
    source = tmp_path / "model.safetensors"
    size = write_ovi(source, num_layers, **FULL)
    arguments = [sys.executable, "-c", COMMAND, "ovi", str(source), str(tmp_path / "out")]
    done = subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True, text=True)
    peak = int(done.stdout.rpartition("peak ")[2])
    print(done.stdout, f"{size / 1e9:.1f} GB, peak {peak / 1e9:.2f} GB", sep="\n")
    assert size > 2e9 * billions
    assert peak < 1.3 * size + 2 * 2**30
    assert peak < 3e9  # the largest tensor has 0.35 GB, and the rest is the interpreter with its libraries
    assert done.stdout.count(" % of ") >= 10
    assert "100 % of" in done.stdout
    shutil.rmtree(tmp_path / "out")
    source.unlink()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_proc
@pytest.mark.parametrize("family", ["mova", "uniavgen"])
def test_the_shards_of_two_towers_convert_in_little_memory(family: str, tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < (room := 10e9):
        pytest.skip(f"{room / 1e9:.0f} GB must be free in {tmp_path}")
    source, output = tmp_path / "release", tmp_path / "out"
    sizes = write_mova(source, num_layers=2) if family == "mova" else write_uniavgen(source, num_layers=10)
    assert sum(sizes) > 2e9 * 2
    arguments = [sys.executable, "-c", COMMAND, family, str(source), str(output)]
    done = subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True, text=True)
    peak = int(done.stdout.rpartition("peak ")[2])
    print(f"{sum(sizes) / 1e9:.2f} GB, largest shard {max(sizes) / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB")
    assert peak < 1.3 * max(sizes) + 2 * 2**30
    assert sum(path.stat().st_size for path in output.rglob("*.safetensors")) > 0.99 * sum(sizes)
    shutil.rmtree(source)
    shutil.rmtree(output)
