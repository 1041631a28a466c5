"""Measures: each must tell true pairs from mismatched ones, and clean clips from damaged ones."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_jova.drawn import sync_net
from diffusers_jova.drawn.avatars import AvatarClip, make_clip
from diffusers_jova.drawn.portraits import Colour
from diffusers_jova.drawn.speaker_evaluation import (
    aperture_from_frames,
    colour_drift,
    colour_errors,
    correct_colours,
    evaluate_clip,
    evaluate_reconstruction,
)
from diffusers_jova.drawn.sync_net import (
    MiniSyncNet,
    contrastive_loss,
    load_sync_net,
    offset_distances,
    sync_score,
    sync_windows,
)
from diffusers_jova.drawn.word_retrieval import Retrieval, alignment_costs, cepstra, retrieve_words
from diffusers_jova.evaluation.contact_sheet import LABEL_HEIGHT, WAVE_HEIGHT, contact_sheet, save_contact_sheet
from diffusers_jova.evaluation.fidelity import mel_error, mouth_psnr_db, psnr_db
from diffusers_jova.evaluation.spectrogram import log_mel
from diffusers_jova.training.data.envelope_sync import envelope, envelope_sync


@pytest.fixture(scope="module")
def clips() -> list[AvatarClip]:
    return [make_clip(seed, subject="speaker") for seed in range(500_000, 500_008)]


def _mismatched(clips: Sequence[AvatarClip]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(clip.frames, other.waveform) for clip, other in zip(clips, [*clips[1:], clips[0]], strict=True)]


def _delayed(frames: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([np.repeat(frames[:1], count, axis=0), frames[:-count]])


def test_the_aperture_seen_follows_the_aperture_drawn(clips: list[AvatarClip]) -> None:
    correlations = [np.corrcoef(aperture_from_frames(clip.frames), clip.aperture)[0, 1] for clip in clips]
    assert min(correlations) > 0.75
    assert np.mean(correlations) > 0.9


def test_the_aperture_does_not_depend_on_the_size_of_the_picture() -> None:
    small, large = (make_clip(5, subject="speaker", height=size, width=size + 32).frames for size in (64, 128))
    assert np.corrcoef(aperture_from_frames(small), aperture_from_frames(large))[0, 1] > 0.97


def test_the_envelope_of_a_frame_is_the_loudness_of_its_own_interval() -> None:
    waveform = np.zeros(4000)
    waveform[1000:2000] = 0.5  # frame 1 at 16 fps
    np.testing.assert_allclose(envelope(waveform, 5, 16, 16000), np.log([0.01, 0.51, 0.01, 0.01, 0.01]), atol=1e-9)


def test_a_late_picture_has_a_positive_lag() -> None:
    loudness = np.random.default_rng(0).normal(size=33)
    assert envelope_sync(np.roll(loudness, 2), loudness).lag == 2
    assert envelope_sync(loudness, loudness) == (pytest.approx(1.0), 0)
    assert envelope_sync(np.ones(33), loudness).correlation == 0.0


def test_envelopes_correlate_with_their_own_mouths_only(clips: list[AvatarClip]) -> None:
    def correlation(frames: np.ndarray, waveform: np.ndarray) -> float:
        return envelope_sync(aperture_from_frames(frames), envelope(waveform, 33, 16, 16000)).correlation

    assert np.mean([correlation(clip.frames, clip.waveform) for clip in clips]) > 0.85
    assert np.mean([correlation(*pair) for pair in _mismatched(clips)]) < 0.55


def test_the_sync_net_finds_true_pairs_at_offset_zero_and_shifted_ones_at_their_shift(clips: list[AvatarClip]) -> None:
    net = load_sync_net()
    own = [sync_score(net, clip.frames, clip.waveform) for clip in clips]
    late = [sync_score(net, _delayed(clip.frames, 3), clip.waveform) for clip in clips]
    wrong = [sync_score(net, *pair) for pair in _mismatched(clips)]
    assert [score.offset for score in own] == [0] * len(clips)
    assert [score.offset for score in late] == [3] * len(clips)
    assert np.mean([score.lse_c for score in own]) > 2 * np.mean([score.lse_c for score in wrong])
    assert np.mean([score.lse_d for score in own]) < np.mean([score.lse_d for score in wrong]) - 0.2


def test_offsets_of_embeddings_are_recovered_with_their_sign() -> None:
    audio = torch.nn.functional.normalize(torch.randn(29, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert int(offset_distances(audio.roll(2, 0), audio).argmin()) - sync_net.MAX_OFFSET == 2


def test_windows_of_sound_lie_around_the_middle_of_their_frames() -> None:
    waveform = np.zeros(32768)
    waveform[16000:16256] = np.random.default_rng(0).normal(size=256)  # around 1.008 s, in frame 16 at 16 fps
    _, audio = sync_windows(np.zeros((33, 64, 64, 3), np.uint8), waveform, 16, 16000)
    level = audio.mean((1, 2))  # [N, 20]
    window = 14  # its middle frame is 16, whose middle is 1.031 s
    assert audio.shape == (29, 1, 80, 20)
    assert int(level[window].argmax()) == pytest.approx(10 - 0.023 * 62.5, abs=1)


def test_a_clip_too_short_for_offsets_is_refused() -> None:
    with pytest.raises(ValueError, match="`frames` must be at least 13 to search offsets, got 9"):
        sync_score(MiniSyncNet(), np.zeros((9, 64, 64, 3), np.uint8), np.zeros(8704))


def test_the_sync_net_learns_to_pair_the_windows_of_one_batch(clips: list[AvatarClip]) -> None:
    torch.manual_seed(0)
    windows = [sync_windows(clip.frames, clip.waveform, 16, 16000) for clip in clips[:1]]
    video, audio = (torch.stack(parts) for parts in zip(*windows, strict=True))
    net = MiniSyncNet()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    losses = []
    for _ in range(10):
        loss = contrastive_loss(net, video, audio)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]


def test_the_shipped_sync_net_is_small() -> None:
    assert sync_net.WEIGHTS.stat().st_size < 600_000


def test_words_are_found_in_their_own_sound_and_not_in_another(clips: list[AvatarClip]) -> None:
    def found(waveform: np.ndarray, clip: AvatarClip) -> Retrieval:
        return retrieve_words(waveform, clip.transcript, clip.identity.voice, seed=clip.seed)

    own = [found(clip.waveform, clip) for clip in clips[:3]]
    others = [found(clips[-1].waveform, clip) for clip in clips[:3]]
    assert [retrieval.transcript for retrieval in own] == [clip.transcript for clip in clips[:3]]
    assert all(retrieval.is_correct and retrieval.word_error == 0 for retrieval in own)
    assert sum(retrieval.is_correct for retrieval in others) <= 1  # one in ten by chance
    assert np.mean([retrieval.word_error for retrieval in others]) > 0.4


def test_words_are_found_through_noise(clips: list[AvatarClip]) -> None:
    for clip in clips[3:6]:
        noisy = clip.waveform + np.random.default_rng(0).normal(0, 0.01, 32768)
        assert retrieve_words(noisy, clip.transcript, clip.identity.voice, seed=clip.seed).is_correct


def test_silence_says_no_words() -> None:
    assert retrieve_words(np.zeros(32768), "hello moon", "man") == ("", False, 1.0)


def test_alignment_ignores_tempo_and_sees_order() -> None:
    steps = np.eye(4)
    slow, reverse = np.repeat(steps, 3, axis=0), steps[::-1]
    same, slowed, reversed_cost = alignment_costs(steps, [steps, slow, reverse])
    assert same == slowed == 0
    assert reversed_cost > 0.5


def test_alignment_costs_equal_the_textbook_recursion() -> None:
    generator = np.random.default_rng(0)
    features, others = generator.normal(size=(7, 3)), [generator.normal(size=(count, 3)) for count in (5, 9)]
    for other, cost in zip(others, alignment_costs(features, others), strict=True):
        table = np.full((8, len(other) + 1), np.inf)
        table[0, 0] = 0
        for i, j in np.ndindex(7, len(other)):
            step = min(table[i, j], table[i, j + 1], table[i + 1, j])
            table[i + 1, j + 1] = np.linalg.norm(features[i] - other[j]) + step
        assert cost == pytest.approx(table[-1, -1] / (7 + len(other)))


def test_cepstra_do_not_depend_on_loudness_or_on_silence_around(clips: list[AvatarClip]) -> None:
    waveform = clips[0].waveform
    padded = np.concatenate([np.zeros(2560), 0.7 * waveform, np.zeros(2560)])
    cost = alignment_costs(cepstra(log_mel(waveform)), [cepstra(log_mel(padded))])[0]
    other = alignment_costs(cepstra(log_mel(waveform)), [cepstra(log_mel(clips[1].waveform))])[0]
    assert cost < 0.1 * other


def test_colours_of_a_clip_are_those_of_its_identity(clips: list[AvatarClip]) -> None:
    for clip in clips:
        assert all(correct_colours(clip.frames, clip.identity).values())
        assert max(colour_errors(clip.frames, clip.identity).values()) < 5


def test_a_wrong_shirt_is_seen(clips: list[AvatarClip]) -> None:
    clip = clips[0]
    other = replace(clip.identity, shirt=Colour("turquoise", (60, 200, 190)))
    assert not correct_colours(clip.frames, other)["shirt"]
    assert correct_colours(clip.frames, other)["skin"]
    assert colour_errors(clip.frames, other)["shirt"] > 30


def test_colours_that_change_over_time_drift(clips: list[AvatarClip]) -> None:
    fading = (clips[0].frames * np.linspace(1, 0.5, 33)[:, None, None, None]).astype(np.uint8)
    parts = ("background", "shirt")
    assert colour_drift(clips[0].frames, parts) < 1
    assert colour_drift(fading, parts) > 10


def test_fidelity_is_perfect_for_a_copy_and_falls_with_damage(clips: list[AvatarClip]) -> None:
    clip = clips[0]
    copy = evaluate_reconstruction(clip.frames, clip.waveform, clip)
    assert copy == {"psnr_db": np.inf, "mouth_psnr_db": np.inf, "mel_error": 0.0}
    assert mel_error(0.5 * clip.waveform, clip.waveform) < mel_error(clips[1].waveform, clip.waveform)
    assert psnr_db(np.full((1, 8, 8, 3), 110, np.uint8), np.full((1, 8, 8, 3), 100, np.uint8)) == pytest.approx(
        28.13, abs=0.01
    )


def test_damage_outside_the_mouth_does_not_count_inside(clips: list[AvatarClip]) -> None:
    clip = clips[0]
    damaged = clip.frames.copy()
    damaged[:, :8] = 0
    assert mouth_psnr_db(damaged, clip.frames, clip.mouth_boxes) == np.inf
    assert np.isnan(mouth_psnr_db(damaged, clip.frames, np.full((1, 33, 4), np.nan)))


def test_ground_truth_passes_and_mismatched_sound_fails_the_whole_evaluation(clips: list[AvatarClip]) -> None:
    some = clips[:3]
    pairs = ([(clip.frames, clip.waveform) for clip in some], _mismatched(some))
    rows = [[evaluate_clip(*pair, clip) for pair, clip in zip(of, some, strict=True)] for of in pairs]
    truth, wrong = ({name: np.mean([row[name] for row in measured]) for name in measured[0]} for measured in rows)
    for name in ("sync_within_one_frame", "word_top1", "background_correct", "skin_correct", "shirt_correct"):
        assert truth[name] == 1
    assert wrong["word_top1"] < 1
    assert wrong["lse_c"] < truth["lse_c"]
    assert wrong["background_correct"] == 1  # the picture is still right


def test_a_bald_head_is_not_scored_on_its_hair() -> None:
    clip = next(c for c in map(make_clip, range(60)) if c.identity is not None and c.identity.hair_style == "bald")
    assert np.isnan(evaluate_clip(clip.frames, clip.waveform, clip)["hair_correct"])


def test_what_is_no_speaker_is_refused() -> None:
    dog = make_clip(0, subject="dog")
    with pytest.raises(ValueError, match="`reference` must be a speaker, got a dog"):
        evaluate_clip(dog.frames, dog.waveform, dog)


def test_a_contact_sheet_shows_frames_and_the_waveform_at_its_time(tmp_path: Path) -> None:
    frames = np.zeros((33, 64, 64, 3), np.uint8)
    frames[-1] = (0, 200, 0)
    waveform = np.zeros(32768)
    waveform[16384:] = 0.9
    sheet = np.asarray(contact_sheet([(frames, waveform)], ["a label"], num_frames=4, frame_height=64))
    assert sheet.shape == (LABEL_HEIGHT + 64 + WAVE_HEIGHT, 4 * 64, 3)
    assert (sheet[LABEL_HEIGHT + 32, 3 * 64 + 32] == (0, 200, 0)).all()
    assert (sheet[LABEL_HEIGHT + 32, 2 * 64 + 32] == 0).all()
    is_ink = (sheet[LABEL_HEIGHT + 64 :] < 255).any(-1)
    assert np.flatnonzero(is_ink[: WAVE_HEIGHT // 2 - 4].any(0)).min() >= 128  # loud in the second half only
    save_contact_sheet(tmp_path / "sheet.png", [(frames, waveform)])
    with Image.open(tmp_path / "sheet.png") as sheet_read:
        assert sheet_read.width == 11 * 96


def test_labels_must_fit_the_clips() -> None:
    with pytest.raises(ValueError, match="`labels` must be one per clip, got 1 for 0 clips"):
        contact_sheet([], ["a"])
