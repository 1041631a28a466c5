"""What one micro-batch shows the model: noise levels, given beginnings and first frames, dropped captions.

Everything is drawn from one seed per micro-batch. Decisions per sample are drawn on the CPU and sent in one copy that
the host does not wait for; the noise is drawn where the latents are.

Letters: B samples, C channels, F latent frames, L audio latents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from diffusers_jova.conditions import condition_channels, mask_of_frames
from diffusers_jova.flow_matching import add_noise, velocity_target
from diffusers_jova.sample_runs import Coupling as Coupled
from diffusers_jova.scheduling_flow_match_av import FlowMatchAudioVideoScheduler
from diffusers_jova.training.data.dataset import Batch
from diffusers_jova.training.data.record import KEYFRAMES, SPOKEN, VOICE_TEXTS
from diffusers_jova.training.loop.config import Coupling, TrainConfig
from diffusers_jova.training.loop.phases import Phases
from diffusers_jova.training.loop.tasks import TASKS, TaskRule, task_of_step
from diffusers_jova.transformer_jova import MODALITIES
from diffusers_jova.transformer_jova_dual_tower import TIMESTEPS


NUM_REDRAWN = 256  # levels at once, of which those on the wanted side are taken
NUM_TRIED, RAREST_SIDE = 10_000, 0.001  # levels by which it is judged whether a side comes at all
TEXTS = {  # of a batch, and the argument of the transformer that reads it
    "prompt_embeds": "encoder_hidden_states",
    "prompt_embeds_2": "encoder_hidden_states_2",
    "prompt_mask": "encoder_attention_mask",
}
SPOKEN_TEXT = dict(zip(SPOKEN, ("encoder_hidden_states", "encoder_attention_mask"), strict=True))


@dataclass(frozen=True)
class ModelInputs:
    """One micro-batch, ready for the transformer and the loss.

    Attributes:
        arguments: Keyword arguments of the transformer's forward.
        target: True video velocity [B, C, F, H, W], or None.
        audio_target: True audio velocity [B, L, C], or None.
        mouth_mask: bool [B, 1, F, H, W], or None.
        face_mask: bool [B, 1, F, H, W], or None where the run has no loss on face masks.
        has_video: What of the video is to be learned, bool [B] or [B, F].
        has_audio: What of the audio is to be learned, bool [B] or [B, L].
        sigma: Video noise level of each sample, [B].
        audio_sigma: Audio noise level of each sample, [B].
        unsaid: What the sound reads behind a voice without the words of the clip, as arguments of the transformer's
            forward; empty where the empty prompt says it.
    """

    arguments: dict[str, Any]
    target: Tensor | None
    audio_target: Tensor | None
    mouth_mask: Tensor | None
    face_mask: Tensor | None
    has_video: Tensor
    has_audio: Tensor
    sigma: Tensor
    audio_sigma: Tensor
    unsaid: dict[str, Tensor | None] = field(default_factory=dict)


class Draws(NamedTuple):
    """The decisions of a micro-batch: per sample, [B] each, and two for the whole of it.

    Attributes:
        sigma: Video noise level.
        audio_sigma: Audio noise level.
        lone_sigma: Video noise level where the sample has no audio.
        lone_audio_sigma: Audio noise level where the sample has no video.
        drop_caption: Uniform in [0, 1): below the probability of its name, it happens.
        drop_audio_caption: The same.
        give_image: The same.
        prefix_length: Uniform in [0, 1).
        keyframes: Three numbers, uniform in [0, 1): below `keyframe_probability` pictures are given, which of them,
            and where, [3, B].
        coupled: Which of video and audio see the other.
        continues: Whether the clips' beginnings are given. Noise levels per latent cost time, so they come in batches.
    """

    sigma: Tensor
    audio_sigma: Tensor
    lone_sigma: Tensor
    lone_audio_sigma: Tensor
    drop_caption: Tensor
    drop_audio_caption: Tensor
    give_image: Tensor
    prefix_length: Tensor
    keyframes: Tensor
    coupled: Coupled
    continues: bool


class Conditioning:
    """Turns cached batches into what the model sees.

    Args:
        config: The run's settings.
        empty_prompt: Batch of one with the embedding of the empty prompt; None without caption dropout.
        num_mask_channels: Mask channels of a transformer that takes the given first frame on extra channels; None for
            one whose given first frame is a clean latent at timestep 0.
        frame_rate: Frames per second, for batches without a video.
        audio_latent_rate_hz: Audio latents per second.
        temporal_factor: Frames per video latent after the first.
        device: Where the transformer is.
        boundary: Noise level of the video at which another of two video towers begins; None for one tower. One tower
            serves a micro-batch: its first sample decides which, as it is drawn, and the others are drawn until their
            levels lie on its side. So the levels of every sample have the density that is configured, but those of one
            micro-batch depend on each other; where clips without sound are among others, whose levels `coupling`
            may draw otherwise, the side comes with the probability that it has for the first. `experts` may name
            the side instead.
        phases: Levels of a teacher and its student, to which noise levels are raised; None for a run without. Where
            there is a `boundary`, all samples of a micro-batch then have those of the first.
    """

    def __init__(
        self,
        config: TrainConfig,
        empty_prompt: Batch | None,
        num_mask_channels: int | None,
        frame_rate: float,
        audio_latent_rate_hz: float,
        temporal_factor: int,
        device: torch.device,
        boundary: float | None = None,
        phases: Phases | None = None,
    ) -> None:
        self.config, self.device = config, device
        self.empty_prompt = {} if empty_prompt is None else to_device(empty_prompt, device)
        self.num_mask_channels = num_mask_channels
        self.frame_rate, self.audio_latent_rate_hz = frame_rate, audio_latent_rate_hz
        self.temporal_factor, self.boundary = temporal_factor, boundary
        self.phases = phases
        self.scheduler = FlowMatchAudioVideoScheduler(shift=config.shift, audio_shift=config.audio_shift)
        if phases is not None:
            self.scheduler = phases.scheduler
        if boundary is not None and config.experts != "drawn":
            self._check_sides()
        self.gives_latents = num_mask_channels is None and config.image_probability + config.keyframe_probability > 0

    def __call__(self, batch: Batch, seed: int, step: int = 0, level: float | None = None) -> ModelInputs:
        """Prepares one micro-batch; the same seed, step and batch give the same inputs, bit for bit.

        Args:
            batch: Cached clips.
            seed: Of everything that is drawn for this micro-batch.
            step: Of the run, by which all its micro-batches have one task and one expert.
            level: Noise level of both modalities; None draws them.
        """
        task = self._task(batch, step)
        batch = to_device(self._of_stage(batch), self.device)
        draws = self._draw(batch, seed, step, task, level)
        noise = torch.Generator(self.device).manual_seed(seed)
        has_video, has_audio = batch["has_video"].bool(), batch["has_audio"].bool()
        give_image = (draws.give_image < self.config.image_probability) & batch["has_image"].bool()

        # 1. Noise levels; an absent modality is pure noise, and its partner is never clean
        sigma = torch.where(has_audio, draws.sigma, draws.lone_sigma).where(has_video, 1.0)
        audio_sigma = torch.where(has_video, draws.audio_sigma, draws.lone_audio_sigma).where(has_audio, 1.0)
        sigma = sigma.masked_fill(has_video & has_audio & task.gives_video, 0.0)
        audio_sigma = audio_sigma.masked_fill(has_video & has_audio & task.gives_audio, 0.0)
        levels, audio_levels = sigma, audio_sigma
        if draws.continues or self.gives_latents:
            levels, audio_levels = self._per_latent(batch, draws, give_image, sigma, audio_sigma)
        keyframes = self._keyframes(batch, draws, levels)
        latents = batch["video_latents"]
        if keyframes is not None and self.num_mask_channels is None:
            levels = levels.masked_fill(keyframes, 0.0)
            latents = behind_first(batch["keyframe_latents"]).where(keyframes[:, None, :, None, None], latents)

        # 2. Noisy latents and condition channels
        hidden_states, target = _noised(latents, levels, noise)
        audio_hidden_states, audio_target = _noised(batch["audio_latents"], audio_levels, noise)
        if hidden_states is not None and self.num_mask_channels is not None:
            channels = self._channels(batch, hidden_states, self.num_mask_channels, give_image, keyframes)
            hidden_states = torch.cat([hidden_states, channels], dim=1)

        arguments = {
            "hidden_states": hidden_states,
            "audio_hidden_states": audio_hidden_states,
            "timestep": 1000 * levels,
            "audio_timestep": 1000 * audio_levels,
            **self._texts(batch, draws, task),
            **({"audio_reference_hidden_states": batch["voice_latents"].float()} if task.has_voice else {}),
            "frame_rate": batch["frame_rate"] or self.frame_rate,
            "audio_latent_rate_hz": self.audio_latent_rate_hz,
            "coupled": draws.coupled,
        }
        return ModelInputs(
            arguments=arguments,
            target=target,
            audio_target=audio_target,
            mouth_mask=_as_bool(batch["mouth_mask"]),
            face_mask=_as_bool(batch.get("face_mask")),
            has_video=_expand(has_video, levels) & (levels > 0),
            has_audio=_expand(has_audio, audio_levels) & (audio_levels > 0),
            sigma=sigma,
            audio_sigma=audio_sigma,
            unsaid=self._unsaid(batch, task),
        )

    def _of_stage(self, batch: Batch) -> Batch:
        """Leaves out the modality that the stage does not train."""
        if self.config.stage == "video":
            return batch | {"audio_latents": None, "has_audio": torch.zeros_like(batch["has_audio"])}
        if self.config.stage == "audio":
            absent = dict.fromkeys(("video_latents", "image_latents", "keyframe_latents", "mouth_mask"))
            return batch | absent | {"has_video": torch.zeros_like(batch["has_video"])}
        return batch

    def _task(self, batch: Batch, step: int) -> TaskRule:
        """Rule of the step's task; a clip without another of its recording has no voice to be given."""
        task = TASKS[task_of_step(self.config, step)]
        return TASKS["joint"] if task.has_voice and batch.get("voice_latents") is None else task

    def _draw(self, batch: Batch, seed: int, step: int, task: TaskRule, level: float | None) -> Draws:
        """Draws all decisions for the samples of a batch on the CPU."""
        config, generator, size = self.config, torch.Generator().manual_seed(seed), len(batch["has_video"])
        pair = self._levels(size, config.coupling, generator)
        lone = self._levels(size, "shared", generator)
        if self.boundary is not None and batch["video_latents"] is not None:
            first = (pair if batch["has_audio"][0] else lone)[:, :1]
            if self.phases is not None:  # a step of the teacher may lead to the other tower
                pair = lone = first.expand_as(pair)
            else:
                is_high = is_high_step(self.config, step, drawn=bool(self._is_high(first)))
                pair = self._on_side(is_high, pair, config.coupling, generator)
                lone = self._on_side(is_high, lone, "shared", generator)
        if level is not None:
            pair = lone = torch.full_like(pair, level)
        chances = torch.rand(3, size, generator=generator)
        uncouple, continue_ = torch.rand(2, generator=generator).tolist()
        audio_caption = torch.rand(1, size, generator=generator)
        keyframes = torch.rand(3, size, generator=generator)
        continues = task.continues or continue_ < config.prefix_probability
        is_coupled = continues or uncouple >= config.uncoupled_probability
        coupled = task.coupled if is_coupled else False
        per_sample = send(torch.cat([pair, lone, chances, audio_caption, keyframes]), self.device)
        sigma, audio_sigma, lone, lone_audio, caption, image, length, own_caption, *keyframe = per_sample
        return Draws(
            sigma=sigma,
            audio_sigma=audio_sigma,
            lone_sigma=lone,
            lone_audio_sigma=lone_audio,
            drop_caption=caption,
            drop_audio_caption=own_caption,
            give_image=image,
            prefix_length=length,
            keyframes=torch.stack(keyframe),
            coupled=coupled,
            continues=continues,
        )

    def _levels(self, size: int, coupling: Coupling, generator: torch.Generator) -> Tensor:
        """Draws noise levels of video and audio, [2, B]."""
        drawn = self.scheduler.sample_training_sigmas(size, self.config.density, coupling, generator)
        if self.phases is not None:
            begins = torch.rand(size, generator=generator) < self.config.begin_probability
            drawn = tuple(self.phases.snap(name, sigma, begins) for name, sigma in zip(MODALITIES, drawn, strict=True))
        return torch.stack(drawn)

    def _check_sides(self) -> None:
        """Refuses a density that hardly comes to the side that an expert is for.

        Raises:
            ValueError: It does.
        """
        config, share = self.config, self.share_of_high()
        for expert, part in (("high", share), ("low", 1 - share)):
            if part < RAREST_SIDE and config.experts in (expert, "alternate"):
                raise ValueError(
                    f"`shift` and `density` must bring levels to both sides of the `boundary` {self.boundary:g}, got "
                    f"{part:.2%} for the {expert} noise; set `shift: 5` and `density: uniform`, as MOVA has them"
                )

    def share_of_high(self) -> float:
        """Share of the noise levels as they are drawn at which the first of two video towers works, by many draws."""
        levels = self._levels(NUM_TRIED, self.config.coupling, torch.Generator().manual_seed(0))
        return float(self._is_high(levels).float().mean())

    def _is_high(self, levels: Tensor) -> Tensor:
        """Tells for which samples of levels [2, B] the first video tower works, as the transformer decides it."""
        assert self.boundary is not None
        return TIMESTEPS * levels[0] >= TIMESTEPS * self.boundary

    def _on_side(self, is_high: bool, levels: Tensor, coupling: Coupling, generator: torch.Generator) -> Tensor:
        """Draws those of levels [2, B] anew that lie on the other side of the boundary."""
        wrong = (self._is_high(levels) != is_high).nonzero().flatten()
        while len(wrong):
            fresh = self._levels(NUM_REDRAWN, coupling, generator)
            fitting = fresh[:, self._is_high(fresh) == is_high][:, : len(wrong)]
            levels[:, wrong[: fitting.shape[1]]] = fitting
            wrong = wrong[fitting.shape[1] :]
        return levels

    def _per_latent(
        self, batch: Batch, draws: Draws, give_image: Tensor, sigma: Tensor, audio_sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Spreads noise levels [B] to [B, F] and [B, L], 0 where a beginning is given; it ends at one time in both."""
        fraction = draws.prefix_length * (self.config.prefix_max_fraction if draws.continues else 0.0)
        video, audio = batch["video_latents"], batch["audio_latents"]
        if video is None:
            return sigma, _clean_start(audio_sigma, audio.shape[1], (fraction * audio.shape[1]).floor())
        if video.shape[2] == 1:  # a still has no beginning that could be given
            fraction = torch.zeros_like(fraction)
        most = video.shape[2] - (self.boundary is not None)  # no level of a video given as a whole would name a tower
        num_frames = (fraction * video.shape[2]).ceil().clamp(max=most)
        seconds = (1 + self.temporal_factor * (num_frames - 1)).clamp(min=0) / batch["frame_rate"]
        if self.num_mask_channels is None:
            num_frames = torch.maximum(num_frames, give_image.to(num_frames)).clamp(max=most)
        levels = _clean_start(sigma, video.shape[2], num_frames)
        if audio is None:
            return levels, audio_sigma
        return levels, _clean_start(audio_sigma, audio.shape[1], (seconds * self.audio_latent_rate_hz).floor())

    def _keyframes(self, batch: Batch, draws: Draws, levels: Tensor) -> Tensor | None:
        """Tells of which latents a picture is given, bool [B, F]; None where no clip has any.

        Nothing is given twice, and pictures leave something of a clip to be generated.
        """
        if self.config.keyframe_probability == 0 or batch.get("keyframe_latents") is None:
            return None
        num_latents, is_among_grey = batch["video_latents"].shape[2], batch.get(KEYFRAMES) is not None
        chance, kind, place = draws.keyframes
        index = torch.arange(num_latents, device=levels.device)
        if is_among_grey:
            given = mask_of_frames(batch[KEYFRAMES], self.temporal_factor, 1, by_frame=False)[:, 0] & (index > 0)
        else:
            anywhere = index == 1 + (place * (num_latents - 1)).long()[:, None]
            last = (index == num_latents - 1).expand_as(anywhere)
            given = (last & (kind < 2 / 3)[:, None]) | (anywhere & (kind >= 1 / 3)[:, None])
        given &= ((chance < self.config.keyframe_probability) & batch["has_keyframe"].bool())[:, None]
        is_open = (levels if levels.ndim == 2 else levels[:, None].expand_as(given)) > 0
        if is_among_grey:  # one encoding, which is given as a whole
            given &= (is_open | ~given).all(1, keepdim=True)
        return given & is_open & (is_open & ~given).any(1, keepdim=True)

    def _channels(
        self,
        batch: Batch,
        hidden_states: Tensor,
        num_mask_channels: int,
        give_image: Tensor,
        keyframes: Tensor | None,
    ) -> Tensor:
        """Builds the condition channels of noisy latents [B, C, F, H, W]: nothing, first frames, or several pictures.

        Pictures among grey frames come with the first frame or without, as they were encoded.
        """
        channels = condition_channels(hidden_states, None, num_mask_channels)
        if batch["image_latents"] is not None:
            with_image = condition_channels(hidden_states, batch["image_latents"], num_mask_channels)
            channels = with_image.where(give_image[:, None, None, None, None], channels)
        if keyframes is None:
            return channels
        if batch.get(KEYFRAMES) is not None:
            mask = mask_of_frames(batch[KEYFRAMES], self.temporal_factor, num_mask_channels, by_frame=True)
            several = condition_channels(hidden_states, batch["keyframe_latents"], num_mask_channels, mask)
            return several.where(keyframes.any(1)[:, None, None, None, None], channels)
        mask = torch.ones(num_mask_channels, hidden_states.shape[2])
        stills = behind_first(batch["keyframe_latents"])
        with_keyframe = condition_channels(hidden_states, stills, num_mask_channels, mask)
        return with_keyframe.where(keyframes[:, None, :, None, None], channels)

    def _texts(self, batch: Batch, draws: Draws, task: TaskRule) -> dict[str, Tensor | None]:
        """Text of both modalities together, or of each, where its captions are dropped apart or it has its own."""
        rate = self.config.audio_caption_dropout
        drop = draws.drop_caption < self.config.caption_dropout
        drop_audio = drop if rate is None else draws.drop_audio_caption < rate
        empty = self._empty_prompt_like(batch)
        text = chosen(batch, empty, drop, TEXTS)
        if batch.get(SPOKEN[0]) is None:
            own = {} if rate is None else chosen(batch, empty, drop_audio, TEXTS)
        elif batch["audio_latents"] is None:
            own = {}
        elif task.has_voice:
            own = chosen(*of_voice(batch), drop_audio, SPOKEN_TEXT)
        else:
            own = chosen(batch, empty, drop_audio, SPOKEN_TEXT)
        return text | {f"audio_{name}": value for name, value in own.items()}

    def _unsaid(self, batch: Batch, task: TaskRule) -> dict[str, Tensor | None]:
        """What the sound reads behind a voice where its own words are left out, for a model that reads words."""
        if not task.has_voice or batch.get(SPOKEN[0]) is None or batch["audio_latents"] is None:
            return {}
        drop = torch.ones_like(batch["has_audio"], dtype=torch.bool)
        return {f"audio_{name}": value for name, value in chosen(*of_voice(batch), drop, SPOKEN_TEXT).items()}

    def _empty_prompt_like(self, batch: Batch) -> Batch:
        """Brings the empty prompt to the lengths of a batch: prior clips may have longer or shorter prompts."""
        empty = {name: value for name, value in self.empty_prompt.items() if value is not None}
        resized: Batch = {}
        for names, mask_name in ((("prompt_embeds", "prompt_embeds_2"), "prompt_mask"), (SPOKEN[:1], SPOKEN[1])):
            texts = [name for name in names if name in empty and batch[name] is not None]
            if not texts or all(empty[name].shape[1] == batch[name].shape[1] for name in texts):
                continue
            masks = empty[mask_name].split([empty[name].shape[1] for name in texts], dim=1)
            lengths = [batch[name].shape[1] for name in texts]
            resized |= {name: _resize(empty[name], length) for name, length in zip(texts, lengths, strict=True)}
            parts = [_resize(mask, length) for mask, length in zip(masks, lengths, strict=True)]
            resized[mask_name] = torch.cat(parts, dim=1)
        return empty | resized


def chosen(batch: Batch, empty: Batch, drop: Tensor, names: dict[str, str]) -> dict[str, Tensor | None]:
    """Chooses the text or the empty one for each sample.

    Args:
        batch: With texts and masks, [B, S, ...].
        empty: With the same, of one for all or one per sample; what it lacks is never dropped.
        drop: Which samples read the empty one, bool [B].
        names: Argument of the transformer for each that is read.
    """
    text = {}
    for name, argument in names.items():
        value, other = batch[name], empty.get(name)
        if value is not None and other is not None:
            value = torch.where(drop.reshape(-1, *[1] * (value.ndim - 1)), other, value)
        is_feature = value is not None and value.is_floating_point()
        text[argument] = value.float() if is_feature else value  # records are in half precision, weights need not
    return text


def of_voice(batch: Batch) -> tuple[Batch, Batch]:
    """What the sound reads behind a voice, with the words of the clip and without, padded alike."""
    said, empty = ({own: batch[name] for own, name in zip(SPOKEN, names, strict=True)} for names in VOICE_TEXTS)
    length = max(said[SPOKEN[0]].shape[1], empty[SPOKEN[0]].shape[1])
    said, empty = ({name: _resize(rows, length) for name, rows in text.items()} for text in (said, empty))
    return said, empty


def behind_first(latents: Tensor) -> Tensor:
    """Latents of pictures behind the first [B, C, F - 1, H, W] at their places, [B, C, F, H, W], float32."""
    return pad(latents.float(), (0, 0, 0, 0, 1, 0))


def is_high_step(config: TrainConfig, step: int, drawn: bool) -> bool:
    """Tells whether a step trains the first of two video towers; MOVA's code begins with it (arXiv:2602.08794)."""
    return {"drawn": drawn, "alternate": step % 2 == 0, "high": True, "low": False}[config.experts]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Moves the tensors of a batch; the host does not wait where they lie in pinned memory."""
    return {name: send(value, device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Moves a tensor to the device without waiting for what the device is doing."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _resize(rows: Tensor, length: int) -> Tensor:
    """Pads [B, S, ...] to ``length`` rows by zeros, or cuts rows that are padding."""
    padding = rows.new_zeros(rows.shape[0], max(0, length - rows.shape[1]), *rows.shape[2:])
    return torch.cat([rows[:, :length], padding], dim=1)


def _noised(data: Tensor | None, levels: Tensor, generator: torch.Generator) -> tuple[Tensor | None, Tensor | None]:
    """Mixes latents with noise; returns what the model sees and the velocity it is to predict, in float32."""
    if data is None:
        return None, None
    noise = torch.randn(data.shape, generator=generator, device=data.device)
    return add_noise(data.float(), noise, levels), velocity_target(data.float(), noise)


def _clean_start(sigma: Tensor, num_latents: int, num_given: Tensor) -> Tensor:
    """Spreads noise levels [B] over latents, 0 for the first ``num_given`` [B] of them: [B, num_latents]."""
    index = torch.arange(num_latents, device=sigma.device)
    return sigma[:, None].expand(-1, num_latents).masked_fill(index < num_given[:, None], 0.0)


def _as_bool(mask: Tensor | None) -> Tensor | None:
    """A mask of a record, which holds 0 and 1, in the type whose values the loss need not look at."""
    return None if mask is None else mask.bool()


def _expand(present: Tensor, levels: Tensor) -> Tensor:
    """Gives the presence of each sample [B] the shape of the noise levels, [B] or [B, N]."""
    return present if levels.ndim == 1 else present[:, None].expand_as(levels)
