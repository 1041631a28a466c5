"""Batches from prepared records: one safetensors file per clip, batches of one latent shape, presence per modality.

Letters: B batch, C latent channels, F latent frames, h x w latent cells, L audio latents, S prompt tokens, P persons.

A record holds, without a batch dimension, any of `video_latents` [C, F, h, w], `audio_latents` [L, C], `image_latents`
[C, 1, h, w] or with grey frames behind the first [C, F, h, w], `keyframe_latents` [C, F - 1, h, w], the last frame of
each further latent as a picture that stands still, or [C, F, h, w], given frames among grey ones, which
`keyframe_frames` tells, bool [pixel frames], `prompt_embeds` [S, D], `prompt_embeds_2` [S2, D2],
their bool masks `prompt_mask` [S], `prompt_mask_2` [S2], `mouth_boxes` [P, pixel frames, 4] and, where a detector saw
them, `face_boxes` of the same persons, and for a model whose
sound reads what is said alone, `spoken_embeds` [S3, D3]. The numbers of the clip stand in the header as strings. An
absent tensor is an absent modality.

Such a model reads of a clip with a voice in front of it the words of both. A clip with another one of its recording
has them in a file of its name in the folder `voices`: `voice_spoken_embeds`, `voice_empty_embeds` (where its own words
are dropped), [S4, D3] each, and the other one's file name in the header.
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from diffusers_jova.finite import is_finite
from diffusers_jova.number_arguments import positive_number
from diffusers_jova.training.data.face_crop import faces_of
from diffusers_jova.training.data.mouth_mask import check_boxes, latent_mask, scale_boxes
from diffusers_jova.whole_files import written_whole
from jova_cli.given_paths import RECORDS, check_prepared


Record: TypeAlias = dict[str, Tensor]
Shape: TypeAlias = tuple[int, ...]
Batch: TypeAlias = dict[str, Any]

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64, "BOOL": torch.bool}
LATENTS = ("video_latents", "audio_latents", "image_latents", "keyframe_latents")
BOXES = ("mouth_boxes", "face_boxes")  # which alone hold NaN
KEYFRAMES = "keyframe_frames"  # which frames `keyframe_latents` show among grey ones
PROMPTS = (("prompt_embeds", "prompt_mask"), ("prompt_embeds_2", "prompt_mask_2"))
SPOKEN = ("spoken_embeds", "spoken_mask")  # the mask is that of a batch alone
VOICE_TEXTS = (("voice_spoken_embeds", "voice_spoken_mask"), ("voice_empty_embeds", "voice_empty_mask"))
MASKS = (KEYFRAMES, *(mask for _, mask in PROMPTS))  # of a record, which alone are bool
SHAPES: dict[str, Sequence[int | None]] = {  # of the tensors of a record; None is any size
    "video_latents": (None,) * 4,
    "audio_latents": (None,) * 2,
    "image_latents": (None, 1, None, None),
    "keyframe_latents": (None,) * 4,
    KEYFRAMES: (None,),
    **{name: (None,) * (1 + name.startswith("prompt_embeds")) for pair in PROMPTS for name in pair},
    **{embeds: (None, None) for embeds, _ in (SPOKEN, *VOICE_TEXTS)},
    **dict.fromkeys(BOXES, (None, None, 4)),
}
EMPTY_PROMPT = Path("prompts", "empty.safetensors")  # inside the cache; what caption dropout puts in place of a prompt
VOICES = Path("voices")  # inside the cache; the words of clips behind a voice
UNFINISHED = Path("prepare.unfinished")  # inside the cache; stands there until all clips are prepared


def write_record(path: Path, tensors: Record, metadata: Mapping[str, object]) -> None:
    """Write one record so that `path` either holds all of it or is left as it was; its header counts the mouths.

    Raises:
        ValueError: If it holds what no training can learn from.
    """
    check_finite_record(tensors)
    for name in tensors.keys() & BOXES:
        check_boxes(tensors[name].double().numpy(force=True), f"`{name}`")
    if "mouth_boxes" in tensors:
        metadata = {**metadata, "num_mouth_boxes": _count_boxes(tensors["mouth_boxes"])}
    data = save(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, {k: str(v) for k, v in metadata.items()}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        partial.write_bytes(data)


def check_finite_record(tensors: Record) -> None:
    """Refuse NaN and infinity; boxes alone hold NaN, where there is no mouth or no known face."""
    numbers = {name: x.nan_to_num(0.0, np.inf, -np.inf) if name in BOXES else x for name, x in tensors.items()}
    if bad := [name for name, tensor in numbers.items() if not is_finite(tensor)]:
        raise ValueError(
            f"what is stored must be finite, got NaN or infinity in {', '.join(bad)}; look at the clip, and encode in "
            "float32 where the model is stored in float16"
        )


@dataclass(frozen=True)
class RecordHeader:
    """What the header of a record says: tensor shapes and the numbers of the clip.

    Args:
        path: The record's file.
        shapes: Shape of each tensor in the file.
        dtypes: Its dtype.
        metadata: The header's strings.
    """

    path: Path
    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, torch.dtype]
    metadata: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> RecordHeader:
        """Read the header only, no tensor."""
        try:
            with safe_open(path, framework="pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
                dtypes = {name: DTYPES[d] for name, part in slices.items() if (d := part.get_dtype()) in DTYPES}
                header = cls(path, shapes, dtypes, file.metadata() or {})
        except SafetensorError as error:
            raise _damaged(path, error) from error
        header.check()
        return header

    def check(self) -> None:
        """Refuse tensors that `collate` could not stack, before a run begins.

        Raises:
            ValueError: Naming the first one.
        """
        shapes = self.shapes
        wanted: dict[str, Sequence[int | None]] = {name: size for name, size in SHAPES.items() if name in shapes}
        if len(shapes.get("video_latents", ())) == 4:
            channels, num_latent_frames, height, width = shapes["video_latents"]
            is_filled = shapes.get("image_latents", ())[1:2] == (num_latent_frames,)
            lengths = {"image_latents": num_latent_frames if is_filled else 1}
            lengths["keyframe_latents"] = num_latent_frames - (KEYFRAMES not in shapes)
            wanted |= {name: (channels, num, height, width) for name, num in lengths.items() if name in shapes}
        for embeds, mask in PROMPTS:
            if mask in shapes:
                wanted[mask] = shapes.get(embeds, (0,))[:1]
        if "num_frames" in self.metadata:
            num_frames = int(self.number("num_frames"))
            num_persons = shapes.get("mouth_boxes", (0,))[0]
            own: dict[str, Sequence[int | None]] = {
                "mouth_boxes": (None, num_frames, 4),
                "face_boxes": (num_persons, num_frames, 4),
                KEYFRAMES: (num_frames,),
            }
            wanted |= {name: sizes for name, sizes in own.items() if name in shapes}
        for name, sizes in wanted.items():
            found = shapes[name]
            is_same = len(found) == len(sizes) and all(map(_allows, sizes, found))
            dtype = self.dtypes.get(name)
            is_kind = dtype is not None and (dtype == torch.bool) == (name in MASKS)
            if not is_same or (0 in found and name not in BOXES) or not is_kind:
                rule = ", ".join("any" if want is None else str(want) for want in sizes)
                kind = "bools" if name in MASKS else "numbers"
                raise ValueError(
                    f"`{name}` of the record `{self.path}` must be {kind} of shape [{rule}], got {list(found)} of "
                    f"{dtype or 'another type'}; delete the record and run `jova prepare` again"
                )

    def number(self, name: str) -> float:
        """Read one number of the header."""
        if name not in self.metadata:
            raise ValueError(
                f"the header of `{self.path}` must have `{name}`, got {sorted(self.metadata)}; "
                "train on records written by `jova prepare`"
            )
        try:
            return float(self.metadata[name])
        except ValueError as error:
            raise ValueError(
                f"`{name}` in the header of `{self.path}` must be a number, got {self.metadata[name]!r}; delete the "
                "record and run `jova prepare` again"
            ) from error

    def has_mouth(self) -> bool:
        """Whether any frame shows a mouth; where the header does not say, the boxes are read."""
        if "mouth_boxes" not in self.shapes:
            return False
        if "num_mouth_boxes" in self.metadata:
            return self.number("num_mouth_boxes") > 0
        with safe_open(self.path, framework="pt") as file:
            return _count_boxes(file.get_tensor("mouth_boxes")) > 0


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
        self._empty_prompt = _read(self.root / EMPTY_PROMPT) if (self.root / EMPTY_PROMPT).exists() else {}
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
        records = (_read(header.path) for header in headers)
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
        sounds = [_read_one(self.headers[other].path, "audio_latents") for other in others]
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
        records = [_read(voice_file(path)) for path in paths]
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


def voice_file(record: Path) -> Path:
    """Where the words of a clip behind a voice lie."""
    return record.parent / VOICES / record.name


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


def _allows(wanted: int | None, size: int) -> bool:
    return wanted in (None, size)


def _count_boxes(boxes: Tensor) -> int:
    """Count the boxes [..., 4] that show a mouth."""
    return int(boxes.isfinite().all(dim=-1).sum())


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


def _read_one(path: Path, name: str) -> Tensor:
    """Read one tensor of a record."""
    try:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _read(path: Path) -> Record:
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"`{path}` must be a complete safetensors file, got {error}; delete it and run `jova prepare` again"
    )
