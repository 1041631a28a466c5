"""What `JoVAPipeline` returns: frames and sound with their rates, ready to be saved.

Letters in shapes: B batch, C channels, N frames, F latent frames, H, W height and width, L audio latents, S samples.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.utils import BaseOutput, logging
from torch import Tensor

from .content_credentials import Credentials
from .finite import check_finite_inputs
from .media import to_float_audio, to_moviepy, write_audio, write_video
from .notebook_player import players
from .number_arguments import whole_number
from .pictures import to_uint8_frames
from .provenance import Record, basic_record


logger = logging.get_logger(__name__)


@dataclass
class JoVAPipelineOutput(BaseOutput):
    """A batch of clips.

    Args:
        frames: As `output_type` says: lists of PIL images, an array [B, N, H, W, 3] in [0, 1], a tensor
            [B, N, 3, H, W] in [0, 1], or latents [B, C, F, h, w]; None if no video was generated.
        audio: Waveform [B, channels, S] in [-1, 1], an array for `"np"` and a tensor otherwise, or latents [B, L, C];
            None if no audio was generated.
        frame_rate: Frames per second.
        sampling_rate: Samples per second.
        provenance: How each clip was made, see `diffusers_jova.provenance.describe_call`; None where nobody says.
        is_latent: Whether frames and audio are latents, which `JoVAPipeline.decode` finishes.
        num_frames: Frames of a clip, or as many as its sound alone lasts.
    """

    frames: Any = None
    audio: Any = None
    frame_rate: float = 0.0
    sampling_rate: int = 0
    provenance: list[Record] | None = None
    is_latent: bool = False
    num_frames: int = 0

    def save(
        self,
        path: str | Path,
        index: int | None = None,
        *,
        metadata: bool = True,
        credentials: Credentials | None = None,
    ) -> None:
        """Write one clip of the batch: an mp4 with its sound, or the sound alone as a wav.

        The file says that it was generated, and how: `diffusers_jova.provenance.read_provenance` reads it back.

        Args:
            path: File to write; what is there is replaced once the new file is complete.
            index: Which clip; None is the first, and says so where there are several.
            metadata: Whether the file says so.
            credentials: Certificate and key that sign what it says, after C2PA.

        Raises:
            ValueError: There is nothing of the kind to write, or nothing for the credentials to sign.
        """
        self.check_decoded("save")
        if not isinstance(path, str | os.PathLike):
            raise ValueError(f"`path` must be the path of a file, got {path!r}; save each clip by its `index`")
        clips = self.audio if self.frames is None else self.frames
        num_clips = 0 if clips is None else len(clips)
        index = None if index is None else whole_number("index", index)
        if index is not None and clips is not None and not -num_clips <= index < num_clips:
            raise ValueError(f"`index` must be one of the {num_clips} clips, counted from 0, got {index}; use 0, say")
        if index is None:
            index = 0
            if num_clips > 1:
                logger.warning(
                    f"`{path}` holds the first of {num_clips} clips; save the others with `index`, each under its name"
                )
        record = self.record(index) if metadata else None
        if Path(path).suffix.lower() == ".wav":
            if self.audio is None:
                raise ValueError("`save` must have sound for a wav, got none; use an mp4 for frames alone")
            write_audio(path, self.audio[index], self.sampling_rate, provenance=record, credentials=credentials)
            return
        if self.frames is None:
            raise ValueError("`save` must have frames for an mp4, got none; use a wav for sound alone")
        audio = None if self.audio is None else self.audio[index]
        write_video(
            path,
            self.frames[index],
            self.frame_rate,
            audio,
            self.sampling_rate,
            provenance=record,
            credentials=credentials,
        )

    def to_moviepy(self, index: int = 0) -> Any:
        """One clip of the batch as a clip of moviepy, for cutting, titles and effects; frames and samples as they are.

        `media.from_moviepy` brings the result back, `media.write_video(..., provenance=output.record())` writes it.

        Args:
            index: Which clip.
        """
        self.check_decoded("to_moviepy")
        frames, audio = (None if part is None else part[index] for part in (self.frames, self.audio))
        if frames is None and audio is None:
            raise ValueError("`to_moviepy` must have frames or sound, got neither; generate some")
        return to_moviepy(frames, self.frame_rate, audio, self.sampling_rate)

    def _repr_html_(self) -> str | None:
        """Players with sound, for a notebook that shows an output; None for latents, which nothing plays."""
        modality = self.audio if self.frames is None else self.frames
        if modality is None or self.is_latent:
            return None
        try:
            width = 0 if self.frames is None else to_uint8_frames(self.frames[0][:1]).shape[2]
            if self.audio is not None:
                to_float_audio(self.audio[0])
            records = [self.record(index) for index in range(len(modality))]
            return players(self.save, records, self.frames is not None, width)
        except ValueError:  # no pictures, no sound, or a rate of sound that no mp4 has
            return None

    def check_decoded(self, method: str) -> None:
        """Refuse latents where pictures and sound belong.

        Raises:
            ValueError: Naming the method.
        """
        if self.is_latent:
            raise ValueError(
                f"`{method}` must have pictures or sound, got latents; call the pipeline with `output_type` 'pil', "
                "'np' or 'pt', or finish them by `decode` of it"
            )

    def record(self, index: int = 0) -> Record:
        """How one clip was made, or what is true of all where nobody says more."""
        return basic_record() if self.provenance is None else self.provenance[index]


def check_latents(output: Any) -> None:
    """Refuse what is no output with latents, as a call returns it, or with values that no codec decodes.

    Raises:
        ValueError: Naming `output` and its part.
    """
    if not isinstance(output, JoVAPipelineOutput):
        advice = "call without `return_dict=False`, and pass what it returns"
        raise ValueError(f"`output` must be a JoVAPipelineOutput, got {type(output).__name__}; {advice}")
    if not output.is_latent:
        raise ValueError("`output` must hold latents, got pictures or sound; call with `output_type='latent'`")
    latents = latents_of(output)
    if not latents:
        raise ValueError("`output` must hold latents of video or sound, got neither; leave one of them")
    for name, values in latents.items():
        is_tensor = isinstance(values, Tensor)
        if not is_tensor or not values.is_floating_point():
            got = values.dtype if is_tensor else type(values).__name__
            raise ValueError(
                f"`output.{name}` must be a tensor of floating point, got {got}; edit the tensor of the call"
            )
    check_finite_inputs({f"output.{name}": values for name, values in latents.items()}, "check what edited it")


def check_latent_shapes(output: JoVAPipelineOutput, shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Refuse latents that are not those of as many clips, of the length that the output states.

    Args:
        output: With latents.
        shapes: By their names, batch left out: sizes, and letters for those that may be any.

    Raises:
        ValueError: Naming the part of `output`.
    """
    latents = latents_of(output)
    num_rows = next((values.shape[0] for values in latents.values() if values.ndim), 1)
    batch_size = num_rows if output.provenance is None else len(output.provenance)
    for name, values in latents.items():
        wanted, found = [batch_size, *shapes[name]], list(values.shape)
        fits = len(found) == len(wanted) and all(
            size == rule if isinstance(rule, int) else size > 0 for size, rule in zip(found, wanted, strict=True)
        )
        if not fits or not batch_size:
            rule = f"latents [{', '.join(map(str, wanted))}] for {output.num_frames} frames"
            raise ValueError(
                f"`output.{name}` must be {rule}, got {found}; edit values alone, or video, sound, `num_frames` and "
                "`provenance` together"
            )


def latents_of(output: JoVAPipelineOutput) -> dict[str, Any]:
    """What there is of frames and audio, by name."""
    given = {"frames": output.frames, "audio": output.audio}
    return {name: values for name, values in given.items() if values is not None}
