import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_model import _get_single_file_loadable_mapping_class
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusers_jova import JoVATransformer3DModel, JoVAWanTransformer3DModel
from diffusers_jova.conversion.convert import main
from jova_cli.main import main as jova
from tests.tiny_pipeline import DUAL_TOWERS, NAVA_SHARING, build_dual_tower, build_transformer, build_wan_transformer


EVERY_CLASS = pytest.mark.parametrize(
    "build",
    [
        build_transformer,
        partial(build_wan_transformer, **NAVA_SHARING),
        *(partial(build_dual_tower, name) for name in DUAL_TOWERS),
    ],
    ids=["jova", "wan", *DUAL_TOWERS],
)


def export(model: Any, folder: Path, *options: str) -> Path:
    """The folder that `save_pretrained` writes, in shards, and beside it the file that the command makes of it."""
    model.save_pretrained(folder / "saved", max_shard_size="100KB")
    main(["single_file", str(folder / "saved"), str(folder / "one.safetensors"), *options])
    return folder / "one.safetensors"


def assert_same(one: Any, other: Any) -> None:
    expected = other.state_dict()
    assert one.state_dict().keys() == expected.keys()
    for name, tensor in one.state_dict().items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name


def rewritten(path: Path, tensors: dict[str, Tensor] | None = None, config: object = None) -> Path:
    """A file with other tensors or another config than the given one."""
    header = {} if config is None else {"config": config if isinstance(config, str) else json.dumps(config)}
    save_file(load_file(path) if tensors is None else tensors, path.with_stem("other"), metadata=header)
    return path.with_stem("other")


@EVERY_CLASS
def test_one_file_loads_as_the_folder_it_was_made_of(build: Callable[[], Any], tmp_path: Path) -> None:
    model = build()
    path = export(model, tmp_path)
    loaded = type(model).from_single_file(path)
    assert_same(loaded, model)
    assert not loaded.training
    saved = type(model).from_pretrained(tmp_path / "saved")
    assert dict(loaded.config) == {**saved.config, "_name_or_path": str(path)}


@EVERY_CLASS
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_a_number_format_is_applied_as_a_folder_applies_it(
    build: Callable[[], Any], stored: str, tmp_path: Path
) -> None:
    model = build()
    path = export(model, tmp_path, "--dtype", stored)
    loaded = type(model).from_single_file(path, dtype=torch.bfloat16)
    assert_same(loaded, type(model).from_pretrained(tmp_path / "saved", dtype=torch.bfloat16))
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16, torch.float32}


@EVERY_CLASS
def test_loading_starts_on_the_meta_device(
    build: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build()
    path = export(model, tmp_path)
    seen = []
    from_config = type(model).from_config.__func__

    def watched(cls: type, *args: Any, **kwargs: Any) -> Any:
        made = from_config(cls, *args, **kwargs)
        seen.extend(parameter.device.type for parameter in made.parameters())
        return made

    monkeypatch.setattr(type(model), "from_config", classmethod(watched))
    type(model).from_single_file(path)
    assert set(seen) == {"meta"}


@pytest.mark.parametrize("size", ["1", "5"])  # 5 is what other conversions have, if not told
def test_a_folder_that_becomes_one_file_has_no_shards_to_size(
    size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        export(build_transformer(), tmp_path, "--shard-gb", size)
    assert f"`--shard-gb` must be left out where a folder becomes one file, got {size}" in capsys.readouterr().err
    assert not (tmp_path / "one.safetensors").exists()


def test_files_that_are_not_such_an_export_are_refused(tmp_path: Path) -> None:
    path = export(build_transformer(), tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-100])
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    cases = {
        r"must be a complete safetensors file": tmp_path / "cut.safetensors",
        r"absent.safetensors` must be a file, got nothing there; check its path": tmp_path / "absent.safetensors",
    }
    for message, file in cases.items():
        with pytest.raises(ValueError, match=message):
            JoVATransformer3DModel.from_single_file(file)
    for header, message in (
        (None, r"must carry its config in the header \(`config`\), got none; `jova convert single_file` writes"),
        ("{", r"config of `.*` must be a JSON object, got something else"),
        ([1], r"must be a JSON object, got \[1\]"),
        ({**config, "_class_name": "JoVAWanTransformer3DModel"}, r"must hold a JoVATransformer3DModel, got a JoVAWan"),
    ):
        with pytest.raises(ValueError, match=message):
            JoVATransformer3DModel.from_single_file(rewritten(path, config=header))


@pytest.mark.parametrize(
    "address", ["https://huggingface.co/owner/name/blob/main/one.safetensors", "http://127.0.0.1/one.gguf", "s3://x/y"]
)
def test_an_address_is_refused_with_the_way_to_a_file(address: str) -> None:
    message = rf"a single file must lie on this machine, got `{re.escape(address)}`; download it first, with"
    with pytest.raises(ValueError, match=message):
        JoVATransformer3DModel.from_single_file(address)


def test_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    (tmp_path / "one.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(24))
    message = "must be a safetensors file with its config in the header, got a GGUF file; pass `config`, .* with"
    with pytest.raises(ValueError, match=message):
        JoVATransformer3DModel.from_single_file(tmp_path / "one.gguf")
    with pytest.raises(ValueError, match="must be one file, got a folder; load it with `from_pretrained`"):
        JoVATransformer3DModel.from_single_file(tmp_path)


@EVERY_CLASS
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pytorch_file_is_refused_with_advice_that_loads_it(
    build: Callable[[], Any], is_zip: bool, tmp_path: Path
) -> None:
    model, path = build(), tmp_path / "one.pt"
    model.save_config(tmp_path)
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match=r"got a .*; pass `config`, the folder of its config\.json"):
        type(model).from_single_file(path)
    assert_same(type(model).from_single_file(str(path), config=str(tmp_path)), model)


@EVERY_CLASS
def test_a_gguf_file_loads_as_its_refusal_says(build: Callable[[], Any], tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    model, path = build(), tmp_path / "one.gguf"
    model.save_config(tmp_path)
    writer = gguf.GGUFWriter(path, "jova")
    for name, tensor in model.state_dict().items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"got a GGUF file; pass `config`, .* with `quantization_config=GGUF"):
        type(model).from_single_file(path)
    config = diffusers.GGUFQuantizationConfig(compute_dtype=torch.float32)
    loaded = type(model).from_single_file(str(path), config=str(tmp_path), quantization_config=config)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@EVERY_CLASS
def test_a_file_with_other_tensors_than_its_config_is_refused(build: Callable[[], Any], tmp_path: Path) -> None:
    model = build()
    path = export(model, tmp_path)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    tensors = load_file(path)
    lost = sorted(tensors)[0]
    shortened = {name: tensor for name, tensor in tensors.items() if name != lost} | {"extra": torch.zeros(1)}
    with pytest.raises(ValueError, match=rf"got 1 too few \({re.escape(lost)}\) and 1 too many \(extra\)"):
        type(model).from_single_file(rewritten(path, shortened, config))
    with pytest.raises(ValueError, match=rf"{re.escape(lost)} expected shape"):
        type(model).from_single_file(rewritten(path, tensors | {lost: torch.zeros(5, 7)}, config))


def test_tensors_in_memory_load_with_the_folder_of_a_config(tmp_path: Path) -> None:
    model = build_wan_transformer()
    model.save_config(tmp_path)
    assert_same(JoVAWanTransformer3DModel.from_single_file(model.state_dict(), config=str(tmp_path)), model)
    with pytest.raises(ValueError, match="must come with `config`"):
        JoVAWanTransformer3DModel.from_single_file(model.state_dict())


@pytest.mark.parametrize(
    "name",
    ["JoVATransformer3DModel", "JoVAWanTransformer3DModel", "JoVADualTowerTransformer3DModel", "AutoencoderKLWan"],
)
def test_diffusers_finds_the_way_to_load_a_single_file_of_our_classes_and_of_its_own(name: str) -> None:
    assert _get_single_file_loadable_mapping_class(getattr(diffusers, name)) == name


def test_one_file_of_this_package_is_told_from_a_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = export(build_transformer(), tmp_path)
    for kind in ("wan", "nava", "lora", "mmaudio"):
        with pytest.raises(SystemExit, match="2"):
            main([kind, str(path), str(tmp_path / "out")])
        assert (
            f"`SOURCE` of `{kind}` must be as its authors released it, got a JoVATransformer3DModel in the layout of "
            f"diffusers, with its config in the header of `{path}`; make a folder of it by `jova convert single_file"
            "`, or load it by `JoVATransformer3DModel.from_single_file`"
        ) in capsys.readouterr().err
    num_parameters = build_transformer().num_parameters()
    jova(["info", str(path)])
    assert capsys.readouterr().out.startswith(
        f"component JoVATransformer3DModel in one file: {num_parameters:,} parameters\n`JoVATransformer3DModel.from_"
    )
    other = rewritten(path, config={"transformer": {"in_channels": 128}})  # as files of LTX have it
    with pytest.raises(SystemExit, match="2"):
        main(["nava", str(other), str(tmp_path / "out")])
    assert "released it" not in capsys.readouterr().err
