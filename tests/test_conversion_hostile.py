"""Every kind of conversion refuses files that are damaged, wrong or hostile, and leaves nothing behind."""

import json
import os
from pathlib import Path

import pytest
import torch
from diffusers import MMAudioVAE
from safetensors.torch import save_file
from torch import Tensor

from conversion import output
from conversion.convert import KINDS, main
from tests.test_conversion_memory import ovi_shapes
from tests.test_conversion_wan import nava_names, small_wan


MEL = {"mel_bins": 128, "latent_channels": 4, "hidden_channels": 16}
OVI = {"num_attention_heads": 1, "ffn_dim": 32, "text_dim": 16, "in_channels": 4, "out_channels": 4}
DAMAGED = {  # one tensor of each kind from which a size is read, and one from which none is
    "wan": ("patch_embedding.weight", "blocks.0.norm3.bias"),
    "ovi": ("video_model.patch_embedding.weight", "audio_model.head.modulation"),
    "nava": ("backbone.speaker_embedding.net.0.weight", "backbone.speaker_embedding.null_token"),
    "mmaudio": ("encoder.conv_in.weight", "decoder.conv_out.weight"),
    "lora": ("diffusion_model.a.lora_A.weight", "diffusion_model.a.alpha"),
    "single_file": ("vae.encoder.conv_in.weight", "mel_converter.mel_basis"),
}


def state(kind: str) -> dict[str, Tensor]:
    """A checkpoint that converts."""
    torch.manual_seed(0)
    if kind == "wan":
        return small_wan(num_layers=1)
    if kind == "mmaudio":
        return {name: torch.randn_like(tensor) for name, tensor in MMAudioVAE(**MEL).vae.state_dict().items()}
    if kind == "single_file":
        return MMAudioVAE(**MEL).state_dict()
    if kind == "lora":
        pair = {"lora_A.weight": torch.randn(2, 4), "lora_B.weight": torch.randn(4, 2), "alpha": torch.tensor(2.0)}
        return {f"diffusion_model.a.{name}": tensor for name, tensor in pair.items()}
    shapes = ovi_shapes(1, **OVI) if kind == "ovi" else nava_names(dim=128, ffn=32, twins=1, shared=1)
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    config = json.dumps({"_class_name": "MMAudioVAE", **MEL})
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"config": config})
    return path


def assert_refused(kind: str, source: Path, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(source.parent.iterdir())
    with pytest.raises(SystemExit, match="2"):
        main([kind, str(source), str(source.parent / "out")])
    assert message in capsys.readouterr().err
    assert set(source.parent.iterdir()) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "x.safetensors", state(kind))
    source.write_bytes(source.read_bytes()[:-1])
    assert_refused(kind, source, "must be a complete safetensors file", capsys)


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_of_a_wrong_shape_are_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in DAMAGED[kind]:
        whole = state(kind)
        for number, wrong in enumerate((torch.ones(3, 5, 7, 2), torch.ones(()), torch.ones(0))):
            if wrong.numel() != whole[name].numel():  # an alpha is one number
                source = write(tmp_path / f"{name}{number}.safetensors", whole | {name: wrong})
                assert_refused(kind, source, "must", capsys)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_and_unknown_tensors_are_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = state(kind)
    first = DAMAGED[kind][0]
    source = write(tmp_path / "few.safetensors", {name: tensor for name, tensor in whole.items() if name != first})
    assert_refused(kind, source, "must", capsys)
    source = write(tmp_path / "many.safetensors", whole | {"x.unknown": torch.ones(1)})
    assert_refused(kind, source, "`x.unknown`", capsys)


class Code:
    """A pickle that would create a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("kind", KINDS)
def test_code_in_a_pickle_is_not_run(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({**state(kind), "x": Code(tmp_path / "trace")}, tmp_path / "x.pth")
    assert_refused(kind, tmp_path / "x.pth", "got a pickle that names code", capsys)


@pytest.mark.parametrize("kind", ["wan", "ovi", "nava", "single_file"])  # the kinds that read shards
def test_an_index_cannot_name_files_elsewhere(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    write(tmp_path / "secret.safetensors", state(kind))
    (folder / "config.json").write_text(json.dumps({"_class_name": "MMAudioVAE", **MEL}))
    (folder / "x.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    assert_refused(kind, folder, "must name files in its own folder", capsys)


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_conversion_leaves_nothing_and_runs_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "x.safetensors", state(kind))
    target = tmp_path / ("out.safetensors" if kind == "lora" else "out")
    write_tensor, written = output.write_tensor, []

    def interrupted(*arguments: object) -> None:
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(write_tensor(*arguments))

    with monkeypatch.context() as patched:
        patched.setattr(output, "write_tensor", interrupted)
        with pytest.raises(KeyboardInterrupt):
            main([kind, str(source), str(target)])
    assert written
    assert list(tmp_path.iterdir()) == [source]
    main([kind, str(source), str(target)])
    assert target.exists()


def test_a_config_that_builds_no_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {"_class_name": "MMAudioVAE", "mel_bins": "x"}
    for number, config in enumerate(("{", "[]", '{"_class_name": "system"}', json.dumps(wrong))):
        path = tmp_path / f"{number}.safetensors"
        save_file({"a": torch.ones(1)}, path, metadata={"config": config})
        assert_refused("single_file", path, "config", capsys)


def test_the_settings_of_a_hostile_adapter_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, header in enumerate(("{", "[]", "{}", '{"transformer.lora_alpha": "x"}')):
        path = tmp_path / f"{number}.safetensors"
        save_file(state("lora"), path, metadata={"lora_adapter_metadata": header})
        assert_refused("lora", path, "must be", capsys)


def test_scales_that_do_not_fit_their_8_bit_weights_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "blocks.0.self_attn.q.weight"
    whole = state("wan")
    whole[name] = whole[name].to(torch.float8_e4m3fn)
    source = write(tmp_path / "x.safetensors", whole | {f"{name}_scale": torch.ones(7)})
    assert_refused("wan", source, "must be one number or one per row, got [7]", capsys)
