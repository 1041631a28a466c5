"""Recipes of training/README.md, command by command: towers become a pipeline, NAVA gets an adapter."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffusers_jova import JoVAPipeline, JoVAWanTransformer3DModel
from diffusers_jova.conversion.nava import FAMILY
from diffusers_jova.conversion.pipeline import guidance_defaults
from diffusers_jova.media import read_video
from diffusers_jova.training.data.dataset import PrecomputedDataset
from diffusers_jova.training.loop.lora import ADAPTER_FILE
from diffusers_jova.training.train import main as train
from jova_cli.main import main as jova
from tests.places import CARDS, ROOT
from tests.prepared_clips import write_clips
from tests.tiny_checkpoints import convert_as_told
from tests.tiny_pipeline import DEFAULTS, NAVA_SHARING, build_tiny_pipeline, build_tokenizer, build_wan_transformer
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


def commands(section: str = "From pretrained towers") -> list[str]:
    """The commands of a section, the last recipe unless told otherwise, one a line."""
    recipe = (ROOT / "training" / "README.md").read_text().split(f"## {section}")[1].split("\n## ")[0]
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


def test_an_adapter_of_nava_is_trained_by_the_words_of_its_section_and_reads_no_voice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([FAMILY.speaker_token], special_tokens=True)
    build_tiny_pipeline(
        transformer=build_wan_transformer(**NAVA_SHARING),
        tokenizer=tokenizer,
        speaker_token=FAMILY.speaker_token,
        prompt_template=FAMILY.prompt_template,
        defaults={**DEFAULTS, **guidance_defaults("nava")},
    ).save_pretrained("nava")
    source = write_clips(tmp_path / "recordings", ["a"], num_frames=9)
    (source / "a.txt").unlink()
    (source / "a.json").write_text(json.dumps({"video_caption": "a man", "transcript": "hello"}))
    prepare, train_lora = commands("NAVA on clips")
    jova(shlex.split(f"{prepare} --no-mouth --device cpu".removeprefix("jova ")))
    (header,) = PrecomputedDataset(Path("prepared-nava")).headers
    assert header.metadata["caption"] == f"a man <S>{FAMILY.speaker_token}hello<E>"
    assert not any("speaker" in name for name in header.shapes)

    read: list[Any] = []
    forward = JoVAWanTransformer3DModel.forward

    def watched(self: Any, *args: Any, **arguments: Any) -> Any:
        read.append(arguments.get("speaker_embeds"))
        return forward(self, *args, **arguments)

    monkeypatch.setattr(JoVAWanTransformer3DModel, "forward", watched)
    forget_accelerate()
    jova([*shlex.split(train_lora.removeprefix("jova ")), *TINY])
    assert read
    assert not any(voices is not None for voices in read)
    adapter = load_file(Path("nava-adapter") / ADAPTER_FILE)
    assert any(".shared." in name for name in adapter)
    assert not any("speaker" in name for name in adapter)
    pipe = JoVAPipeline.from_pretrained("nava")
    pipe.load_lora_weights("nava-adapter")
    said = {"prompt": "<S>hi<E>", "num_inference_steps": 1, "output_type": "latent"}
    clips = [
        pipe(**said, speaker_embeds=voices, generator=torch.Generator().manual_seed(0)).audio
        for voices in (None, torch.randn(1, NAVA_SHARING["speaker_dim"]))
    ]
    assert not torch.equal(*clips)
