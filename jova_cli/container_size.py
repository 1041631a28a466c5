"""Whether a file holds as many bytes as its container announces: boxes of an mp4, chunks of a RIFF, a Matroska.

Formats that announce nothing, such as MPEG-TS, lack nothing.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp")  # with which an mp4 or mov may begin
INDICES = {b"moov", b"meta"}  # of a film, of pictures as HEIF and AVIF
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # element names of Matroska and WebM
RIFF_TO_THE_END = (0, 0xFFFFFFFF)  # sizes of a stream whose writer could not go back
RIFF_HEADER_BYTES = 8
RIFF_SLACK_BYTES = 8  # some writers count the header in, or forget the byte that makes a chunk even


def missing_bytes(path: Path) -> int:
    """How many of the bytes that a file announces are not there; 0 for a whole file, or one that announces nothing."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(12)
        file.seek(0)
        if start[4:8] in BOXES:
            end = _end_of_boxes(file, size)
        elif start[:4] == b"RIFF":
            end = _end_of_chunks(file, size)
        elif start[:4] == EBML:
            end = _end_of_elements(file, size)
        else:
            end = size
    return max(0, end - size)


def lacks_index(path: Path) -> bool:
    """Whether an mp4 or mov ends before the box that tells where its frames are, which recorders write at the end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        is_mp4 = file.read(12)[4:8] in BOXES
        names = {name for name, _ in _boxes(file, size)} if is_mp4 else set()
    return b"mdat" in names and names.isdisjoint(INDICES)


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Where the last box of an mp4 ends, as far as that is announced."""
    return max((end for _, end in _boxes(file, size)), default=size)


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """Name of each box of an mp4 and where it ends: 4 bytes of size, big-endian, 4 of name, 8 of size if that is 1."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length, name = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        is_box = all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in name)
        if length < 8 or not is_box:  # 0: to the end of the file
            yield name, size
            return
        position += length
        yield name, position


def _end_of_chunks(file: BinaryIO, size: int) -> int:
    """Where the last RIFF chunk of a WAV or AVI ends; an AVI of more than 1 GB has several."""
    position = 0
    while position + RIFF_HEADER_BYTES <= size:
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(RIFF_HEADER_BYTES))
        if name != b"RIFF" or length in RIFF_TO_THE_END:
            return size
        position += RIFF_HEADER_BYTES + length
    return position - RIFF_SLACK_BYTES


def _end_of_elements(file: BinaryIO, size: int) -> int:
    """Where the segment of a Matroska ends: names, then sizes of 1 to 8 bytes whose first bit tells their length."""
    _read_name(file)
    header_length = _read_length(file)
    if header_length is None:
        return size
    file.seek(header_length, 1)
    name, length = _read_name(file), _read_length(file)
    return size if name != SEGMENT or length is None else file.tell() + length


def _read_name(file: BinaryIO) -> bytes:
    return file.read(4)  # of the two elements at the top level


def _read_length(file: BinaryIO) -> int | None:
    """A length of EBML; None where it is unknown (all bits are set) or cannot be read."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    num_bytes = 9 - first[0].bit_length()
    content = bytes([first[0] & (0xFF >> num_bytes)]) + file.read(num_bytes - 1)
    value = int.from_bytes(content, "big")
    return None if len(content) < num_bytes or value == 2 ** (7 * num_bytes) - 1 else value
