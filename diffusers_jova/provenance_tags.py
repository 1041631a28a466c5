"""How the record of a clip's origin lies in its file: tags of an mp4, an XMP packet behind them, chunks of a wav.

XMP is where programs look for IPTC's digital source type: in an mp4 a box of its own, after Adobe's XMP Specification,
Part 3, Sec. 1.1.4, with the property of the IPTC Video Metadata Hub.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.sax.saxutils import quoteattr

from jova_cli.clip_info import RECORD_KEY


XMP_BOX = UUID("be7acfcb-97a9-42e8-9c71-999491e3afac")
XMP_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmp:CreatorTool={tool} Iptc4xmpExt:DigitalSourceType={source}/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""
MAIN_ENTRIES = ("generated", "package", "model", "seed", "digital_source_type")


def mp4_tags(record: Mapping[str, Any]) -> dict[str, str]:
    """Free keys of an mp4: the record as JSON, and its main entries for whoever lists the tags of a file."""
    tags = {name: tag_text(record[name]) for name in MAIN_ENTRIES if record.get(name) is not None}
    if record.get("adapters"):
        tags["adapter"] = ", ".join(f"{adapter['name']}:{adapter['scale']}" for adapter in record["adapters"])
    return {**tags, RECORD_KEY: json.dumps(record)}


def tag_text(value: Any) -> str:
    """One entry of a record as the text of a tag."""
    return value if isinstance(value, str) else json.dumps(value)


def append_xmp(path: Path, record: Mapping[str, Any]) -> None:
    """Put the XMP packet behind the last box of an mp4, where it moves nothing."""
    tool, source = (quoteattr(str(record.get(name, ""))) for name in ("package", "digital_source_type"))
    content = XMP_BOX.bytes + XMP_PACKET.format(tool=tool, source=source).encode()
    with path.open("ab") as file:
        file.write(struct.pack(">I4s", 8 + len(content), b"uuid") + content)


def append_wav_info(path: Path, record: Mapping[str, Any]) -> None:
    """Put a LIST INFO chunk behind the samples of a wav: software, source, and the record as comment.

    It has no XMP, because readers of samples warn of a chunk that they do not know.
    """
    texts = {b"ISFT": record.get("package"), b"ISRC": record.get("digital_source_type"), b"ICMT": json.dumps(record)}
    entries = b"".join(riff_chunk(name, f"{text}\0".encode()) for name, text in texts.items() if text)
    chunk = riff_chunk(b"LIST", b"INFO" + entries)
    with path.open("r+b") as file:
        name, size = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF" or size + len(chunk) >= 2**32:
            raise ValueError("sound with a record of its origin must be below 4 GB, got more; use `metadata=False`")
        file.seek(0, 2)
        file.write(chunk)
        file.seek(4)
        file.write(struct.pack("<I", size + len(chunk)))


def riff_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk with its name and length, filled up to an even one."""
    return struct.pack("<4sI", name, len(content)) + content + b"\0" * (len(content) % 2)
