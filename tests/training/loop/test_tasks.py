"""Which task each step has, and what of the clip a task gives."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_jova.training.data.dataset import PrecomputedDataset
from diffusers_jova.training.loop.conditioning import Conditioning, ModelInputs
from diffusers_jova.training.loop.model import check_tasks, load_transformer
from diffusers_jova.training.loop.tasks import TASKS, task_of_step
from tests.tiny_training import MODEL, WAN_MODEL, dual_tower, tiny_config, write_clips


PAPER = {"joint": 4, "voice": 1, "continuation": 1, "video_to_audio": 2, "audio_to_video": 2}
NUM_STEPS = 20_000


def test_the_tasks_come_in_the_ratio_of_their_weights(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tasks=PAPER)
    drawn = Counter(task_of_step(config, step) for step in range(NUM_STEPS))
    for name, weight in PAPER.items():
        share = weight / 10
        limit = 4 * (NUM_STEPS * share * (1 - share)) ** 0.5  # passed by one of 16000 seeds
        assert abs(drawn[name] - NUM_STEPS * share) < limit


def test_the_task_of_a_step_follows_from_the_seed_and_a_weight_of_zero_never_comes(tmp_path: Path) -> None:
    config, other = (tiny_config(tmp_path, tasks={**PAPER, "joint": 0}, seed=seed) for seed in (0, 1))
    first, again, unlike = ([task_of_step(each, step) for step in range(200)] for each in (config, config, other))
    assert first == again != unlike
    assert {*first} == {*PAPER} - {"joint"}
    assert {task_of_step(tiny_config(tmp_path), step) for step in range(50)} == {"joint"}


def given(folder: Path, task: str, num_recordings: int = 2, **settings: Any) -> tuple[ModelInputs, dict[str, Any]]:
    """What the model sees of eight clips in a step of one task, and the clips."""
    write_clips(folder / "prepared", num_recordings=num_recordings)
    config = tiny_config(folder, tasks={task: 1}, **settings)
    dataset = PrecomputedDataset(config.data, with_voices=True)
    conditioning = Conditioning(config, dataset.empty_prompt(), None, 32.0, 31.25, 4, torch.device("cpu"))
    batch = dataset.batch(range(8))
    return conditioning(batch, 0), batch


@pytest.mark.parametrize("image_probability", [0.0, 1.0])
def test_all_of_the_video_is_given_to_its_sound(tmp_path: Path, image_probability: float) -> None:
    inputs, batch = given(tmp_path, "video_to_audio", image_probability=image_probability)
    assert torch.equal(inputs.arguments["hidden_states"], batch["video_latents"])
    assert not inputs.arguments["timestep"].any()
    assert not inputs.has_video.any()
    assert inputs.has_audio.all()
    assert (inputs.arguments["audio_timestep"] > 0).all()
    assert inputs.arguments["coupled"] == "v2a"  # audio reads video


def test_all_of_the_sound_and_the_first_frame_are_given_to_a_video(tmp_path: Path) -> None:
    inputs, batch = given(tmp_path, "audio_to_video", image_probability=1.0)
    assert torch.equal(inputs.arguments["audio_hidden_states"], batch["audio_latents"])
    assert not inputs.arguments["audio_timestep"].any()
    assert not inputs.has_audio.any()
    assert not inputs.has_video[:, 0].any()
    assert inputs.has_video[:, 1:].all()
    assert torch.equal(inputs.arguments["hidden_states"][:, :, 0], batch["video_latents"][:, :, 0])
    assert inputs.arguments["coupled"] == "a2v"  # video reads audio


def test_a_continuation_gives_the_beginning_of_both(tmp_path: Path) -> None:
    inputs, batch = given(tmp_path, "continuation", prefix_max_fraction=1.0)
    for name, has in (("", inputs.has_video), ("audio_", inputs.has_audio)):
        assert torch.equal(inputs.arguments[f"{name}timestep"] == 0, ~has)
    is_given = ~inputs.has_video[:, None, :, None, None].expand_as(batch["video_latents"])
    assert 0 < is_given.float().mean() < 1
    assert torch.equal(inputs.arguments["hidden_states"][is_given], batch["video_latents"][is_given])
    is_given = ~inputs.has_audio[..., None].expand_as(batch["audio_latents"])
    assert 0 < is_given.float().mean() < 1
    assert torch.equal(inputs.arguments["audio_hidden_states"][is_given], batch["audio_latents"][is_given])
    assert inputs.arguments["coupled"] is True


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_voice_is_the_sound_of_another_clip_of_the_same_recording(tmp_path: Path, in_memory: bool) -> None:
    inputs, batch = given(tmp_path, "voice", num_recordings=2)
    voices = inputs.arguments["audio_reference_hidden_states"]
    for index in range(8):
        sounds = [torch.equal(voices[index], sound) for sound in batch["audio_latents"]]
        assert sum(sounds) == 1
        other = sounds.index(True)
        assert other != index
        assert other % 2 == index % 2  # of the two recordings
    assert inputs.arguments["coupled"] == "a2v"
    assert inputs.has_audio.all()
    dataset = PrecomputedDataset(tmp_path / "prepared", in_memory=in_memory, with_voices=True)
    assert torch.equal(dataset.batch([5, 0])["voice_latents"], voices[[5, 0]])


def test_without_another_clip_of_its_recording_a_step_is_of_both_together(tmp_path: Path) -> None:
    inputs, _ = given(tmp_path, "voice", num_recordings=8)
    assert "audio_reference_hidden_states" not in inputs.arguments
    assert inputs.arguments["coupled"] is True


def test_a_clip_that_lacks_a_modality_learns_the_other_one_in_every_task(tmp_path: Path) -> None:
    for task in TASKS:
        write_clips(tmp_path / task / "prepared", without_audio=(0,), without_video=(1,))
        config = tiny_config(tmp_path / task, tasks={task: 1}, caption_dropout=0)
        conditioning = Conditioning(config, None, 4, 32.0, 31.25, 4, torch.device("cpu"))
        batch = PrecomputedDataset(config.data).batch(range(8))
        inputs = conditioning(batch, 0)
        has_video, has_audio = inputs.has_video.view(8, -1).any(1), inputs.has_audio.view(8, -1).any(1)
        assert has_video[0]
        assert not has_audio[0]
        assert has_audio[1]
        assert not has_video[1]


def test_tasks_that_a_model_or_its_clips_do_not_allow_are_refused(tmp_path: Path) -> None:
    def check(model: dict[str, Any], **settings: Any) -> None:
        config = tiny_config(tmp_path, model, **settings)
        check_tasks([PrecomputedDataset(config.data, with_voices=True)], load_transformer(config.model), config)

    for model in (MODEL, WAN_MODEL, dual_tower("bridge"), dual_tower("text_cross")):
        check(model, tasks={name: weight for name, weight in PAPER.items() if name != "voice"})
        with pytest.raises(ValueError, match=r"`tasks` must be without voice for a `model` that takes no voice"):
            check(model, tasks=PAPER)
    with pytest.raises(ValueError, match=r"`tasks` with voice must have recordings of several clips .* got 0 clips"):
        check(dual_tower("aligned"), tasks=PAPER)
    with pytest.raises(ValueError, match=r"`tasks` must be without video_to_audio for a `model` with a `boundary`"):
        check(dual_tower("bridge", boundary=0.5), tasks={"joint": 1, "video_to_audio": 1})
    for path in (tmp_path / "prepared").glob("clip-00[4-7]*"):
        path.unlink()
    write_clips(tmp_path / "prepared", num_clips=4, num_recordings=3)  # two clips of one of them
    check(dual_tower("aligned"), tasks=PAPER)
    with pytest.raises(ValueError, match=r"all of them in a sharded run, got 2 clips of such"):
        check(dual_tower("aligned"), tasks=PAPER, distribution="fsdp")
