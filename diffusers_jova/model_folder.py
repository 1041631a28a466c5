"""What is wrong with the folder of a saved pipeline, in one sentence, before and while diffusers loads it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jova_cli.given_paths import kind_of
from jova_cli.model_info import INDEX, check_saved
from jova_cli.parser import one_line


@contextmanager
def explained_configs(folder: Path, names: Sequence[str], given: Sequence[str] = ()) -> Iterator[None]:
    """Name the folder where its index or its configs are none, or hold values that no component takes.

    Args:
        folder: That is loaded meanwhile; anything but a folder with an index is left to the loader.
        names: Components that are loaded from it.
        given: Arguments of the caller, which may be to blame as well.

    Raises:
        ValueError: If so.
    """
    if kind_of(folder / INDEX) != "file":
        yield
        return
    check_saved(folder, names)
    try:
        yield
    except (TypeError, AttributeError, LookupError, ArithmeticError) as error:  # of constructors, given such values
        reason = f"{type(error).__name__} ({one_line(error)})"
        if given:
            said = ", ".join(f"`{name}`" for name in given)
            raise ValueError(
                f"{said} and the configs in `{folder}` must hold what loader and components take, got {reason}; "
                "mend what is given, or save or fetch the folder anew"
            ) from error
        raise ValueError(
            f"`{folder}` must be a pipeline whose configs hold what its components take, got {reason}; save or fetch "
            "it anew"
        ) from error
