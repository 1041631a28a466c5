"""Whether a student of two steps comes nearer to what its teacher makes in many than the teacher does in two."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVAPipeline, JoVATransformer3DModel
from diffusers_jova.training.data.record import EMPTY_PROMPT, write_record
from diffusers_jova.training.loop.trainer import Trainer
from tests.tiny_pipeline import DEFAULTS, TRANSFORMER_CONFIG, build_tiny_pipeline
from tests.tiny_training import HEADER, forget_accelerate, tiny_config


PROMPTS = 4 * torch.eye(2, 16)
NUM_CLIPS, MANY = 64, 24
SMALL = {"learning_rate_schedule": "linear", "density": "uniform", "mouth_weight": 0, "dataset_on_device": True}
SMALL |= {"checkpoint_every": 1000, "log_every": 100, "learning_rate": 5e-3}


def write_two_ways(folder: Path) -> None:
    """Clips of one colour and one sound, two for each of two prompts: paths from noise to them bend."""
    generator = torch.Generator().manual_seed(0)
    ways = torch.randn(2, 2, 20, generator=generator)  # of picture and sound together, by prompt
    for index in range(256):
        prompt, way = index % 2, int(torch.randint(2, (), generator=generator))
        values = ways[prompt, way] + 0.1 * torch.randn(20, generator=generator)
        record = {
            "video_latents": values[:16, None, None, None].expand(-1, 3, 4, 4).contiguous(),
            "audio_latents": values[None, 16:].expand(9, -1).contiguous(),
            "prompt_embeds": PROMPTS[prompt][None],
        }
        write_record(folder / f"{index:03d}.safetensors", record, HEADER)
    write_record(folder / EMPTY_PROMPT, {"prompt_embeds": torch.zeros(1, 16)}, {})


def make_clips(pipe: JoVAPipeline, **arguments: Any) -> list[Tensor]:
    """Video and audio of always the same noise."""
    generator = torch.Generator().manual_seed(7)
    video, audio = (torch.randn(NUM_CLIPS, *size, generator=generator) for size in ((16, 3, 4, 4), (9, 4)))
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        prompt_embeds=PROMPTS[torch.arange(NUM_CLIPS) % 2][:, None],
        latents=video,
        audio_latents=audio,
        output_type="latent",
        **arguments,
    )
    return [made.frames, made.audio]


def variety(made: Tensor) -> Tensor:
    """Variance among clips of one prompt, of which a regression, with its one answer, has none."""
    return made.unflatten(0, (-1, 2)).var(0).sum()


@pytest.mark.slow
def test_a_student_of_two_steps_comes_nearer_to_its_teacher_of_many_than_the_teacher_in_two(tmp_path: Path) -> None:
    write_two_ways(tmp_path / "prepared")
    trained = Trainer(
        tiny_config(
            tmp_path,
            {**TRANSFORMER_CONFIG, "_class_name": "JoVATransformer3DModel"},
            output_dir=str(tmp_path / "base"),
            **(SMALL | {"steps": 600, "batch_size": 32, "shift": 1.0, "audio_shift": 1.0, "caption_dropout": 0.2}),
        )
    ).train()
    build_tiny_pipeline(
        transformer=JoVATransformer3DModel.from_pretrained(trained / "transformer"),
        scheduler=FlowMatchAudioVideoScheduler(shift=2.0, audio_shift=1.0),
        defaults=DEFAULTS | {"frame_rate": 32.0, "guidance_scale": 2.0},
    ).save_pretrained(tmp_path / "teacher")
    forget_accelerate()

    settings = SMALL | {"steps": 300, "batch_size": 32, "caption_dropout": 0.0}
    settings |= {"train": "lora", "lora_rank": 16, "lora_alpha": 16.0, "lora_targets": "attention_ff"}
    settings |= {"student_steps": 2, "teacher_steps": MANY, "begin_probability": 0.3}
    student = tmp_path / "student"
    Trainer(tiny_config(tmp_path, model=str(tmp_path / "teacher"), output_dir=str(student), **settings)).train()

    pipe = JoVAPipeline.from_pretrained(tmp_path / "teacher")
    negative = {"negative_prompt_embeds": torch.zeros(NUM_CLIPS, 1, 16)}
    many, two = (make_clips(pipe, num_inference_steps=number, **negative) for number in (MANY, 2))
    pipe.load_lora_weights(student)
    pipe.use_few_steps()
    few = make_clips(pipe)
    for name, far, near, wanted in zip(("video", "audio"), two, few, many, strict=True):
        of_teacher, of_student = ((made - wanted).square().mean() / wanted.var() for made in (far, near))
        print(f"{name}: teacher in two steps {of_teacher:.3f}, student {of_student:.3f} of the variance")
        # 0.045 of 0.131 (video) and 0.037 of 0.151 (audio) were measured on one processor, 0.073 and 0.068 on another
        assert of_student < 0.6 * of_teacher
        kept = (variety(near) / variety(wanted)).item()
        print(f"{name}: the student has {kept:.2f} of the variety of its teacher")
        assert 0.5 < kept < 1.5  # 0.92 and 0.77 were measured
