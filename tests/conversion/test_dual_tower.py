"""Transformers of two towers by the command, alone and in pipelines, from tiny checkpoints in released layouts."""

from pathlib import Path

import pytest
import torch

from diffusers_jova import JoVADualTowerTransformer3DModel, JoVAPipeline, JoVAWanTransformer3DModel
from diffusers_jova.conversion import ovi
from diffusers_jova.conversion.checkpoint import open_checkpoint
from diffusers_jova.conversion.convert import main
from diffusers_jova.generation_defaults import GenerationDefaults
from jova_cli.model_info import front_matter
from tests.places import CARDS
from tests.tiny_checkpoints import DEFAULTS, convert_commands, write_checkpoints


def test_ovi_keeps_its_fusion_in_a_pipeline_that_makes_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoints(Path())
    *codec, ((kind, source, _, *options)) = convert_commands(CARDS / "wan-ovi" / "README.md")
    for words in codec:
        main(words)
    main([kind, source, "ovi", *(word for word in options if word not in ("--towers-only", "--dtype", "bfloat16"))])
    pipe = JoVAPipeline.from_pretrained("ovi")
    assert isinstance(pipe.transformer, JoVADualTowerTransformer3DModel)
    assert pipe.transformer.config.fusion == "text_cross"
    assert pipe.defaults == GenerationDefaults(**ovi.FAMILY.defaults)
    assert front_matter(Path("ovi"))["license"] == "cc-by-nc-4.0"
    assert "# Ovi for diffusers_jova" in Path("ovi/README.md").read_text()
    _, found = ovi.convert_fused(open_checkpoint(Path(source)))
    weights = pipe.transformer.state_dict()
    assert weights.keys() == {parameter.name for parameter in found}
    assert all(torch.equal(weights[parameter.name], parameter.make()) for parameter in found)
    output = pipe("a man", **DEFAULTS, generator=torch.Generator().manual_seed(0), output_type="np")
    assert output.frames.shape == (1, 5, 32, 32, 3)
    assert output.audio[0].std() > 0


def test_ovis_towers_alone_are_another_model_without_the_fusion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoints(Path())
    for output, *options in (["fused"], ["towers", "--towers-only"]):
        main(["ovi", "chetwinlow1/Ovi:model.safetensors", output, *options])
        assert ("left out, 14 tensors of Ovi's fusion" in capsys.readouterr().out) == bool(options)
    towers = JoVAWanTransformer3DModel.from_pretrained("towers").state_dict()
    fused = JoVADualTowerTransformer3DModel.from_pretrained("fused").state_dict()
    assert not any("fusion" in name for name in towers)
    assert sum("fusion" in name for name in fused) == 14
    assert "JoVADualTowerTransformer3DModel.from_pretrained" in Path("fused/README.md").read_text()
    assert "JoVAWanTransformer3DModel.from_pretrained" in Path("towers/README.md").read_text()
