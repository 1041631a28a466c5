"""Every kind of conversion refuses files that are damaged, wrong or hostile, and leaves nothing behind."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from diffusers import MMAudioVAE
from safetensors.torch import save_file
from torch import Tensor

from diffusers_jova.conversion import output
from diffusers_jova.conversion.components import NAMES
from diffusers_jova.conversion.convert import KINDS, main
from tests.conversion.test_memory import ovi_shapes
from tests.conversion.test_wan import nava_names, small_wan


FILES = [kind for kind in KINDS if kind not in ("mova", "uniavgen")]  # for these two see `test_dual_tower.py`
MEL = {"mel_bins": 128, "latent_channels": 4, "hidden_channels": 16}
OVI = {"num_attention_heads": 1, "ffn_dim": 32, "text_dim": 16, "in_channels": 4, "out_channels": 4}
DAMAGED = {  # a tensor from which a size is read and one from which none is, with what is said of a wrong shape
    "wan": {
        "patch_embedding.weight": r"must hold `video\.patch_embedding\.weight` with 5 dimensions, got \[",
        "blocks.0.norm3.bias": r"must fit .*, got `blocks\.0\.norm2\.audio\.bias` of shape .* instead of \[128\]",
    },
    "ovi": {
        "video_model.patch_embedding.weight": r"must hold `video\.patch_embedding\.weight` with 5 dimensions, got \[",
        "audio_model.head.modulation": r"must fit .*, got `audio\.scale_shift_table` of shape .* instead of \[1, 2",
    },
    "nava": {
        "backbone.speaker_embedding.net.0.weight": r"must hold `speaker_embedding\.net\.0\.weight` with 1 .*, got \[",
        "backbone.speaker_embedding.null_token": r"must fit .*, got `speaker_embedding\.null_token` of shape",
    },
    "mmaudio": {
        "encoder.conv_in.weight": r"must be \[out, in, width\], got `encoder\.conv_in\.weight` of shape .*; get the",
        "decoder.conv_out.weight": r"must be \[out, in, width\], got `decoder\.conv_out\.weight` of shape .*; get the",
    },
    "lora": {
        "diffusion_model.a.lora_A.weight": r"`a` must have one rank, got 3 and 2|got vectors for `a\.lora_A\.weight`",
        "diffusion_model.a.alpha": r"alpha of a module must be one number, got a tensor of shape .*\]; save",
    },
    "single_file": {
        "vae.encoder.conv_in.weight": r"must fit .*, got `vae\.encoder\.conv_in\.weight` of shape .* instead of \[16",
        "mel_converter.mel_basis": r"must fit .*, got `mel_converter\.mel_basis` of shape .* instead of \[128, 1025\]",
    },
}
MISSING = {  # what is said where the first of them is missing
    "wan": r"must hold `video\.patch_embedding\.weight` with 5 dimensions, got none",
    "ovi": r"must hold `video\.patch_embedding\.weight` with 5 dimensions, got none",
    "nava": r"must hold `speaker_embedding\.net\.0\.weight` with 1 dimensions, got none",
    "mmaudio": "must be MMAudio's VAE or a BigVGAN in the released layout, got `data_mean`",
    "lora": "must hold both matrices of every module, got one or none for `a`",
    "single_file": r"must fit `MMAudioVAE`, got 1 missing: `vae\.encoder\.conv_in\.weight`",
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


def write(path: Path, tensors: dict[str, Tensor], kind: str = "") -> Path:
    """A file of weights; what `single_file` reads carries its config."""
    config = json.dumps({"_class_name": "MMAudioVAE", **MEL})
    metadata = {"config": config} if kind == "single_file" else None
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    return path


def assert_refused(kind: str, source: Path, message: str, capsys: pytest.CaptureFixture[str], *options: str) -> None:
    before = set(source.parent.iterdir())
    with pytest.raises(SystemExit, match="2"):
        main([kind, str(source), str(source.parent / "out"), *options])
    found = capsys.readouterr().err
    assert re.search(message, found), f"{message} is not in {found}"
    assert set(source.parent.iterdir()) == before


@pytest.mark.parametrize("kind", FILES)
def test_a_truncated_file_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "x.safetensors", state(kind), kind)
    source.write_bytes(source.read_bytes()[:-1])
    assert_refused(kind, source, "must be a complete safetensors file", capsys)


@pytest.mark.parametrize("kind", FILES)
def test_tensors_of_a_wrong_shape_are_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, message in DAMAGED[kind].items():
        whole = state(kind)
        for number, wrong in enumerate((torch.ones(3, 5, 7, 2), torch.ones(()), torch.ones(0))):
            if wrong.numel() != whole[name].numel():  # an alpha is one number
                source = write(tmp_path / f"{name}{number}.safetensors", whole | {name: wrong}, kind)
                assert_refused(kind, source, message, capsys)


@pytest.mark.parametrize("kind", FILES)
def test_missing_and_unknown_tensors_are_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = state(kind)
    first = next(iter(DAMAGED[kind]))
    source = write(
        tmp_path / "few.safetensors", {name: tensor for name, tensor in whole.items() if name != first}, kind
    )
    assert_refused(kind, source, MISSING[kind], capsys)
    source = write(tmp_path / "many.safetensors", whole | {"x.unknown": torch.ones(1)}, kind)
    assert_refused(kind, source, "`x.unknown`", capsys)


class Code:
    """A pickle that would create a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("kind", FILES)
def test_code_in_a_pickle_is_not_run(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({**state(kind), "x": Code(tmp_path / "trace")}, tmp_path / "x.pth")
    assert_refused(kind, tmp_path / "x.pth", "got a pickle that names code", capsys)


@pytest.mark.parametrize("kind", ["wan", "ovi", "nava", "single_file"])  # the kinds that read shards
def test_an_index_cannot_name_files_elsewhere(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    write(tmp_path / "secret.safetensors", state(kind), kind)
    (folder / "config.json").write_text(json.dumps({"_class_name": "MMAudioVAE", **MEL}))
    (folder / "x.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    assert_refused(kind, folder, "must name files in its own folder", capsys)


@pytest.mark.parametrize("kind", FILES)
def test_an_interrupted_conversion_leaves_nothing_and_runs_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "x.safetensors", state(kind), kind)
    target = tmp_path / ("out.safetensors" if kind == "lora" else "out")
    write_tensor, written = output.write_tensor, []

    def interrupted(*arguments: object) -> None:
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(write_tensor(*arguments))

    with monkeypatch.context() as patched:
        patched.setattr(output, "write_tensor", interrupted)
        with pytest.raises(SystemExit, match="130"):
            main([kind, str(source), str(target)])
    assert written
    assert list(tmp_path.iterdir()) == [source]
    main([kind, str(source), str(target)])
    assert target.exists()


def test_a_config_that_builds_no_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configs = {
        "{": r"config of `.*\.safetensors` must be a JSON object",
        "[]": r"must be a JSON object, got \[\]",
        '{"_class_name": "system"}': "`_class_name` .* must be a model of .*, got `system`; convert a folder that",
        '{"_class_name": "MMAudioVAE", "mel_bins": "x"}': "config must build a MMAudioVAE, got .*; use the config",
    }
    for number, (config, message) in enumerate(configs.items()):
        path = tmp_path / f"{number}.safetensors"
        save_file({"a": torch.ones(1)}, path, metadata={"config": config})
        assert_refused("single_file", path, message, capsys)


def test_the_settings_of_a_hostile_adapter_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    no_scale = "must be the config of a LoRA with a `lora_alpha`"
    headers = {
        "{": "must be a JSON object",
        "[]": "must be a JSON object",
        "{}": no_scale,
        '{"transformer.lora_alpha": "x"}': no_scale,
    }
    for number, (header, message) in enumerate(headers.items()):
        path = tmp_path / f"{number}.safetensors"
        save_file(state("lora"), path, metadata={"lora_adapter_metadata": header})
        assert_refused("lora", path, message, capsys)


def test_scales_that_do_not_fit_their_8_bit_weights_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "blocks.0.self_attn.q.weight"
    whole = state("wan")
    whole[name] = whole[name].to(torch.float8_e4m3fn)
    source = write(tmp_path / "x.safetensors", whole | {f"{name}_scale": torch.ones(7)})
    assert_refused("wan", source, "must be one number or one per row, got \\[7\\]", capsys)


COMPONENTS = {  # a file of a component folder and what it must not hold
    "no JSON in the index": ("model_index.json", "{", r"model_index\.json` must be a JSON object"),
    "a list for an index": ("model_index.json", "[]", r"model_index\.json` must be a JSON object, got \[\]"),
    "a string for a pair": ("model_index.json", '{"tokenizer": "x"}', r"with a library and a class, got \"x\""),
    "null for a pair": ("model_index.json", '{"tokenizer": null}', "with a library and a class, got null"),
    "a pair of nulls": ("model_index.json", '{"tokenizer": [null, null]}', r"got \[null, null\]"),
    "no JSON in a config": ("tokenizer/config.json", "{", r"tokenizer/config\.json` must be a JSON object"),
    "bytes in a config": ("tokenizer/config.json", "\xff", r"tokenizer/config\.json` must be a JSON object"),
    "brackets without end": (
        "tokenizer/config.json",
        "[" * 100_000,
        r"must be a JSON object, got one that is nested too deeply",
    ),
    "a list for a config": ("tokenizer/config.json", "[]", r"tokenizer/config\.json` must be a JSON object, got \[\]"),
    "a number for a class": ("tokenizer/config.json", '{"_class_name": 5}', "must be the name of a class, got 5"),
    "no class at all": ("tokenizer/config.json", "{}", "must be named in a model_index.json beside it or name its"),
    "a list for a release": ("google/umt5-xxl/tokenizer_config.json", "[]", r"_config\.json` must be a JSON object"),
}


@pytest.mark.parametrize("case", COMPONENTS)
def test_hostile_component_folders_are_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, text, message = COMPONENTS[case]
    path = tmp_path / "parts" / name
    for part in NAMES[1:]:
        (tmp_path / "parts" / part).mkdir(parents=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if "google" not in name:
        (tmp_path / "parts" / "tokenizer").mkdir(exist_ok=True)
    path.write_text(text, encoding="latin-1")
    source = write(tmp_path / "x.safetensors", state("wan"))
    assert_refused("wan", source, message, capsys, "--components", str(tmp_path / "parts"))


@pytest.mark.parametrize(("text", "message"), [("{", "must be a JSON object"), ("[]", r"object, got \[\]")])
def test_a_hostile_index_of_shards_is_refused(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "x.safetensors.index.json").write_text(text)
    assert_refused("wan", folder, rf"index\.json` .*{message}", capsys)
