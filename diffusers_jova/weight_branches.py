"""Which branch of a transformer a weight serves, by its name."""

from typing import Literal


Branch = Literal["video", "audio", "joint"]


def branch_of(name: str) -> Branch:
    """Tells which branch a parameter serves by its path; `joint` serves both."""
    parts = set(name.split("."))
    if "fusion" in parts:  # of two towers; what video reads audio by serves both
        return "joint"
    if parts & {"video", "video_text", "video_low"}:
        return "video"
    return "audio" if parts & {"audio", "audio_text"} else "joint"
