"""Options whose values are numbers: what counts nothing, or lies beyond its limits, is refused by name."""

MAX_RATE_HZ = 1000.0  # frames per second; the least is its inverse
MEMORY_GB = (0.001, 100000.0)  # of a device
MOST_COUNTED = 2**31 - 1  # of anything; beyond it libraries fail in words of their own


def check_between(option: str, value: float | None, low: float, high: float, advice: str) -> None:
    """Refuse a number beyond its limits, and what is no number; None was not given."""
    if value is not None and not low <= value <= high:
        raise ValueError(f"`{option}` must be a number from {low:g} to {high:g}, got {value:g}; use {advice}")


def check_count(option: str, value: int) -> None:
    """Refuse a number that counts nothing, or more than there can be."""
    if value < 1:
        raise ValueError(f"`{option}` must be at least 1, got {value}")
    if value > MOST_COUNTED:
        raise ValueError(f"`{option}` must be at most {MOST_COUNTED}, got {value}; use fewer")
