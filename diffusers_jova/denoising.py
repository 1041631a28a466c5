"""One denoising step: which predictions guidance needs, how the transformer is asked for them, how the samples move.

Letters in shapes: B clips, C channels, F latent frames, h, w latent height and width, L audio latents.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from .conditions import GivenLatents
from .guidance import Branch, Guidance, Weights
from .guidance_parallel import BranchSharing
from .prediction_plan import BranchGroup, PredictionPlan, wanted_of
from .prompt import PromptEmbeds, concatenate_prompts
from .sample_runs import Coupling
from .scheduling_flow_match_av import FlowMatchAudioVideoScheduler
from .speakers import Speakers
from .transformer_jova import MODALITIES


REFERENCES = {"video": "reference_hidden_states", "audio": "audio_reference_hidden_states"}  # of the transformer


def check_zero_init(guidance: Iterable[Guidance], scheduler: FlowMatchAudioVideoScheduler) -> None:
    """Refuse first steps of no velocity that a schedule does not have.

    Args:
        guidance: Of the modalities that take part.
        scheduler: With the steps of the call.

    Raises:
        ValueError: The velocity would be zero on all steps, or on a part of one.
    """
    order = scheduler.order
    for one in guidance:
        one.check_zero_init(len(scheduler.timesteps))
        if one.zero_init_steps % order:
            raise ValueError(
                f"`zero_init_steps` must be a multiple of {order} with a {scheduler.config['solver']}, which asks "
                f"{order} times in a step, got {one.zero_init_steps}; use {order}, say"
            )


@dataclass(frozen=True)
class TextConditions:
    """Text of the two kinds of predictions that guidance compares, and the voices that the prompt's speakers have.

    Args:
        prompt: With the prompt.
        negative_prompt: Without; None if guidance is off.
        audio_negative_prompt: Without, for the audio branch where it differs.
        speakers: Voices in the prompt; None if there are none.
    """

    prompt: PromptEmbeds
    negative_prompt: PromptEmbeds | None = None
    audio_negative_prompt: PromptEmbeds | None = None
    speakers: Speakers | None = None

    def named_features(self) -> dict[str, Tensor | None]:
        """Features of all prompts by the argument that gives them; `_2` is of a second text encoder."""
        prompts = {
            "prompt_embeds": self.prompt,
            "negative_prompt_embeds": self.negative_prompt,
            "audio_negative_prompt_embeds": self.audio_negative_prompt,
        }
        found = {name: prompt for name, prompt in prompts.items() if prompt is not None}
        parts = {"": "features", "_2": "features_2", ".audio_features": "audio_features"}
        return {name + end: getattr(prompt, part) for end, part in parts.items() for name, prompt in found.items()}

    def transformer_arguments(self, branches: Sequence[Branch], dtype: torch.dtype) -> dict[str, Any]:
        """Text arguments of the transformer for one prediction after the other."""
        arguments = self.text_arguments([branch.text for branch in branches], dtype)
        if self.speakers is None:
            return arguments
        return arguments | self.speakers.transformer_arguments([branch.voiced for branch in branches])

    def check_branches(self, branches: Sequence[Branch]) -> None:
        """Refuse predictions without the prompt where there is no other text, on every process alike."""
        if self.negative_prompt is None and not all(branch.text for branch in branches):
            raise ValueError(
                "`guidance_scale` must differ from 1 when a call begins for a callback to change it, got 1; "
                "begin with the scale that the first step needs"
            )

    def text_arguments(self, has_text: Sequence[bool], dtype: torch.dtype) -> dict[str, Any]:
        """Features and lengths, or masks, for a batch of predictions, with the prompt or without."""
        texts = ["prompt" if has else "negative_prompt" for has in has_text]
        joined = self.joined(texts)
        arguments = as_arguments(joined, self.lengths_of(texts, ""), "", dtype)
        if self.audio_negative_prompt is not None and not all(has_text):
            texts = ["prompt" if has else "audio_negative_prompt" for has in has_text]
            joined = self.joined(texts)
        elif joined.audio_features is None:  # one text serves both modalities
            return arguments
        return arguments | as_arguments(joined.of_audio(), self.lengths_of(texts, "audio_"), "audio_", dtype)

    def joined(self, texts: Sequence[str]) -> PromptEmbeds:
        """The prompt, or what takes its place, for one prediction after the other, by the names of the fields."""
        return concatenate_prompts([getattr(self, name) for name in texts])

    def lengths_of(self, texts: Sequence[str], prefix: str) -> list[tuple[int, ...]] | None:
        """Rows that each of these prompts has; None where a mask has to say which."""
        found = [self.lengths[prefix + name] for name in texts]
        known = [part for part in found if part is not None]
        return list(chain.from_iterable(known)) if len(known) == len(found) else None

    @cached_property
    def lengths(self) -> dict[str, list[tuple[int, ...]] | None]:
        """Rows of every prompt, and of what the sound reads of it, read from a device once for all steps."""
        lengths = {}
        for name in ("prompt", "negative_prompt", "audio_negative_prompt"):
            if (prompt := getattr(self, name)) is not None:
                lengths[name] = prompt.text_lengths()
                lengths[f"audio_{name}"] = (
                    lengths[name] if prompt.audio_features is None else prompt.of_audio().text_lengths()
                )
        return lengths


def as_arguments(
    prompts: PromptEmbeds, lengths: list[tuple[int, ...]] | None, prefix: str, dtype: torch.dtype
) -> dict[str, Any]:
    """Text arguments of one branch of the transformer, the names with a prefix; no mask where lengths tell it."""
    features, features_2 = prompts.features.to(dtype), prompts.features_2
    sizes = (features.shape[1],) if features_2 is None else (features.shape[1], features_2.shape[1])
    is_whole = lengths is not None and all(own == sizes for own in lengths)
    return {
        f"{prefix}encoder_hidden_states": features,
        f"{prefix}encoder_hidden_states_2": None if features_2 is None else features_2.to(dtype),
        f"{prefix}encoder_attention_mask": prompts.joint_mask() if lengths is None else None,
        f"{prefix}text_lengths": None if is_whole else lengths,
    }


@dataclass(frozen=True, kw_only=True)
class JoVADenoiser:
    """Takes the steps of one call.

    Args:
        transformer: Any of the package's.
        scheduler: With its timesteps set.
        guidance: Guidance of each modality.
        given: Clean latents of modalities that are conditions, wholly or in part.
        channels: Condition channels of the video [B, C, F, h, w]; None where the model has none.
        frame_rate: Frames per second.
        audio_latent_rate_hz: Audio latents per second.
        coupling: Attention between audio and video in coupled predictions with the prompt: all of it, or one
            direction.
        negative_coupling: The same in those without the prompt.
        references: Clean latents that the transformer reads in front of a clip: an image [B, C, 1, h, w] by `"video"`,
            a voice [B, R, C] by `"audio"`.
        negative_skip_layer: Block that predictions without the prompt leave out; None for none.
        is_sequential: Whether predictions are made one after the other, to save memory, or in one batch.
        attention_kwargs: Of the transformer.
        generator: Of stochastic solvers.
        sharing: Processes that share the predictions; None for this one alone.
        has_voices: Whether the prompt's speakers have voices, without which a prediction that leaves them out is none.
    """

    transformer: Any
    scheduler: FlowMatchAudioVideoScheduler
    guidance: Mapping[str, Guidance]
    given: Mapping[str, GivenLatents]
    channels: Tensor | None
    frame_rate: float
    audio_latent_rate_hz: float
    coupling: Coupling = True
    negative_coupling: Coupling = True
    references: Mapping[str, Tensor] = field(default_factory=dict)
    negative_skip_layer: int | None = None
    is_sequential: bool = False
    attention_kwargs: dict[str, Any] | None = None
    generator: torch.Generator | list[torch.Generator] | None = None
    sharing: BranchSharing | None = None
    has_voices: bool = False

    def generates(self, name: str) -> bool:
        """Whether anything of a modality is left to generate."""
        return name not in self.given or not self.given[name].covers_all

    def impose(self, samples: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The samples, with clean latents where they are given."""
        return {name: self.given[name].impose(x) if name in self.given else x for name, x in samples.items()}

    def plan(self, names: Sequence[str]) -> PredictionPlan:
        """What a step asks of the modalities that take part."""
        return PredictionPlan(
            names=names,
            generated=[name for name in names if self.generates(name)],
            coupling=self.coupling,
            negative_coupling=self.negative_coupling,
            negative_skip_layer=self.negative_skip_layer,
            has_voices=self.has_voices,
            order=self.scheduler.order,
        )

    def progress(self, step: int, names: Sequence[str]) -> dict[str, Any]:
        """Where a step stands, as `cache_context` takes it; the noise level is video's where video is generated.

        Args:
            step: Index of the step.
            names: Modalities that take part.
        """
        leads_video = "video" in names and self.generates("video")
        sigmas = self.scheduler.sigmas if leads_video else self.scheduler.audio_sigmas
        return {
            "step_index": step,
            "sigma": float(sigmas[step]),
            "num_inference_steps": len(self.scheduler.timesteps),
        }

    def branches_by_step(self, names: Sequence[str]) -> list[list[Branch]]:
        """Predictions that each step asks for."""
        num_steps, plan = len(self.scheduler.timesteps), self.plan(names)
        return [list(wanted_of(plan.weights(self.guidance, step, num_steps))) for step in range(num_steps)]

    def needs_negative_prompt(self, names: Sequence[str]) -> bool:
        """Whether any step asks for a prediction without the prompt."""
        return any(not branch.text for branches in self.branches_by_step(names) for branch in branches)

    def step(self, step: int, samples: Mapping[str, Tensor], text: TextConditions) -> dict[str, Tensor]:
        """Move the samples of all modalities one step towards the data.

        Args:
            step: Index of the step.
            samples: Video [B, C, F, h, w] and audio [B, L, C] that take part, by name, float32.
            text: What both kinds of predictions read.
        """
        schedules = (self.scheduler.timesteps, self.scheduler.audio_timesteps)
        batch_size = next(iter(samples.values())).shape[0]
        timesteps = {name: times[step].expand(batch_size) for name, times in zip(MODALITIES, schedules, strict=True)}
        timesteps |= {name: given.timesteps(timesteps[name]) for name, given in self.given.items()}

        # 1. Ask for the predictions that guidance needs
        plan = self.plan(list(samples))
        weights = plan.weights(self.guidance, step, len(self.scheduler.timesteps))
        predictions = self.predict(plan, weights, samples, timesteps, text, step)

        # 2. Combine them; a modality whose velocity is zero is left alone, so that no solver remembers the step
        velocities = {
            name: self.guidance[name].guide(
                predictions[name],
                weights[name],
                samples[name],
                timesteps[name] / self.scheduler.config.num_train_timesteps,
            )
            for name in weights
            if weights[name]
        }

        # 3. Take the step; what is given stays as it is
        moved = self.scheduler.step(
            velocities.get("video"),
            velocities.get("audio"),
            self.scheduler.timesteps[step],
            samples["video"] if "video" in velocities else None,
            samples["audio"] if "audio" in velocities else None,
            generator=self.generator,
            return_dict=False,
        )
        stepped = {name: x for name, x in zip(MODALITIES, moved, strict=True) if x is not None}
        return self.impose({**samples, **stepped})

    def predict(
        self,
        plan: PredictionPlan,
        weights: Mapping[str, Weights],
        samples: Mapping[str, Tensor],
        timesteps: Mapping[str, Tensor],
        text: TextConditions,
        step: int,
    ) -> dict[str, dict[Branch, Tensor]]:
        """Velocities by modality and branch, for every weight, in few batches or one by one, here or elsewhere."""
        wanted = wanted_of(weights)
        text.check_branches(list(wanted))
        dtype = self.transformer.dtype
        inputs = {name: latents.to(dtype) for name, latents in samples.items()}
        if self.channels is not None and "video" in inputs:
            inputs["video"] = torch.cat([inputs["video"], self.channels.to(dtype)], dim=1)
        velocities: dict[str, dict[Branch, Tensor]] = {name: {} for name in samples}
        rows_read = plan.rows_read(weights)
        own = list(wanted) if self.sharing is None else self.sharing.own(list(wanted))
        for group in plan.groups({branch: rows_read[branch] for branch in own}, self.is_sequential):
            outputs = self.ask(group, plan, inputs, timesteps, text, step)
            for name, output in zip(MODALITIES, outputs, strict=True):
                if output is not None:
                    velocities[name].update(zip(group.branches, output.chunk(len(group.branches)), strict=True))
        return velocities if self.sharing is None else self.sharing.exchange(wanted, velocities, samples)

    def ask(
        self,
        group: BranchGroup,
        plan: PredictionPlan,
        inputs: Mapping[str, Tensor],
        timesteps: Mapping[str, Tensor],
        text: TextConditions,
        step: int,
    ) -> tuple[Tensor | None, Tensor | None]:
        """One forward of the transformer: velocities of video and of audio, of one branch after the other."""
        batch_size, branches = timesteps["video"].shape[0], group.branches
        repeated, references = (
            {name: torch.cat([x] * len(branches)) for name, x in of.items() if name in group.names}
            for of in (inputs, self.references)
        )
        label = "_".join(
            [branch.label for branch in branches] + (list(group.names) if len(group.names) < len(inputs) else [])
        )
        # not every transformer knows these words
        options: dict[str, Any] = {REFERENCES[name]: x.to(self.transformer.dtype) for name, x in references.items()}
        if (skipped := plan.skipped_layer(branches[0])) is not None:
            options["skip_layers"] = [skipped]
        with self.transformer.cache_context(label, **self.progress(step, list(inputs))):
            return self.transformer(
                hidden_states=repeated.get("video"),
                audio_hidden_states=repeated.get("audio"),
                timestep=torch.cat([timesteps["video"]] * len(branches)),
                audio_timestep=torch.cat([timesteps["audio"]] * len(branches)),
                **text.transformer_arguments(branches, self.transformer.dtype),
                frame_rate=self.frame_rate,
                audio_latent_rate_hz=self.audio_latent_rate_hz,
                coupled=[plan.coupling_of(branch) for branch in branches for _ in range(batch_size)],
                attention_kwargs=self.attention_kwargs,
                return_dict=False,
                **options,
            )
