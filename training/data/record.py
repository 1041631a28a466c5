"""One record of a prepared clip: a safetensors file, what may stand in it, and what its header says.

Letters: C latent channels, F latent frames, h x w latent cells, L audio latents, S prompt tokens, P persons.

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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from diffusers_jova.finite import is_finite
from diffusers_jova.training.data.mouth_mask import check_boxes
from diffusers_jova.whole_files import written_whole


Record: TypeAlias = dict[str, Tensor]
Shape: TypeAlias = tuple[int, ...]

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


def voice_file(record: Path) -> Path:
    """Where the words of a clip behind a voice lie."""
    return record.parent / VOICES / record.name


def read_record(path: Path) -> Record:
    """Read all tensors of a record."""
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        raise _damaged(path, error) from error


def read_tensor(path: Path, name: str) -> Tensor:
    """Read one tensor of a record."""
    try:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"`{path}` must be a complete safetensors file, got {error}; delete it and run `jova prepare` again"
    )


def _allows(wanted: int | None, size: int) -> bool:
    return wanted in (None, size)


def _count_boxes(boxes: Tensor) -> int:
    """Count the boxes [..., 4] that show a mouth."""
    return int(boxes.isfinite().all(dim=-1).sum())
