"""The stages of a call, each with what it holds and computes, counted on a pipeline without weights.

Everything grows in proportion to the clips of a batch, and the work of a video VAE in proportion to latent frames once
it is under way, so one clip of a few latent frames is counted and the rest is arithmetic. Texts count as long as a
call lets them be.

Letters in shapes: B batch, C channels, N frames, F latent frames, H, W height and width, L audio latents, S tokens.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .allocation_count import DEVICE, Counted, ValuelessRuns
from .cost_estimate import schedule_of
from .generation_defaults import GenerationDefaults
from .guidance import Branch
from .kept_rows import KeptRows, keepers_of, keeping
from .pictures import STILLS
from .pipeline_media import one_way_couplings
from .prediction_plan import PredictionPlan, StepRun
from .sample_runs import Coupling
from .sound_cache import NUM_FIRST, JoVACacheConfig, kept_bytes, num_full_steps, without_video
from .transformer_jova import MODALITIES
from .video_codec import NUM_STILL_BEFORE, JoVAVideoCodec


ENCODING, TEXT, DENOISING = "media encoding", "text encoding", "denoising"  # names of stages
VIDEO_DECODING, SOUND_DECODING = "video decoding", "sound decoding"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "spoken_text_encoder")
STEADY = (4, 5)  # latent frames of two clips in which a causal VAE is under way, to tell what each further one adds
FRAMES_IN_NUMPY = 3  # copies of the frames, as floats, on their way to pictures on the CPU
NUM_JOINED = 3  # copies of all frames that tiles become: their rows, these joined, and that without its outliers


@dataclass(frozen=True, kw_only=True)
class PlannedCall:
    """What a call of a pipeline is about, without its media.

    Args:
        settings: Of the call.
        modalities: What takes part.
        given: Arguments that give media: of `"image"`, `"last_image"`, `"keyframes"`, `"audio"`, `"video"`,
            `"reference_audio"`.
        continued: Of them, `"audio"` and `"video"` that end before the clip, which goes on with them. They are counted
            as long as it where they are encoded, and are generated.
        reference_s: Seconds of a reference voice.
        num_clips: Of its batch.
        cache: Between its steps; None without.
        device: Where it takes place.

    Raises:
        ValueError: If nothing is left to generate.
    """

    settings: GenerationDefaults
    modalities: tuple[str, ...] = MODALITIES
    given: frozenset[str] = frozenset()
    continued: frozenset[str] = frozenset()
    reference_s: float = 0.0
    num_clips: int = 1
    cache: JoVACacheConfig | None = None
    device: torch.device = DEVICE

    def __post_init__(self) -> None:
        if not self.generated:
            raise ValueError(
                f"what is given must leave something to generate, got {' and '.join(self.modalities)} for the whole "
                "clip; leave one out, or let the clip go on after it"
            )

    @property
    def generated(self) -> list[str]:
        """Modalities of which something is left to generate: what is given is whole unless it is continued."""
        return [name for name in self.modalities if name not in self.whole]

    @property
    def whole(self) -> frozenset[str]:
        """Arguments that give media for the whole clip."""
        return self.given - self.continued


class Stage(NamedTuple):
    """One part of a call.

    Attributes:
        name: What it does.
        components: Of the pipeline, that are at work in it, one after the other.
        held_bytes: What it holds at most, besides weights.
        operations: Multiplications and additions in all of the call.
    """

    name: str
    components: tuple[str, ...]
    held_bytes: int
    operations: int


class CallStages:
    """Counts the stages of a call, each once.

    Args:
        pipeline: Without weights; its components leave the meta device.
        call: What it is about.
    """

    def __init__(self, pipeline: Any, call: PlannedCall) -> None:
        self.pipeline, self.call, self.settings = pipeline, call, call.settings
        self.num_steps, self.order = schedule_of(pipeline, call.settings)
        self.parts = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
        self.modules = ValuelessRuns(self.parts.values())
        self.counted: dict[tuple[Any, ...], Counted] = {}  # predictions by what is asked, codes by what is coded

    def all(self, branches_apart: bool = False, tiles_video: bool = False) -> list[Stage]:
        """The stages in their order.

        Args:
            branches_apart: Whether the predictions of guidance are made one after the other.
            tiles_video: Whether the video VAE works tile by tile.
        """
        count = {
            ENCODING: lambda: self.encoding(tiles_video),
            TEXT: lambda: self.text,
            DENOISING: lambda: self.denoising(branches_apart),
            VIDEO_DECODING: lambda: self.video_decoding(tiles_video),
            SOUND_DECODING: lambda: self.sound_decoding,
        }
        return [count[name]() for name in self.components]

    @cached_property
    def components(self) -> dict[str, tuple[str, ...]]:
        """Components at work by the name of the stage, in the order of the stages; nothing is counted for it."""
        call = self.call
        encoders = {"vae": {*STILLS, "video"}, "audio_vae": {"audio", "reference_audio"}}
        found = {
            ENCODING: [name for name, media in encoders.items() if media & call.given],
            TEXT: list(TEXT_ENCODERS),
            DENOISING: ["transformer"],
            VIDEO_DECODING: ["vae"] if "video" in call.generated else [],
            SOUND_DECODING: ["audio_vae", "vocoder"] if "audio" in call.generated else [],
        }
        at_work = {stage: tuple(name for name in names if name in self.parts) for stage, names in found.items()}
        return {stage: names for stage, names in at_work.items() if names}

    def of_clips(self, name: str, counted: Counted) -> Stage:
        """A stage that grows with the clips of the batch, from what one takes."""
        return Stage(name, self.components[name], *(self.call.num_clips * number for number in counted))

    # 1. What is given

    def encoding(self, tiles_video: bool) -> Stage:
        """Given media to latents."""
        given, counted = self.call.given, []
        if "vae" in self.components[ENCODING]:
            is_long = "video" in given or self.pipeline.config.fills_image_with_grey
            num_still = 1 if {*STILLS} & given == {"image"} else 2 + NUM_STILL_BEFORE
            num_latent_frames = self.num_latent_frames if is_long else num_still
            counted.append(self.video_work(self.encode_frames, num_latent_frames, tiles_video))
        if "audio_vae" in self.components[ENCODING]:
            counted.append(self.modules.count(self.encode_sound))
        peak, operations = max(one.peak_bytes for one in counted), sum(one.operations for one in counted)
        return self.of_clips(ENCODING, Counted(peak, operations))

    def encode_frames(self, num_latent_frames: int, height: int, width: int) -> Any:
        """Run the encoder of the video VAE on a clip of a length and size."""
        num_frames = (num_latent_frames - 1) * self.video_codec.temporal_factor + 1
        return self.video_codec.encode(torch.empty(1, 3, num_frames, height, width))

    def encode_sound(self) -> Any:
        """Run the encoder of the audio VAE."""
        codec = self.pipeline.audio_codec
        num_latents = max(self.num_audio_latents if "audio" in self.call.given else 0, self.num_reference_latents)
        return codec.encode(torch.empty(1, codec.num_channels, codec.num_samples_for(num_latents)))

    # 2. Text

    @cached_property
    def text(self) -> Stage:
        """Prompts to features, one after the other."""
        names = self.components[TEXT]
        counted = [self.modules.count(partial(self.encode_text, name)) for name in names]
        num_texts = 2 if self.reads_negative_prompt else 1
        peak = max(one.peak_bytes for one in counted)
        operations = num_texts * sum(one.operations for one in counted)
        return Stage(TEXT, names, peak, operations)

    def encode_text(self, name: str) -> Any:
        """Run one text encoder on the longest text."""
        ids = torch.zeros(1, self.settings.max_sequence_length, dtype=torch.long)
        if name == "spoken_text_encoder":
            return self.parts[name](ids)
        return self.parts[name](ids, attention_mask=torch.ones_like(ids))[0]

    # 3. Steps

    @cached_property
    def plan(self) -> PredictionPlan:
        """What steps ask of the transformer; voices of speakers are nothing that is planned."""
        call, config = self.call, self.pipeline.config
        couplings: dict[str, Any] = {}
        if config.one_way_coupling:
            has_voice = self.num_reference_latents > 0
            couplings = one_way_couplings("video" in call.whole, "audio" in call.whole, has_voice)
        return PredictionPlan(
            names=call.modalities,
            generated=call.generated,
            negative_skip_layer=config.negative_skip_layer,
            order=self.order,
            **couplings,
        )

    @cached_property
    def runs(self) -> list[StepRun]:
        """Steps that ask the same."""
        return self.plan.runs(self.settings.guidance(), self.num_steps)

    @property
    def reads_negative_prompt(self) -> bool:
        """Whether any step asks for a prediction without the prompt."""
        return any(not branch.text for _, rows_read in self.runs for branch in rows_read)

    @property
    def has_batches(self) -> bool:
        """Whether any step makes several predictions in one forward, unless they are made one after the other."""
        groups = (group for _, rows_read in self.runs for group in self.plan.groups(rows_read, False))
        return any(len(group.branches) > 1 for group in groups)

    def prediction(self, branch: Branch, names: Sequence[str]) -> Counted:
        """One prediction of one clip.

        Args:
            branch: What is asked.
            names: Modalities of which it has rows.
        """
        asked = ("prediction", *self.question(branch, names))
        if asked not in self.counted:
            arguments = self.prediction_arguments(branch, names)
            self.counted[asked] = self.modules.count(lambda: self.parts["transformer"](**arguments))
        return self.counted[asked]

    def question(self, branch: Branch, names: Sequence[str]) -> tuple[tuple[str, ...], Coupling, int | None]:
        """What tells one prediction from others: modalities that have rows, who reads whom, the block left out."""
        coupling = self.plan.coupling_of(branch) if len(names) > 1 else False
        return tuple(names), coupling, self.plan.skipped_layer(branch)

    def prediction_arguments(self, branch: Branch, names: Sequence[str]) -> dict[str, Any]:
        """Arguments of the transformer's forward for one prediction of one clip."""
        _, coupling, skipped = self.question(branch, names)
        skips = {} if skipped is None else {"skip_layers": [skipped]}
        return self.transformer_arguments(names) | {"coupled": coupling} | skips

    def sparing_operations(self, branch: Branch, names: Sequence[str]) -> int:
        """Of one prediction in a step whose audio rows read video rows that were kept."""
        if len(names) < len(MODALITIES):
            return self.prediction(branch, names).operations
        asked = ("sparing", *self.question(branch, names))
        if asked not in self.counted:
            transformer, arguments = self.parts["transformer"], self.prediction_arguments(branch, names)
            keepers = keepers_of(transformer)
            with keeping(keepers, [KeptRows() for _ in keepers]):
                self.modules.count(lambda: transformer(**arguments))
                self.counted[asked] = self.modules.count(lambda: transformer(**without_video(arguments)))
        return self.counted[asked].operations

    def transformer_arguments(self, names: Sequence[str]) -> dict[str, Any]:
        """Arguments of the transformer's forward for one prediction of one clip, with rows of some modalities."""
        pipeline, transformer, call = self.pipeline, self.pipeline.transformer, self.call
        config, dtype, length = transformer.config, transformer.dtype, self.settings.max_sequence_length
        has_video, has_audio = ("video" in names), ("audio" in names)
        audio_text_dim = config.get("audio_text_dim", config.text_dim)
        is_spoken = pipeline.spoken_text_encoder is not None or audio_text_dim != config.text_dim
        references = self.num_reference_latents

        def rows(*shape: Any) -> Tensor | None:
            return None if None in shape else torch.empty(1, *shape, dtype=dtype)

        arguments = {
            "hidden_states": rows(config.in_channels, *self.grid) if has_video else None,
            "audio_hidden_states": rows(self.num_audio_latents, config.audio_in_channels) if has_audio else None,
            "timestep": self.timestep(self.grid[0] if self.gives_frames else 0),
            "audio_timestep": self.timestep(self.num_audio_latents if "audio" in call.given else 0),
            "encoder_hidden_states": rows(length, config.text_dim),
            "encoder_hidden_states_2": rows(length, config.get("text_dim_2")),
            "audio_encoder_hidden_states": rows(length, audio_text_dim) if is_spoken else None,
            "frame_rate": self.settings.frame_rate,
            "audio_latent_rate_hz": (
                pipeline.audio_codec.latent_rate_hz if "audio" in call.modalities else self.settings.frame_rate
            ),
            "return_dict": False,
        }
        if has_video and {"image", "video"} <= call.given:  # in front of the video
            arguments["reference_hidden_states"] = rows(config.out_channels, 1, *self.grid[1:])
        if has_audio and references:
            arguments["audio_reference_hidden_states"] = rows(references, config.audio_in_channels)
        return arguments

    def timestep(self, num_latents: int) -> Tensor:
        """Timesteps [1, latents], one per latent, where some are given; else [1]."""
        return torch.full((1, num_latents) if num_latents else (1,), 500.0)

    @property
    def gives_frames(self) -> bool:
        """Whether some video latents are given, as clean ones among the noisy."""
        return bool({*STILLS, "video"} & self.call.given) and (
            "video" in self.call.given or self.pipeline.num_condition_channels == 0
        )

    def denoising(self, branches_apart: bool) -> Stage:
        """All steps."""
        cache = self.cache
        held = operations = num_sparing = most_spared = 0
        for steps, rows_read in self.runs:
            num_full = len(steps) if cache is None else num_full_steps(cache, self.num_steps, steps)
            groups = self.plan.groups(rows_read, branches_apart)
            asked = [[self.prediction(branch, group.names) for branch in group.branches] for group in groups]
            held = max([held, *(sum(one.peak_bytes for one in group) for group in asked)])
            of_full = sum(one.operations for group in asked for one in group)
            operations += len(steps) * of_full
            if num_full < len(steps):
                spared = of_full - sum(self.sparing_operations(*one) for one in rows_read.items())
                operations -= (len(steps) - num_full) * spared
                num_sparing += len(steps) - num_full
                most_spared = max(most_spared, spared)
        if self.pipeline.transformer.config.get("boundary") is not None:  # a tower takes over, nobody knows when
            operations += min(NUM_FIRST, num_sparing) * most_spared
        if num_sparing and cache is not None and cache.lies_on(self.call.device):
            held += self.kept_by(cache)
        return self.of_clips(DENOISING, Counted(held, operations))

    @property
    def cache(self) -> JoVACacheConfig | None:
        """Between the steps; None where each is full."""
        is_read = {*self.call.modalities} == {*MODALITIES} and "audio" in self.call.generated
        return self.call.cache if is_read else None

    def kept_by(self, cache: JoVACacheConfig) -> int:
        """Bytes that the cache between steps keeps of one clip."""
        numbers = [
            sum(len(names) > 1 and self.plan.reads_other("audio", branch) for branch, names in rows_read.items())
            for _, rows_read in self.runs
        ]
        return kept_bytes(self.pipeline.transformer, cache, self.grid, self.num_text_rows, max(numbers))

    # 4. Decoding

    def video_decoding(self, tiles_video: bool) -> Stage:
        """Latents to frames, and these to pictures."""
        counted = self.video_work(self.decode_latents, self.num_latent_frames, tiles_video)
        if tiles_video and self.is_tiled:
            kept = self.tile_bytes
            counted = counted._replace(peak_bytes=max(counted.peak_bytes + kept, kept + NUM_JOINED * self.frame_bytes))
        finished = self.finished_bytes
        if self.call.device.type == "cpu":
            finished += FRAMES_IN_NUMPY * self.frame_bytes
        return self.of_clips(VIDEO_DECODING, counted._replace(peak_bytes=max(counted.peak_bytes, finished)))

    def decode_latents(self, num_latent_frames: int, height: int, width: int) -> Any:
        """Run the decoder of the video VAE on a clip of a length and size."""
        num_frames = (num_latent_frames - 1) * self.video_codec.temporal_factor + 1
        return self.video_codec.decode(torch.empty(1, *self.video_codec.latent_shape(num_frames, height, width)))

    @cached_property
    def finished_bytes(self) -> int:
        """Bytes of frames on their way to pictures, as far as tensors go."""
        return self.modules.count(self.finish_frames).peak_bytes

    def finish_frames(self) -> Any:
        """Make pictures of frames."""
        settings = self.settings
        frames = torch.empty(1, 3, settings.num_frames, settings.height, settings.width).clamp(-1, 1)
        frames.isfinite()
        return self.pipeline.video_processor.postprocess_video(frames, output_type="pt")

    @cached_property
    def sound_decoding(self) -> Stage:
        """Latents to a waveform."""
        codec = self.pipeline.audio_codec
        counted = self.modules.count(
            lambda: codec.decode(torch.empty(1, self.num_audio_latents, codec.latent_channels))
        )
        return self.of_clips(SOUND_DECODING, counted)

    # 5. A video VAE

    def video_work(self, run: Callable[[int, int, int], Any], num_latent_frames: int, tiles_video: bool) -> Counted:
        """What a VAE takes for a clip, or for one tile of it; operations are those of the whole clip."""
        height, width = self.settings.height, self.settings.width
        if tiles_video and self.is_tiled:
            vae = self.pipeline.vae
            sizes = (min(height, vae.tile_sample_min_height), min(width, vae.tile_sample_min_width))
            tile = self.along_time(run, num_latent_frames, *sizes)
            overlap = sum(self.tile_areas) / math.prod(sizes)
            return tile._replace(operations=round(tile.operations * overlap))
        return self.along_time(run, num_latent_frames, height, width)

    def along_time(self, run: Callable[[int, int, int], Any], num_latents: int, height: int, width: int) -> Counted:
        """Count a run over so many latent frames, of which a few tell how much each adds."""
        if isinstance(self.pipeline.vae, nn.Module) and hasattr(self.pipeline.vae, "use_slicing"):
            # without a cut of the batch that it means, a clip of a few frames would be coded in another way
            vae: Any = self.pipeline.vae
            vae.use_slicing = not self.takes_one_pass

        def count(number: int) -> Counted:
            if (key := (run.__name__, number, height, width)) not in self.counted:
                self.counted[key] = self.modules.count(lambda: run(number, height, width))
            return self.counted[key]

        if num_latents <= STEADY[-1]:
            return count(num_latents)
        few, more = map(count, STEADY)
        numbers = (least + (num_latents - STEADY[0]) * (most - least) for least, most in zip(few, more, strict=True))
        return Counted(*numbers)

    @cached_property
    def takes_one_pass(self) -> bool:
        """Whether the clip is short enough to be coded at once, on a CPU."""
        settings = self.settings
        sizes = (settings.num_frames, settings.height, settings.width)
        return self.call.device.type == "cpu" and self.video_codec.takes_one_pass(self.call.num_clips, *sizes)

    @property
    def is_tiled(self) -> bool:
        """Whether the frames are larger than a tile."""
        vae = self.pipeline.vae
        return self.settings.height > vae.tile_sample_min_height or self.settings.width > vae.tile_sample_min_width

    @property
    def tile_areas(self) -> list[int]:
        """Pixels of each tile of a frame."""
        vae = self.pipeline.vae
        height, width = (
            [min(least, size - start) for start in range(0, size, round(stride))]
            for size, least, stride in (
                (self.settings.height, vae.tile_sample_min_height, vae.tile_sample_stride_height),
                (self.settings.width, vae.tile_sample_min_width, vae.tile_sample_stride_width),
            )
        )
        return [one * other for one in height for other in width]

    @property
    def tile_bytes(self) -> int:
        """Bytes of all tiles of the frames."""
        return 3 * self.settings.num_frames * sum(self.tile_areas) * self.pipeline.vae.dtype.itemsize

    @property
    def frame_bytes(self) -> int:
        """Bytes of the frames as floats."""
        return 3 * self.settings.num_frames * self.settings.height * self.settings.width * 4

    # 6. Lengths

    @cached_property
    def video_codec(self) -> JoVAVideoCodec:
        """The video VAE as the pipeline sees it."""
        codec: JoVAVideoCodec = self.pipeline.video_codec
        return codec

    @property
    def grid(self) -> Sequence[int]:
        """Latent frames, height and width of the video."""
        settings = self.settings
        return self.video_codec.latent_shape(settings.num_frames, settings.height, settings.width)[1:]

    @property
    def num_latent_frames(self) -> int:
        """Latent frames of the clip."""
        return self.video_codec.num_latent_frames(self.settings.num_frames)

    @property
    def num_text_rows(self) -> int:
        """Rows of the texts that one branch reads."""
        num_texts = 1 if self.pipeline.transformer.config.get("text_dim_2") is None else 2
        return num_texts * self.settings.max_sequence_length

    @property
    def num_audio_latents(self) -> int:
        """Latents of the sound; 0 without."""
        if "audio" not in self.call.modalities:
            return 0
        number: int = self.pipeline.audio_codec.num_latents_for(self.settings.num_frames / self.settings.frame_rate)
        return number

    @property
    def num_reference_latents(self) -> int:
        """Latents of a reference voice; 0 without, and beside a sound that is given as a whole."""
        if "reference_audio" not in self.call.given or "audio" in self.call.whole or not self.call.reference_s:
            return 0
        number: int = self.pipeline.audio_codec.num_latents_for(self.call.reference_s)
        return number
