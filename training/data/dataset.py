"""Batches from prepared records: batches of one latent shape, presence per modality.

Letters: B batch, C latent channels, F latent frames, h x w latent cells, L audio latents, P persons;
`record` says what a record holds.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from diffusers_jova.number_arguments import positive_number
from diffusers_jova.training.data.face_crop import faces_of
from diffusers_jova.training.data.mouth_mask import latent_mask, scale_boxes
from diffusers_jova.training.data.record import (
    EMPTY_PROMPT,
    KEYFRAMES,
    LATENTS,
    PROMPTS,
    SPOKEN,
    UNFINISHED,
    VOICE_TEXTS,
    Record,
    RecordHeader,
    Shape,
    read_record,
    read_tensor,
    voice_file,
    write_record,
)
from jova_cli.given_paths import RECORDS, check_prepared


__all__ = [  # with what a record is made of
    "EMPTY_PROMPT",
    "KEYFRAMES",
    "LATENTS",
    "PROMPTS",
    "SPOKEN",
    "UNFINISHED",
    "VOICE_TEXTS",
    "Batch",
    "Layout",
    "PrecomputedDataset",
    "Record",
    "RecordHeader",
    "Shape",
    "collate",
    "known_faces",
    "other_clips",
    "voice_file",
    "write_record",
]

Batch: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """The shapes that all samples of one batch share; None = no sample of the bucket has it.

    Args:
        latents: Shape of each of `LATENTS`.
        keyframes: Frames of a clip whose record says which are shown among grey ones; 0 where none does.
        prompts: Shape of each prompt embedding, padded to the longest prompt of the data set.
        dtypes: Dtype of each of them.
        frame_rate: Pixel frames per second; 0 without video.
    """

    latents: Mapping[str, Shape | None]
    keyframes: int
    prompts: Mapping[str, Shape | None]
    dtypes: Mapping[str, torch.dtype]
    frame_rate: float


def collate(
    records: Iterable[Record],
    headers: Sequence[RecordHeader],
    layout: Layout,
    box_scale: float = 1.0,
    with_faces: bool = False,
) -> Batch:
    """Stack records of one bucket; a modality that a record lacks is zeros with presence 0.

    Args:
        records: The tensors of each record, in the order of `headers`.
        headers: The header of each record, length B.
        layout: The shapes of the bucket.
        box_scale: Factor by which mouth boxes grow before they become a mask.
        with_faces: Whether to mark faces as well; where none is known, mouths tell where they are.

    Returns:
        `video_latents` [B, C, F, h, w], `audio_latents` [B, L, C], `image_latents` [B, C, 1 or F, h, w],
        `keyframe_latents` [B, C, F - 1 or F, h, w], `keyframe_frames` bool [B, frames], `prompt_embeds` [B, S, D],
        `prompt_embeds_2` [B, S2, D2], `prompt_mask` bool [B, S + S2], `spoken_embeds` [B, S3, D3], `spoken_mask` bool
        [B, S3], `mouth_mask` bool [B, 1, F, h, w], `face_mask` likewise where it is asked for, `has_video`,
        `has_audio`, `has_image`, `has_keyframe` float [B],
        `frame_rate` float, `captions` list. What the whole bucket lacks is None.
    """
    size, batch = len(headers), _empty_batch(len(headers), layout, with_faces)
    masks = {key: torch.zeros(size, shape[0], dtype=torch.bool) for key, shape in layout.prompts.items() if shape}
    for row, (record, header) in enumerate(zip(records, headers, strict=True)):
        for name in LATENTS:
            if name in record:
                batch[name][row] = record[name]
                batch[_presence(name)][row] = 1
        if KEYFRAMES in record:
            batch[KEYFRAMES][row] = record[KEYFRAMES]
        for name, mask_name in (*PROMPTS, SPOKEN):
            if name in record:
                length = len(record[name])
                batch[name][row, :length] = record[name]
                masks[name][row, :length] = record.get(mask_name, torch.ones(length, dtype=torch.bool))
        if "mouth_boxes" in record and batch["mouth_mask"] is not None:
            mouths = record["mouth_boxes"].double().numpy()
            batch["mouth_mask"][row, 0] = _cells(scale_boxes(mouths, box_scale), header)
            if with_faces:
                batch["face_mask"][row, 0] = _cells(known_faces(record, mouths), header)
    batch["spoken_mask"] = masks.pop(SPOKEN[0], None)
    batch["prompt_mask"] = torch.cat(list(masks.values()), dim=1) if masks else None
    batch["captions"] = [header.metadata.get("caption", "") for header in headers]
    return batch


def known_faces(record: Record, mouths: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Face boxes [P, frames, 4] of a record: those that were found, else estimates from the mouths [P, frames, 4]."""
    estimated = faces_of(mouths)
    if "face_boxes" not in record:
        return estimated
    found = record["face_boxes"].double().numpy()
    return np.where(np.isfinite(found).all(-1, keepdims=True), found, estimated)


class PrecomputedDataset(Dataset[Batch]):
    """The records of one folder, grouped into buckets of one latent shape.

    `dataset.batch(indices)` collates any records of one bucket. A `torch.utils.data.DataLoader` with index lists as
    sampler and `batch_size=None` does the same in worker processes.

    Args:
        root: Folder of `*.safetensors` records.
        in_memory: Read everything once; batches are then rows of stacked tensors, masks included.
        device: Where stacked tensors live; only with `in_memory`.
        mouth_box_scale: Factor by which mouth boxes grow before they become a mask.
        with_faces: Whether batches have `face_mask`, see `collate`.
        with_voices: Whether batches have `voice_latents` [B, L, C], for each of their clips the sound of another clip
            of the same recording; None where one of them has none. For a model that reads what is said, also the
            tensors of the folder `voices` and masks of them, `voice_spoken_mask` and `voice_empty_mask` bool [B, S4].
        setting: What the folder is given as, for messages.

    Attributes:
        preparation: Digest of the model and the settings that all records come from; None where they do not say.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        in_memory: bool = False,
        device: str | torch.device = "cpu",
        mouth_box_scale: float = 1.0,
        with_faces: bool = False,
        with_voices: bool = False,
        setting: str = "data",
    ) -> None:
        self.with_faces, self.with_voices = with_faces, with_voices
        self.root, self.in_memory = Path(root), in_memory
        self.mouth_box_scale = positive_number("mouth_box_scale", mouth_box_scale, "1 leaves boxes as they are")
        check_prepared(setting, self.root)
        paths = sorted(self.root.glob(RECORDS))
        if not in_memory and torch.device(device).type != "cpu":
            raise ValueError(f"`device` must be cpu unless `in_memory` is set, got {device}; move each batch instead")
        self.headers = [RecordHeader.read(path) for path in paths]
        self.preparation = _common_preparation(self.headers)
        self._empty_prompt = read_record(self.root / EMPTY_PROMPT) if (self.root / EMPTY_PROMPT).exists() else {}
        self.buckets = _buckets(self.headers)
        self.layouts = [self._layout(bucket) for bucket in self.buckets]
        self.voices = self._pairs() if with_voices else {}
        self._place = {index: (b, row) for b, bucket in enumerate(self.buckets) for row, index in enumerate(bucket)}
        self._stacks = [self._stack(b, device) for b in range(len(self.buckets))] if in_memory else []

    def __len__(self) -> int:
        return len(self.headers)

    def __getitem__(self, indices: Sequence[int] | int) -> Batch:
        """Collate the records of one batch; a single index is a batch of one."""
        return self.batch([indices] if isinstance(indices, int) else indices)

    def __iter__(self) -> Iterator[Batch]:
        """Each clip, as a batch of one."""
        return (self[index] for index in range(len(self)))

    @property
    def is_unfinished(self) -> bool:
        """Whether clips are missing because their preparation was interrupted."""
        return (self.root / UNFINISHED).exists()

    def describe(self) -> str:
        """Say how many clips there are in how many buckets, and in each where there are several."""
        sizes = sorted(map(len, self.buckets), reverse=True)
        shares = f" ({', '.join(map(str, sizes))})" if len(sizes) > 1 else ""
        return f"{len(self)} clip{'s' * (len(self) != 1)} in {len(sizes)} bucket{'s' * (len(sizes) != 1)}{shares}"

    def batch(self, indices: Sequence[int]) -> Batch:
        """Collate records of one bucket; as `collate`, with a float mask."""
        if strange := [index for index in indices if index not in self._place]:
            raise ValueError(
                f"`indices` must be from 0 to {len(self) - 1}, got {strange[0]}; take them from `buckets`"
            )
        places = [self._place[index] for index in indices]
        buckets = {bucket for bucket, _ in places}
        if len(buckets) != 1:
            raise ValueError(
                f"`indices` must be of one bucket, got buckets {sorted(buckets)}; take them from one of `buckets`"
            )
        bucket, rows = buckets.pop(), [row for _, row in places]
        if self.in_memory:
            return _finish(_rows(self._stacks[bucket], rows)) | self._voices(bucket, indices)
        headers = [self.headers[index] for index in indices]
        return _finish(self._collate(headers, bucket)) | self._voices(bucket, indices)

    def _collate(self, headers: Sequence[RecordHeader], bucket: int) -> Batch:
        records = (read_record(header.path) for header in headers)
        return collate(records, headers, self.layouts[bucket], self.mouth_box_scale, self.with_faces)

    def _voices(self, bucket: int, indices: Sequence[int]) -> Batch:
        """The sound of other clips, for batches that have it."""
        if not self.with_voices:
            return {}
        others = [self.voices[index] for index in indices if index in self.voices]
        if len(others) < len(indices):
            return {"voice_latents": None}
        texts = self._voice_texts([self.headers[index].path for index in indices]) if self.is_spoken else {}
        if self.in_memory:
            sound = {"voice_latents": self._stacks[bucket]["audio_latents"]}
            return _rows(sound, [self._place[other][1] for other in others]) | texts
        sounds = [read_tensor(self.headers[other].path, "audio_latents") for other in others]
        return {"voice_latents": torch.stack(sounds)} | texts

    @property
    def is_spoken(self) -> bool:
        """Whether the clips are for a model whose sound reads what is said."""
        return any(SPOKEN[0] in header.shapes for header in self.headers)

    def _pairs(self) -> dict[int, int]:
        """For each clip with a voice the clip that it is of; with words for both where they are read."""
        if not self.is_spoken:
            return other_clips(self.headers)
        numbers = {header.path.name: index for index, header in enumerate(self.headers)}
        pairs: dict[int, int] = {}
        for index, header in enumerate(self.headers):
            if (path := voice_file(header.path)).exists():
                other = numbers.get(RecordHeader.read(path).metadata["voice"])
                pairs |= {} if other is None else {index: other}
        return pairs

    def _voice_texts(self, paths: Sequence[Path]) -> Batch:
        """What is read of clips behind their voices, padded to the longest of them, and masks."""
        records = [read_record(voice_file(path)) for path in paths]
        batch: Batch = {}
        for name, mask_name in VOICE_TEXTS:
            rows = [record[name] for record in records]
            batch[name] = pad_sequence(rows, batch_first=True)
            batch[mask_name] = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
        return batch

    def empty_prompt(self) -> Batch:
        """Return the embedding of the empty prompt as a batch of one, padded like the others, for caption dropout."""
        if not self._empty_prompt:
            raise ValueError(f"`{self.root / EMPTY_PROMPT}` must exist for caption dropout; run `jova prepare` again")
        if self.is_spoken and SPOKEN[0] not in self._empty_prompt:
            raise ValueError(
                f"`{self.root / EMPTY_PROMPT}` must hold `{SPOKEN[0]}` as the clips do, got "
                f"{sorted(self._empty_prompt)}; run `jova prepare` again"
            )
        header = RecordHeader(self.root / EMPTY_PROMPT, {}, {}, {})
        layout = replace(self.layouts[0], latents=dict.fromkeys(LATENTS), keyframes=0)
        batch = collate([self._empty_prompt], [header], layout)
        return {name: batch[name] for name in ("prompt_embeds", "prompt_embeds_2", "prompt_mask", *SPOKEN)}

    def _layout(self, bucket: Sequence[int]) -> Layout:
        members = [self.headers[index] for index in bucket]
        for name, what in (("image_latents", "behind the first"), ("keyframe_latents", "among those that are given")):
            if len({h.shapes[name] for h in members if name in h.shapes}) > 1:
                raise ValueError(
                    f"`{name}` in `{self.root}` must all have grey frames {what} or all have none, got both; delete "
                    "the records and run `jova prepare` again"
                )
        latents = {name: next((h.shapes[name] for h in members if name in h.shapes), None) for name in LATENTS}
        rate = next((h.number("frame_rate") for h in members if "video_latents" in h.shapes), 0.0)
        dtypes = {name: dtype for header in self.headers for name, dtype in header.dtypes.items()}
        keyframes = next((h.shapes[KEYFRAMES][0] for h in members if KEYFRAMES in h.shapes), 0)
        return Layout(latents, keyframes, {name: self._longest(name) for name, _ in (*PROMPTS, SPOKEN)}, dtypes, rate)

    def _longest(self, name: str) -> Shape | None:
        shapes = [header.shapes[name] for header in self.headers if name in header.shapes]
        shapes += [tuple(self._empty_prompt[name].shape)] if name in self._empty_prompt else []
        return max(shapes) if shapes else None

    def _stack(self, bucket: int, device: str | torch.device) -> Batch:
        batch = self._collate([self.headers[index] for index in self.buckets[bucket]], bucket)
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def _buckets(headers: Sequence[RecordHeader]) -> list[list[int]]:
    """Group records by latent shapes and frame rate; one without a modality joins the most common bucket that fits."""
    keys = [_key(header) for header in headers]
    common = [key for key, _ in sorted(Counter(keys).items(), key=lambda item: (-item[1], str(item[0])))]
    complete = [key for key in common if key[0] and key[1]]
    buckets: dict[Any, list[int]] = defaultdict(list)
    for index, (video, audio) in enumerate(keys):
        fits = (key for key in complete if video in (None, key[0]) and audio in (None, key[1]))
        buckets[next(fits, (video, audio))].append(index)
    return [buckets[key] for key in sorted(buckets, key=str)]


def other_clips(headers: Sequence[RecordHeader]) -> dict[int, int]:
    """For each clip with sound the next one of its recording and length, the first for the last, if there is any.

    Clips without words are no voices for a model that reads words.
    """
    recordings: dict[Any, list[int]] = defaultdict(list)
    for bucket, members in enumerate(_buckets(headers)):
        for index in members:
            header = headers[index]
            is_said = header.metadata.get("transcript") != ""
            if "audio_latents" in header.shapes and "source" in header.metadata and is_said:
                recordings[bucket, header.metadata["source"]].append(index)
    several = [clips for clips in recordings.values() if len(clips) > 1]
    return {clip: other for clips in several for clip, other in zip(clips, [*clips[1:], clips[0]], strict=True)}


def _common_preparation(headers: Sequence[RecordHeader]) -> str | None:
    """Read the digest of model and settings that all records share; those without one share that they have none."""
    kinds: dict[str | None, list[str]] = defaultdict(list)
    for header in headers:
        kinds[header.metadata.get("preparation")].append(header.path.name)
    if len(kinds) > 1:
        found = ", ".join(f"{len(names)} like `{names[0]}`" for names in kinds.values())
        raise ValueError(
            f"all records in `{headers[0].path.parent}` must come from one model and the same settings, got {found}; "
            "run `jova prepare` for all clips with one command line, or delete the records of another"
        )
    return next(iter(kinds))


def _key(header: RecordHeader) -> tuple[tuple[Shape, float] | None, Shape | None]:
    video, audio = (header.shapes.get(name) for name in ("video_latents", "audio_latents"))
    if video is None and audio is None:
        raise ValueError(f"`{header.path}` must hold `video_latents` or `audio_latents`, got {sorted(header.shapes)}")
    return (video, header.number("frame_rate")) if video else None, audio


def _empty_batch(size: int, layout: Layout, with_faces: bool) -> Batch:
    video = layout.latents["video_latents"]
    shapes = {**layout.latents, **layout.prompts}
    batch: Batch = {
        name: torch.zeros(size, *shape, dtype=layout.dtypes[name]) if shape else None for name, shape in shapes.items()
    }
    batch |= {_presence(name): torch.zeros(size) for name in LATENTS}
    batch[KEYFRAMES] = torch.zeros(size, layout.keyframes, dtype=torch.bool) if layout.keyframes else None
    for name in ("mouth_mask", *["face_mask"] * with_faces):
        batch[name] = torch.zeros(size, 1, *video[1:], dtype=torch.bool) if video else None
    batch["frame_rate"] = layout.frame_rate
    return batch


def _presence(latents_name: str) -> str:
    return f"has_{latents_name.removesuffix('_latents')}"


def _cells(boxes: NDArray[np.floating[Any]], header: RecordHeader) -> Tensor:
    """Latent cells [F, h, w] that encode what is in boxes [P, frames, 4]."""
    names = ("num_frames", "height", "width", "spatial_factor", "temporal_factor")
    numbers = (int(header.number(name)) for name in names)
    return torch.from_numpy(latent_mask(boxes, *numbers))


def _rows(stack: Batch, rows: Sequence[int]) -> Batch:
    """Select rows of all stacked tensors; the host does not wait for what the device is doing."""
    device = next(value.device for value in stack.values() if isinstance(value, Tensor))
    index = torch.tensor(rows)
    index = (index.pin_memory() if device.type == "cuda" else index).to(device, non_blocking=True)

    def select(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.index_select(0, index)
        return [value[row] for row in rows] if isinstance(value, list) else value

    return {name: select(value) for name, value in stack.items()}


def _finish(batch: Batch) -> Batch:
    """Turn the masks, kept as bool in memory, into floats, 0 and 1."""
    masks = {name: batch[name] for name in ("mouth_mask", "face_mask") if batch.get(name) is not None}
    return batch | {name: mask.float() for name, mask in masks.items()}
