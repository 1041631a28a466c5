"""Prepared records become batches of one shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from diffusers_jova.training.data.dataset import PrecomputedDataset
from diffusers_jova.training.data.mouth_mask import latent_mask
from diffusers_jova.training.data.record import EMPTY_PROMPT, RecordHeader, write_record


META = {"num_frames": 9, "height": 32, "width": 32, "frame_rate": 16.0, "spatial_factor": 8, "temporal_factor": 4}


def record(seed: int, frames: int = 3, prompt: int = 5, without: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    start = rand(1, 4 * frames - 3, 2) * 20
    tensors = {
        "video_latents": rand(4, frames, 4, 4),
        "audio_latents": rand(6, 2),
        "image_latents": rand(4, 1, 4, 4),
        "prompt_embeds": rand(prompt, 8),
        "prompt_mask": torch.ones(prompt, dtype=torch.bool),
        "mouth_boxes": torch.cat([start, start + 5], dim=-1),
    }
    return {name: tensor for name, tensor in tensors.items() if name not in without}


def write(root: Path, name: str, tensors: dict[str, torch.Tensor], **metadata: object) -> None:
    write_record(root / f"{name}.safetensors", tensors, META | {"caption": name} | metadata)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Five clips of 9 frames, one of them silent, three of 13 frames, one without a picture."""
    for i in range(4):
        write(tmp_path, f"a{i}", record(i, prompt=3 + i))
    write(tmp_path, "silent", record(10, without=("audio_latents",)))
    for i in range(3):
        write(tmp_path, f"b{i}", record(20 + i, frames=4), num_frames=13)
    write(tmp_path, "voice", record(30, without=("video_latents", "image_latents", "mouth_boxes")))
    return tmp_path


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_batch_holds_each_record_as_it_was_written(mixed: Path, in_memory: bool) -> None:
    dataset = PrecomputedDataset(mixed, in_memory=in_memory)
    batch = dataset.batch([0, 2])
    for row, seed in enumerate([0, 2]):
        expected = record(seed, prompt=3 + seed)
        for name in ("video_latents", "audio_latents", "image_latents"):
            assert torch.equal(batch[name][row], expected[name])
        assert torch.equal(batch["prompt_embeds"][row, : 3 + seed], expected["prompt_embeds"])
        assert not batch["prompt_embeds"][row, 3 + seed :].any()
        assert batch["prompt_mask"][row].tolist() == [True] * (3 + seed) + [False] * (3 - seed)
    assert batch["captions"] == ["a0", "a2"]
    assert batch["frame_rate"] == 16.0


@pytest.mark.parametrize("in_memory", [False, True])
def test_the_mask_of_a_batch_is_that_of_the_boxes_of_each_clip(mixed: Path, in_memory: bool) -> None:
    batch = PrecomputedDataset(mixed, in_memory=in_memory).batch([3, 1])
    assert batch["mouth_mask"].shape == (2, 1, 3, 4, 4)
    assert batch["mouth_mask"].dtype == torch.float32
    for row, seed in enumerate([3, 1]):
        expected = latent_mask(record(seed, prompt=3 + seed)["mouth_boxes"].numpy(), 9, 32, 32)
        assert expected.any()
        assert np.array_equal(batch["mouth_mask"][row, 0].numpy() > 0, expected)


def test_memory_and_disk_give_the_same_batches(mixed: Path) -> None:
    disk, memory = PrecomputedDataset(mixed), PrecomputedDataset(mixed, in_memory=True)
    for indices in disk.buckets:
        one, other = disk.batch(indices), memory.batch(indices)
        assert one.keys() == other.keys()
        for name, value in one.items():
            equal = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
            assert equal, name


def test_a_clip_without_sound_or_picture_shares_a_batch_and_says_what_it_lacks(mixed: Path) -> None:
    dataset = PrecomputedDataset(mixed)
    names = [header.path.stem for header in dataset.headers]
    silent, voice = names.index("silent"), names.index("voice")
    batch = dataset.batch([0, silent, voice])
    assert batch["has_audio"].tolist() == [1, 0, 1]
    assert batch["has_video"].tolist() == [1, 1, 0]
    assert batch["has_image"].tolist() == [1, 1, 0]
    assert not batch["audio_latents"][1].any()
    assert not batch["video_latents"][2].any()
    assert not batch["mouth_mask"][2].any()


def test_a_folder_of_sounds_alone_has_no_video(tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path, str(i), record(i, without=("video_latents", "image_latents", "mouth_boxes")))
    batch = PrecomputedDataset(tmp_path).batch([0, 1])
    assert batch["video_latents"] is None
    assert batch["mouth_mask"] is None
    assert batch["has_video"].tolist() == [0, 0]
    assert batch["audio_latents"].shape == (2, 6, 2)


def test_every_clip_is_in_one_bucket_and_a_batch_never_mixes_two(mixed: Path) -> None:
    dataset = PrecomputedDataset(mixed)
    assert sorted(index for bucket in dataset.buckets for index in bucket) == list(range(len(dataset)))
    assert all(dataset.batch(bucket)["video_latents"] is not None for bucket in dataset.buckets)
    with pytest.raises(ValueError, match="`indices` must be of one bucket"):
        dataset.batch([dataset.buckets[0][0], dataset.buckets[1][0]])


def test_a_loop_over_a_data_set_ends_with_its_last_clip(mixed: Path) -> None:
    dataset = PrecomputedDataset(mixed)
    captions = [batch["captions"] for batch in dataset]
    assert captions == [dataset[index]["captions"] for index in range(len(dataset))]


def test_clips_of_another_frame_rate_are_another_bucket(tmp_path: Path) -> None:
    write(tmp_path, "slow", record(0))
    write(tmp_path, "fast", record(1), frame_rate=25.0)
    dataset = PrecomputedDataset(tmp_path)
    assert sorted(dataset.batch(bucket)["frame_rate"] for bucket in dataset.buckets) == [16.0, 25.0]


def test_worker_processes_load_the_same_batches(mixed: Path) -> None:
    dataset = PrecomputedDataset(mixed)
    loader = DataLoader(dataset, sampler=dataset.buckets, batch_size=None, num_workers=1)
    captions = [batch["captions"] for batch in loader]
    assert captions == [dataset.batch(indices)["captions"] for indices in dataset.buckets]


def test_a_data_set_says_how_many_clips_its_buckets_hold(mixed: Path) -> None:
    assert PrecomputedDataset(mixed).describe() == "9 clips in 2 buckets (6, 3)"


@pytest.mark.parametrize("scale", [float("nan"), 0.0, -3.0, float("inf")])
def test_boxes_that_would_hold_no_mouth_are_refused(mixed: Path, scale: float) -> None:
    with pytest.raises(
        ValueError, match=r"`mouth_box_scale` must be positive and finite, got .*; 1 leaves boxes as they"
    ):
        PrecomputedDataset(mixed, mouth_box_scale=scale)


@pytest.mark.parametrize("index", [9, -1])
def test_a_clip_that_is_not_there_is_named(mixed: Path, index: int) -> None:
    with pytest.raises(ValueError, match=f"`indices` must be from 0 to 8, got {index}; take them from `buckets`"):
        PrecomputedDataset(mixed).batch([0, index])


def test_larger_boxes_make_a_larger_mask(mixed: Path) -> None:
    plain, grown = (PrecomputedDataset(mixed, mouth_box_scale=scale).batch([0])["mouth_mask"] for scale in (1.0, 3.0))
    assert (grown >= plain).all()
    assert grown.sum() > plain.sum()


def test_the_empty_prompt_has_the_shape_of_the_others(mixed: Path) -> None:
    with pytest.raises(ValueError, match=r"empty\.safetensors` must exist for caption dropout"):
        PrecomputedDataset(mixed).empty_prompt()
    write_record(mixed / EMPTY_PROMPT, {"prompt_embeds": torch.full((1, 8), 2.0)}, {})
    empty = PrecomputedDataset(mixed).empty_prompt()
    assert empty["prompt_embeds"].shape == (1, 6, 8)
    assert empty["prompt_mask"].tolist() == [[True] + [False] * 5]
    assert empty["prompt_embeds"].sum() == 16


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"`data` must be an existing folder, got .* \(it is empty\); run `jova prepare` first"
    ):
        PrecomputedDataset(tmp_path)


def test_a_header_knows_whether_a_mouth_is_seen_and_reads_the_boxes_where_it_was_not_counted(tmp_path: Path) -> None:
    unseen = torch.full((1, 9, 4), torch.nan)
    seen = unseen.clone()
    seen[0, 3] = 5.0
    for boxes, count in ((unseen, 0), (seen, 1), (torch.zeros(0, 9, 4), 0)):
        write(tmp_path, "a", record(0) | {"mouth_boxes": boxes})
        header = RecordHeader.read(tmp_path / "a.safetensors")
        assert header.metadata["num_mouth_boxes"] == str(count)
        assert header.has_mouth() == bool(count)
        save_file(record(0) | {"mouth_boxes": boxes}, tmp_path / "older.safetensors", {"frame_rate": "16"})
        assert RecordHeader.read(tmp_path / "older.safetensors").has_mouth() == bool(count)
    write(tmp_path, "b", record(0, without=("mouth_boxes",)))
    assert not RecordHeader.read(tmp_path / "b.safetensors").has_mouth()


def test_records_of_several_models_or_settings_are_refused_and_records_that_do_not_say_are_one_kind(
    tmp_path: Path,
) -> None:
    write(tmp_path, "a", record(0))
    write(tmp_path, "b", record(1))
    assert PrecomputedDataset(tmp_path).preparation is None
    write(tmp_path, "c", record(2), preparation="one")
    with pytest.raises(ValueError, match=r"one model and the same settings, got 2 like `a\.safe.*`, 1 like `c\.safe"):
        PrecomputedDataset(tmp_path)
    for name in "ab":
        write(tmp_path, name, record(0), preparation="one")
    assert PrecomputedDataset(tmp_path).preparation == "one"
    write(tmp_path, "b", record(0), preparation="two")
    with pytest.raises(ValueError, match=r"run `jova prepare` for all clips with one command line"):
        PrecomputedDataset(tmp_path)


def test_a_half_written_record_is_named(mixed: Path) -> None:
    path = mixed / "a1.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"a1\.safetensors` must be a complete safetensors file.*delete it"):
        PrecomputedDataset(mixed)


def test_a_file_that_is_no_record_is_named(mixed: Path) -> None:
    write_record(mixed / "other.safetensors", {"positions": torch.arange(3)}, {})
    with pytest.raises(ValueError, match=r"other\.safetensors` must hold `video_latents` or `audio_latents`, got"):
        PrecomputedDataset(mixed)


def test_a_record_without_its_numbers_is_named(tmp_path: Path) -> None:
    write_record(tmp_path / "a.safetensors", record(0), {"caption": "a"})
    with pytest.raises(ValueError, match="must have `frame_rate`"):
        PrecomputedDataset(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"video_latents": torch.zeros(2, 4, 4)},
            r"`video_latents` of the record .*a.safetensors` must be",
        ),
        ({"audio_latents": torch.zeros(1, 8, 6)}, r"shape \[any, any\], got \[1, 8, 6\]"),
        ({"image_latents": torch.zeros(2, 2, 4, 4)}, r"`image_latents` .* of shape \[\d+, 1, "),
        ({"keyframe_latents": torch.zeros(4, 9, 4, 4)}, r"`keyframe_latents` .* of shape \[4, \d+, 4, 4\], got "),
        ({"prompt_embeds": torch.zeros(5)}, r"`prompt_embeds` .* of shape \[any, any\], got \[5\]"),
        ({"prompt_embeds": torch.zeros(0, 5)}, r"`prompt_embeds` .*, got \[0, 5\]"),
        ({"prompt_mask": torch.full((5,), 2.0)}, r"`prompt_mask` .* must be bools of .* got \[5\] of torch.float32;"),
        ({"video_latents": torch.ones(4, 3, 4, 4) > 0}, r"`video_latents` .* must be numbers .* of torch.bool;"),
        ({"prompt_mask": torch.ones(99, dtype=torch.bool)}, r"`prompt_mask` .* of shape \[5\], got \[99\]"),
        ({"mouth_boxes": torch.zeros(1, 2, 4)}, r"`mouth_boxes` .* of shape \[any, \d+, 4\], got \[1, 2, 4\]"),
        ({"face_boxes": torch.zeros(2, 9, 4)}, r"`face_boxes` .* of shape \[1, \d+, 4\], got \[2, 9, 4\]"),
        ({"keyframe_frames": torch.ones(3, dtype=torch.bool)}, r"`keyframe_frames` .* of shape \[\d+\], got \[3\]"),
        ({"audio_latents": torch.zeros(8, 6, dtype=torch.int64)}, "got .* of another type; delete the record"),
        ({"frame_rate": "fast"}, "`frame_rate` in the header of .* must be a number, got 'fast'"),
    ],
)
def test_a_record_of_a_wrong_shape_is_named_before_a_run_begins(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    tensors = {name: value for name, value in change.items() if isinstance(value, torch.Tensor)}
    write(tmp_path, "a", record(0) | tensors, **{k: v for k, v in change.items() if k not in tensors})
    with pytest.raises(ValueError, match=message):
        PrecomputedDataset(tmp_path)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a", record(0))
    before = (tmp_path / "a.safetensors").read_bytes()

    def fill(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, "a", record(1))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert (tmp_path / "a.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["mouth_boxes", "face_boxes"])
def test_boxes_in_shares_of_the_picture_are_not_stored(tmp_path: Path, name: str) -> None:
    boxes = torch.tensor([0.3, 0.6, 0.7, 0.8]).expand(1, 9, 4)
    with pytest.raises(ValueError, match=rf"`{name}` must be in pixels, got boxes that all lie within \[0, 1\]"):
        write_record(tmp_path / "a.safetensors", {**record(0), name: boxes}, {})
    assert not list(tmp_path.iterdir())
