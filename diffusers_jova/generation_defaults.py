"""What a checkpoint uses where the caller of its pipeline is silent."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .guidance import Guidance, rising_fractions
from .number_arguments import check_flags, finite_number, whole_number
from .prompt import check_text


EVERY_STEP = (0.0, 1.0)
LEAST = {  # of counts; sizes are checked against their codec
    **dict.fromkeys(("num_inference_steps", "max_sequence_length"), 1),
    **dict.fromkeys(("zero_init_steps", "audio_zero_init_steps"), 0),
}


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """Values that `JoVAPipeline.__call__` takes for arguments that are None; saved in the pipeline's config.

    Args:
        height: Pixels.
        width: Pixels.
        num_frames: Frames of a clip, 4k + 1 for a video VAE that compresses time by 4.
        frame_rate: Frames per second.
        num_inference_steps: Solver steps.
        guidance_scale: Text guidance of video; 1 is off. JoVA (arXiv:2512.13677v1), Sec. 4.2 uses 10 for both.
        audio_guidance_scale: Text guidance of audio; None follows video.
        coupling_scale: Coupling guidance of video; 1 is off. None goes with that of text, by as much and on the same
            steps, so that one prediction without both serves both.
        audio_coupling_scale: Coupling guidance of audio; None follows video, or the text of audio where video does.
        audio_speaker_scale: Speaker guidance of audio, where voices of speakers are given; 1 is off.
        uncoupled_text: Whether the text is `"empty"` or `"kept"` where coupling guidance removes the coupling.
        guidance_interval: Steps with text guidance, as fractions of all steps.
        coupling_interval: Steps with coupling guidance.
        guidance_rescale: Share of the rescaling of guided video predictions; 0 is off.
        audio_guidance_rescale: The same for audio; None follows video.
        apg_threshold: Norm limit of adaptive projected guidance of video; 0 projects without one, None is off.
        audio_apg_threshold: The same for audio; None is off.
        apg_eta: Share of the direction along the prediction that the projection keeps; 1 keeps all.
        cfg_zero_star: Whether video velocities without the prompt are scaled to those with it (CFG-Zero*).
        audio_cfg_zero_star: The same for audio; None follows video.
        zero_init_steps: First steps on which the video velocity is zero (CFG-Zero*).
        audio_zero_init_steps: The same for audio; None follows video.
        negative_prompt: What the guided branch moves away from.
        audio_negative_prompt: The same for the audio branch's text; None follows `negative_prompt`.
        max_sequence_length: Longest prompt in tokens, per text encoder.
    """

    height: int = 480
    width: int = 832
    num_frames: int = 81
    frame_rate: float = 16.0
    num_inference_steps: int = 50
    guidance_scale: float = 10.0
    audio_guidance_scale: float | None = None
    coupling_scale: float | None = 1.0
    audio_coupling_scale: float | None = None
    audio_speaker_scale: float = 1.0
    uncoupled_text: Literal["empty", "kept"] = "empty"
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    coupling_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0
    audio_guidance_rescale: float | None = None
    apg_threshold: float | None = None
    audio_apg_threshold: float | None = None
    apg_eta: float = 0.0
    cfg_zero_star: bool = False
    audio_cfg_zero_star: bool | None = None
    zero_init_steps: int = 0
    audio_zero_init_steps: int | None = None
    negative_prompt: str = ""
    audio_negative_prompt: str | None = None
    max_sequence_length: int = 512

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GenerationDefaults":
        """Check the names and fill in the rest.

        Raises:
            ValueError: For a name that is no field, or guidance that cannot be.
        """
        cls.check_names("`defaults`", values)
        return cls(**values)

    @classmethod
    def check_names(cls, what: str, names: Iterable[str]) -> None:
        """Refuse names that are no fields.

        Args:
            what: They are given as.
            names: Those names.

        Raises:
            ValueError: One is none.
        """
        known = [field.name for field in fields(cls)]
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
                raise ValueError(f"{what} must name arguments of the pipeline, got {name!r}; did you mean {near!r}")

    def __post_init__(self) -> None:
        """Refuse what is no number where one belongs, and guidance that cannot be."""
        kinds = get_type_hints(type(self))
        for name, kind in kinds.items():
            options = get_args(kind) or (kind,)
            value = getattr(self, name)
            if value is None and NoneType in options:
                continue
            if int in options:
                object.__setattr__(self, name, whole_number(name, value, LEAST.get(name)))
            elif bool in options:
                check_flags({name: value})
                object.__setattr__(self, name, bool(value))
            elif get_origin(kind) is tuple:
                object.__setattr__(self, name, rising_fractions(name, value))
            elif float in options:
                object.__setattr__(self, name, finite_number(name, value))
            elif str in options:
                check_text(name, value)
        self.guidance()  # checks itself

    def override(self, **arguments: Any) -> "GenerationDefaults":
        """These values, replaced by every argument that is not None; a zero stays a zero."""
        given = {name: value for name, value in arguments.items() if value is not None}
        if self.coupling_scale is None and "coupling_interval" in given:  # its own steps, though they be all of them
            text = {name: value for name, value in given.items() if name in ("guidance_scale", "audio_guidance_scale")}
            scales = replace(self, **text).explicit()
            of_audio = {"audio_coupling_scale": scales.audio_coupling_scale}
            given = {"coupling_scale": scales.coupling_scale, **of_audio, **given}
        return replace(self, **given)

    def explicit(self) -> "GenerationDefaults":
        """The same, with numbers in place of what coupling takes from the text; as a record tells it."""
        if self.coupling_scale is not None:
            return self
        has_own_steps = self.coupling_interval != EVERY_STEP
        of_audio = self.audio_guidance_scale if self.audio_coupling_scale is None else self.audio_coupling_scale
        return replace(
            self,
            coupling_scale=self.guidance_scale,
            audio_coupling_scale=of_audio,
            coupling_interval=self.coupling_interval if has_own_steps else self.guidance_interval,
        )

    def guidance(self) -> dict[str, Guidance]:
        """Guidance of each modality; audio follows video where it is None, and coupling follows text."""
        own = self.explicit()
        video = Guidance(
            guidance_scale=own.guidance_scale,
            coupling_scale=own.coupling_scale,  # type: ignore[arg-type]  # a number by now
            uncoupled_text=own.uncoupled_text,
            guidance_interval=own.guidance_interval,
            coupling_interval=own.coupling_interval,
            guidance_rescale=own.guidance_rescale,
            apg_threshold=own.apg_threshold,
            apg_eta=own.apg_eta,
            cfg_zero_star=own.cfg_zero_star,
            zero_init_steps=own.zero_init_steps,
        )
        of_audio: dict[str, Any] = {
            "guidance_scale": own.audio_guidance_scale,
            "coupling_scale": own.audio_coupling_scale,
            "speaker_scale": own.audio_speaker_scale,
            "guidance_rescale": own.audio_guidance_rescale,
            "cfg_zero_star": own.audio_cfg_zero_star,
            "zero_init_steps": own.audio_zero_init_steps,
        }
        of_audio = {name: value for name, value in of_audio.items() if value is not None}
        return {"video": video, "audio": replace(video, apg_threshold=own.audio_apg_threshold, **of_audio)}
