"""The settings of a training run: one frozen dataclass, filled from YAML, written beside every result.

This file imports nothing that loads torch: the command line reads it alone, to refuse settings at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml

from jova_cli.evaluate import VALIDATED
from jova_cli.setting_combinations import check_combinations
from jova_cli.setting_types import convert, require
from jova_cli.training_settings import check_names, split_settings
from jova_cli.yaml_text import parse_yaml


Stage = Literal["video", "audio", "joint"]
Train = Literal["full", "lora"]
LoraTargets = Literal["video", "audio", "joint", "attention", "attention_ff"]
Quantization = Literal["none", "nf4"]
Optimizer = Literal["adamw", "adamw_8bit", "muon"]
Schedule = Literal["constant", "cosine", "linear"]
MixedPrecision = Literal["no", "bf16", "fp16"]
Density = Literal["uniform", "logit_normal", "mode"]
Coupling = Literal["shared", "independent", "mixed"]
SaveDtype = Literal["float32", "bfloat16"]
Experts = Literal["drawn", "alternate", "high", "low"]
Part = Literal["video", "audio", "joint", "video_low", "fusion", "mask_head", "to_cross"]
Task = Literal["joint", "voice", "continuation", "video_to_audio", "audio_to_video"]
Distribution = Literal["none", "ddp", "fsdp", "deepspeed"]
MouthReduction = Literal["mask", "all"]
Measures = Literal[  # groups of `jova evaluate` that say something of one clip
    "sync",
    "syncnet",
    "timing",
    "sound",
    "picture",
    "words",
    "speech",
    "voice",
    "clap",
    "identity",
    "classes",
    "audiobox",
    "clip_score",
    "desync",
    "flow",
]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run; a YAML preset holds the same names.

    Attributes:
        model: Saved transformer or pipeline (folder or Hub id), or a `.json` file of constructor arguments, from which
            the training starts with random weights.
        data: Folder written by `jova prepare`.
        output_dir: Where checkpoints, logs and the result go.
        stage: `video` and `audio` train one branch while the other is absent; `joint` trains both together.
        train: `full` trains the weights of the stage, `lora` an adapter on top of frozen ones; on the command line
            `full` sets aside rank, alpha and targets of the preset.
        init_audio_from_video: Copy the video branch's weights into the audio branch before the first step.
        init_adapter: Adapter to go on from with these clips, a file, folder or Hub id; its weights, rank, alpha and
            targets are taken. On the command line it sets aside those of the preset.
        lora_rank: Rank of the adapter; None is 32, or that of `init_adapter`.
        lora_alpha: Scale of the adapter, times rank; None is 32, or that of `init_adapter`.
        lora_dropout: Dropout on the adapter's input.
        lora_targets: Which modules the adapter reaches, see `diffusers_jova.training.loop.lora.TARGETS`; None is
            `attention`, or those of `init_adapter`.
        quantize: `nf4` stores the frozen base of a LoRA run in 4 bit (needs bitsandbytes).
        student_steps: Make a student that needs so many evaluations a clip and no guidance, one straight step in each
            of as many phases of the noise levels, see `diffusers_jova.training.loop.distillation`. Its teacher is
            `model` without the adapter, guided as its pipeline is; shifts are the pipeline's. None has no teacher.
        teacher_steps: Steps of Euler that the teacher takes from noise to data, a multiple of `student_steps`.
        teacher_jump: Steps that the teacher takes before the student goes on, at most those of a phase, in which case
            the student learns nothing from itself: more costs time, and errors of the student count less.
        teacher_guidance_scale: Text guidance of the teacher's video; None is that of its pipeline.
        teacher_audio_guidance_scale: The same for its audio; None is that of its pipeline, which follows the video's
            unless it has one of its own.
        begin_probability: Share of samples at the beginnings of the phases, the only levels at which sampling asks the
            student; the others, of all levels, carry to it what the teacher does further down.
        anchor_weight: Factor of the plain loss on the clips, beside that on the teacher; it pulls the student to what
            a teacher of many steps predicts without guidance.
        steps: Optimizer steps of the whole run; where a run continues with another number, its learning rate goes on
            from where it was, without a jump; where it has not risen yet, it rises first.
        batch_size: Samples per process and micro-batch.
        gradient_accumulation_steps: Micro-batches per optimizer step.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, a third more time.
        blocks_to_swap: So many of the transformer's blocks, the last, have frozen weights that wait in the host's
            memory and come to the GPU for their turn, two at a time; for an adapter, with `gradient_checkpointing`.
        compile: Compile the blocks of the transformer; the first steps then take a minute or more.
        mixed_precision: Number format of the computation, and of the frozen weights below an adapter; what is trained
            stays float32, as does its optimizer.
        optimizer: `adamw_8bit` needs bitsandbytes; `muon` orthogonalises the steps of the blocks' matrices, which pays
            in training from scratch, see `diffusers_jova.training.loop.muon`.
        learning_rate: Learning rate of every group that names none of its own.
        video_learning_rate: Learning rate of the video branch; 0 freezes it.
        audio_learning_rate: Learning rate of the audio branch; 0 freezes it.
        joint_learning_rate: Learning rate of what serves both branches; 0 freezes it.
        learning_rates: Learning rates of single parts, `{fusion: 2e-5}` say: a branch (`video`, `audio`, `joint`), the
            second of two video towers (`video_low`), what couples two towers (`fusion`), the face masks in it
            (`mask_head`), the cross terms of `cross_linear` (`to_cross`). The smallest part that holds a weight
            counts; 0 freezes it.
        learning_rate_schedule: Course of the learning rate after the warm-up.
        warmup_steps: Steps over which the learning rate rises from 0; where a run has fewer than its preset lets it
            rise in, a tenth of them.
        decay_start: Part of the run after which `cosine` or `linear` begin to fall, in [0, 1).
        final_learning_rate: Where the course ends, as a factor of the learning rate.
        betas: Averaging factors of AdamW.
        weight_decay: Weight decay of AdamW; biases, norms and embeddings of positions have none.
        max_grad_norm: Gradients are scaled down to this norm.
        ema_decay: Decay of the averaged weights, which become the result; None averages nothing.
        mouth_weight: lambda of the paper's Eq. 6.
        mouth_reduction: `mask` is the paper's Eq. 7; `all` suits small pictures, see
            `diffusers_jova.training.loop.objective`.
        mouth_box_scale: Factor by which mouth boxes grow before they become a mask: lips that move fast, loose boxes.
        face_mask_weight: lambda_m, factor of the loss on the face masks of UniAVGen's fusion at the first step, from
            which it falls linearly; 0 has no such loss.
        face_mask_steps: Step at which that factor is 0; UniAVGen's stage 2 has as many.
        video_weight: Factor of the video loss.
        audio_weight: Factor of the audio loss.
        density: Density of the noise levels.
        shift: Shift of the video noise levels towards noise.
        audio_shift: Shift of the audio noise levels towards noise.
        coupling: How the noise levels of the two modalities of one sample belong together; `mixed` also draws clean
            modalities, which audio-driven video and video-to-audio need.
        experts: Which of the two video towers of a model with a `boundary` a step trains, at noise levels of its side:
            the one that the first clip of a micro-batch draws, both in turn (`alternate`, MOVA; `high` first), or
            always the same, while the other one is frozen.
        tasks: What steps train, by weights, `{joint: 4, voice: 1}` say: `joint` (sound and picture), `voice` (the
            same, with a voice of another clip in front), `continuation`, `video_to_audio`, `audio_to_video`; see
            `diffusers_jova.training.loop.tasks`. None trains `joint` with what the probabilities below give.
        uncoupled_probability: Share of micro-batches in which video and audio do not see each other, for guidance
            on their coupling.
        caption_dropout: Share of samples trained with the empty prompt, for guidance and against forgetting.
        audio_caption_dropout: The same for the text that the audio reads, drawn apart; None drops the text of both.
        image_probability: Share of samples whose first frame is given.
        keyframe_probability: Share of samples of which pictures behind the first frame are given, in equal parts the
            last frame, the end of any latent, or both; for clips prepared by `jova prepare --keyframes`. Where these
            show grey frames between the pictures, each clip has pictures of its own, with its first frame or without.
        prefix_probability: Share of micro-batches of clips whose beginnings are given, for the continuation of clips.
        prefix_max_fraction: Longest such beginning, as a part of the clip.
        loudness_lufs: Loudness that the sound of all clips must have been prepared with (`jova prepare
            --loudness-lufs`); None takes any.
        prior_data: Folder of prepared clips of the base model's own kind, mixed in against forgetting.
        prior_probability: Share of micro-batches drawn from `prior_data`.
        dataset_on_device: Hold the whole prepared set in the accelerator's memory.
        num_workers: Processes that load records, where the set is not held in memory.
        seed: Decides data order, noise levels, noise and dropout.
        distribution: What `accelerate launch` was asked for; a run that started as something else stops at once.
        save_dtype: Number format of the saved result; checkpoints stay float32.
        stop_after_minutes: Write a checkpoint and stop after this time, to be resumed; None has no limit.
        tensorboard: Write TensorBoard files beside `metrics.jsonl`.
        log_every: Steps between two lines in the log, which is the only place where the host waits for the device.
        checkpoint_every: Steps between two checkpoints.
        keep_checkpoints: How many checkpoints stay.
        resume: Continue from the newest checkpoint in `output_dir`, if there is one.
        validate_every: Steps between two validations; None has none.
        validation_data: Folder of prepared clips that are not trained on, whose loss is measured at fixed noise levels
            with fixed noise: a curve that rises while the loss of training falls tells of overfitting.
        validation_prompts: What the clips show that a validation makes.
        validation_list: In their place a `.jsonl` or `.csv` file as of `jova generate --prompts`, with a clip for each
            row: prompts in three parts, portraits, voices, videos, seeds.
        validation_steps: Denoising steps of a validation clip, unless its row says how many.
        validation_measures: How validation clips are measured, by groups of `jova evaluate --measures`: `sync` (lips
            against sound), `syncnet` (the same by SyncNet, with `validation_syncnet`), `timing`, `sound` (loudness,
            clipping, silence), `picture` (black, frozen, blurred frames), `words` (error rates against the
            transcript), `speech` (DNSMOS), `voice`, and by networks that settings below name: `clap` (sound against
            its caption), `identity` (frames against the portrait, else the first frame; colours alone without a
            network), `classes` (share of the likeliest class of the sound), `audiobox`, `clip_score` (picture against
            its caption), `desync`, `flow` (how much moves). `timing`, `sound` and `picture` need no package that a
            training does not; `jova evaluate --help` tells those of the others. `[]` measures nothing.
        validation_whisper: Folder of a speech recognition model of transformers for the words, which runs on the CPU;
            None takes the small one, which knows English.
        validation_language: Of the transcripts, `en`, or another with `validation_whisper`, which is told it where it
            knows many; None lets that one guess, and compares words as English ones.
        validation_syncnet: Weights of SyncNet, as `jova evaluate --syncnet` takes them, which runs on the CPU.
        validation_clap: Folder of a CLAP, likewise.
        validation_identity: Folder of a DINO, likewise.
        validation_classifier: Folder of an AST, likewise.
        validation_audiobox: Folder of AudioBox-aesthetics, likewise.
        validation_clip_score: Folder of a CLIP, likewise.
        validation_synchformer: Weights of Synchformer, likewise.
        validation_raft: Weights of RAFT, likewise.
        pipeline: Saved pipeline whose other components make the validation clips; None uses `model`.
        push_to_hub: Hub repository that receives the result; None uploads nothing.
        hub_private_repo: Keep that repository private, as suits adapters of real faces and voices; false publishes it.
    """

    model: str
    data: str
    output_dir: str

    stage: Stage = "joint"
    train: Train = "full"
    init_audio_from_video: bool = False

    init_adapter: str | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    lora_dropout: float = 0.0
    lora_targets: LoraTargets | None = None
    quantize: Quantization = "none"

    student_steps: int | None = None
    teacher_steps: int = 48
    teacher_jump: int = 1
    teacher_guidance_scale: float | None = None
    teacher_audio_guidance_scale: float | None = None
    begin_probability: float = 0.0
    anchor_weight: float = 0.0

    steps: int = 1000
    batch_size: int = 1
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    blocks_to_swap: int = 0
    compile: bool = False
    mixed_precision: MixedPrecision = "bf16"

    optimizer: Optimizer = "adamw"
    learning_rate: float = 1e-4
    video_learning_rate: float | None = None
    audio_learning_rate: float | None = None
    joint_learning_rate: float | None = None
    learning_rates: Mapping[Part, float] | None = None
    learning_rate_schedule: Schedule = "constant"
    warmup_steps: int = 0
    decay_start: float = 0.0
    final_learning_rate: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float | None = None

    mouth_weight: float = 5.0
    mouth_reduction: MouthReduction = "mask"
    mouth_box_scale: float = 1.0
    face_mask_weight: float = 0.0
    face_mask_steps: int = 30000
    video_weight: float = 1.0
    audio_weight: float = 1.0

    density: Density = "mode"
    shift: float = 3.0
    audio_shift: float = 3.0
    coupling: Coupling = "shared"
    experts: Experts = "drawn"
    tasks: Mapping[Task, float] | None = None
    uncoupled_probability: float = 0.0
    caption_dropout: float = 0.1
    audio_caption_dropout: float | None = None
    image_probability: float = 0.0
    keyframe_probability: float = 0.0
    prefix_probability: float = 0.0
    prefix_max_fraction: float = 0.5
    loudness_lufs: float | None = None
    prior_data: str | None = None
    prior_probability: float = 0.0

    dataset_on_device: bool = False
    num_workers: int = 0
    seed: int = 0
    distribution: Distribution = "none"

    save_dtype: SaveDtype = "float32"
    stop_after_minutes: float | None = None
    tensorboard: bool = True
    log_every: int = 10
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    resume: bool = True
    validate_every: int | None = None
    validation_data: str | None = None
    validation_prompts: tuple[str, ...] = ()
    validation_list: str | None = None
    validation_steps: int = 30
    validation_measures: tuple[Measures, ...] = ("sound", "picture")
    validation_whisper: str | None = None
    validation_language: str | None = None
    validation_syncnet: str | None = None
    validation_clap: str | None = None
    validation_identity: str | None = None
    validation_classifier: str | None = None
    validation_audiobox: str | None = None
    validation_clip_score: str | None = None
    validation_synchformer: str | None = None
    validation_raft: str | None = None
    pipeline: str | None = None
    push_to_hub: str | None = None
    hub_private_repo: bool = True

    def __post_init__(self) -> None:
        """Convert values to the types of their fields, and check what types cannot say."""
        for name, hint in _hints().items():
            object.__setattr__(self, name, convert(name, getattr(self, name), hint))
        for name in ("steps", "batch_size", "gradient_accumulation_steps", "log_every"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.lora_rank is None or self.lora_rank >= 1, "lora_rank", "at least 1", self.lora_rank)
        require(self.lora_alpha is None or self.lora_alpha > 0, "lora_alpha", "positive", self.lora_alpha)
        for name in ("checkpoint_every", "keep_checkpoints", "validation_steps", "face_mask_steps", "teacher_jump"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        if self.validate_every is not None:
            require(self.validate_every >= 1, "validate_every", "at least 1", self.validate_every, "null makes none")
        for name in PROBABILITIES:
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, name, "in [0, 1]", value)
        for name in ("learning_rates", "tasks"):
            for part, value in (getattr(self, name) or {}).items():
                require(value >= 0, f"{name}.{part}", "0 or more", value)
        require(self.tasks is None or sum(self.tasks.values()) > 0, "tasks", "of a weight above 0", self.tasks)
        for name in ("shift", "audio_shift", "max_grad_norm", "mouth_box_scale"):
            require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        for name in NOT_NEGATIVE:
            value = getattr(self, name)
            require(value is None or value >= 0, name, "0 or more", value)
        for factor in self.betas:
            require(0 <= factor < 1, "betas", "two numbers in [0, 1)", list(self.betas))
        require(0 <= self.decay_start < 1, "decay_start", "in [0, 1)", self.decay_start)
        limit = f"at most `steps` = {self.steps}"
        remedy = "lower it, 0 has no warm-up, or raise `steps`"
        require(self.warmup_steps <= self.steps, "warmup_steps", limit, self.warmup_steps, remedy)
        if self.ema_decay is not None:
            require(0 < self.ema_decay < 1, "ema_decay", "in (0, 1)", self.ema_decay, "null averages nothing")
        self._check_use()
        for name, value in NEW_ADAPTER.items():
            if self.init_adapter is None and getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_combinations(self)

    def _check_use(self) -> None:
        """Refuse settings that nothing would read."""
        defaults = {field.name: field.default for field in fields(self)}
        for switch, state, names, remedy in UNREAD:
            for name in names:
                is_read, value = getattr(self, switch) != state, getattr(self, name)
                default = NEW_ADAPTER.get(name, defaults[name])
                rule = f"left at {default} with `{switch}: {'null' if state is None else state}`"
                require(is_read or value in (default, defaults[name]), name, rule, value, remedy)

    def decisive_fields(self) -> list[str]:
        """Name what a checkpoint must share with the run that continues it; the other fields may change."""
        return [field.name for field in fields(self) if field.name not in FREE_TO_CHANGE]

    def unsaid_settings(self) -> dict[str, Any]:
        """What decisive settings were in checkpoints that are older than they: their defaults."""
        decisive = self.decisive_fields()
        return {f.name: f.default for f in fields(self) if f.name in decisive and f.default is not MISSING}

    def settings_of_result(self) -> dict[str, Any]:
        """List what decides the weights that come out, as JSON holds it."""
        names = (*self.decisive_fields(), *LENGTH_AND_RATE)
        return {name: list(value) if isinstance(value := getattr(self, name), tuple) else value for name in names}

    def save(self, path: Path) -> None:
        """Write all fields as YAML that `load_yaml` reads back."""
        from diffusers_jova.whole_files import write_text  # here: its package loads torch

        write_text(path, yaml.safe_dump(self._as_yaml(), sort_keys=False))

    def changes_from(self, path: Path) -> list[str]:
        """Which fields differ from those that `save` wrote, in words; none where nothing that can be read is there."""
        try:
            before = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return []
        if not isinstance(before, Mapping):
            return []
        now = {name: value for name, value in self._as_yaml().items() if before.get(name, value) != value}
        return [f"`{name}` is {value}, {before[name]} before" for name, value in now.items()]

    def _as_yaml(self) -> dict[str, Any]:
        """All fields as YAML has them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


NEW_ADAPTER: dict[str, Any] = {"lora_rank": 32, "lora_alpha": 32.0, "lora_targets": "attention"}  # where none is given
UNREAD = (  # a setting, its value, what nothing reads then, what to do
    (
        "train",
        "full",
        ("init_adapter", "lora_rank", "lora_alpha", "lora_dropout", "lora_targets"),
        "set `train: lora`",
    ),
    ("learning_rate_schedule", "constant", ("decay_start", "final_learning_rate"), "set another schedule"),
    ("face_mask_weight", 0.0, ("face_mask_steps",), "set `face_mask_weight`"),
    (
        "student_steps",
        None,
        (
            *("teacher_steps", "teacher_jump", "teacher_guidance_scale", "teacher_audio_guidance_scale"),
            *("begin_probability", "anchor_weight"),
        ),
        "set `student_steps`",
    ),
    ("push_to_hub", None, ("hub_private_repo",), "set `push_to_hub`"),
    ("stage", "audio", ("video_weight", "mouth_box_scale"), "set `stage: joint` or `video`"),
    ("stage", "video", ("audio_weight",), "set `stage: joint` or `audio`"),
)
LENGTH_AND_RATE = (
    *("steps", "warmup_steps", "batch_size", "gradient_accumulation_steps", "learning_rate", "max_grad_norm"),
)
FREE_TO_CHANGE = (  # by a run that continues from a checkpoint
    *LENGTH_AND_RATE,  # what a run that diverged, or ends too early, needs
    *("model", "data", "output_dir", "prior_data", "pipeline", "push_to_hub", "hub_private_repo", "init_adapter"),
    "distribution",
    *(
        "gradient_checkpointing",
        "blocks_to_swap",
        "compile",
        "dataset_on_device",
        "num_workers",
        "save_dtype",
        "stop_after_minutes",
    ),
    *("tensorboard", "log_every", "checkpoint_every", "keep_checkpoints", "resume"),
    *("validate_every", "validation_data", "validation_prompts", "validation_list", "validation_steps"),
    *("validation_measures", "validation_whisper", "validation_language", *VALIDATED),
)
NOT_NEGATIVE = (
    *("learning_rate", "video_learning_rate", "audio_learning_rate", "joint_learning_rate", "weight_decay"),
    *("mouth_weight", "face_mask_weight", "video_weight", "audio_weight", "warmup_steps", "num_workers"),
    "blocks_to_swap",
    *("anchor_weight", "teacher_guidance_scale", "teacher_audio_guidance_scale"),
    "stop_after_minutes",
)
PROBABILITIES = (
    *("uncoupled_probability", "caption_dropout", "audio_caption_dropout", "image_probability"),
    *(
        "begin_probability",
        "keyframe_probability",
        "prefix_probability",
        "prefix_max_fraction",
        "prior_probability",
        "lora_dropout",
    ),
    "final_learning_rate",
)


def load_yaml(
    path: str | Path, overrides: Mapping[str, Any] | None = None, tell: Callable[[str], None] = print
) -> TrainConfig:
    """Read a preset and lay ``overrides`` over it; a field that does not exist is an error, never ignored.

    Args:
        path: Of the preset.
        overrides: Settings that differ from it.
        tell: Told in one line what of the preset is changed because it does not fit ``overrides``.
    """
    return from_values(read_values(path, overrides or {}, tell), source=str(path))


def read_values(path: str | Path, overrides: Mapping[str, Any], tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Read the settings of a run as they are given; see `load_yaml`."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"`{path}` must be an existing YAML file; `jova presets` lists some to start from")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"`{path}` must be text in UTF-8, got another encoding ({error}); save it anew") from error
    values = _parse_yaml(text, str(path)) or {}
    if not isinstance(values, dict):
        raise ValueError(f"`{path}` must hold `name: value` lines, got {type(values).__name__}")
    _check_names(overrides, "the command line")
    _check_names(values, str(path))
    if overrides.get("init_adapter") is not None or overrides.get("train") == "full":
        values = {name: value for name, value in values.items() if name not in NEW_ADAPTER}
    return {**values, **_shortened_warmup(values, overrides, tell), **overrides}


def _shortened_warmup(
    preset: Mapping[str, Any], overrides: Mapping[str, Any], tell: Callable[[str], None]
) -> dict[str, Any]:
    """The warm-up of a run that is shorter than the one of its preset: at most a tenth of its steps."""
    steps, warmup = overrides.get("steps"), preset.get("warmup_steps")
    if "warmup_steps" in overrides or type(steps) is not int or type(warmup) is not int or not 0 < steps < warmup:
        return {}
    shortened = steps // 10
    tell(f"`warmup_steps` is {shortened} in place of the preset's {warmup}, a tenth of the {steps} steps")
    return {"warmup_steps": shortened}


def from_values(values: Mapping[str, Any], source: str = "the configuration") -> TrainConfig:
    """Build the configuration from plain values, converted to the types of the fields."""
    _check_names(values, source)
    for field in fields(TrainConfig):
        if field.default is MISSING and values.get(field.name) is None:
            raise ValueError(f"`{field.name}` must be given, {source} has none; add `{field.name}=...`")
    return TrainConfig(**values)


@functools.cache
def _hints() -> dict[str, Any]:
    """Types of all fields."""
    return get_type_hints(TrainConfig)


def _check_names(values: Mapping[str, Any], source: str) -> None:
    """Refuse fields that do not exist."""
    check_names(values, [field.name for field in fields(TrainConfig)], source)


def parse_overrides(arguments: list[str]) -> dict[str, Any]:
    """Read command-line words of the form name=value; values are YAML: `steps=100`, `betas=[0.9, 0.95]`."""
    return {name: _parse_yaml(value, f"{name}={value}") for name, value in split_settings(arguments).items()}


def _parse_yaml(text: str, where: str) -> Any:
    """Read YAML, or say in one line why it is none."""
    try:
        return parse_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # no YAML, no such date, or nested without end
        reason = " ".join(str(error).split())
        raise ValueError(f"`{where}` must be valid YAML, got an error ({reason}); correct it") from error
