"""What is wrong where something is to come from the hub, or from a file in its place, in one sentence."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is that of its client
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from jova_cli.given_paths import kind_of, lacking_folder


LOGIN = "`hf auth login`"
OF_THIS_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)  # nothing that the hub does
UNREACHED = (HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError)


class HubAccessError(ValueError):
    """The hub does not give what was asked for; the message is the whole sentence."""


@contextmanager
def explained_hub(what: str, source: str | os.PathLike[str]) -> Iterator[None]:
    """Say in one sentence why the hub does not give what is loaded meanwhile.

    Args:
        what: The argument that names it.
        source: Its value; what exists on this machine is left to the loader.

    Raises:
        HubAccessError: If the hub is not reached, knows no such repository, or does not let this machine read it.
    """
    if kind_of(source):
        yield
        return
    try:
        yield
    except HubAccessError:
        raise
    except (OSError, HTTPError, EntryNotFoundError, HFValidationError) as error:
        if (told := reason_of(error)) is None:
            raise
        found, advice = told
        if lacking := lacking_folder(source):
            found, advice = f"{lacking}, {found}", "check the spelling"
        raise HubAccessError(
            f"`{what}` must be a path on this machine or a repository of the hub, got {source}, {found}; {advice}"
        ) from error


@contextmanager
def explained_damage(what: str, source: Any) -> Iterator[None]:
    """Say in one sentence that a file on this machine does not hold what is loaded meanwhile.

    Args:
        what: That it should hold, in words.
        source: Named by the caller; what is no file on this machine is left to the loader.

    Raises:
        ValueError: In place of the errors of those that read it.
    """
    try:
        yield
    except (OSError, EOFError, RuntimeError, UnpicklingError, SafetensorError) as error:
        is_file = isinstance(source, str | Path) and Path(source).is_file()
        if not is_file or isinstance(error, HubAccessError | PermissionError):
            raise
        raise ValueError(
            f"`{source}` must be a whole file of {what}, got one that is damaged or of another kind; get it again"
        ) from error


def check_named(what: str, source: str | os.PathLike[str], file: str | None) -> None:
    """Refuse a repository whose file nobody can look up without the network.

    Raises:
        HubAccessError: If HF_HUB_OFFLINE is set, and the file of the repository is not named.
    """
    if constants.HF_HUB_OFFLINE and file is None and not kind_of(source):
        raise HubAccessError(
            f"`{what}` must be a path on this machine while HF_HUB_OFFLINE is set, got {source}; unset it, or name a "
            "file or a folder"
        )


def reason_of(error: BaseException) -> tuple[str, str] | None:
    """What an error, or one behind it, says of the hub, and what to do; None where it is not about the hub."""
    chain = chain_of(error)

    def is_any(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in chain)

    if is_any(GatedRepoError):
        return "whose owner lets only those in who ask", f"accept the terms on its page and log in by {LOGIN}"
    if is_any(RepositoryNotFoundError):
        return (
            "which the hub does not show to this machine",
            f"check the spelling, or log in by {LOGIN} if it is private",
        )
    if is_any(RevisionNotFoundError):
        return "which has no such revision", "check `revision`"
    if is_any(HFValidationError):
        return "which is neither", "check the spelling; a repository is owner/name"
    if any(isinstance(one, OSError) and one.errno in OF_THIS_MACHINE for one in chain):
        return None
    if is_any(EntryNotFoundError) and not is_any(LocalEntryNotFoundError):
        return "which lacks a file that is needed", "name a repository of the kind that is asked for"
    if constants.HF_HUB_OFFLINE:
        return "which was not downloaded before", "unset HF_HUB_OFFLINE, or name a folder"
    if is_any(*UNREACHED):
        return "but the hub was not reached", "check the network, or download it elsewhere and name its folder"
    return None


def chain_of(error: BaseException) -> list[BaseException]:
    """An error and those that it was raised from."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain
