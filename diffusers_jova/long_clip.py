"""Clips longer than a model makes at a time: windows that overlap in picture and sound, joined on one clock.

Each window but the first is given the end of the one before it, frames and samples, at timestep 0, and goes on from
there. What both hold is joined by a cross-fade. No more than two windows are in memory at a time.

Letters in shapes: N frames, C channels of the sound, S samples, H, W height and width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from jova_cli.latent_lengths import check_whole_frames, num_frames_of, num_frames_until
from jova_cli.script import with_silence
from jova_cli.windows import Window, WindowSize, plan_windows, with_shorter_overlap

from .clip_shape import set_length
from .content_credentials import Credentials
from .domain import PICTURES
from .long_clip_checks import check_kinds, check_media
from .media_arrays import SILENT, exact_frame_rate
from .media_writing import check_place, streamed_video
from .pictures import to_signed
from .pipeline_jova import JoVAPipeline
from .prompt import JoVAPrompt
from .provenance import Record, basic_record
from .reference_rows import reads_references
from .script_lines import ScriptLine as ScriptLine
from .script_lines import check_lines, tell_late_words
from .spoken_tail import ends_in_pause, words_at_end
from .transformer_jova import MODALITIES
from .whole_files import explained_full_disk
from .window_folder import KeptWindow, WindowFolder, window_folder
from .window_joint import SOUND_FADE_S, joined_frames, joined_sound, quietest
from .window_origin import call_origin, described
from .window_pictures import WindowPictures
from .window_sound import GivenSound
from .window_video import GivenVideo


OF_VOICES = ("speaker_embeds", "audio_speaker_scale")
LEAST_LATENTS = 1  # behind the first, of a shared part that is shortened: a frame alone does not hold looks or motion


class Piece(NamedTuple):
    """A part of a clip, in the order of its time.

    Attributes:
        frames: [N, 3, H, W] in [0, 1].
        audio: [C, S] in [-1, 1]; None without sound. On the clock of the whole clip a piece ends with its frames.
    """

    frames: Tensor
    audio: Tensor | None


class MadeWindow(NamedTuple):
    """A window, decoded.

    Attributes:
        frames: [N, 3, H, W] in [0, 1].
        audio: [C, S]; None without sound.
        num_filled: Samples at its end that no latent stands for, which are silence.
    """

    frames: Tensor
    audio: Tensor | None
    num_filled: int = 0


@dataclass(kw_only=True)
class LongClip:
    """A clip of any length, made window by window.

    Voice and looks are held by what each window is given: the end of the one before it, `speaker_embeds`, and, for
    models that read an image or a voice in front of a clip, the `image` and `reference_audio` of the call or the sound
    of the first window.

    Args:
        pipeline: Any `JoVAPipeline`; it says how long a window is.
        lines: Prompts by their time, ascending, the first at 0. Behind the end of a line's words stands one more that
            is silent, as soon as the clip is put together.
        num_frames: Of the clip, 4k + 1; None takes those that hold all of `audio`, or that `video` fills, else those
            until the end of the last line.
        seed: Of the noise. The first window has the noise of a single clip with this seed.
        window_frames: Frames of a window, 4k + 1; None takes the length of the clips that the model makes.
        overlap_frames: Frames that windows share, 4k + 1; None takes a quarter of a window, and more, up to half of
            it, where a line is short; less behind a window that would keep no frames of its own.
        tries: How often a window that ends amid words is made, at most, until it ends in a pause; it takes so much
            longer. Models say words in the middle of a window better than such that it begins with.
        audio: Sound of the whole clip, which drives the picture and comes back as it was given, at the rate and in the
            channels of the codec: a `media.Sound`, or an array [S] or [C, S]. Silence fills the last latent up.
        audio_sampling_rate: Samples per second of an array.
        video: Frames of the whole clip, whose sound is made, and that come back as they were given, at the size of the
            clip: a `media.Video`, or frames as a call takes them. Not beside `audio`: nothing would be left to make.
        arguments: Others of the pipeline's call, for every window; `image`, `last_image` and `keyframes` are of the
            frames of the clip.
        announce: Told the number of a window, from 0, and how many there are, before each.

    Attributes:
        planned: What is made at a time.
        windows: The same, as far as it is made; a window that follows a pause shares no more than that.
        record: How the clip is made, from the first piece on.
        fades: Samples of the clip in which its sound goes over to that of another window, as far as it is made; none
            of a given sound.
        sound: `audio` on the clock of the clip, [C, S]; None without.
        given_video: `video`, as the windows are given it; None without.
        pictures: Those of the arguments, as the windows are given them.

    Raises:
        ValueError: If an argument is of another kind, the model makes no such windows, or the lines do not fit into
            the clip.
    """

    pipeline: JoVAPipeline
    lines: Sequence[ScriptLine]
    num_frames: int | None = None
    seed: int
    window_frames: int | None = None
    overlap_frames: int | None = None
    tries: int = 1
    audio: Any = None
    audio_sampling_rate: int | None = None
    video: Any = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    announce: Callable[[int, int], None] | None = None
    record: Record = field(default_factory=basic_record, init=False)
    fades: list[slice] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        check_kinds(self)
        check_media(self)
        self.given_video = None
        if self.video is not None:
            self.given_video = GivenVideo(self.pipeline, self.video, self.arguments, self.num_frames)
        self.num_frames, self.sound = self.place_sound()
        check_lines(self.lines)
        self.lines = with_silence(self.lines, self.num_frames, self.frame_rate, self.pipeline.temporal_factor)
        limits = self.pipeline.clip_limits(self.modalities, self.frame_rate)
        size = WindowSize.of_model(
            own=self.pipeline.defaults.num_frames,
            longest=None if limits is None else limits.num_frames,
            factor=self.pipeline.temporal_factor,
            num_frames=self.window_frames,
            num_overlap=self.overlap_frames,
        )
        starts_s = [line.start_s for line in self.lines]
        self.planned = plan_windows(starts_s, self.num_frames, self.frame_rate, size)
        tell_late_words(self.lines, self.num_frames / self.frame_rate, self.pipeline.temporal_factor / self.frame_rate)
        self.pictures = WindowPictures(self.pipeline, self.arguments, self.num_frames)
        self.windows = list(self.planned)

    # 1. What all windows share

    @property
    def modalities(self) -> Sequence[str]:
        """What takes part."""
        return self.pipeline.settle_modalities(self.arguments.get("modalities", MODALITIES))

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        if self.given_video is not None:
            return self.given_video.frame_rate
        given = self.arguments.get("frame_rate")
        return self.pipeline.defaults.frame_rate if given is None else float(given)

    @property
    def sampling_rate(self) -> int | None:
        """Samples per second; None without sound."""
        return self.pipeline.sampling_rate if "audio" in self.modalities else None

    def place_sound(self) -> tuple[int, Tensor | None]:
        """The frames of the clip, and its given sound [C, S] on their clock; None without."""
        if self.audio is None:
            if self.given_video is not None:
                return len(self.given_video.frames), None
            if self.num_frames is not None:
                return self.num_frames, None
            if (end_s := self.lines[-1].end_s) is not None:
                return num_frames_until(end_s, self.frame_rate, self.pipeline.temporal_factor), None
            raise ValueError("`num_frames` must be given without `audio`, got None; use 481, say")
        given, num_frames = GivenSound.of(self.audio, self.audio_sampling_rate), self.num_frames
        if num_frames is None:
            num_frames = given.num_frames(self.frame_rate, self.pipeline.temporal_factor)
        check_whole_frames(num_frames, self.pipeline.temporal_factor)
        return num_frames, given.on_clock(self.pipeline, num_frames, self.frame_rate, self.sample_at(num_frames))

    def sound_of(self, window: Window) -> Tensor | None:
        """The given sound [C, S] of a window; None without."""
        if self.sound is None:
            return None
        return self.sound[:, self.sample_at(window.first_frame) : self.sample_at(window.end_frame)]

    def sample_at(self, frame: int) -> int:
        """The sample with which a frame begins: the one clock of the clip."""
        return round(Fraction(frame * (self.sampling_rate or 0)) / exact_frame_rate(self.frame_rate))

    def origin(self) -> dict[str, Any]:
        """What decides the clip, as JSON holds it."""
        return {
            "seed": self.seed,
            "tries": self.tries,
            "windows": [list(window) for window in self.planned],
            "prompts": [described(line.prompt) for line in self.lines],
            "audio": described(self.sound),
            "video": None if self.given_video is None else described(self.given_video.frames),
            **call_origin(self.pipeline, self.arguments),
        }

    # 2. Making

    @torch.no_grad()
    def pieces(self, kept: WindowFolder | None = None) -> Iterator[Piece]:
        """Make the clip piece by piece, in the order of its time; windows that are kept are only decoded.

        Args:
            kept: Where windows are kept; None keeps none.
        """
        self.fades.clear()
        self.windows = list(self.planned)
        self.pictures.fit_all()
        if self.given_video is not None:
            self.given_video.tell_fit()
        held: MadeWindow | None = None  # the end of the last window, which the next one shares
        begun: list[str] = []  # the words in it
        voice: dict[str, Any] = {}
        num_frames = num_samples = 0
        for index in range(len(self.planned)):
            window = self.windows[index]
            if self.announce is not None:
                self.announce(index, len(self.windows))
            prompt = self.prompt_of(window, begun)
            found = None if kept is None else kept.read(index, window)
            if found is None:
                found = self.generate_with_pause(index, prompt, held, voice)
                if kept is not None:
                    kept.keep(index, found, window)
            made = self.decode(found, window)
            if index == 0:
                self.record = self.describe(found.record)
            voice = voice or self.voice_of(made, prompt)
            if held is not None:
                made = self.join(held, made, index)
            if index + 1 < len(self.windows):
                num_overlap = self.overlap_in_pause(prompt, made.audio, index)
                if num_overlap is not None:
                    factor = self.pipeline.temporal_factor
                    self.windows = with_shorter_overlap(self.windows, index + 1, num_overlap, factor)
                begun = self.words_begun(prompt, made, index)
            piece, held = self.split(made, index)
            num_frames += len(piece.frames)
            num_samples += 0 if piece.audio is None else piece.audio.shape[1]
            yield piece
        end_frame = self.planned[-1].end_frame
        if (num_frames, num_samples) != (end_frame, self.sample_at(end_frame)):
            raise RuntimeError(
                f"the pieces must hold {end_frame} frames and {self.sample_at(end_frame)} samples, got "
                f"{num_frames} and {num_samples}; report it with the script, and use longer lines"
            )

    def prompt_of(self, window: Window, begun: Sequence[str]) -> str | JoVAPrompt:
        """The prompt of a window: of the words of its line those of its share, behind those that it begins with."""
        prompt = self.lines[window.line].prompt
        if isinstance(prompt, str):
            return prompt
        words = prompt.transcript.split()
        first, last = (round(len(words) * share) for share in window.share)
        return replace(prompt, transcript=" ".join([*begun, *words[first:last]]))

    def overlap_in_pause(self, prompt: str | JoVAPrompt, sound: Tensor | None, index: int) -> int | None:
        """Frames of the pause at the end of a window that the next one shares; None where words are there.

        Words in what a window begins with are told to it again, which models heed less than they say new ones.

        Args:
            prompt: Of the window.
            sound: Of the window [C, S]; None without.
            index: Which it is.

        Returns:
            At most what is planned, which it is where nobody speaks.
        """
        most, end_frame = self.windows[index + 1].num_overlap, self.windows[index].end_frame
        if sound is None or self.sampling_rate is None or isinstance(prompt, str) or not prompt.transcript:
            return most
        factor = self.pipeline.temporal_factor
        least = min(most, num_frames_of(1 + LEAST_LATENTS, factor))
        for num_overlap in range(most, least - 1, -factor):
            num_shared = self.sample_at(end_frame) - self.sample_at(end_frame - num_overlap)
            if ends_in_pause(sound, num_shared, self.sampling_rate):
                return num_overlap
        return None

    def words_begun(self, prompt: str | JoVAPrompt, made: MadeWindow, index: int) -> list[str]:
        """The words of a window that lie in what the next one shares with it."""
        if isinstance(prompt, str) or made.audio is None or self.sampling_rate is None:
            return []
        num_shared = made.audio.shape[1] - self.num_own_samples(index)
        return words_at_end(prompt.transcript, made.audio, num_shared, self.sampling_rate)

    def generate_with_pause(
        self, index: int, prompt: str | JoVAPrompt, held: MadeWindow | None, voice: Mapping[str, Any]
    ) -> KeptWindow:
        """Latents of a window, made anew as often as there are `tries` until it ends in a pause; see `generate`."""
        for attempt in range(self.tries):
            made = self.generate(index, attempt, prompt, held, voice)
            if attempt + 1 == self.tries or index + 1 == len(self.windows):
                break
            if self.overlap_in_pause(prompt, self.decode_sound(made, self.windows[index])[0], index) is not None:
                break
        return made

    def generate(
        self,
        index: int,
        attempt: int,
        prompt: str | JoVAPrompt,
        held: MadeWindow | None,
        voice: Mapping[str, Any],
    ) -> KeptWindow:
        """Latents of one window.

        Args:
            index: Which.
            attempt: Which of the `tries`, from 0.
            prompt: Its own.
            held: What it begins with; None for the first.
            voice: Arguments that hold the voice of an earlier window.
        """
        arguments = {**self.arguments, **voice}
        if self.pictures.image is not None:
            arguments["image"] = self.pictures.image
        if self.pictures.keyframes:
            arguments |= {"last_image": None, "keyframes": self.pictures.keyframes_of(self.windows[index]) or None}
            if held is None and arguments["keyframes"] is None and arguments.get("image") is None:
                arguments.pop("fit", None)  # which is for the pictures of later windows
        if self.given_video is not None:
            arguments |= {"video": self.given_video.of(self.windows[index]), "frame_rate": self.frame_rate}
        elif held is not None:
            arguments |= {"video": held.frames.movedim(1, -1).numpy(), "frame_rate": self.frame_rate}
            self.pipeline.told_strangers.add(PICTURES)  # these are the model's own
        if held is not None:
            if not reads_references(self.pipeline.transformer.config):
                arguments.pop("image", None)  # which is the first frame of the clip
            if held.audio is not None and self.sound is None:
                sound = held.audio[:, : max(0, held.audio.shape[1] - held.num_filled)]
                if sound.shape[1] >= self.pipeline.audio_codec.min_num_samples:
                    arguments |= {"audio": sound.numpy(), "audio_sampling_rate": self.sampling_rate}
        if (given := self.sound_of(self.windows[index])) is not None:
            arguments |= {"audio": given.numpy(), "audio_sampling_rate": self.sampling_rate}
        if isinstance(prompt, JoVAPrompt) and not prompt.transcript:
            arguments = {name: value for name, value in arguments.items() if name not in OF_VOICES}  # nobody speaks
        output: Any = self.pipeline(
            prompt=prompt,
            num_frames=self.windows[index].num_frames,
            generator=torch.Generator().manual_seed(seed_of_window(self.seed, index, attempt)),
            output_type="latent",
            **arguments,
        )
        latents = {"video": output.frames, "audio": output.audio}
        return KeptWindow({name: x for name, x in latents.items() if x is not None}, output.provenance[0])

    def voice_of(self, made: MadeWindow, prompt: str | JoVAPrompt) -> dict[str, Any]:
        """Arguments with the voice of the first window that is heard, for models that read one and are given none."""
        longest_s = self.pipeline.config.max_reference_s
        if (
            longest_s is None
            or made.audio is None
            or self.sound is not None
            or self.arguments.get("reference_audio") is not None
        ):
            return {}
        assert self.sampling_rate is not None
        sound = made.audio[:, : min(int(longest_s * self.sampling_rate), made.audio.shape[1] - made.num_filled)]
        if float(sound.mean(0).abs().max()) < SILENT:
            return {}
        voice = {"reference_audio": sound.numpy(), "reference_audio_sampling_rate": self.sampling_rate}
        if not self.pipeline.reads_transcripts:
            return voice
        said = prompt.transcript if isinstance(prompt, JoVAPrompt) else ""
        return voice | {"reference_transcript": said} if said else {}

    # 3. Decoding and joining

    def decode(self, kept: KeptWindow, window: Window) -> MadeWindow:
        """Frames and samples of the latents of a window."""
        if self.given_video is not None:
            frames = (to_signed(self.given_video.of(window)) / 2 + 0.5).clamp(0, 1)
            return MadeWindow(frames, *self.decode_sound(kept, window))
        device = self.pipeline._execution_device
        frames = self.pipeline.decode_video(kept.latents["video"].to(device), "pt")[0].float().cpu()
        return MadeWindow(frames, *self.decode_sound(kept, window))

    def decode_sound(self, kept: KeptWindow, window: Window) -> tuple[Tensor | None, int]:
        """Samples [C, S] of the latents of a window, None without, and how many at their end are filled up."""
        if "audio" not in kept.latents:
            return None, 0
        if (given := self.sound_of(window)) is not None:
            return given, 0
        latents = kept.latents["audio"].to(self.pipeline._execution_device)
        sound = self.pipeline.decode_audio_latents(latents)[0].float().clamp(-1, 1).cpu()
        num_samples = self.sample_at(window.end_frame) - self.sample_at(window.first_frame)
        return set_length(sound[None], num_samples)[0], max(0, num_samples - sound.shape[1])

    def join(self, held: MadeWindow, made: MadeWindow, index: int) -> MadeWindow:
        """A window whose beginning goes over from the end of the one before."""
        num_frames, frames = len(held.frames), made.frames
        if self.given_video is None:
            frames = torch.cat([joined_frames(held.frames, frames[:num_frames]), frames[num_frames:]])
        if held.audio is None or made.audio is None or self.sound is not None or self.sampling_rate is None:
            return made._replace(frames=frames)
        num_samples = held.audio.shape[1]
        sound = made.audio[:, :num_samples]
        fade = quietest(held.audio, sound, round(SOUND_FADE_S * self.sampling_rate))
        first = self.sample_at(self.windows[index].first_frame)
        self.fades.append(slice(first + fade.start, first + fade.stop))
        shared = joined_sound(held.audio, sound, fade)
        return made._replace(frames=frames, audio=torch.cat([shared, made.audio[:, num_samples:]], dim=1))

    def num_own_frames(self, index: int) -> int:
        """Frames of a window in front of the next one."""
        window = self.windows[index]
        following = self.windows[index + 1].first_frame if index + 1 < len(self.windows) else window.end_frame
        return following - window.first_frame

    def num_own_samples(self, index: int) -> int:
        """Samples of a window in front of the next one."""
        first = self.windows[index].first_frame
        return self.sample_at(first + self.num_own_frames(index)) - self.sample_at(first)

    def split(self, made: MadeWindow, index: int) -> tuple[Piece, MadeWindow]:
        """A window in front of the next one, and what the next one shares with it."""
        frame, sample = self.num_own_frames(index), self.num_own_samples(index)
        sound, rest = (None, None) if made.audio is None else (made.audio[:, :sample], made.audio[:, sample:])
        return Piece(made.frames[:frame], sound), MadeWindow(made.frames[frame:].clone(), rest, made.num_filled)

    # 4. Writing

    def describe(self, record: Record) -> Record:
        """The record of the clip, from that of its first window, whose seed may be that of a later try."""
        script = []
        for line in self.lines:
            end = {} if line.end_s is None else {"end": line.end_s}
            script.append({"start": line.start_s, **end, "prompt": described(line.prompt)})
        settings = {**record["settings"], "num_frames": self.num_frames}
        if self.pictures.keyframes:  # those of the first window are not all
            record = {**record, "given": list(dict.fromkeys([*record["given"], "keyframes"]))}
            settings |= {"keyframes": sorted(self.pictures.keyframes), "fit": self.arguments.get("fit", "cover")}
        windows = {
            "num_frames": max(window.num_frames for window in self.windows),
            "overlap_frames": self.overlap_frames,
            "tries": self.tries,
            "count": len(self.windows),
        }
        own = {"seed": self.seed, "prompt": script[0]["prompt"], "script": script, "windows": windows}
        return {**record, **own, "settings": settings}

    def save(self, path: str | Path, *, metadata: bool = True, credentials: Credentials | None = None) -> None:
        """Make the clip and write it, piece by piece; the same call goes on where one was interrupted.

        What is done lies in the folder `<path>.windows` until the clip is whole: the latents of the windows, and
        `preview.mp4`, which grows by each window and can be watched.

        Args:
            path: Ends in .mp4; the folder must exist.
            metadata: Whether the file says how it was made.
            credentials: Certificate and key that sign what it says, after C2PA.

        Raises:
            OriginError: If windows of another clip lie there.
        """
        path = Path(path)
        check_place(path, ".mp4")
        with (
            explained_full_disk(path),
            window_folder(path, self.origin()) as kept,
            streamed_video(
                path,
                self.frame_rate,
                self.sampling_rate,
                preview=kept.preview,
                provenance=lambda: self.record if metadata else None,
                credentials=credentials,
            ) as write,
        ):
            for piece in self.pieces(kept):
                write(piece.frames, piece.audio)


def seed_of_window(seed: int, index: int, attempt: int = 0) -> int:
    """The seed of a window's noise; the first has that of the clip."""
    if index == attempt == 0:
        return seed
    return int(np.random.SeedSequence((seed, index, attempt)).generate_state(1, np.uint64)[0] >> np.uint64(1))
