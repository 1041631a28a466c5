"""The result of a run for others: a model card beside the weights, and the upload of both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from huggingface_hub import HfApi

from diffusers_jova.hub_access import explained_hub
from diffusers_jova.pipeline_jova import JoVAPipeline
from diffusers_jova.saved_pipeline import COMPONENTS
from diffusers_jova.training.data.record import RecordHeader
from diffusers_jova.training.loop.checkpoints import kept_by_run
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.lora import ADAPTER_FILE
from diffusers_jova.training.loop.teacher_pipeline import TeacherPipeline
from diffusers_jova.whole_files import explained_full_disk, write_text, written_whole
from jova_cli.json_text import read_object
from jova_cli.model_info import INDEX, licence_lines, licence_of
from jova_cli.parser import one_line
from jova_cli.shipped import HUB_NAME, find_model
from jova_cli.training_info import last_report


CARD = """---
library_name: diffusers
{origin}tags: [audio-video, text-to-video, text-to-audio, jova{tag}]
---

# {title}

{what} of `{base_model}`, trained with diffusers_jova.

```py
import diffusers_jova
import torch

{code}
```

Trained for {step} steps of {batch} clips per process{begun}{loudness}. Losses of the last report: {losses}.
All settings are in `config.yaml`, all losses in `metrics.jsonl`.
"""
LOAD_ADAPTER = """pipe = diffusers_jova.JoVAPipeline.from_pretrained("{base_model}", dtype=torch.bfloat16)
pipe.load_lora_weights("{name}", weight_name="{file}")"""
USE_STUDENT = """
pipe.use_few_steps()  # {few_steps}"""
LOAD_STUDENT = """pipe = diffusers_jova.JoVAPipeline.from_pretrained("{name}", dtype=torch.bfloat16)  # {few_steps}"""
LOAD_TRANSFORMER = """transformer = diffusers_jova.{class_name}.from_pretrained("{name}", subfolder="transformer")"""
LOAD_PIPELINE = """
pipe = diffusers_jova.JoVAPipeline.from_pretrained("{base_model}", transformer=transformer)"""
PUBLISHED = ["README.md", "config.yaml", "metrics.jsonl", "transformer/*", ADAPTER_FILE]


class UploadError(RuntimeError):
    """A complete result that did not reach the Hub; the message says how it still can."""


def complete_pipeline(output_dir: Path, teacher: TeacherPipeline) -> None:
    """Make the folder of a whole student a pipeline: the teacher's, with the student's transformer and settings.

    The index comes last: without it the folder is no pipeline.

    Args:
        output_dir: That holds `transformer`.
        teacher: Whose other components are copied.
    """
    source = Path(teacher.source)
    if not source.is_dir():
        with explained_hub("pipeline", teacher.source):
            source = Path(JoVAPipeline.download(teacher.source))
    kept = kept_by_run(output_dir)
    present = [name for name in COMPONENTS if (teacher.index.get(name) or [None])[0] is not None]
    for name in present:
        if name in ("transformer", "scheduler"):
            continue
        with explained_full_disk(output_dir / name, kept), written_whole(output_dir / name) as partial:
            shutil.copytree(source / name, partial, dirs_exist_ok=True)
    with explained_full_disk(output_dir / "scheduler", kept), written_whole(output_dir / "scheduler") as partial:
        teacher.few_steps.scheduler.save_pretrained(partial)
    student = read_object(output_dir / "transformer" / "config.json")["_class_name"]
    index = {
        **teacher.index,
        "transformer": ["diffusers_jova", student],
        "scheduler": ["diffusers_jova", "FlowMatchAudioVideoScheduler"],
        "defaults": {**(teacher.index.get("defaults") or {}), **teacher.few_steps.defaults},
        "few_steps": teacher.few_steps.to_dict(),
    }
    write_text(output_dir / INDEX, json.dumps(index, indent=2) + "\n", kept)


def write_model_card(output_dir: Path, config: TrainConfig, teacher: TeacherPipeline | None = None) -> Path:
    """Write `README.md`: what the result is, how to load it, how it was trained.

    The card may be published: folders are named without where they lie.

    Args:
        output_dir: Of the run.
        config: Its settings.
        teacher: Of a student of few steps; None for others.
    """
    name = config.push_to_hub or output_dir.resolve().name
    last = last_report(output_dir)
    losses = {key.removeprefix("loss/"): value for key, value in last.items() if key.startswith("loss/")}
    batch = config.batch_size * config.gradient_accumulation_steps
    pipeline, model = public_name(config.pipeline or config.model), public_name(config.model)
    if config.train == "lora":
        code = LOAD_ADAPTER.format(base_model=pipeline, name=name, file=ADAPTER_FILE)
        code += "" if teacher is None else USE_STUDENT.format(few_steps=teacher.few_steps)
    elif teacher is not None:
        code = LOAD_STUDENT.format(name=name, few_steps=teacher.few_steps)
    else:
        class_name = json.loads((output_dir / "transformer" / "config.json").read_text())["_class_name"]
        code = LOAD_TRANSFORMER.format(name=name, class_name=class_name)
        source = config.pipeline or config.model
        if Path(find_model(source), "model_index.json").is_file() or is_hub_name(source):
            code += LOAD_PIPELINE.format(base_model=pipeline)
    text = CARD.format(
        origin=(f"base_model: {config.model}\n" if is_hub_name(config.model) else "") + licences(config, teacher),
        base_model=model,
        tag=", lora" if config.train == "lora" else "",
        title=Path(name).name,
        what=kind_of_result(config),
        code=code,
        step=last["step"],
        begun="" if config.init_adapter is None else f", from the adapter `{public_name(config.init_adapter)}` on",
        loudness=loudness_of(Path(config.data)),
        batch=batch,
        losses=", ".join(f"{term} {value:.4f}" for term, value in losses.items()),
    )
    path = output_dir / "README.md"
    write_text(path, text)
    return path


def kind_of_result(config: TrainConfig) -> str:
    """What a card calls the result."""
    kind = "An adapter" if config.train == "lora" else f"The transformer ({config.stage})"
    if config.student_steps is None:
        return kind
    return f"A student of {config.student_steps} steps ({kind[0].lower()}{kind[1:]})"


def licences(config: TrainConfig, teacher: TeacherPipeline | None) -> str:
    """Licences of the parts of others in a whole student, for the front matter of its card; empty without them."""
    if teacher is None or config.train == "lora" or not Path(teacher.source).is_dir():
        return ""
    stated = {name: licence_of(Path(teacher.source), name) for name in COMPONENTS if teacher.index.get(name)}
    return "".join(f"{line}\n" for line in licence_lines(stated))


def loudness_of(data: Path) -> str:
    """What the records of a folder say of their loudness, which is that of all of them; empty where it was left."""
    record = next(iter(sorted(data.glob("*.safetensors"))), None)
    loudness = None if record is None else RecordHeader.read(record).metadata.get("loudness_lufs")
    return f", with sound of {float(loudness):g} LUFS" if loudness else ""


def is_hub_name(model: str) -> bool:
    """Tell a model of the Hub, which a card may name as its origin, from one of this machine, which it may not."""
    return HUB_NAME.fullmatch(model) is not None and not Path(model).exists()


def public_name(model: str) -> str:
    """What a card calls a model: the name of the Hub, or of a folder, without where it lies on this machine."""
    return model if is_hub_name(model) or not Path(model).exists() else Path(model).resolve().name


def prepare_repository(name: str, private: bool) -> None:
    """Make the Hub repository, unless there is one: whether a result can be uploaded is known before the first step.

    Raises:
        ValueError: If its name lacks the owner, no login may write to it, or it is public and should not be.
    """
    if not HUB_NAME.fullmatch(name):
        raise ValueError(f"`push_to_hub` must be an owner and a name, got {name!r}; write `you/your-model`")
    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        is_private = bool(api.repo_info(name).private)
    except Exception as error:  # of the Hub, the network or the login
        raise ValueError(
            f"`push_to_hub` must be a repository that your login may write to, got `{name}` ({one_line(error)}); run "
            "`hf auth login` with a token that may write, or set `push_to_hub=null`"
        ) from error
    if private and not is_private:
        raise ValueError(
            f"`push_to_hub` must be a private repository, got the public `{name}`; name another, or publish the "
            "result with `hub_private_repo=false`"
        )


def push_to_hub(output_dir: Path, name: str) -> str:
    """Upload weights, card and settings, no checkpoints, to a repository that exists; returns the address.

    Raises:
        UploadError: If that fails; the result is complete on this machine.
    """
    try:
        HfApi().upload_folder(repo_id=name, folder_path=output_dir, allow_patterns=PUBLISHED)
    except Exception as error:  # of the Hub, the network or the login
        raise UploadError(
            f"the result in `{output_dir}` is complete but could not be uploaded to `{name}` ({one_line(error)}); run "
            "the same command again to upload it"
        ) from error
    return f"https://huggingface.co/{name}"
