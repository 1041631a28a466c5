"""Values that should lie in [0, 1] and overshoot: a little is clipped, as core does, more is refused."""

import logging
from typing import Any


logger = logging.getLogger(__name__)

LARGEST_OVERSHOOT = 0.5  # of an IMAGE or a mask beyond [0, 1]: bicubic resizing and sharpening reach a third of it
ROUNDING = 2**-8  # of numbers up to 1 in bfloat16; what overshoots by more is told
MASK_ADVICE = "correct it, or leave it out"


def to_unit(name: str, values: Any, advice: str, rule: str = "hold", is_told: bool = True) -> Any:
    """Floats from 0 to 1; what overshoots a little is clipped, as core does.

    Args:
        name: Of what holds them, as the message has it.
        values: A tensor; comes back as it is where nothing overshoots.
        advice: What to do about others.
        rule: What stands between "must" and "values".
        is_told: Whether to log what is clipped, if it is more than rounding.

    Raises:
        ValueError: They lie far outside, or are NaN.
    """
    if not values.numel():
        return values
    low, high = (float(end) for end in values.aminmax())
    if not (low >= -LARGEST_OVERSHOOT and high <= 1 + LARGEST_OVERSHOOT):  # written so that NaN fails as well
        raise ValueError(f"{name} must {rule} values from 0 to 1, got {low:.3g} to {high:.3g}; {advice}")
    if low >= 0 and high <= 1:
        return values
    if is_told and (low < -ROUNDING or high > 1 + ROUNDING):
        logger.warning(f"{name} reaches from {low:.3g} to {high:.3g}: what lies beyond 0 and 1 is clipped")
    return values.clamp(0, 1)
