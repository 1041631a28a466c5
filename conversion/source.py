"""Where a checkpoint comes from: a path on this machine, or a repository on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError

from diffusers_jova.hub_access import explained_hub
from jova_cli.convert import HUB_SOURCE, check_convertible
from jova_cli.given_paths import kind_of


WEIGHTS = ("*.safetensors", "*.json", "*.pt", "*.pth")


def local_path(source: str, patterns: Sequence[str] = WEIGHTS) -> Path:
    """Return the path of a checkpoint; `owner/name` and `owner/name:file` are downloaded to the hub's cache.

    Args:
        source: Path or hub id.
        patterns: Files of a repository that are wanted.

    Raises:
        HubAccessError: The source is neither here nor does the hub give it.
    """
    if kind_of(source):
        return Path(source)
    check_convertible("SOURCE", source)
    match = HUB_SOURCE.fullmatch(source)
    assert match is not None
    repository, file = match["repository"], match["file"]
    with explained_hub("SOURCE", source):
        if file is not None:
            path = Path(hf_hub_download(repository, file))
            with suppress(EntryNotFoundError):  # the config beside it, which not every file has
                hf_hub_download(repository, str(PurePosixPath(file).with_name("config.json")))
            return path
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
