"""What ends a training: bad input and named errors of a run in one sentence, everything else with its traceback."""

import json
import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from diffusers_jova.training import train, train_lora
from diffusers_jova.training.data.record import RecordHeader, write_record
from diffusers_jova.training.loop.model import check_records, load_transformer, save_result
from diffusers_jova.training.loop.publish import write_model_card
from diffusers_jova.training.loop.trainer import Trainer
from jova_cli.main import main
from tests.command_words import replaced
from tests.processes import alone
from tests.tiny_training import HEADER, MODEL, tiny_config, write_clips


QUICK = ["steps=2", "warmup_steps=0", "mixed_precision=no", "tensorboard=false", "log_every=1"]


def words(folder: Path) -> list[str]:
    """The command of a short run in ``folder``, whose clips and model are written first."""
    tiny_config(folder)
    paths = [f"model={folder / 'model.json'}", f"data={folder / 'prepared'}", f"output_dir={folder / 'run'}"]
    return ["--config", "training/configs/smoke.yaml", *paths, *QUICK]


def fail_with(error: BaseException) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "data=nowhere",
            "`data` must be an existing folder, got `nowhere` (No such file or directory); run `jova prepare` first",
        ),
        ("model=nowhere", "`model` must be"),
        ("model={}/list.json", "list.json`, must be a JSON object, got [1]; training/configs"),
        ("train=lora", "`model` must have trained weights for an adapter, got the config `"),
        ("output_dir={}/model.json", "`output_dir` must be a folder of its own"),
        ("output_dir={}/model.json/run", "`output_dir` must be a folder of its own"),
        ("output_dir={}/prepared", "`output_dir` must be a folder of its own"),
        ("output_dir=/proc/x", "`output_dir` must be a folder that can be written, got `/proc/x` (No such file"),
        ("shift=.inf", "`shift` must be finite, got inf"),
        ("learning_rate=.nan", "`learning_rate` must be finite, got nan"),
        ("steps=[[[", "`steps=[[[` must be valid YAML"),
        ("mouth_weight=-1", "`mouth_weight` must be 0 or more"),
        ("stage=video", "every clip for `stage: video` must have video"),
        ("distribution=ddp", "`distribution` must be what was started"),
    ],
)
def test_input_that_does_not_fit_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, message: str
) -> None:
    (tmp_path / "list.json").write_text("[1]")
    write_clips(tmp_path / "prepared", num_clips=2, without_video=(1,))
    with pytest.raises(SystemExit, match="2"):
        train.main(replaced(words(tmp_path), change.format(tmp_path)))
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_checkpoint_that_does_not_fit_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = words(tmp_path)
    train.main(command)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        train.main(replaced(command, "mouth_weight=2"))
    (line,) = capsys.readouterr().err.splitlines()
    assert "must come from a run with the same settings" in line


def test_the_adapter_command_refuses_the_preset_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.safetensors").touch()
    paths = [str(tmp_path), str(tmp_path / "run"), "--model", "jova-tiny"]
    with pytest.raises(SystemExit, match="2"):
        train_lora.main([*paths, "--config", "training/configs/smoke.yaml"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "`train` must be lora, got full" in line


@pytest.mark.parametrize(
    "error", [ValueError("inside torch"), OSError("a data worker"), ImportError("late"), RuntimeError("other")]
)
def test_an_error_inside_a_step_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(Trainer, "loss", fail_with(error))
    with pytest.raises(type(error)) as raised:
        train.main(words(tmp_path))
    assert raised.value is error


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        ("_report", FloatingPointError("the loss must be finite"), "the loss must be finite"),
        ("_flush", OSError(28, "No space left on device"), "free some space and start again"),
    ],
)
def test_a_run_that_diverges_or_fills_the_disk_says_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    error: Exception,
    message: str,
) -> None:
    owner = "checkpoints" if place == "_flush" else "trainer.Trainer"
    monkeypatch.setattr(f"diffusers_jova.training.loop.{owner}.{place}", fail_with(error))
    with pytest.raises(SystemExit, match="2"):
        train.main(words(tmp_path))
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("values", "savers"),
    [
        (
            {"batch_size": 4, "gradient_accumulation_steps": 2},
            [
                "`gradient_checkpointing=true`",
                "`batch_size=1 gradient_accumulation_steps=8`",
                "`optimizer=adamw_8bit resume=false`",
                "clips prepared with smaller `--buckets`",
            ],
        ),
        (
            {"train": "lora", "gradient_checkpointing": True, "batch_size": 1, "optimizer": "adamw_8bit"},
            [
                "`blocks_to_swap=10`, say",
                "`quantize=nf4 resume=false` without blocks that wait",
                "clips prepared with smaller `--buckets`",
            ],
        ),
        (
            {"train": "lora", "gradient_checkpointing": True, "batch_size": 1, "blocks_to_swap": 10},
            [
                "`blocks_to_swap=20`, say",
                "`optimizer=adamw_8bit resume=false`",
                "clips prepared with smaller `--buckets`",
            ],
        ),
        (
            {"gradient_checkpointing": True, "batch_size": 1, "distribution": "fsdp"},
            ["clips prepared with smaller `--buckets`"],
        ),
    ],
)
def test_a_run_without_memory_names_what_is_not_set_yet_in_order(
    tmp_path: Path, values: dict[str, Any], savers: list[str]
) -> None:
    config = tiny_config(tmp_path, **values)
    with pytest.raises(train.GPUMemoryError) as raised, train.explained_out_of_memory(config):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    head = "the run must fit into the GPU's memory, got 'CUDA out of memory. Tried to allocate 2.00 GiB.'; try in this"
    assert str(raised.value).startswith(f"{head} order: {', '.join(savers)}; the run continues from its last")


def test_a_run_continues_with_what_an_error_of_memory_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*words(tmp_path), "checkpoint_every=1", "batch_size=2"]
    loss, calls = Trainer.loss, []

    def no_memory_in_the_second_step(trainer: Trainer, inputs: Any) -> Any:
        calls.append(inputs)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss(trainer, inputs)

    monkeypatch.setattr(Trainer, "loss", no_memory_in_the_second_step)
    with pytest.raises(SystemExit, match="2"):
        train.main(command)
    (line,) = capsys.readouterr().err.splitlines()
    first, second = line.partition("in this order: ")[2].split(", ")[:2]
    train.main(replaced(command, first.strip("`"), *second.strip("`").split()))
    assert f"continuing from {tmp_path / 'run' / 'checkpoint-00000001'} at step 1" in capsys.readouterr().out


def train_as_a_command(command: list[str], errors: Path, tell: Connection) -> None:
    """Trains in a process that says when it is in its second step."""
    os.setsid()  # a group of its own
    loss, calls = Trainer.loss, []

    def tell_in_the_second_step(trainer: Trainer, inputs: Any) -> Any:
        calls.append(inputs)
        if len(calls) == 2:
            tell.send(None)
        return loss(trainer, inputs)

    Trainer.loss = tell_in_the_second_step
    with errors.open("w") as sys.stderr:
        train.main(command)


def test_sigterm_ends_a_run_with_a_checkpoint_of_its_last_step_from_which_it_continues(tmp_path: Path) -> None:
    command = [word for word in words(tmp_path) if not word.startswith("steps=")]
    command += ["checkpoint_every=1000000", "num_workers=1"]
    log, errors = tmp_path / "run" / "metrics.jsonl", tmp_path / "errors"
    in_second_step, tell = multiprocessing.Pipe(duplex=False)
    process = alone(train_as_a_command, [*command, "steps=1000000"], errors, tell)
    process.start()
    wait([in_second_step, process.sentinel])
    os.killpg(process.pid, signal.SIGTERM)  # as `timeout` and schedulers do
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM
    step = json.loads(log.read_text().splitlines()[-1])["step"]
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert checkpoint.name == f"checkpoint-{step:08d}"
    assert f"ended by SIGTERM after step {step}; run the same command again" in errors.read_text()

    train.main([*command, f"steps={step + 1}"])
    whole = tmp_path / "whole"
    train.main(replaced(command, f"steps={step + 1}", f"output_dir={whole}"))
    weights = [
        load_file(path / "transformer" / "diffusion_pytorch_model.safetensors") for path in (whole, tmp_path / "run")
    ]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def run_the_command(words: list[str], errors: Path) -> None:
    """`jova` in a process of its own."""
    with errors.open("w") as sys.stderr:
        main(words)


def test_a_second_run_in_the_same_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, validate_every=3, steps=3, validation_prompts=("a",))
    config.save(tmp_path / "run.yaml")
    errors = tmp_path / "errors"
    said: list[tuple[int, int | None, str]] = []

    def run_again(_: Trainer, step: int) -> None:
        again = alone(
            run_the_command, ["train", "--config", str(tmp_path / "run.yaml"), "validate_every=null"], errors
        )
        again.start()
        again.join()
        said.append((step, again.exitcode, errors.read_text().splitlines()[-1]))

    Trainer(config, run_again).train()
    refusal = "jova train: `output_dir` must be a folder that no other run writes in, got "
    assert [(step, code, line.startswith(refusal)) for step, code, line in said] == [(3, 2, True)]
    assert (tmp_path / "run" / "transformer").is_dir()
    train.main(["--config", str(tmp_path / "run.yaml"), "validate_every=null", "steps=4"])  # nobody is there any more


@pytest.mark.parametrize(("is_seen", "rank", "draws"), [(True, "0", True), (True, "1", False), (False, "0", False)])
def test_libraries_draw_bars_on_a_terminal_and_in_the_first_process_alone(
    monkeypatch: pytest.MonkeyPatch, is_seen: bool, rank: str, draws: bool
) -> None:
    monkeypatch.setattr(train, "is_seen", lambda: is_seen)
    monkeypatch.setenv("RANK", rank)
    libraries = (diffusers_logging, transformers_logging)
    for library in libraries:
        library.enable_progress_bar()
    try:
        train.keep_bars_on_the_terminal()
        assert [library.is_progress_bar_enabled() for library in libraries] == [draws, draws]
    finally:
        for library in libraries:
            library.enable_progress_bar()


def test_a_configuration_is_built_without_a_look_at_its_folders(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, output_dir=str(tmp_path / "prepared"))  # what only a run cannot use
    with pytest.raises(ValueError, match="`output_dir` must be a folder of its own"):
        Trainer(config)


def test_prompts_of_a_second_encoder_are_refused_by_a_model_that_has_none(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    tensors = {"video_latents": torch.zeros(2, 3, 4, 4), "prompt_embeds_2": torch.zeros(5, 7)}
    write_record(tmp_path / "clip.safetensors", tensors, HEADER)
    headers = [RecordHeader.read(tmp_path / "clip.safetensors")]
    with pytest.raises(ValueError, match=r"for this `model` must have no `prompt_embeds_2`, got some in .*clip\.safe"):
        check_records(headers, load_transformer(str(tmp_path / "model.json")))


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["io", "ctrl-c"])
def test_a_result_that_cannot_be_put_in_its_place_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    config, accelerator = tiny_config(tmp_path), Accelerator(cpu=True)
    transformer = load_transformer(config.model)
    weights = save_result(transformer, config, accelerator) / "transformer" / "diffusion_pytorch_model.safetensors"
    earlier = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    for parameter in transformer.parameters():
        parameter.data += 1

    for move in ("rename", "replace"):
        original = getattr(Path, move)

        def last_move_fails(path: Path, target: Path, original: Any = original) -> Path:
            if path.name == ".transformer":
                raise error
            return original(path, target)

        monkeypatch.setattr(Path, move, last_move_fails)
    with pytest.raises(type(error)):
        save_result(transformer, config, accelerator)
    assert all(torch.equal(earlier[name], tensor) for name, tensor in load_file(weights).items())
    assert [path.name for path in Path(config.output_dir).iterdir()] == ["transformer"]


def test_a_card_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(tmp_path)
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "JoVATransformer3DModel"}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 6, "loss/video": 0.5}\n')
    card = write_model_card(tmp_path, config)
    before = card.read_text()

    def half(path: Path, text: str, **_: str) -> None:
        path.write_bytes(text[: len(text) // 2].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match=r"README\.md` could not be written"):
        write_model_card(tmp_path, config)
    assert card.read_text() == before


def test_the_folder_of_the_clips_does_not_become_that_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "IMG_1.MOV").touch()
    with pytest.raises(ValueError, match=r"must be a folder of its own, got .* holds clips \(IMG_1.MOV\)"):
        Trainer(tiny_config(tmp_path, output_dir=str(tmp_path / "phone")))
    assert [path.name for path in (tmp_path / "phone").iterdir()] == ["IMG_1.MOV"]


def test_what_the_command_line_asks_for_is_not_said_of_the_preset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(SystemExit, match="2"):
        train_lora.main([str(tmp_path), str(tmp_path / "run"), "--model", "jova-tiny", "train=full"])
    assert "`train` must be lora, got full in the command line; use `jova train`" in capsys.readouterr().err
