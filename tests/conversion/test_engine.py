import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from diffusers import MMAudioVAE
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusers_jova.conversion.checkpoint import open_checkpoint
from diffusers_jova.conversion.convert import main
from diffusers_jova.conversion.output import (
    Parameter,
    cast,
    check_fits,
    constant,
    new_folder,
    write_safetensors,
    write_weights,
)
from diffusers_jova.conversion.rules import Rule, inverse, plan
from tests.places import ROOT


def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "a.weight": torch.randn(3, 5).bfloat16(),
        "b.weight": torch.randn(7, 2),
        "c": torch.tensor(2.5, dtype=torch.float16),
        "steps": torch.tensor([1, 2, 3]),
    }


def constants(state: dict[str, Tensor]) -> list[Parameter]:
    return [constant(name, tensor) for name, tensor in state.items()]


def write_vae(path: Path) -> MMAudioVAE:
    """A small VAE in the released layout."""
    torch.manual_seed(0)
    vae = MMAudioVAE(mel_bins=128, latent_channels=4, hidden_channels=16)
    torch.save({name: 3 * torch.randn_like(tensor) for name, tensor in vae.vae.state_dict().items()}, path)
    return vae


def test_every_key_needs_one_rule_and_every_rule_a_key() -> None:
    rules = [Rule("blocks.{i}.q.{p}", "layers.{i}.to_q.{p}"), Rule("head.{p}", "out.{p}")]
    moves = plan(["blocks.3.q.bias", "head.weight"], rules)
    assert [(move.sources, move.targets) for move in moves] == [
        (("blocks.3.q.bias",), ("layers.3.to_q.bias",)),
        (("head.weight",), ("out.weight",)),
    ]
    with pytest.raises(ValueError, match=r"2 tensors that no rule knows: `tail`, `blocks.x.q.bias`"):
        plan(["blocks.3.q.bias", "head.weight", "tail", "blocks.x.q.bias"], rules)
    with pytest.raises(ValueError, match=r"none for 1 rules: `head.\{p\}`"):
        plan(["blocks.3.q.bias"], rules)


def test_merged_sources_must_all_be_there() -> None:
    rule = Rule(("{path}.g", "{path}.v"), "{path}.weight", lambda g, v: g * v)
    (move,) = plan(["a.b.v", "a.b.g"], [rule])
    assert move.sources == ("a.b.g", "a.b.v")
    with pytest.raises(ValueError, match=r"must hold `a.b.g` beside `a.b.v`"):
        plan(["a.b.v"], [rule])


def test_two_sources_for_one_parameter_are_refused() -> None:
    with pytest.raises(ValueError, match="several sources for `x`"):
        plan(["a", "b"], [Rule("a", "x"), Rule("b", "x")])


def test_only_a_table_that_renames_can_be_reversed() -> None:
    rules = [Rule("a.{p}", ("b.{p}", "c.{p}")), Rule("unused", ())]
    (move,) = plan(["b.weight"], inverse(rules))
    assert move.targets == ("a.weight",)
    with pytest.raises(ValueError, match="must only rename"):
        inverse([Rule("a", "b", torch.neg)])


def test_written_files_hold_the_same_bits_as_the_library_writes(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", constants(tensors()), {"note": "kept"})
    written = load_file(tmp_path / "x.safetensors")
    assert written.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert written[name].dtype == tensor.dtype
        assert torch.equal(written[name], tensor)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "note": "kept"}


def test_shards_and_their_index_read_back_as_one_checkpoint(tmp_path: Path) -> None:
    write_weights(tmp_path, constants(tensors()), shard_gb=40e-9)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    checkpoint = open_checkpoint(tmp_path)
    assert all(torch.equal(checkpoint[name].read(), tensor) for name, tensor in tensors().items())


def test_a_storage_type_is_applied_to_floats_except_where_the_model_keeps_its_own() -> None:
    found = {p.name: p.dtype for p in cast(constants(tensors()), torch.bfloat16, keep=("b.",))}
    assert found == {
        "a.weight": torch.bfloat16,
        "b.weight": torch.float32,
        "c": torch.bfloat16,
        "steps": torch.int64,
    }


def test_shapes_are_checked_against_the_model() -> None:
    model = torch.nn.Linear(2, 3)
    check_fits(constants(model.state_dict()), model)
    with pytest.raises(ValueError, match=r"1 missing: `bias`.*`weight` of shape \[4, 2\] instead of \[3, 2\]"):
        check_fits([constant("weight", torch.zeros(4, 2))], model)


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Tensor:
        raise KeyboardInterrupt

    found = [*constants(tensors()), Parameter("last", (1,), torch.float32, interrupted)]
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out") as folder:
        write_weights(folder, found, shard_gb=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_conversion_leaves_no_folder_that_loads(tmp_path: Path) -> None:
    script = (
        "import os, torch\n"
        "from pathlib import Path\n"
        "from diffusers_jova.conversion.output import Options, Parameter, constant, new_folder, save_model\n"
        "found = [constant('a', torch.zeros(9)), Parameter('b', (1,), torch.float32, lambda: os._exit(9))]\n"
        f"with new_folder(Path({str(tmp_path / 'out')!r})) as folder:\n"
        "    save_model(folder, None, found, Options(shard_gb=36e-9))\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, capture_output=True, text=True)
    assert killed.returncode == 9, killed.stderr
    assert not (tmp_path / "out").exists()
    (partial,) = tmp_path.glob(".out.partial-*/.out")
    assert sorted(path.name for path in partial.iterdir()) == [
        "diffusion_pytorch_model-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00002-of-00002.safetensors",
    ]
    with pytest.raises(OSError, match=r"config\.json"):
        MMAudioVAE.from_pretrained(partial)
    with new_folder(tmp_path / "out") as folder:
        (folder / "config.json").write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1000)}, tmp_path / "whole.safetensors")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "whole.pt")
    for name in ("whole.safetensors", "whole.pt"):
        cut = tmp_path / f"cut.{name}"
        cut.write_bytes((tmp_path / name).read_bytes()[:-500])
        with pytest.raises(ValueError, match=r"must be a complete (safetensors|torch) file"):
            open_checkpoint(cut)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/secret.safetensors", "sub/x.safetensors", "..\\x"])
def test_an_index_that_leaves_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match="must name files in its own folder"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(("text", "rule"), [("[]", "must be a JSON object"), ("{}", "must hold a `weight_map`")])
def test_an_index_without_a_map_is_refused(text: str, rule: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=rule):
        open_checkpoint(tmp_path)


def test_an_existing_output_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_vae(tmp_path / "v.pth")
    (tmp_path / "out").mkdir()
    with pytest.raises(SystemExit, match="2"):
        main(["mmaudio", str(tmp_path / "v.pth"), str(tmp_path / "out")])
    assert "`OUTPUT` must be a new path" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_an_output_below_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_vae(tmp_path / "v.pth")
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        main(["mmaudio", str(tmp_path / "v.pth"), str(tmp_path / "file" / "out")])
    assert "`OUTPUT` must lie in a folder" in capsys.readouterr().err


def test_the_command_converts_prints_progress_and_writes_the_licence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_vae(tmp_path / "v1-44.pth")
    main(["mmaudio", str(tmp_path / "v1-44.pth"), str(tmp_path / "out"), "--dtype", "bfloat16"])
    assert "100 % of" in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: cc-by-nc-4.0" in card
    assert MMAudioVAE.from_pretrained(tmp_path / "out").dtype == torch.float32  # the loader's default
    stored = open_checkpoint(tmp_path / "out")
    assert stored["vae.encoder.conv_in.weight"].dtype == torch.bfloat16
    assert stored["vae.data_mean"].dtype == stored["mel_converter.hann_window"].dtype == torch.float32


def test_tensors_of_a_wrong_shape_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_vae(tmp_path / "v.pth")
    state = torch.load(tmp_path / "v.pth") | {"encoder.down.0.block.1.conv2.weight": torch.ones(16, 17, 3)}
    torch.save(state, tmp_path / "v.pth")
    with pytest.raises(SystemExit, match="2"):
        main(["mmaudio", str(tmp_path / "v.pth"), str(tmp_path / "out")])
    assert "conv2.weight` of shape [16, 17, 3] instead of [16, 16, 3]" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["v.pth"]


def test_every_tensor_starts_at_a_multiple_of_its_element_size(tmp_path: Path) -> None:
    odd = {"a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(3).bfloat16(), "c": torch.ones(3).double()}
    write_safetensors(tmp_path / "x.safetensors", constants(odd))
    content = (tmp_path / "x.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for name, tensor in odd.items():
        assert (8 + length + header[name]["data_offsets"][0]) % tensor.element_size() == 0


def test_one_file_holds_a_component_with_its_config_and_unpacks_to_the_same(tmp_path: Path) -> None:
    vae = write_vae(tmp_path / "unused.pth")
    vae.save_pretrained(tmp_path / "vae", max_shard_size="20KB")
    main(["single_file", str(tmp_path / "vae"), str(tmp_path / "vae.safetensors")])
    main(["single_file", str(tmp_path / "vae.safetensors"), str(tmp_path / "again")])
    again = MMAudioVAE.from_pretrained(tmp_path / "again")
    assert dict(again.config) | {"_name_or_path": 0} == dict(MMAudioVAE.from_pretrained(tmp_path / "vae").config) | {
        "_name_or_path": 0
    }
    for name, tensor in vae.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_a_file_without_a_config_is_not_unpacked(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(SystemExit, match="2"):
        main(["single_file", str(tmp_path / "x.safetensors"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_only_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    save_file({f"layers.{index}.weight": torch.ones(50, 50) for index in range(4)}, tmp_path / "x.safetensors")
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    alive: list[weakref.ref[Tensor]] = []

    def make(name: str) -> Tensor:
        assert all(reference() is None for reference in alive)
        tensor = checkpoint[name].read()
        alive.append(weakref.ref(tensor))
        return tensor

    found = [Parameter(n, s.shape, torch.bfloat16, lambda n=n: make(n)) for n, s in checkpoint.items()]
    write_weights(tmp_path, found, shard_gb=5)
    assert len(alive) == 4
