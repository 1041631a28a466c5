"""The windows of a long clip that are done, kept as latents beside its file until the clip is whole.

A window takes its name when it is whole. What decides the clip is noted in the folder, so that no windows of another
one are taken for its own.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from jova_cli.windows import Window

from .folder_lock import FolderInUseError, held_alone
from .origin import NOTE, check_origin, keep_origin, read_origin
from .provenance import Record
from .whole_files import delete_whole, explained_full_disk, written_whole


PREVIEW = "preview.mp4"


class KeptWindow(NamedTuple):
    """What is kept of a window.

    Attributes:
        latents: By modality: video [1, C, F, h, w], audio [1, L, C].
        record: How it was made.
    """

    latents: dict[str, Tensor]
    record: Record


class WindowFolder:
    """Keeps windows by their number.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def preview(self) -> Path:
        """The film of what is done, which grows."""
        return self.folder / PREVIEW

    def path(self, index: int) -> Path:
        """The file of a window."""
        return self.folder / f"window-{index:05d}.safetensors"

    @property
    def num_kept(self) -> int:
        """How many windows, from the first on, are done."""
        index = 0
        while self.path(index).exists():
            index += 1
        return index

    @property
    def holds_windows(self) -> bool:
        """Whether any window is done."""
        return any(self.folder.glob("window-*.safetensors"))

    def read(self, index: int, window: Window) -> KeptWindow | None:
        """A window that is done; None where it is not.

        Args:
            index: Its number.
            window: Where it is to lie, which the sound of the one before it decides.

        Raises:
            OriginError: If it was made for another place.
        """
        if not self.path(index).exists():
            return None
        with safe_open(self.path(index), "pt") as file:
            metadata = file.metadata()
            if "window" in metadata:
                check_origin({"window": json.loads(metadata["window"])}, {"window": window}, self.path(index))
            latents = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return KeptWindow(latents, json.loads(metadata["record"]))

    def keep(self, index: int, made: KeptWindow, window: Window) -> None:
        """Write a window that is done, and where it lies."""
        tensors = {name: latents.contiguous().cpu() for name, latents in made.latents.items()}
        metadata = {"record": json.dumps(made.record), "window": json.dumps(window)}
        with explained_full_disk(self.path(index)), written_whole(self.path(index)) as partial:
            save_file(tensors, partial, metadata)

    def delete(self) -> None:
        """Delete the folder, once the clip is whole."""
        delete_whole(self.folder)


@contextmanager
def window_folder(path: Path, origin: Mapping[str, Any]) -> Iterator[WindowFolder]:
    """Hold the folder of the windows of a clip, alone, while the block runs; it is deleted at its end.

    After an error or an interruption it stays, with the windows that are done, if there are any.

    Args:
        path: File of the clip.
        origin: What decides the clip, as JSON holds it.

    Raises:
        OriginError: If windows of another clip lie there.
        ValueError: If another process makes the clip, or the folder cannot be written.
    """
    folder = folder_of(path)
    try:
        with held_alone(folder, "output"):
            kept = WindowFolder(folder)
            if not kept.holds_windows:
                (folder / NOTE).unlink(missing_ok=True)  # of a clip that came to no window
            keep_origin(folder, origin)
            try:
                yield kept
            except BaseException:
                if not kept.num_kept:
                    kept.delete()
                raise
            kept.delete()
    except FolderInUseError as error:
        raise ValueError(str(error)) from error


def folder_of(path: Path) -> Path:
    """Where the windows of a clip lie until it is whole."""
    return path.with_name(f"{path.name}.windows")


def kept_seed(path: Path) -> int | None:
    """The seed of the clip that is begun at a path; None where none is."""
    seed = read_origin(folder_of(path)).get("seed")
    return seed if isinstance(seed, int) else None
