"""How much memory a conversion takes.

`make memory` runs the slow tests: the command itself on checkpoints of 2 B parameters, and of 11 B if the disk has
room.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffusers_jova.conversion import ovi, wan
from diffusers_jova.conversion.convert import main
from diffusers_jova.conversion.output import Parameter, write_safetensors
from diffusers_jova.conversion.rules import inverse, plan, prefixed
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


def write_ovi(path: Path, num_layers: int, **sizes: int) -> int:
    """Write a checkpoint of zeros in bfloat16 and return its size in bytes."""
    zeros = [
        Parameter(name, shape, torch.bfloat16, lambda shape=shape: torch.zeros(shape, dtype=torch.bfloat16))
        for name, shape in ovi_shapes(num_layers, **sizes).items()
    ]
    write_safetensors(path, zeros)
    return path.stat().st_size


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
