"""`jova info` of what is no model: adapters, trainings, prepared clips, and anything else."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffusers_jova import JoVATransformer3DModel
from diffusers_jova.training.loop.trainer import Trainer
from jova_cli.adapter_info import describe_adapter
from jova_cli.main import main
from tests.places import ROOT
from tests.tiny_training import MODEL, tiny_config, write_clips


def said_of(path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    main(["info", str(path)])
    return capsys.readouterr().out.splitlines()


def table(lines: list[str]) -> dict[str, str]:
    return {line[:12].strip(): line[12:] for line in lines}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The folder of a finished training of an adapter, beside the clips `prepared`."""
    torch.manual_seed(0)
    JoVATransformer3DModel(**MODEL).save_pretrained(tmp_path / "base")
    write_clips(tmp_path / "prepared", num_clips=3)
    settings = {"train": "lora", "lora_rank": 4, "lora_alpha": 8, "lora_targets": "attention"}
    Trainer(tiny_config(tmp_path, model=str(tmp_path / "base"), steps=3, checkpoint_every=2, **settings)).train()
    return tmp_path / "run"


def test_info_tells_how_far_a_training_is_and_what_its_adapter_changes(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training, _, adapter = "\n".join(said_of(trained, capsys)).partition("\n\n")
    lines = training.splitlines()
    assert lines[0] == "training of an adapter: step 3 of 3"
    assert "  last checkpoint: checkpoint-00000003" in lines
    assert "  result: pytorch_lora_weights.safetensors" in lines
    assert "  lora_rank: 4" in lines
    assert not any(line.startswith("  decay_start") for line in lines)  # a default
    assert any(line.startswith("  losses at step 3: video ") for line in lines)
    said = table(adapter.splitlines())
    assert (said["rank"], said["alpha"]) == ("4", "8")
    assert "video" in said["targets"]
    assert "audio" in said["targets"]
    assert table(said_of(trained / "pytorch_lora_weights.safetensors", capsys)) == said
    settings = trained / "config.yaml"
    settings.write_text(settings.read_text().replace("steps: 3\n", "steps: 9\n"))
    longer = said_of(trained, capsys)
    assert longer[0] == "training of an adapter: step 3 of 9"
    assert "  result: pytorch_lora_weights.safetensors, of an earlier end; the same command goes on" in longer
    (trained / "pytorch_lora_weights.safetensors").unlink()
    assert "  result: none yet, the same command goes on" in said_of(trained, capsys)


def test_info_counts_prepared_clips_by_bucket(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained.parent / "prepared"
    (folder / "prepare.json").write_text(json.dumps({"model": "jova-tiny", "clips": [{"num_records": 0}]}))
    lines = said_of(folder, capsys)
    assert lines[0] == f"prepared clips: 3 records, {3 * 9 / 32:.1f} s"
    assert lines[1] == "  3 of 9x32x32"
    assert "  prepared for: jova-tiny" in lines
    assert "  files left out: 1; prepare.json says why" in lines
    (folder / "prepare.unfinished").touch()
    assert said_of(folder, capsys)[-1] == "  not finished: the same `jova prepare` makes the rest"


@pytest.mark.parametrize("value", ["0", "nan", "fast", None])
def test_a_damaged_record_is_named(value: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prepare.json").write_text("{}")
    header = {"num_frames": "9", "spatial_factor": "8"} | ({} if value is None else {"frame_rate": value})
    save_file({"video_latents": torch.zeros(1, 3, 4, 4)}, tmp_path / "a.safetensors", header)
    with pytest.raises(SystemExit, match="2"):
        main(["info", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"`frame_rate` in the header of `.*` must be a positive number, got {value!r}; delete", line)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_info_reads_the_alphas_that_stand_in_the_file_of_an_adapter(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for index, alpha in enumerate((2, 2, 0.5)):
        name = f"lora_unet_blocks_{index}_self_attn_q"
        tensors[f"{name}.lora_down.weight"] = torch.zeros(4 + index // 2, 8)
        tensors[f"{name}.lora_up.weight"] = torch.zeros(8, 4 + index // 2)
        tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=dtype)
    file = tmp_path / "kohya.safetensors"
    save_file(tensors, file, metadata={"ss_base_model_version": "wan2.1"})
    said = table(describe_adapter(file).splitlines())
    assert said["rank"] == "4 (2 modules), 5 (1 modules)"
    assert said["alpha"] == "2 (2 modules), 0.5 (1 modules)"
    assert said["targets"] == "3 modules: 3 video"
    assert said["base model"] == "wan2.1"


def test_info_describes_an_adapter_of_peft_by_its_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "base_model.model.blocks.0.attn.audio.to_q"
    tensors = {f"{name}.lora_A.weight": torch.zeros(2, 8), f"{name}.lora_B.weight": torch.zeros(8, 2)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "lora_alpha": 16, "base_model_name_or_path": "owner/model"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    said = table(said_of(tmp_path, capsys))
    assert (said["rank"], said["alpha"], said["base model"]) == ("2", "16", "owner/model")
    assert said["targets"] == "1 modules: 1 audio"


def test_info_of_a_component_names_its_class(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = said_of(trained.parent / "base", capsys)
    assert line.startswith("component JoVATransformer3DModel: 41,262 parameters")


@pytest.mark.parametrize("name", ["text.txt", "weights.safetensors", "weights.pt", "folder"])
def test_info_says_in_one_sentence_what_it_reads(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name == "weights.safetensors":
        save_file({"layer.weight": torch.zeros(2)}, path)
    else:
        path.write_text("something")
    with pytest.raises(SystemExit) as ended:
        main(["info", str(path)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    kind = "folder" if name == "folder" else "file"
    assert line.startswith("jova info: the path must be a saved pipeline or a component of one, a generated clip")
    assert line.endswith(f"got the {kind} `{path}`, which is none; name one of these")


def test_info_of_a_name_of_the_hub_says_how_it_comes_here(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["info", "some/body"])
    assert capsys.readouterr().err.endswith("comes by `hf download some/body --local-dir body`\n")


def test_info_of_a_file_that_is_not_there_speaks_of_no_hub(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["info", "lora/mine.safetensors"])
    assert "hf download" not in capsys.readouterr().err


def adapter_file(path: Path, *modules: str, halves: int = 2) -> Path:
    """A LoRA of rank 2 of some modules, the last of which may have one matrix alone."""
    pairs = [(f"{module}.lora_A.weight", f"{module}.lora_B.weight") for module in modules]
    names = [name for pair in pairs for name in pair][: 2 * len(pairs) - 2 + halves]
    save_file({name: torch.zeros(2, 2) for name in names}, path)
    return path


def test_info_tells_apart_what_no_model_here_has_and_what_lacks_a_matrix(tmp_path: Path) -> None:
    ours, sdxl = "transformer.blocks.0.attn1.video.to_q", "lora_unet_input_blocks_4_1_attn1_to_q"
    said = table(describe_adapter(adapter_file(tmp_path / "a.safetensors", sdxl)).splitlines())
    assert "targets" not in said
    assert said["foreign"] == "`input.blocks.4.1.attn1.to_q`, which no model here has"
    half = adapter_file(tmp_path / "b.safetensors", ours, ours.replace("to_q", "to_k"), halves=1)
    said = table(describe_adapter(half).splitlines())
    assert said["targets"] == "2 modules: 2 video"
    assert said["incomplete"] == "`blocks.0.attn1.video.to_k`, with one matrix of two"


def test_info_calls_an_adapter_of_another_model_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = adapter_file(tmp_path / "sd.safetensors", "unet.down_blocks.0.attentions.0.attn1.to_q")
    with pytest.raises(SystemExit):
        main(["info", str(file)])
    assert "jova info: adapter keys must start with one of transformer." in capsys.readouterr().err


def test_a_file_that_was_cut_off_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = adapter_file(tmp_path / "a.safetensors", "transformer.blocks.0.attn1.video.to_q")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(SystemExit):
        main(["info", str(file)])
    assert "must be a complete safetensors file, got one that is 20.0 B too short; write or" in capsys.readouterr().err


def test_info_of_an_adapter_loads_no_torch(tmp_path: Path) -> None:
    name = "transformer.blocks.0.attn.video.to_q"
    tensors = {f"{name}.lora_A.weight": torch.zeros(2, 8), f"{name}.lora_B.weight": torch.zeros(8, 2)}
    save_file(tensors, tmp_path / "a.safetensors")
    script = f"import sys; from jova_cli.main import main; main(['info', '{tmp_path}/a.safetensors']); "
    script += "assert not {'torch', 'numpy', 'safetensors'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


@pytest.mark.parametrize("card", ["mova-720p", "jova-1.6b"])
def test_a_config_without_weights_is_said_to_have_none(card: str, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = said_of(ROOT / "model_cards" / card / "transformer", capsys)
    assert re.fullmatch(r"component JoVA\w+: no weights here in \.safetensors files", line)


@pytest.mark.parametrize("train", ["full", "lora"])
def test_info_lists_no_setting_of_an_adapter_that_nobody_chose(
    train: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_config(tmp_path, train=train, steps=3).save(tmp_path / "config.yaml")
    said = said_of(tmp_path, capsys)
    assert "  steps: 3" in said
    assert not any(line.startswith("  lora_") for line in said)
