"""How predictions made with and without text, coupling and voices become one velocity.

A model can be asked four questions, its branches: v(c_T, c_B), v(0, c_B), v(c_T, 0) and v(0, 0), where c_T is the text
(0: the negative prompt) and c_B the coupling ("bridge"), attention between audio and video (0: none). Where a call
gives the voices of its speakers, the first of them reads them, the others do not, and a fifth, v(c_T, c_B, no voice),
differs from the first in nothing else. Guidance is one linear combination of the answers per modality, with weights
that sum to 1, so it is the same for velocities of either sign and for denoised predictions. Adaptive projection and
rescaling are not linear; they act on the denoised prediction, as their sources do. Nor is the optimised scale of
CFG-Zero* (`optimal_scale`): it multiplies the velocity of each branch without the text before they are combined.

With s_T the guidance scale and s_B the coupling scale, and the uncoupled branch asked with the text

``"empty"``: MOVA (arXiv:2602.08794v2), Eq. 6, dual CFG:
    v(0,0) + s_B [v(0,c_B) - v(0,0)] + s_T [v(c_T,c_B) - v(0,c_B)]
  - s_B = 1: classifier-free guidance (arXiv:2207.12598v1, Eq. 6, w = s_T - 1):  v(0,c_B) + s_T [v(c_T,c_B) - v(0,c_B)]
  - s_B = s_T: UniAVGen (arXiv:2511.03334), Eq. 10-11, MA-CFG:  v(0,0) + s [v(c_T,c_B) - v(0,0)]

``"kept"``: LTX-2 (Lightricks/LTX-2 @ 400fd31, MultiModalGuider), modality guidance:
    v(c_T,c_B) + (s_T - 1) [v(c_T,c_B) - v(0,c_B)] + (s_B - 1) [v(c_T,c_B) - v(c_T,0)]
  - NAVA (@ 786c373, align_3d_cfg) is the same with scales that are smaller by 1.

With s_V, the speaker scale, either has one term more, that of NAVA's timbre_cfg:
    + (s_V - 1) [v(c_T,c_B) - v(c_T,c_B,no voice)]

A scale of 1 switches its term off; a scale of 0 is a scale of 0.

Letters: B batch, C channels, F latent frames, H and W latent height and width, L audio latents.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from diffusers.guiders.adaptive_projected_guidance import normalized_guidance
from diffusers.guiders.guider_utils import rescale_noise_cfg
from torch import Tensor

from .flow_matching import check_same_shape, expand_sigma, predict_data
from .number_arguments import check_flags, finite_number, whole_number


class Branch(NamedTuple):
    """One way to ask the model.

    Args:
        text: With the prompt; otherwise with the negative prompt.
        coupled: With attention between audio and video.
        voiced: With the voices of the speakers, where a call gives them.
    """

    text: bool
    coupled: bool
    voiced: bool = False

    @property
    def label(self) -> str:
        """Name of what a cache keeps for this branch."""
        words = ("text" if self.text else "empty", "coupled" if self.coupled else "uncoupled")
        return "_".join((*words, "voiced") if self.voiced else words)


CONDITIONAL = Branch(text=True, coupled=True, voiced=True)  # v(c_T, c_B)
NO_TEXT = Branch(text=False, coupled=True)  # v(0, c_B)
NO_COUPLING = Branch(text=True, coupled=False)  # v(c_T, 0)
UNCONDITIONAL = Branch(text=False, coupled=False)  # v(0, 0)
NO_VOICE = Branch(text=True, coupled=True)  # v(c_T, c_B, no voice)
BRANCHES = (CONDITIONAL, NO_TEXT, NO_COUPLING, UNCONDITIONAL, NO_VOICE)

Weights: TypeAlias = dict[Branch, float]


def branch_weights(
    guidance_scale: float, coupling_scale: float, uncoupled_text: str = "empty", speaker_scale: float = 1.0
) -> Weights:
    """Write a guidance formula of the module docstring as one weight per branch.

    Args:
        guidance_scale: s_T; 1 is off.
        coupling_scale: s_B; 1 is off.
        uncoupled_text: Whether the text is ``"empty"`` or ``"kept"`` where the coupling is removed.
        speaker_scale: s_V; 1 is off.

    Returns:
        The weights that are not 0; they sum to 1.

    Raises:
        ValueError: `uncoupled_text` is neither.
    """
    check_uncoupled_text(uncoupled_text)
    if uncoupled_text == "empty":
        weights = {
            CONDITIONAL: guidance_scale,
            NO_TEXT: coupling_scale - guidance_scale,
            UNCONDITIONAL: 1 - coupling_scale,
        }
    else:
        weights = {
            CONDITIONAL: guidance_scale + coupling_scale - 1,
            NO_TEXT: 1 - guidance_scale,
            NO_COUPLING: 1 - coupling_scale,
        }
    weights[CONDITIONAL] += speaker_scale - 1
    weights[NO_VOICE] = 1 - speaker_scale
    return {branch: weight for branch, weight in weights.items() if weight != 0}


def check_uncoupled_text(uncoupled_text: str) -> None:
    """Refuse the name of a formula that there is not."""
    if uncoupled_text not in ("empty", "kept"):
        raise ValueError(f"`uncoupled_text` must be 'empty' or 'kept', got {uncoupled_text!r}")


def merged(weights: Weights, question: Callable[[Branch], Branch]) -> Weights:
    """Sum the weights of branches that ask a modality the same.

    Args:
        weights: From `Guidance.weights`.
        question: The branch that stands for all which ask the same.

    Returns:
        The weights that are not 0.
    """
    found: Weights = {}
    for branch, weight in weights.items():
        asked = question(branch)
        found[asked] = found.get(asked, 0.0) + weight
    return {branch: weight for branch, weight in found.items() if weight != 0}


def required_branches(*weights: Weights) -> list[Branch]:
    """List the branches that some modality needs, in the order of `BRANCHES`.

    Args:
        weights: Weights of each modality that is generated, from `Guidance.weights`.
    """
    return [branch for branch in BRANCHES if any(branch in modality for modality in weights)]


def combine(predictions: Mapping[Branch, Tensor], weights: Weights) -> Tensor:
    """Sum the predictions with their weights in float32.

    Args:
        predictions: Velocities of at least the branches in ``weights``, any one shape.
        weights: From `branch_weights`.

    Raises:
        ValueError: A branch that has a weight is not among the predictions, or they differ in shape.
    """
    check_answers(predictions, weights)
    total = torch.stack([weight * predictions[branch].float() for branch, weight in weights.items()])
    return total.sum(0)


def check_answers(predictions: Mapping[Branch, Tensor], weights: Weights, sample: Tensor | None = None) -> None:
    """Refuse predictions that lack a branch which has a weight, or are not of one shape, that of the sample."""
    if missing := [branch.label for branch in weights if branch not in predictions]:
        raise ValueError(f"`predictions` must answer every branch that has a weight, got no {', '.join(missing)}")
    answers = {f"predictions[{branch.label}]": predictions[branch] for branch in weights}
    first = next(iter(answers.values()))
    if sample is not None:
        check_same_shape("sample", sample, first)
    for name, answer in answers.items():
        check_same_shape(name, answer, first)


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """The guidance of one modality; the default is none.

    A pipeline asks every `required_branches` of both modalities' `weights` and lets `guide` make one velocity of each
    modality's answers.

    Args:
        guidance_scale: s_T, how much to follow the text; 1 is off.
        coupling_scale: s_B, how much to follow the other modality; 1 is off.
        uncoupled_text: Whether the text is ``"empty"`` (MOVA, UniAVGen) or ``"kept"`` (LTX-2, NAVA) where the
            coupling is removed.
        guidance_interval: Steps on which ``guidance_scale`` holds, those that lie within two fractions of all steps as
            a whole; it is 1 on the others (arXiv:2404.07724).
        coupling_interval: The same for ``coupling_scale``.
        speaker_scale: s_V, how much to follow the voices of the speakers; 1 is off.
        guidance_rescale: Fraction in [0, 1] of the rescaling in `rescale`; 0 is off.
        apg_threshold: Largest norm of the guidance direction in `project`, 0 for no limit; ``None`` switches the
            projection off.
        apg_eta: How much of the direction along the prediction `project` keeps; 1 keeps all.
        cfg_zero_star: Whether velocities without the text are multiplied by `optimal_scale` (CFG-Zero*).
        zero_init_steps: First steps on which the velocity is zero, whatever the scales: nothing is asked, and the
            latents stay as they are (zero-init of CFG-Zero*); 0 is off.
    """

    guidance_scale: float = 1.0
    coupling_scale: float = 1.0
    uncoupled_text: Literal["empty", "kept"] = "empty"
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    coupling_interval: tuple[float, float] = (0.0, 1.0)
    speaker_scale: float = 1.0
    guidance_rescale: float = 0.0
    apg_threshold: float | None = None
    apg_eta: float = 0.0
    cfg_zero_star: bool = False
    zero_init_steps: int = 0

    def __post_init__(self) -> None:
        check_uncoupled_text(self.uncoupled_text)
        for name in ("guidance_interval", "coupling_interval"):
            object.__setattr__(self, name, rising_fractions(name, getattr(self, name)))
        for name in ("guidance_scale", "coupling_scale", "speaker_scale", "guidance_rescale", "apg_eta"):
            object.__setattr__(self, name, finite_number(name, getattr(self, name)))
        if not 0 <= self.guidance_rescale <= 1:
            raise ValueError(f"`guidance_rescale` must be in [0, 1], got {self.guidance_rescale}; 0 is off")
        if self.apg_threshold is not None and finite_number("apg_threshold", self.apg_threshold) < 0:
            raise ValueError(f"`apg_threshold` must not be negative, got {self.apg_threshold}; None is off")
        check_flags({"cfg_zero_star": self.cfg_zero_star})
        object.__setattr__(self, "cfg_zero_star", bool(self.cfg_zero_star))
        object.__setattr__(self, "zero_init_steps", whole_number("zero_init_steps", self.zero_init_steps, least=0))

    @property
    def is_adjusted(self) -> bool:
        """Whether `adjust` changes the combination."""
        return self.apg_threshold is not None or self.guidance_rescale > 0

    def weights(self, step: int, num_steps: int, order: int = 1) -> Weights:
        """Give the weights of one step; a branch that is not in them need not be asked.

        Args:
            step: Index of the step, 0 to ``num_steps`` - 1.
            num_steps: Number of steps.
            order: How many of them are one step of the solver, which an interval holds in as a whole: 2 with Heun's.

        Returns:
            The weights; none on a step whose velocity is zero.

        Raises:
            ValueError: There is no such step, or the velocity would be zero on all steps.
        """
        num_steps = whole_number("num_steps", num_steps, least=1)
        if whole_number("step", step, least=0) >= num_steps:
            raise ValueError(f"`step` must be below `num_steps`, {num_steps}, got {step}; the first step is 0")
        self.check_zero_init(num_steps)
        if step < self.zero_init_steps:
            return {}
        of_solver = step // order, math.ceil(num_steps / order)
        guidance_scale = self.guidance_scale if lies_within(self.guidance_interval, *of_solver) else 1.0
        coupling_scale = self.coupling_scale if lies_within(self.coupling_interval, *of_solver) else 1.0
        return self.with_compared(
            branch_weights(guidance_scale, coupling_scale, self.uncoupled_text, self.speaker_scale)
        )

    def check_zero_init(self, num_steps: int) -> None:
        """Refuse a velocity of zero on all steps.

        Args:
            num_steps: Number of steps.

        Raises:
            ValueError: It would be.
        """
        if self.zero_init_steps >= num_steps:
            raise ValueError(
                f"`zero_init_steps` must be less than the number of steps, {num_steps}, got {self.zero_init_steps}; "
                "0 is off"
            )

    def with_compared(self, weights: Weights) -> Weights:
        """Add `CONDITIONAL` with a weight of 0 where what is not linear compares with it, whatever it weighs.

        Args:
            weights: Of a step.
        """
        compares = self.is_adjusted or self.is_scaled(weights)
        return {**weights, CONDITIONAL: weights.get(CONDITIONAL, 0.0)} if weights and compares else weights

    def is_scaled(self, weights: Weights) -> bool:
        """Whether `optimal_scale` multiplies any branch."""
        return self.cfg_zero_star and not all(branch.text for branch in weights)

    def guide(
        self, predictions: Mapping[Branch, Tensor], weights: Weights, sample: Tensor, sigma: Tensor | float
    ) -> Tensor:
        """Make one velocity out of the velocities of the branches.

        Args:
            predictions: Velocities of at least the branches in ``weights``, [B, C, F, H, W] or [B, L, C].
            weights: From `weights` of the step at hand.
            sample: Noisy latents that the branches saw, same shape.
            sigma: Their noise level: a number, [B], [B, F] or [B, L]; tokens at sigma 0 (conditions) keep their plain
                combination.

        Returns:
            The guided velocity, float32, same shape; 0 without weights.

        Raises:
            ValueError: A branch that has a weight is not among the predictions, or shapes differ.
        """
        if not weights:
            return torch.zeros_like(sample, dtype=torch.float32)
        check_answers(predictions, weights, sample)
        sample, sigma = sample.float(), expand_sigma(sigma, sample)
        scales = self.scales(predictions, weights, sigma > 0)
        scaled = {branch: scale * predictions[branch].float() for branch, scale in scales.items()}
        velocity = combine({**predictions, **scaled}, weights)
        if not self.is_adjusted or len(weights) == 1:
            return velocity
        conditional = predict_data(sample, predictions[CONDITIONAL].float(), sigma)
        data = self.adjust(predict_data(sample, velocity, sigma), conditional, weights[CONDITIONAL])
        return torch.where(sigma > 0, _velocity_to(data, sample, sigma), velocity)

    def guide_data(
        self, predictions: Mapping[Branch, Tensor], weights: Weights, sample: Tensor, sigma: Tensor | float
    ) -> Tensor:
        """Make one denoised prediction out of those of the branches, as `guide` does with velocities.

        Args:
            predictions: Denoised predictions of at least the branches in ``weights``, [B, C, F, H, W] or [B, L, C].
            weights: From `weights` of the step at hand.
            sample: Noisy latents that the branches saw, same shape.
            sigma: Their noise level, as in `guide`.

        Returns:
            The guided prediction, float32, same shape; ``sample`` without weights, where the velocity is 0.

        Raises:
            ValueError: As in `guide`.
        """
        sample = sample.float()
        if not weights:
            return sample
        check_answers(predictions, weights, sample)
        if self.is_scaled(weights):  # the scales are those of velocities
            sigma = expand_sigma(sigma, sample)
            velocities = {branch: _velocity_to(predictions[branch].float(), sample, sigma) for branch in weights}
            scales = self.scales(velocities, weights, sigma > 0)
            scaled = {branch: sample + scale * (predictions[branch] - sample) for branch, scale in scales.items()}
            predictions = {**predictions, **scaled}
        data = combine(predictions, weights)
        if not self.is_adjusted or len(weights) == 1:
            return data
        return self.adjust(data, predictions[CONDITIONAL].float(), weights[CONDITIONAL])

    def scales(self, velocities: Mapping[Branch, Tensor], weights: Weights, is_noisy: Tensor) -> dict[Branch, Tensor]:
        """Factors of the branches that are scaled, each broadcastable to a velocity; 1 for tokens at sigma 0.

        Args:
            velocities: Of at least the branches in ``weights``, [B, C, F, H, W] or [B, L, C].
            weights: From `weights` of the step at hand.
            is_noisy: Where sigma is above 0, as many dimensions.
        """
        if not self.is_scaled(weights):
            return {}
        conditional = velocities[CONDITIONAL].float()
        return {
            branch: torch.where(is_noisy, optimal_scale(conditional, velocities[branch].float(), is_noisy), 1.0)
            for branch in weights
            if not branch.text
        }

    def adjust(self, data: Tensor, conditional: Tensor, weight: float) -> Tensor:
        """Apply what of guidance is not linear, to denoised predictions.

        Args:
            data: Linear combination, [B, C, F, H, W] or [B, L, C].
            conditional: Prediction of the branch `CONDITIONAL`, same shape.
            weight: Its weight in the combination.
        """
        if self.apg_threshold is not None:
            data = project(data, conditional, weight, self.apg_threshold, self.apg_eta)
        if self.guidance_rescale > 0:
            data = rescale(data, conditional, self.guidance_rescale)
        return data


def rising_fractions(name: str, interval: Any) -> tuple[float, float]:
    """An interval of the steps, as two floats.

    Args:
        name: Argument that it is given as.
        interval: Two numbers, a list of JSON too.

    Raises:
        ValueError: It is none.
    """
    pair = [finite_number(name, end) for end in interval] if isinstance(interval, tuple | list) else []
    if len(pair) != 2 or not 0 <= pair[0] <= pair[1] <= 1:
        raise ValueError(
            f"`{name}` must be two rising fractions of the steps, 0 <= start <= stop <= 1, got {interval!r}"
        )
    return pair[0], pair[1]


def optimal_scale(conditional: Tensor, unprompted: Tensor, is_noisy: Tensor) -> Tensor:
    """Factor that brings a velocity without the text nearest to the one with it: the optimised scale of CFG-Zero*.

    CFG-Zero* (arXiv:2503.18886), with v_c and v_0 the velocities with the text and without:
        s* = <v_c, v_0> / |v_0|^2;  guided: s* v_0 + s_T (v_c - s* v_0)
    with inner products per sample over all else, as `ClassifierFreeZeroStarGuidance` of diffusers has them. A model
    that is asked in several ways without the text has one s* for each; given latents, at sigma 0, do not count.

    Args:
        conditional: v_c, [B, C, F, H, W] or [B, L, C].
        unprompted: v_0, same shape.
        is_noisy: Where sigma is above 0, broadcastable to them.

    Returns:
        s*, [B, 1, ...]; 1 where v_0 is 0, which every factor leaves as it is.
    """
    axes = tuple(range(1, unprompted.ndim))
    counted = torch.where(is_noisy, unprompted, 0.0)
    product, square = (torch.sum(one * counted, axes, keepdim=True) for one in (conditional, counted))
    return torch.where(square >= torch.finfo(square.dtype).tiny, product / square, 1.0)


def project(guided: Tensor, conditional: Tensor, weight: float, threshold: float, eta: float = 0.0) -> Tensor:
    """Limit the guidance direction and drop its part along the prediction: adaptive projected guidance (APG).

    Every combination with weight w on the conditional prediction D is D + (w - 1) g with g = D - (weighted mean of the
    other branches). APG (arXiv:2410.02416v1) replaces the direction g:
        g' = min(1, threshold / |g|) g;  D + (w - 1) (g'_orthogonal + eta g'_parallel)
    with parallel and orthogonal to D. Without momentum, which needs state. Waver takes norms and projections over
    [C, H, W] of each latent frame, not over the clip (its README: scale 8, threshold 27); we do, and for audio, in
    the same spirit, over the channels of each latent: the parallel part is then the loudness at that moment.

    Args:
        guided: Linear combination of denoised predictions, [B, C, F, H, W] or [B, L, C].
        conditional: D, same shape.
        weight: w; at exactly 1 there is no common direction, and ``guided`` is returned.
        threshold: Largest |g| per latent frame or audio latent; 0 for no limit.
        eta: How much of the parallel part to keep.
    """
    if weight == 1:
        return guided
    others = conditional - (guided - conditional) / (weight - 1)
    moment = (1, 3, 4) if guided.ndim == 5 else (2,)
    return normalized_guidance(
        conditional, others, weight - 1, None, eta, threshold, use_original_formulation=True, norm_dim=moment
    )


def rescale(guided: Tensor, conditional: Tensor, fraction: float) -> Tensor:
    """Bring the contrast of a guided prediction back towards that of the conditional one.

    arXiv:2305.08891v4, Sec. 3.4, on denoised predictions as in LTX-2 (@ 400fd31):
    guided * (r * std(conditional) / std(guided) + 1 - r), std per sample over all else

    Args:
        guided: Denoised prediction with guidance, [B, ...].
        conditional: Denoised prediction without, same shape.
        fraction: r in [0, 1].
    """
    return rescale_noise_cfg(guided, conditional, fraction)


def runs_of_steps(guidance: Iterable[Guidance], num_steps: int, order: int = 1) -> list[range]:
    """Divide the steps of a call into runs on which all weights stay the same.

    Args:
        guidance: Of each modality.
        num_steps: Number of steps.
        order: How many of them are one step of the solver.
    """
    guidance, of_solver = list(guidance), math.ceil(num_steps / order)
    steps, borders = range(of_solver), {0, num_steps, *(min(one.zero_init_steps, num_steps) for one in guidance)}
    for interval in (interval for one in guidance for interval in (one.guidance_interval, one.coupling_interval)):
        begin = bisect_left(steps, interval[0], key=lambda step: step / of_solver)
        end = bisect_right(steps, interval[1], key=lambda step: (step + 1) / of_solver)
        borders |= {min(order * border, num_steps) for border in (begin, end)}
    return [range(*ends) for ends in pairwise(sorted(borders))]


def _velocity_to(data: Tensor, sample: Tensor, sigma: Tensor) -> Tensor:
    """The velocity that leads to denoised data, the inverse of `predict_data`; of no meaning where sigma is 0."""
    return (sample - data) / sigma.clamp(min=1e-6)


def lies_within(interval: tuple[float, float], step: int, num_steps: int) -> bool:
    """Whether a step lies inside an interval of fractions as a whole, as UniAVGen's `step < int(fraction * steps)`."""
    begin, end = step / num_steps, (step + 1) / num_steps  # dividing is exact where 0.55 * 100 > 55 is not
    return interval[0] <= begin and end <= interval[1]


# What people published: (video, audio).
# fmt: off
PRESETS: Mapping[str, tuple[Guidance, Guidance]] = MappingProxyType({
    # arXiv:2512.13677v1, Sec. 4.2
    "jova": (Guidance(guidance_scale=10.0), Guidance(guidance_scale=10.0)),
    # Waver README, video only; the audio row is ours
    "waver": (Guidance(guidance_scale=8.0, apg_threshold=27.0), Guidance(guidance_scale=8.0)),
    # OpenMOSS/MOVA @ 595a976, as released
    "mova": (Guidance(guidance_scale=5.0), Guidance(guidance_scale=5.0)),
    # arXiv:2602.08794v2, Sec. 7.2, 3.0 to 3.5: lips improve, speech quality and instruction following suffer
    "mova-dual": (Guidance(guidance_scale=5.0, coupling_scale=3.0), Guidance(guidance_scale=5.0, coupling_scale=3.0)),
    # arXiv:2511.03334 and its code: MA-CFG on the first half of the steps, plain CFG on the second
    "uniavgen": (
        Guidance(guidance_scale=3.0, coupling_scale=3.0, coupling_interval=(0.0, 0.5)),
        Guidance(guidance_scale=2.0, coupling_scale=2.0, coupling_interval=(0.0, 0.5)),
    ),
    # LTX-2 @ 400fd31, without its spatio-temporal term
    "ltx2": (
        Guidance(guidance_scale=3.0, coupling_scale=3.0, uncoupled_text="kept", guidance_rescale=0.7),
        Guidance(guidance_scale=7.0, coupling_scale=3.0, uncoupled_text="kept", guidance_rescale=0.7),
    ),
    # NAVA @ 786c373; 3 / 3 and 2 / 2 / 3 in its own scales
    "nava": (
        Guidance(guidance_scale=4.0, coupling_scale=4.0, uncoupled_text="kept"),
        Guidance(guidance_scale=3.0, coupling_scale=3.0, uncoupled_text="kept", speaker_scale=4.0),
    ),
    # Ovi @ 5b69b25; its skipped block is `negative_skip_layer` of a pipeline
    "ovi": (Guidance(guidance_scale=4.0), Guidance(guidance_scale=3.0)),
})
# fmt: on
