"""Where a checkpoint comes from: a path on this machine, or a repository on the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from jova_cli.given_paths import kind_of


HUB_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(:(?P<file>[\w./-]+))?")
WEIGHTS = ("*.safetensors", "*.json", "*.pt", "*.pth")


def local_path(source: str, patterns: Sequence[str] = WEIGHTS) -> Path:
    """Return the path of a checkpoint; `owner/name` and `owner/name:file` are downloaded to the hub's cache.

    Args:
        source: Path or hub id.
        patterns: Files of a repository that are wanted.

    Raises:
        ValueError: The source is neither here nor on the hub.
    """
    if kind_of(source):
        return Path(source)
    match = HUB_NAME.fullmatch(source)
    if match is None:
        raise ValueError(f"`SOURCE` must be an existing path or a hub id `owner/name[:file]`, got `{source}`")
    repository, file = match["repository"], match["file"]
    try:
        if file is not None:
            return Path(hf_hub_download(repository, file))
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"`SOURCE` must exist here or be reachable on the hub, got `{source}`: {type(error).__name__}"
        ) from error
