"""Guidance of each modality in core's samplers, by the package's own combination of predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import comfy.conds
import comfy.samplers
import comfy.utils
from torch import Tensor

from .latent_parts import imposed, modality_names, named_parts
from .model import WANTED_KEY
from .package import jova
from .sampling_checks import VOICE_KEYS


WIDGETS = {  # of the node: the argument of the pipeline
    "cfg": "guidance_scale",
    "audio_cfg": "audio_guidance_scale",
    "coupling": "coupling_scale",
    "audio_coupling": "audio_coupling_scale",
    "voices": "audio_speaker_scale",
    "rescale": "guidance_rescale",
    "audio_rescale": "audio_guidance_rescale",
}
INTERVALS = {"guidance_interval": ("start", "end"), "coupling_interval": ("coupling_start", "coupling_end")}
OWN = "model"  # of a combo: the model's own value
AFTERWARDS = "sampler_post_cfg_function"  # what other nodes do with the result
OTHER_GUIDANCE = "sampler_cfg_function"  # what another node puts in the place of the combination


class JovaCFGGuider(comfy.samplers.CFGGuider):
    """Combines up to five predictions per modality.

    Args:
        model: Handle of a JoVA model.
        guidance: `Guidance` by modality.
    """

    def __init__(self, model: Any, guidance: Mapping[str, Any]) -> None:
        super().__init__(model)
        if OTHER_GUIDANCE in self.model_options:
            raise ValueError(
                "`model` must not bring its own way to combine predictions, got one beside JoVA Guider; remove the "
                "node that adds it, or use core's CFGGuider"
            )
        self.guidance = guidance

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: Mapping[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        """Guided denoised prediction of packed latents [B, 1, N] at a noise level [B]."""
        options = model_options or {}
        step, num_steps = place_of(timestep, options["transformer_options"]["sample_sigmas"])
        plan = self.plan()
        weights = plan.weights(self.guidance, step, num_steps)
        wanted = jova("prediction_plan").wanted_of(weights)
        if options.get(AFTERWARDS):  # nodes that read whole predictions
            wanted = dict.fromkeys(wanted, plan.generated)
        asked = [self.conditioning_of(branch, names) for branch, names in wanted.items()]
        answers = comfy.samplers.calc_cond_batch(self.inner_model, asked, x, timestep, options) if asked else []
        by_branch = dict(zip(wanted, answers, strict=True))
        guided = self.combine(x, timestep, by_branch, weights)
        return self.after(guided, by_branch, x, timestep, options)

    def told(self, prompt: str = "positive") -> dict[str, Any]:
        """What the model is told beside the latents, with one of both prompts."""
        entries: list[dict[str, Any]] = self.conds[prompt]
        conds: dict[str, Any] = entries[0]["model_conds"]
        return conds

    def plan(self) -> Any:
        """`PredictionPlan` of what is sampled, as in the pipeline."""
        told = self.told()
        return jova("prediction_plan").PredictionPlan(
            names=modality_names(told["latent_shapes"].cond),
            generated=told[WANTED_KEY].cond,
            coupling=told["coupled"].cond,
            negative_coupling=self.told("negative")["coupled"].cond,
            has_voices=VOICE_KEYS[0] in told,
        )

    def conditioning_of(self, branch: Any, wanted: Sequence[str]) -> list[dict[str, Any]]:
        """What the model reads for one of the questions that guidance asks.

        Args:
            branch: The question.
            wanted: Modalities whose answer is read.
        """
        entries: list[dict[str, Any]] = self.conds["positive" if branch.text else "negative"]
        dropped = () if branch.voiced else VOICE_KEYS
        constant = {WANTED_KEY: tuple(wanted)} | ({} if branch.coupled else {"coupled": False})
        return [
            {
                **entry,
                "model_conds": {
                    **{name: value for name, value in entry["model_conds"].items() if name not in dropped},
                    **{name: comfy.conds.CONDConstant(value) for name, value in constant.items()},
                },
            }
            for entry in entries
        ]

    def combine(
        self, x: Tensor, timestep: Tensor, answers: Mapping[Any, Tensor], weights: Mapping[str, Any]
    ) -> Tensor:
        """Let `Guidance` make one prediction of each modality's, and pack them; what is given stays as it is.

        Args:
            x: Packed latents [B, 1, N].
            timestep: Their noise level, [B].
            answers: Denoised predictions, packed, by branch.
            weights: Of the branches, by modality.
        """
        conds = {name: condition.cond for name, condition in self.told().items()}
        shapes = conds["latent_shapes"]
        parts = {branch: named_parts(comfy.utils.unpack_latents(answer, shapes)) for branch, answer in answers.items()}
        shared, (video, audio) = self.inner_model.shared_sigma, named_parts(comfy.utils.unpack_latents(x, shapes))
        noisy_video, noisy_audio, sigmas = self.inner_model.noisy_parts(x, timestep, conds)
        if "video" in weights:
            videos = {branch: found for branch, (found, _) in parts.items()}
            video = self.guidance["video"].guide_data(videos, weights["video"], noisy_video, sigmas["video"])
            video = self.with_pictures(video)
        if "audio" in weights:
            sounds = {branch: shared.recover(found.transpose(1, 2)) for branch, (_, found) in parts.items()}
            sound = self.guidance["audio"].guide_data(sounds, weights["audio"], noisy_audio, sigmas["audio"])
            audio = shared.carry(sound).transpose(1, 2)
        guided = [part for part in (video, audio) if part is not None]
        return comfy.utils.pack_latents(guided)[0] if len(guided) > 1 else guided[0]

    def with_pictures(self, video: Tensor) -> Tensor:
        """Denoised video [B, C, F, h, w] whose given pictures are as they were: rescaling would change them."""
        told = self.told()
        if "pictures" not in told:
            return video
        pictures, is_picture = (told[name].cond.to(video.device) for name in ("pictures", "is_picture"))
        return imposed(video, pictures, is_picture)

    def after(
        self, guided: Tensor, answers: Mapping[Any, Tensor], x: Tensor, timestep: Tensor, options: Mapping[str, Any]
    ) -> Tensor:
        """Apply what other nodes want to do with the result of guidance."""
        branches = jova("guidance")
        for function in options.get(AFTERWARDS, []):
            guided = function(
                {
                    "denoised": guided,
                    "cond": self.conds["positive"],
                    "uncond": self.conds["negative"],
                    "cond_scale": self.guidance["video"].guidance_scale,
                    "model": self.inner_model,
                    "cond_denoised": answers.get(branches.CONDITIONAL, guided),
                    "uncond_denoised": answers.get(branches.NO_TEXT, guided),
                    "sigma": timestep,
                    "model_options": options,
                    "input": x,
                }
            )
        return guided


def place_of(sigma: Tensor, sigmas: Tensor) -> tuple[int, int]:
    """Index of the step that a noise level belongs to, and the number of steps.

    Args:
        sigma: [B], all the same; between two steps where a solver looks ahead.
        sigmas: Of the schedule, falling, with the final one.
    """
    num_steps = len(sigmas) - 1
    tolerance = 1e-6 * float(sigmas[0])
    begun = int((sigmas[:-1] >= float(sigma.flatten()[0]) - tolerance).sum())
    return min(max(begun - 1, 0), num_steps - 1), num_steps


def guidance_of(defaults: Any, widgets: Mapping[str, Any]) -> dict[str, Any]:
    """`Guidance` by modality, of a model's defaults and a node's widgets.

    Args:
        defaults: `GenerationDefaults` of the model.
        widgets: By name; -1 or `"model"` takes the model's own.
    """
    values = {argument: widgets[name] for name, argument in WIDGETS.items() if widgets.get(name, -1) >= 0}
    for argument, names in INTERVALS.items():
        own = getattr(defaults, argument)
        given = [widgets.get(name, -1) for name in names]
        start, end = (old if new < 0 else new for old, new in zip(own, given, strict=True))
        if start > end:
            raise ValueError(f"`{names[0]}` must be at most `{names[1]}`, {end:g}, got {start:g}; swap them")
        values[argument] = (start, end)
    if widgets.get("uncoupled_text", OWN) != OWN:
        values["uncoupled_text"] = widgets["uncoupled_text"]
    if (star := widgets.get("cfg_zero_star", OWN)) != OWN:
        values |= dict.fromkeys(("cfg_zero_star", "audio_cfg_zero_star"), star == "on")
    if (zero_steps := widgets.get("zero_init_steps", -1)) >= 0:
        values |= dict.fromkeys(("zero_init_steps", "audio_zero_init_steps"), zero_steps)
    settings = defaults.override(**values)
    if (apg := widgets.get("apg", OWN)) != OWN:
        thresholds = {
            name: widgets[name] if apg == "on" else None for name in ("apg_threshold", "audio_apg_threshold")
        }
        settings = replace(settings, **thresholds)
    guidance: dict[str, Any] = settings.guidance()
    return guidance


def make_guider(model: Any, positive: Any, negative: Any, widgets: Mapping[str, Any]) -> JovaCFGGuider:
    """A GUIDER of the widgets of JoVA Guider."""
    guider = JovaCFGGuider(model, guidance_of(model.model.checkpoint.defaults, widgets))
    guider.set_conds(positive, negative)
    return guider
