"""The second recipe of training/README.md makes a pipeline, command by command."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffusers_jova.media import read_video
from diffusers_jova.training.train import main as train
from jova_cli.main import main as jova
from tests.places import CARDS, ROOT
from tests.prepared_clips import write_clips
from tests.tiny_checkpoints import convert_as_told
from tests.tiny_training import forget_accelerate


LAUNCH = 'accelerate launch --config_file "$(jova presets accelerate/fsdp)" -m diffusers_jova.training.train'
TINY = (
    "steps=1",
    "warmup_steps=0",
    "gradient_accumulation_steps=1",
    "num_workers=0",
    "distribution=none",
    "mixed_precision=no",
)


def commands() -> list[str]:
    """The commands of the recipe, one a line."""
    recipe = (ROOT / "training" / "README.md").read_text().split("## From pretrained towers")[1]
    blocks = re.findall(r"```bash\n(.*?)```", recipe, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").strip().split("\n")]


def run(command: str) -> None:
    """Run one command in this process, and train for one step."""
    if command.startswith(LAUNCH):
        forget_accelerate()
        train([*shlex.split(command.removeprefix(LAUNCH)), *TINY])
    else:
        jova(shlex.split(command.removeprefix("jova ")))


@pytest.mark.slow
def test_pretrained_towers_become_a_pipeline_by_the_commands_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert convert_as_told(CARDS / "wan-1.3b-twice" / "README.md") == Path("wan-1.3b-twice")
    source = write_clips(tmp_path / "recordings", ["a", "b"])
    for name in "ab":
        (source / f"{name}.txt").unlink()
        (source / f"{name}.json").write_text(json.dumps({"video_caption": "a man"}))
    told = [command for command in commands() if "jova-1.6b-parts/" not in command]
    assert [command.split()[:2] for command in told] == [
        ["jova", "prepare"],
        *[["accelerate", "launch"]] * 3,
        ["jova", "assemble"],
        ["jova", "generate"],
    ]
    for command in told:
        run(command.replace("--num-processes 8", "--no-mouth"))
    assert "not read" not in capsys.readouterr().out
    first, *stages, last = (
        load_file(Path(folder) / "transformer" / "diffusion_pytorch_model.safetensors")
        for folder in ("wan-1.3b-twice", "stage1_video", "stage1_audio", "stage2_joint", "wan-speaks")
    )
    for before, after in zip((first, *stages), stages, strict=False):
        assert any(not torch.equal(before[name].float(), after[name].float()) for name in before)
    assert all(torch.equal(stages[-1][name].float(), last[name].float()) for name in last)
    clip = read_video("morning.mp4")
    assert clip.frames.shape == (5, 32, 32, 3)
    assert clip.audio is not None
