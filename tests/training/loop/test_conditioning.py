from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffusers_jova import FlowMatchAudioVideoScheduler
from diffusers_jova.conditions import frame_mask
from diffusers_jova.training.data.dataset import PrecomputedDataset
from diffusers_jova.training.data.encoder import draw_given
from diffusers_jova.training.data.record import RecordHeader, write_record
from diffusers_jova.training.loop.conditioning import Conditioning, ModelInputs
from diffusers_jova.training.loop.config import TrainConfig
from tests.tiny_training import tiny_config, write_clips


def conditioned(folder: Path, seed: int = 0, num_mask_channels: int | None = 4, **settings: Any) -> ModelInputs:
    config = tiny_config(folder, **settings)
    dataset = PrecomputedDataset(config.data)
    conditioning = Conditioning(
        config,
        dataset.empty_prompt(),
        num_mask_channels,
        frame_rate=32.0,
        audio_latent_rate_hz=31.25,
        temporal_factor=4,
        device=torch.device("cpu"),
    )
    return conditioning(dataset.batch(range(len(dataset))), seed)


def test_the_same_seed_gives_the_same_inputs_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (conditioned(tmp_path, seed) for seed in (3, 3, 4))
    assert torch.equal(first.arguments["hidden_states"], again.arguments["hidden_states"])
    assert not torch.equal(first.target, other.target)
    assert not torch.equal(first.sigma, other.sigma)


def test_the_model_sees_the_point_of_the_path_that_its_timestep_names(tmp_path: Path) -> None:
    inputs = conditioned(tmp_path)
    clips = PrecomputedDataset(tmp_path / "prepared").batch(range(8))
    sigma = inputs.arguments["timestep"][:, None, None, None, None] / 1000
    expected = clips["video_latents"] + sigma * inputs.target  # data + sigma * (noise - data)
    torch.testing.assert_close(inputs.arguments["hidden_states"][:, :2], expected)
    audio_sigma = inputs.arguments["audio_timestep"][:, None, None] / 1000
    expected = clips["audio_latents"] + audio_sigma * inputs.audio_target
    torch.testing.assert_close(inputs.arguments["audio_hidden_states"], expected)


def test_shared_levels_agree_and_shifts_act_per_modality(tmp_path: Path) -> None:
    inputs = conditioned(tmp_path, shift=1.0, audio_shift=1.0)
    torch.testing.assert_close(inputs.sigma, inputs.audio_sigma)
    shifted = conditioned(tmp_path, shift=3.0, audio_shift=1.0)
    assert (shifted.sigma > shifted.audio_sigma).all()


def test_a_clean_modality_is_the_data_itself_and_is_not_learned(tmp_path: Path) -> None:
    write_clips(tmp_path / "prepared", num_clips=64)
    inputs = conditioned(tmp_path, coupling="mixed")
    clean = inputs.arguments["timestep"] == 0
    assert 0 < clean.sum() < 64
    assert torch.equal(inputs.has_video, ~clean)
    data = PrecomputedDataset(tmp_path / "prepared").batch(range(64))["video_latents"]
    assert torch.equal(inputs.arguments["hidden_states"][clean, :2], data[clean])
    assert inputs.has_audio[clean].all()


def test_a_lone_modality_is_learned_beside_pure_noise(tmp_path: Path) -> None:
    write_clips(tmp_path / "prepared", num_clips=32, without_audio=tuple(range(8)), without_video=tuple(range(8, 16)))
    inputs = conditioned(tmp_path, coupling="mixed")
    no_audio, no_video = torch.arange(32) < 8, (torch.arange(32) >= 8) & (torch.arange(32) < 16)
    assert (inputs.arguments["audio_timestep"][no_audio] == 1000).all()
    assert (inputs.arguments["timestep"][no_video] == 1000).all()
    assert not inputs.has_audio[no_audio].any()
    assert inputs.has_video[no_audio].all()
    assert inputs.has_audio[no_video].all()


def test_a_given_first_frame_stands_in_the_condition_channels_with_its_mask(tmp_path: Path) -> None:
    inputs = conditioned(tmp_path, image_probability=1.0)
    condition, mask = inputs.arguments["hidden_states"][:, 2:4], inputs.arguments["hidden_states"][:, 4:]
    data = PrecomputedDataset(tmp_path / "prepared").batch(range(8))["video_latents"]
    assert torch.equal(condition[:, :, 0], data[:, :, 0])
    assert (mask[:, :, 0] == 1).all()
    assert not condition[:, :, 1:].any()
    assert not mask[:, :, 1:].any()
    assert inputs.has_video.all()  # the first latent is still noisy and still learned
    without = conditioned(tmp_path, image_probability=0.0)
    assert not without.arguments["hidden_states"][:, 2:].any()


def test_without_condition_channels_the_given_frame_is_a_clean_latent(tmp_path: Path) -> None:
    inputs = conditioned(tmp_path, num_mask_channels=None, image_probability=1.0)
    data = PrecomputedDataset(tmp_path / "prepared").batch(range(8))["video_latents"]
    assert inputs.arguments["hidden_states"].shape == data.shape
    assert torch.equal(inputs.arguments["hidden_states"][:, :, 0], data[:, :, 0])
    assert (inputs.arguments["timestep"][:, 0] == 0).all()
    assert (inputs.arguments["timestep"][:, 1:] > 0).all()
    assert not inputs.has_video[:, 0].any()
    assert inputs.has_audio.all()


def test_a_given_beginning_ends_at_the_same_time_in_both_modalities(tmp_path: Path) -> None:
    inputs = conditioned(tmp_path, prefix_probability=1.0, prefix_max_fraction=0.9)
    given, audio_given = (~inputs.has_video).sum(1), (~inputs.has_audio).sum(1)
    assert len(given.unique()) > 1
    seconds = (1 + 4 * (given - 1)) / 32  # the first latent holds one frame, each other one four
    assert torch.equal(audio_given, (seconds * 31.25).floor().long().clamp(min=0))
    assert torch.equal(inputs.arguments["timestep"] == 0, ~inputs.has_video)
    assert (inputs.has_video[:, 1:] >= inputs.has_video[:, :-1]).all()  # given first, then to be learned


def test_dropped_captions_are_the_empty_prompt_with_its_mask(tmp_path: Path) -> None:
    inputs = conditioned(tmp_path, caption_dropout=1.0)
    assert not inputs.arguments["encoder_hidden_states"].any()
    assert (inputs.arguments["encoder_attention_mask"].sum(1) == 1).all()
    kept = conditioned(tmp_path, caption_dropout=0.0)
    assert kept.arguments["encoder_hidden_states"].any((1, 2)).all()


@pytest.mark.parametrize("lengths", [(2, 2), (9, 7), (3, 9)])
def test_the_empty_prompt_takes_the_lengths_of_prior_clips(tmp_path: Path, lengths: tuple[int, int]) -> None:
    config = tiny_config(tmp_path, caption_dropout=1.0)
    mask = torch.tensor([[True, True, False, True, False, False]])  # 2 of 3 rows of one encoder, 1 of 3 of the other
    empty = {"prompt_embeds": torch.ones(1, 3, 10), "prompt_embeds_2": torch.full((1, 3, 5), 2.0), "prompt_mask": mask}
    conditioning = Conditioning(config, empty, 4, 32.0, 31.25, 4, torch.device("cpu"))
    clips = PrecomputedDataset(config.data).batch([0, 1])
    sizes = zip(("prompt_embeds", "prompt_embeds_2"), lengths, (10, 5), strict=True)
    clips |= {name: torch.zeros(2, length, width) for name, length, width in sizes}
    text = conditioning(clips | {"prompt_mask": torch.ones(2, sum(lengths), dtype=torch.bool)}, 0).arguments
    kept, kept_2 = text["encoder_attention_mask"].split(lengths, dim=1)
    assert kept.sum(1).tolist() == [2, 2]
    assert kept_2.sum(1).tolist() == [1, 1]
    assert (text["encoder_hidden_states"][kept] == 1).all()
    assert (text["encoder_hidden_states_2"][kept_2] == 2).all()


@pytest.mark.parametrize(("stage", "absent"), [("video", "audio_hidden_states"), ("audio", "hidden_states")])
def test_a_stage_shows_the_model_one_modality(tmp_path: Path, stage: str, absent: str) -> None:
    inputs = conditioned(tmp_path, stage=stage)
    assert inputs.arguments[absent] is None
    assert bool(inputs.has_video.any()) == (stage == "video")
    assert bool(inputs.has_audio.any()) == (stage == "audio")


def test_uncoupled_batches_come_with_their_probability(tmp_path: Path) -> None:
    assert conditioned(tmp_path, uncoupled_probability=1.0).arguments["coupled"] is False
    assert conditioned(tmp_path, uncoupled_probability=0.0).arguments["coupled"] is True


BOUNDARY = 0.7


def many_levels(folder: Path, num_batches: int = 1500, **settings: Any) -> torch.Tensor:
    """Noise levels of video and audio in many micro-batches of 4 clips, [N, 2, 4]."""
    config = tiny_config(folder, **settings)
    dataset = PrecomputedDataset(config.data)
    conditioning = Conditioning(config, None, 4, 32.0, 31.25, 4, torch.device("cpu"), BOUNDARY)
    batch = dataset.batch(range(4))
    inputs = (conditioning(batch, seed) for seed in range(num_batches))
    return torch.stack([torch.stack([each.sigma, each.audio_sigma]) for each in inputs])


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference of two empirical distribution functions."""
    points = torch.cat([one, other]).sort().values
    shares = [torch.searchsorted(part.sort().values, points, right=True) / len(part) for part in (one, other)]
    return float((shares[0] - shares[1]).abs().max())


@pytest.mark.parametrize(
    ("density", "shift", "coupling"),
    [
        ("logit_normal", 5.0, "mixed"),
        pytest.param("mode", 1.0, "shared", marks=pytest.mark.slow),
        pytest.param("uniform", 3.0, "independent", marks=pytest.mark.slow),
    ],
)
def test_a_micro_batch_lies_on_one_side_and_every_sample_keeps_the_density(
    tmp_path: Path, density: str, shift: float, coupling: str
) -> None:
    settings = {"density": density, "shift": shift, "coupling": coupling, "caption_dropout": 0}
    levels = many_levels(tmp_path, **settings)
    high = levels[:, 0] >= BOUNDARY
    assert (high == high[:, :1]).all()
    scheduler = FlowMatchAudioVideoScheduler(shift=shift, audio_shift=TrainConfig.audio_shift)
    generator = torch.Generator().manual_seed(1)
    expected = scheduler.sample_training_sigmas(100_000, density, coupling, generator)
    limit = 1.95 * (1 / len(levels) + 1 / 100_000) ** 0.5  # Kolmogorov and Smirnov: passed by 1 of 1000 seeds
    for sample in range(4):
        for modality in range(2):
            assert distance(levels[:, modality, sample], expected[modality]) < limit
    for side in (high[:, 0], ~high[:, 0]):  # within a side, samples do not depend on each other
        one, other = levels[side, 0, 0], levels[side, 0, 1]
        assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 4 / len(one) ** 0.5


def test_the_side_of_a_micro_batch_follows_from_its_seed(tmp_path: Path) -> None:
    assert torch.equal(*(many_levels(tmp_path, num_batches=20) for _ in range(2)))


def test_a_given_beginning_and_a_clip_without_sound_leave_the_side_to_the_noise(tmp_path: Path) -> None:
    write_clips(tmp_path / "prepared", without_audio=(0, 2))
    settings = {"prefix_probability": 1.0, "prefix_max_fraction": 0.99, "coupling": "mixed", "image_probability": 0.5}
    config = tiny_config(tmp_path, **settings, caption_dropout=0)
    batch = PrecomputedDataset(config.data).batch(range(4))
    for num_mask_channels in (4, None):
        conditioning = Conditioning(config, None, num_mask_channels, 32.0, 31.25, 4, torch.device("cpu"), BOUNDARY)
        for seed in range(100):
            high = conditioning(batch, seed).arguments["timestep"].amax(1) >= 1000 * BOUNDARY
            assert (high == high[0]).all()


def with_stills(folder: Path, num_clips: int = 64) -> torch.Tensor:
    """Clips whose records hold pictures of single frames, which are returned at their places, [B, C, F, h, w]."""
    prepared = write_clips(folder / "prepared", num_clips=num_clips)
    generator = torch.Generator().manual_seed(1)
    stills = torch.randn(num_clips, 2, 2, 4, 4, generator=generator)
    for path, still in zip(sorted(prepared.glob("*.safetensors")), stills, strict=True):
        header = RecordHeader.read(path)
        write_record(path, load_file(path) | {"keyframe_latents": still}, header.metadata)
    return torch.cat([torch.zeros(num_clips, 2, 1, 4, 4), stills], dim=2)


def test_keyframes_are_the_last_frame_one_of_any_latent_or_both_in_equal_parts(tmp_path: Path) -> None:
    stills = with_stills(tmp_path)
    inputs = conditioned(tmp_path, keyframe_probability=1.0)
    condition, mask = inputs.arguments["hidden_states"][:, 2:4], inputs.arguments["hidden_states"][:, 4:]
    given = mask[:, 0, :, 0, 0].bool()  # [B, F]
    assert not given[:, 0].any()
    assert given.any(1).all()
    kinds = Counter(map(tuple, given[:, 1:].tolist()))
    expected = {(False, True): 1 / 3 + 1 / 6 + 1 / 6, (True, False): 1 / 6, (True, True): 1 / 6}  # of two latents
    for kind, share in expected.items():
        assert abs(kinds[kind] / 64 - share) < 4 * (share * (1 - share) / 64) ** 0.5
    shown = given[:, None, :, None, None]
    assert torch.equal(condition, stills.where(shown, torch.zeros(())))
    assert torch.equal(mask, shown.float().expand_as(mask))
    assert inputs.arguments["timestep"].ndim == 1
    assert inputs.has_video.all()


def test_a_keyframe_of_a_model_without_channels_is_clean_and_is_not_learned(tmp_path: Path) -> None:
    stills = with_stills(tmp_path)
    inputs = conditioned(tmp_path, num_mask_channels=None, keyframe_probability=0.5, image_probability=0.5)
    clean = inputs.arguments["timestep"] == 0
    assert 0.3 < clean[:, 1:].any(1).float().mean() < 0.7
    assert 0.3 < clean[:, 0].float().mean() < 0.7
    assert torch.equal(inputs.has_video, ~clean)
    assert not clean.all(1).any()  # something is left to be generated
    behind = clean & (torch.arange(3) > 0)
    seen = inputs.arguments["hidden_states"].movedim(1, 2)
    assert torch.equal(seen[behind], stills.movedim(1, 2)[behind])


def test_a_given_beginning_stays_what_it_is_beside_keyframes(tmp_path: Path) -> None:
    with_stills(tmp_path)
    settings = {"keyframe_probability": 1.0, "prefix_probability": 1.0, "prefix_max_fraction": 1.0}
    for num_mask_channels in (None, 4):
        inputs = conditioned(tmp_path, num_mask_channels=num_mask_channels, **settings)
        without = conditioned(
            tmp_path, num_mask_channels=num_mask_channels, **settings | {"keyframe_probability": 0.0}
        )
        begun = without.arguments["timestep"] == 0
        seen, expected = (each.arguments["hidden_states"][:, :2].movedim(1, 2) for each in (inputs, without))
        assert torch.equal(seen[begun], expected[begun])
        if num_mask_channels is not None:
            assert not inputs.arguments["hidden_states"][:, 4, :, 0, 0][begun].any()


def among_grey(folder: Path, num_clips: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips whose records hold pictures among grey frames, which are returned with the frames, bool [B, 9]."""
    prepared = write_clips(folder / "prepared", num_clips=num_clips)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(num_clips, 2, 3, 4, 4, generator=generator)
    frames = torch.zeros(num_clips, 9, dtype=torch.bool)
    for index, path in enumerate(sorted(prepared.glob("*.safetensors"))):
        frames[index, draw_given(9, begins_without=True, seed=index)] = True
        own = {"keyframe_latents": latents[index], "keyframe_frames": frames[index]}
        write_record(path, load_file(path) | own, RecordHeader.read(path).metadata)
    return latents, frames


@pytest.mark.parametrize("in_memory", [False, True])
def test_pictures_among_grey_frames_come_with_a_mask_by_frame_in_their_share(tmp_path: Path, in_memory: bool) -> None:
    latents, frames = among_grey(tmp_path)
    config = tiny_config(tmp_path, keyframe_probability=0.5, image_probability=1.0)
    dataset = PrecomputedDataset(config.data, in_memory=in_memory)
    conditioning = Conditioning(config, dataset.empty_prompt(), 4, 32.0, 31.25, 4, torch.device("cpu"))
    batch = dataset.batch(range(64))
    inputs = conditioning(batch, 0)
    condition, mask = inputs.arguments["hidden_states"][:, 2:4], inputs.arguments["hidden_states"][:, 4:, :, 0, 0]
    first = torch.zeros(4, 3)
    first[:, 0] = 1
    num_given = 0
    for index in range(64):
        own = frame_mask(frames[index].nonzero().flatten().tolist(), 3, 4, 4, by_frame=True)
        if torch.equal(condition[index], latents[index]):
            num_given += 1
            assert torch.equal(mask[index].bool(), own)
        else:
            assert torch.equal(condition[index, :, :1], batch["image_latents"][index])
            assert torch.equal(mask[index], first)
    assert abs(num_given / 64 - 0.5) < 4 * (0.25 / 64) ** 0.5
    assert inputs.has_video.all()


def test_pictures_within_a_given_beginning_are_left_out_as_a_whole(tmp_path: Path) -> None:
    latents, frames = among_grey(tmp_path)
    settings = {"keyframe_probability": 1.0, "prefix_probability": 1.0, "prefix_max_fraction": 1.0}
    inputs = conditioned(tmp_path, **settings)
    is_begun = inputs.arguments["timestep"] == 0  # [B, F]
    shown = [
        torch.equal(one, other) for one, other in zip(inputs.arguments["hidden_states"][:, 2:4], latents, strict=True)
    ]
    for index in range(64):
        behind = frame_mask(frames[index, 1:].nonzero().flatten().add(1).tolist(), 3, 4, 1, by_frame=False)[0]
        is_left = (~is_begun[index] & ~behind).any()
        assert shown[index] == bool(is_left and not (is_begun[index] & behind).any())
    assert 0 < sum(shown) < 64


def test_pictures_are_drawn_behind_everything_that_was_drawn_before_there_were_any(tmp_path: Path) -> None:
    with_stills(tmp_path, num_clips=8)
    shares = {"image_probability": 0.5, "caption_dropout": 0.5, "audio_caption_dropout": 0.5, "coupling": "mixed"}
    shares |= {"uncoupled_probability": 0.5, "prefix_probability": 0.5, "keyframe_probability": 1.0}
    config = tiny_config(tmp_path, **shares)
    scheduler = FlowMatchAudioVideoScheduler(shift=config.shift, audio_shift=config.audio_shift)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        sigma, audio_sigma = scheduler.sample_training_sigmas(8, config.density, "mixed", generator)
        scheduler.sample_training_sigmas(8, config.density, "shared", generator)  # of clips with one modality
        drop_caption, give_image, _ = torch.rand(3, 8, generator=generator)
        uncouple, continues = torch.rand(2, generator=generator).tolist()
        drop_own = torch.rand(8, generator=generator)
        inputs = conditioned(tmp_path, seed, **shares)
        assert torch.equal(inputs.sigma, sigma)
        assert torch.equal(inputs.audio_sigma, audio_sigma)
        for name, drawn in (("encoder_hidden_states", drop_caption), ("audio_encoder_hidden_states", drop_own)):
            assert torch.equal(~inputs.arguments[name].flatten(1).any(1), drawn < 0.5)
        assert torch.equal(inputs.arguments["hidden_states"][:, 4, 0, 0, 0] == 1, give_image < 0.5)
        assert (inputs.arguments["timestep"].ndim == 2) == (continues < 0.5)
        assert inputs.arguments["coupled"] == (continues < 0.5 or uncouple >= 0.5)
