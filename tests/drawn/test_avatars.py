"""The synthetic corpus: determinism, exact boxes, captions, files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffusers_jova.drawn import avatars
from diffusers_jova.drawn.avatars import (
    AvatarClip,
    iterate_clips,
    make_clip,
    read_shard,
    stack_clips,
    write_corpus,
    write_shards,
)
from diffusers_jova.drawn.portraits import Colour, Identity, random_identity
from diffusers_jova.drawn.sounding_objects import SOUNDING_OBJECTS
from diffusers_jova.drawn.speaker_evaluation import probe_colours


TURQUOISE = Identity(
    voice="woman",
    background=Colour("black", (10, 10, 12)),
    skin=Colour("turquoise", (60, 200, 190)),
    hair=Colour("silver", (200, 205, 215)),
    shirt=Colour("crimson", (150, 10, 40)),
)


@pytest.fixture(scope="module")
def speaker() -> AvatarClip:
    return make_clip(7, subject="speaker", words=("papa", "wow"))


def test_a_seed_makes_the_same_clip_and_another_seed_another() -> None:
    first, again, other = make_clip(3), make_clip(3), make_clip(4)
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.waveform, again.waveform)
    assert first.caption == again.caption
    assert not np.array_equal(first.frames, other.frames)


def test_the_default_clip_has_the_geometry_of_the_tiny_model(speaker: AvatarClip) -> None:
    assert speaker.frames.shape == (33, 64, 64, 3)
    assert speaker.frames.dtype == np.uint8
    assert speaker.waveform.shape == (32768,)
    assert speaker.waveform.dtype == np.float32
    assert speaker.mouth_boxes.shape == (1, 33, 4)
    assert speaker.aperture.shape == (33,)


def test_boxes_hold_the_mouth_exactly() -> None:
    clip = make_clip(7, identity=TURQUOISE, words=("papa", "wow"))
    red, green, _ = np.moveaxis(clip.frames.astype(int), -1, 0)
    is_lip = (red - green > 70) & (red > 120)
    is_lip[:, 51:] = False  # the shirt
    for frame, (x1, y1, x2, y2) in zip(is_lip, clip.mouth_boxes[0], strict=True):
        rows, columns = np.nonzero(frame)
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        np.testing.assert_allclose(found, (x1, y1, x2, y2), atol=1.6)  # edges are blended over a pixel


def test_the_box_grows_with_the_aperture(speaker: AvatarClip) -> None:
    heights = speaker.mouth_boxes[0, :, 3] - speaker.mouth_boxes[0, :, 1]
    assert np.corrcoef(heights, speaker.aperture)[0, 1] > 0.95


def test_boxes_scale_with_the_picture() -> None:
    small = make_clip(7, subject="speaker")
    large = make_clip(7, subject="speaker", height=128, width=192)
    offset = np.array([32, 0, 32, 0])  # the drawing is centred in the wider picture
    np.testing.assert_allclose(large.mouth_boxes, 2 * small.mouth_boxes + offset, atol=1e-3)


def test_the_mouth_rests_in_silence_and_sound_means_movement(speaker: AvatarClip) -> None:
    loud = np.abs(speaker.waveform[:32000].reshape(32, 1000)).max(1) > 0.1
    assert speaker.aperture[:32][loud].mean() > 0.3
    assert speaker.aperture[:32][~loud].mean() < 0.12


def test_speakers_are_most_of_the_corpus_and_all_objects_occur() -> None:
    subjects = [avatars._random_subject(np.random.default_rng(seed)) for seed in range(400)]
    assert 0.8 < subjects.count("speaker") / 400 < 0.9
    assert set(subjects) == {"speaker", *SOUNDING_OBJECTS}


@pytest.mark.parametrize("subject", [name for name in SOUNDING_OBJECTS if name != "rain"])
def test_objects_sound_when_their_event_is_seen(subject: str) -> None:
    clip = make_clip(11, subject=subject)
    energy = (clip.waveform[:32000].astype(np.float64) ** 2).reshape(32, 1000).mean(1)
    onset = np.maximum(np.diff(np.sqrt(energy), prepend=0), 0)
    rise = np.maximum(np.diff(clip.aperture[:32], prepend=0), 0)
    scores = [(np.roll(rise, shift) * onset).sum() for shift in range(-4, 5)]
    assert abs(int(np.argmax(scores)) - 4) <= 1
    assert np.isnan(clip.mouth_boxes).all()
    assert clip.identity is None


def test_captions_name_what_is_there() -> None:
    clip = make_clip(0, identity=TURQUOISE, words=("red", "moon"))
    assert clip.video_caption == (
        "A cartoon woman with turquoise skin and short silver hair, wearing a crimson shirt, "
        "speaks on a black background."
    )
    assert clip.caption == f"{clip.video_caption} <S>red moon<E> <AUDCAP>a female voice speaking<ENDAUDCAP>"
    dog = make_clip(0, subject="dog")
    assert dog.caption == f"{dog.video_caption} <AUDCAP>a dog barking<ENDAUDCAP>"


def test_a_new_identity_is_drawn_in_its_own_colours() -> None:
    seen = probe_colours(make_clip(1, identity=TURQUOISE).frames)
    for part, colour in TURQUOISE.colours.items():
        np.testing.assert_allclose(np.median(seen[part], axis=0), colour.rgb, atol=3)


def test_a_bald_head_has_no_hair_to_measure() -> None:
    assert "hair" not in replace(TURQUOISE, hair_style="bald").colours
    assert "bald head" in replace(TURQUOISE, hair_style="bald").caption


def test_identities_of_the_palette_vary_in_every_attribute() -> None:
    identities = [random_identity(np.random.default_rng(seed)) for seed in range(60)]
    for attribute, count in {"voice": 3, "skin": 4, "hair": 4, "shirt": 4, "background": 4, "hair_style": 4}.items():
        assert len({getattr(identity, attribute) for identity in identities}) == count


def test_a_head_without_motion_stays_where_it_is() -> None:
    still, moving = (make_clip(2, subject="speaker", motion=motion).mouth_boxes[0] for motion in (0.0, 1.0))
    assert np.ptp(still[:, [0, 2]].mean(1)) < 1e-3
    assert np.ptp(moving[:, [0, 2]].mean(1)) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 32}, "`height` and `width` must be at least 64, got 32 and 64"),
        ({"speech": "human"}, '`speech` must be "formant" or "espeak", got \'human\''),
        ({"subject": "cat"}, "`subject` must be one of speaker, dog, .* got 'cat'"),
        ({"num_frames": 0}, "`num_frames` must last at least 512 samples, got 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_clip(0, **options)


def test_an_unknown_hair_style_is_refused() -> None:
    with pytest.raises(ValueError, match="`hair_style` must be one of short, spiky, long, bald, got 'mohawk'"):
        replace(TURQUOISE, hair_style="mohawk")


@pytest.mark.slow
def test_two_processes_make_the_clips_of_one_in_order() -> None:
    alone = stack_clips(iterate_clips(range(20)))
    together = stack_clips(iterate_clips(range(20), num_processes=2))
    np.testing.assert_array_equal(alone.frames, together.frames)
    assert alone.captions == together.captions


def test_shards_read_back_what_was_made_and_are_not_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_shards(tmp_path, range(5), clips_per_shard=3)
    assert [len(read_shard(path).frames) for path in paths] == [3, 2]
    expected = stack_clips(iterate_clips(range(3, 5)))
    np.testing.assert_array_equal(read_shard(paths[1]).waveforms, expected.waveforms)
    assert read_shard(paths[1]).captions == expected.captions
    monkeypatch.setattr(avatars, "make_clip", None)  # a second run must not need it
    assert write_shards(tmp_path, range(5), clips_per_shard=3) == paths


def test_the_manifest_names_files_captions_and_boxes(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, range(2), subject="speaker")
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [row["video"] for row in rows] == ["speaker-0000000.mp4", "speaker-0000001.mp4"]
    assert all((tmp_path / row["video"]).stat().st_size > 1000 for row in rows)
    clip = make_clip(1, subject="speaker")
    assert rows[1]["transcript"] == clip.transcript
    np.testing.assert_allclose(rows[1]["mouth_boxes"], clip.mouth_boxes, atol=0.006)
