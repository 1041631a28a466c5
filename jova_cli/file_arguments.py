"""The words that say how media files are read, wherever a command is given some."""

from .parser import Parser


FITS = ("cover", "contain", "stretch")  # as in diffusers_jova.pictures
OPTIONS_OF_FILES = {  # arguments of `diffusers_jova.media`, as the commands call them
    "start_s": "--start",
    "duration_s": "--duration",
    "audio_track": "--audio-track",
    "allow_truncated": "--allow-truncated",
}


def add_file_arguments(parser: Parser) -> None:
    """Add track, truncated files and pictures of another shape."""
    add = parser.add_argument
    add("--audio-track", type=int, help="sound track of the files, counted from 0; the default one if not given")
    add("--allow-truncated", action="store_true", help="take what is there of files that lack their end")
    add("--fit", choices=FITS, default=FITS[0], help="image or video of another shape: crop, fill with black, or bend")


def check_file_arguments(audio_track: int | None) -> None:
    """Refuse a track that no file has."""
    if audio_track is not None and audio_track < 0:
        raise ValueError(f"`--audio-track` must be counted from 0, got {audio_track}; 0 is the first")


def as_options(message: str, **others: str) -> str:
    """Let a sentence about a file name options in place of the arguments of `diffusers_jova.media`."""
    for name, option in {**others, **OPTIONS_OF_FILES}.items():
        message = message.replace(f"`{name}`", f"`{option}`")
    return message


def of_this_file(message: str) -> str:
    """The same where the file is named beside the sentence."""
    return as_options(message).replace("`path` must", "it must")
