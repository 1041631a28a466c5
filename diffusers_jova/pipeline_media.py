"""JoVAMediaMixin: what a pipeline does with given media, until they come back in the clip.

Letters in shapes: B batch, C channels, N frames, F latent frames, H, W height and width, L audio latents, S samples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from jova_cli.keyframes import PicturePlaces
from jova_cli.latent_lengths import latent_of_frame

from .clip_shape import (
    ClipShape,
    cut_video,
    fill_with_silence,
    frames_of_given_media,
    set_length,
    tell_which_goes_on,
)
from .conditions import GivenLatents, check_repeats, condition_channels, frame_mask, repeat_to_batch
from .finite import check_finite_inputs, finite_output
from .generation_defaults import GenerationDefaults
from .given_media import tell_assumed_rate, to_waveform_batch, unpack_audio, unpack_video
from .keyframes import place_keyframes, settle_keyframes, tell_fits
from .media import resample
from .media_arrays import check_sampling_rate
from .moviepy_clips import unpack_moviepy
from .number_arguments import whole_number
from .pictures import Fit, fit_pictures, tell_fit, to_frames, to_pictures, to_signed
from .pipeline_checks import CallInputs, check_frame_rate, check_generator, check_modality_names
from .pipeline_codecs import JoVACodecsMixin
from .sample_runs import Coupling
from .transformer_jova import MODALITIES


logger = logging.get_logger(__name__)

SILENCE_BEHIND_VOICE_S = 0.3  # in UniAVGen; a reference voice that ends in a word would be gone on with


@dataclass(frozen=True)
class GivenMedia:
    """What a call is given besides text, encoded.

    Args:
        latents: Clean latents by modality.
        originals: The media that they come from: frames [1, 3, N, H, W] in [-1, 1] and sound [1 or B, channels, S].
        channels: Condition channels of the video [B, C, F, h, w]; None where the model has none.
        references: Latents that are read in front of a clip and are no part of it: an image [B, C, 1, h, w] by
            `"video"`, a voice [B, R, C] by `"audio"`.
    """

    latents: dict[str, GivenLatents]
    originals: dict[str, Tensor]
    channels: Tensor | None
    references: dict[str, Tensor]

    def covers_all(self, name: str) -> bool:
        """Whether a modality is given as long as the clip."""
        return name in self.latents and self.latents[name].covers_all

    def couplings(self) -> dict[str, Coupling]:
        """As `one_way_couplings`."""
        return one_way_couplings(self.covers_all("video"), self.covers_all("audio"), "audio" in self.references)


class JoVAMediaMixin(JoVACodecsMixin):
    """What a pipeline with a video VAE, an audio VAE and a vocoder does with media; it may lack some of them."""

    defaults: GenerationDefaults

    # 1. What is given besides text

    def settle_modalities(self, modalities: Sequence[str] | None) -> tuple[str, ...]:
        """What takes part in a call, in the order of `MODALITIES`; of None all that there are codecs for.

        Raises:
            ValueError: Another name, one that comes twice, or what is no list of names.
        """
        if modalities is None:
            has_codec = {"video": self.vae is not None, "audio": not self.missing_of_sound}
            return tuple(name for name in MODALITIES if has_codec[name]) or MODALITIES
        check_modality_names(modalities)
        return tuple(name for name in MODALITIES if name in modalities)

    def settle_media(self, inputs: CallInputs) -> CallInputs:
        """Bring given media into one form each, and let what was read from a file bring its rates."""
        given = {name: unpack_moviepy(name, getattr(inputs, name)) for name in ("image", "video", "audio")}
        given["last_image"], given["keyframes"] = settle_keyframes(inputs.last_image, inputs.keyframes)
        inputs = replace(inputs, **given)
        if inputs.image is not None:
            inputs = replace(inputs, image=to_pictures("image", inputs.image))
        if inputs.video is not None:
            frames, frame_rate = unpack_video(inputs.video, inputs.frame_rate)
            pictures = to_frames("video", frames)  # what is refused needs no other line
            has_sound = getattr(inputs.video, "audio", None) is not None
            if has_sound and inputs.audio is None and "audio" in inputs.modalities:
                logger.warning("the sound of `video` is not used; pass the same as `audio` for it to stay")
            if frame_rate is None:
                tell_assumed_rate(self.defaults.frame_rate)
            inputs = replace(inputs, video=pictures, frame_rate=frame_rate)
        if inputs.audio_sampling_rate is not None:  # here, because it sets the length of the clip
            rate_hz = whole_number("audio_sampling_rate", inputs.audio_sampling_rate)
            check_sampling_rate("audio_sampling_rate", rate_hz)
            inputs = replace(inputs, audio_sampling_rate=rate_hz)
        if inputs.audio is not None:
            audio, sampling_rate = unpack_audio(inputs.audio, inputs.audio_sampling_rate)
            waveform = to_waveform_batch(audio, self.audio_codec.num_channels)
            inputs = replace(inputs, audio=waveform, audio_sampling_rate=sampling_rate)
        if inputs.reference_audio is not None:
            name, rate = "reference_audio", inputs.reference_audio_sampling_rate
            voice, rate = unpack_audio(unpack_moviepy("audio", inputs.reference_audio), rate, name)
            check_sampling_rate(f"{name}_sampling_rate", whole_number(f"{name}_sampling_rate", rate))
            voice = to_waveform_batch(voice, self.audio_codec.num_channels, name)
            inputs = replace(inputs, reference_audio=voice, reference_audio_sampling_rate=rate)
        return inputs

    def settle_length(self, inputs: CallInputs, frame_rate: float) -> CallInputs:
        """Let given media say how long the clip is, where the caller does not."""
        check_frame_rate(frame_rate)
        if inputs.num_frames is not None:
            return replace(inputs, num_frames=whole_number("num_frames", inputs.num_frames))
        num_frames = frames_of_given_media(
            inputs.video, inputs.audio, inputs.audio_sampling_rate, frame_rate, self.temporal_factor
        )
        return replace(inputs, num_frames=num_frames)

    def fit_to_length(self, inputs: CallInputs, frame_rate: float, is_asked: bool) -> CallInputs:
        """Bring given media to the length of the clip: a video is cut to whole latents, a sound never.

        Args:
            inputs: Settled, their length too.
            frame_rate: Frames per second.
            is_asked: Whether the caller asked for the length.
        """
        if inputs.video is not None:
            asked = inputs.num_frames if is_asked else None
            video = cut_video(inputs.video, asked, self.temporal_factor, frame_rate=frame_rate)
            if inputs.audio is not None and asked is None:
                assert inputs.num_frames is not None
                assert inputs.audio_sampling_rate is not None
                tell_which_goes_on(len(video), inputs.audio, inputs.audio_sampling_rate, inputs.num_frames, frame_rate)
            return replace(inputs, video=video)
        if inputs.audio is not None and not is_asked:
            assert inputs.num_frames is not None
            assert inputs.audio_sampling_rate is not None
            filled = fill_with_silence(inputs.audio, inputs.num_frames / frame_rate, inputs.audio_sampling_rate)
            return replace(inputs, audio=filled)
        return inputs

    def encode_media(self, inputs: CallInputs, clip: ClipShape) -> GivenMedia:
        """Encode what a call is given besides text, once it is settled."""
        given: dict[str, GivenLatents] = {}
        originals: dict[str, Tensor] = {}
        references: dict[str, Tensor] = {}
        channels = None
        if "video" in inputs.modalities:
            if inputs.video is not None:
                originals["video"] = self.fit_to_clip("video", inputs.video, clip, inputs.fit).movedim(0, 1)[None]
            pictures = self.pictures_by_frame(inputs, clip, originals.get("video"))
            if inputs.video is not None:
                if inputs.image is not None:
                    encoded = self.encode_picture(pictures.pop(0), 0)
                    references["video"] = repeat_to_batch("image", encoded, clip.batch_size)
                encoded = self.encode_video(originals["video"], clip)
                num_latent_frames = self.video_codec.num_latent_frames(clip.num_frames)
                given["video"] = GivenLatents.prefix(encoded, num_latent_frames, axis=2)
            channels = self.condition_channels(clip, pictures)
            if pictures and channels is None:
                clean = self.clean_pictures(pictures, clip)
                given["video"] = given["video"].joined(clean) if "video" in given else clean
        if inputs.audio is not None and inputs.audio_sampling_rate is not None:
            originals["audio"] = clip.fit_given_audio(inputs.audio, inputs.audio_sampling_rate, self.audio_codec)
            encoded = self.encode_audio(originals["audio"], clip)
            given["audio"] = GivenLatents.prefix(encoded, clip.num_audio_latents, axis=1)
        media = GivenMedia(given, originals, channels, references)
        if inputs.reference_audio is not None and not media.covers_all("audio"):
            references["audio"] = self.encode_voice(inputs, clip)
        return media

    def fit_to_clip(self, name: str, pictures: np.ndarray, clip: ClipShape, fit: Fit) -> Tensor:
        """Pictures in one form [N, h, w, 3] at the size of the clip, [N, 3, H, W] in [-1, 1]; says what is cut."""
        tell_fit(name, [pictures], (clip.height, clip.width), fit)
        return to_signed(fit_pictures(pictures, clip.height, clip.width, fit))

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Normalised latents [B, C, F, h, w] of frames [B, 3, N, H, W] in [-1, 1]."""
        return finite_output(self.video_codec.encode(frames), "vae", "encodes")

    def first_frames(self, inputs: CallInputs, clip: ClipShape, video: Tensor | None) -> Tensor | None:
        """What the clips begin with, of all of them or of each prompt, [1 or P, 3, 1, H, W] in [-1, 1]; None without.

        A model that never starts without an image takes the first of given frames, or a white one.

        Args:
            inputs: Of the call.
            clip: Its shape.
            video: Given frames [1, 3, N, H, W] in [-1, 1].
        """
        images = inputs.image
        if images is None and self.config.starts_white:
            if video is not None:
                return video[:, :, :1] if self.num_condition_channels > 0 else None
            images = [white_picture(clip)]
        if images is None:
            return None
        tell_fit("image", images, (clip.height, clip.width), inputs.fit)
        return fit_all_to_clip(images, clip, inputs.fit)

    def pictures_by_frame(self, inputs: CallInputs, clip: ClipShape, video: Tensor | None) -> dict[int, Tensor]:
        """Single pictures of the clips by their frame, of all or of each prompt, [1 or P, 3, 1, H, W] in [-1, 1].

        Args:
            inputs: Of the call.
            clip: Its shape.
            video: Given frames [1, 3, N, H, W] in [-1, 1].
        """
        first = self.first_frames(inputs, clip, video)
        placed = place_keyframes(inputs.last_image, inputs.keyframes, clip.num_frames, inputs.video)
        tell_fits(placed, (clip.height, clip.width), inputs.fit)
        behind = {frame: fit_all_to_clip(given.pictures, clip, inputs.fit) for frame, given in placed.items()}
        return behind if first is None else {0: first, **behind}

    @property
    def encodes_grey(self) -> bool:
        """Whether pictures are encoded at their frames among grey ones; otherwise each fills its latent."""
        return bool(self.config.fills_image_with_grey) and self.num_condition_channels > 0

    @property
    def num_mask_channels(self) -> int | None:
        """Condition channels that say what of the video is given; None for models that read clean tokens."""
        return self.num_condition_channels - self.video_codec.num_channels if self.num_condition_channels > 0 else None

    @property
    def picture_places(self) -> PicturePlaces:
        """Where the model has places for pictures."""
        return PicturePlaces(self.temporal_factor, self.num_mask_channels, self.encodes_grey)

    def encode_pictures(self, pictures: Mapping[int, Tensor], clip: ClipShape) -> Tensor:
        """Normalised latents [B, C, F, h, w] of pictures at given frames.

        Models that were trained with grey frames have the clip encoded with those; for the others each picture is its
        latent alone, behind the first as one that stands still, and latents without are zeros.

        Args:
            pictures: By their frame, at least one, [1 or P, 3, 1, H, W] in [-1, 1].
            clip: Whose frames they are.
        """
        if self.encodes_grey:
            encoded = self.encode_frames(among_grey(pictures, clip.num_frames))
            return repeat_to_batch("image", encoded, clip.batch_size)
        found = {
            latent_of_frame(frame, self.temporal_factor): repeat_to_batch(
                "keyframes" if frame else "image", self.encode_picture(picture, frame), clip.batch_size
            )
            for frame, picture in pictures.items()
        }
        empty = torch.zeros_like(next(iter(found.values())))
        num_latent_frames = self.video_codec.num_latent_frames(clip.num_frames)
        return torch.cat([found.get(index, empty) for index in range(num_latent_frames)], dim=2)

    def encode_picture(self, picture: Tensor, frame: int) -> Tensor:
        """Normalised latent [P, C, 1, h, w] of the latent that a picture [P, 3, 1, H, W] in [-1, 1] fills."""
        encoded = self.video_codec.encode_still(picture) if frame > 0 else self.video_codec.encode(picture)
        return finite_output(encoded, "vae", "encodes")

    def clean_pictures(self, pictures: Mapping[int, Tensor], clip: ClipShape) -> GivenLatents:
        """Pictures at given frames, at least one, as clean latents; see `encode_pictures`."""
        latents = self.encode_pictures(pictures, clip)
        (is_given,) = frame_mask(pictures, latents.shape[2], self.temporal_factor, 1, by_frame=False)
        return GivenLatents(latents, is_given.to(latents.device))

    def encode_video(self, frames: Tensor, clip: ClipShape) -> Tensor:
        """Normalised latents [B, C, F, h, w] of given frames [1, 3, N, H, W] in [-1, 1]."""
        return repeat_to_batch("video", self.encode_frames(frames), clip.batch_size)

    def encode_audio(self, waveform: Tensor, clip: ClipShape) -> Tensor:
        """Latents [B, L, C] of a given waveform [1 or B, channels, S] at the codec's sampling rate."""
        encoded = self.audio_codec.encode(waveform.to(self._execution_device), "audio")
        latents = finite_output(encoded, "audio_vae", "encodes")
        return repeat_to_batch("audio", latents[:, : clip.num_audio_latents], clip.batch_size)

    def encode_voice(self, inputs: CallInputs, clip: ClipShape) -> Tensor:
        """Latents [B, R, C] of a reference voice with a short silence behind it."""
        assert inputs.reference_audio_sampling_rate is not None
        rate, target = inputs.reference_audio_sampling_rate, self.audio_codec.sampling_rate
        voice = with_silence_behind(inputs.reference_audio, rate, target)
        encoded = self.audio_codec.encode(voice.to(self._execution_device), "reference_audio")
        latents = finite_output(encoded, "audio_vae", "encodes")
        return repeat_to_batch("reference_audio", latents, clip.batch_size)

    def condition_channels(self, clip: ClipShape, pictures: Mapping[int, Tensor]) -> Tensor | None:
        """Condition channels of the video [B, C, F, h, w] with pictures by their frames; None without channels."""
        if (num_mask_channels := self.num_mask_channels) is None:
            return None
        shape = self.video_codec.latent_shape(clip.num_frames, clip.height, clip.width)
        latents = torch.zeros(clip.batch_size, *shape, device=self._execution_device)
        if not pictures:
            return condition_channels(latents, None, num_mask_channels)
        mask = frame_mask(pictures, shape[1], self.temporal_factor, num_mask_channels, by_frame=self.encodes_grey)
        return condition_channels(latents, self.encode_pictures(pictures, clip), num_mask_channels, mask)

    # 2. Noise

    def draw_noise(self, inputs: CallInputs, clip: ClipShape) -> dict[str, Tensor]:
        """Start of every modality that takes part: video [B, C, F, h, w] and audio [B, L, C]."""
        shapes: dict[str, Sequence[int]] = {}
        if "video" in inputs.modalities:
            shapes["video"] = self.video_codec.latent_shape(clip.num_frames, clip.height, clip.width)
        if "audio" in inputs.modalities:
            shapes["audio"] = (clip.num_audio_latents, self.audio_codec.latent_channels)
        arguments = {"video": ("latents", inputs.latents), "audio": ("audio_latents", inputs.audio_latents)}
        given = {name: start for name, (_, start) in arguments.items() if start is not None}

        def draw(names: Iterable[str], num_clips: int) -> dict[str, Tensor]:
            return {
                name: self.prepare_latents(
                    arguments[name][0], (num_clips, *shapes[name]), inputs.generator, given.get(name)
                )
                for name in names
            }

        if not isinstance(inputs.generator, torch.Generator):
            return draw(shapes, clip.batch_size)
        # one generator for all: clip by clip, so that the first is that of a call of its own
        drawn = [draw([name for name in shapes if name not in given], 1) for _ in range(clip.batch_size)]
        samples = draw([name for name in shapes if name in given], clip.batch_size)
        return {name: samples[name] if name in samples else torch.cat([x[name] for x in drawn]) for name in shapes}

    def prepare_latents(
        self, name: str, shape: Sequence[int], generator: Any = None, latents: Tensor | None = None
    ) -> Tensor:
        """Noise, or the given start, in float32.

        Args:
            name: Argument that `latents` came from.
            shape: Of the latents, batch first.
            generator: One, or one per clip; a clip's noise then does not depend on its batch.
            latents: The start, in place of noise.
        """
        check_generator(generator, shape[0])
        if latents is None:
            return randn_tensor(tuple(shape), generator=generator, device=self._execution_device, dtype=torch.float32)
        if list(latents.shape) != list(shape):
            raise ValueError(f"`{name}` must be {list(shape)} for this clip, got {list(latents.shape)}")
        check_finite_inputs({name: latents})
        return latents.to(self._execution_device, torch.float32)

    # 3. What comes out

    def decode_media(
        self, samples: dict[str, Tensor], media: GivenMedia, output_type: str, clip: ClipShape
    ) -> tuple[Any, Any]:
        """Frames and waveform of latents by modality; what is given comes back as given, at the beginning or whole."""
        frames = waveform = None
        if "video" in samples:
            is_decoded = output_type != "latent" and not media.covers_all("video")
            shared = self.shared_decoding(samples["video"], is_decoded)
            frames = self.decode_video(samples["video"], output_type, media.originals.get("video"), shared)
        if "audio" in samples:
            waveform = self.decode_audio(samples["audio"], output_type, clip, media.originals.get("audio"))
        return frames, waveform


# --- what a model was trained with ---


def one_way(is_video_given: bool, is_audio_given: bool) -> Coupling:
    """Coupling in which a modality that is given as a whole does not read the other one."""
    return "a2v" if is_audio_given else "v2a" if is_video_given else True


def with_silence_behind(voice: Tensor, rate_hz: int, target_hz: int) -> Tensor:
    """A reference voice [B, channels, S] at another sampling rate, with a short silence behind it."""
    if rate_hz != target_hz:
        voice = torch.from_numpy(resample(voice.numpy(), rate_hz, target_hz))
    return set_length(voice, voice.shape[2] + int(SILENCE_BEHIND_VOICE_S * target_hz))


def one_way_couplings(is_video_given: bool, is_audio_given: bool, has_voice: bool) -> dict[str, Coupling]:
    """The directions that remain where a modality that is given as a whole does not read the other one.

    Sound with a reference voice does not either where the prompt is read, and does without, as in UniAVGen.
    """
    remaining = one_way(is_video_given, is_audio_given)
    with_prompt: Coupling = "a2v" if remaining is True and has_voice else remaining
    return {"coupling": with_prompt, "negative_coupling": remaining}


def fit_all_to_clip(pictures: Sequence[np.ndarray], clip: ClipShape, fit: Fit) -> Tensor:
    """Pictures in one form [h, w, 3] at the size of the clip, [P, 3, 1, H, W] in [-1, 1]."""
    fitted = [fit_pictures(picture[None], clip.height, clip.width, fit) for picture in pictures]
    return torch.cat([to_signed(picture) for picture in fitted])[:, :, None]


def white_picture(clip: ClipShape) -> np.ndarray:
    """The first frame [H, W, 3] of a clip for which a model that never starts without one is given none."""
    return np.full((clip.height, clip.width, 3), 255, dtype=np.uint8)


def among_grey(pictures: Mapping[int, Tensor], num_frames: int) -> Tensor:
    """Pictures by their frame, at least one, [1 or P, 3, 1, H, W] in [-1, 1], among grey frames, [P, 3, N, H, W]."""
    num_clips = max(map(len, pictures.values()))
    shape = next(iter(pictures.values())).shape
    frames = torch.zeros(num_clips, 3, num_frames, *shape[3:])  # 0 is grey
    for frame, picture in pictures.items():
        check_repeats("keyframes" if frame else "image", len(picture), num_clips)
        frames[:, :, frame : frame + 1] = picture
    return frames
