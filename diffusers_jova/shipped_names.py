"""JoVAShippedMixin: components of a model that comes with the package are loaded by its name, as its pipeline is."""

import os
from typing import Any, Self

from jova_cli.shipped import find_model


class JoVAShippedMixin:
    """Lets `from_pretrained("jova-tiny", subfolder=...)` mean the shipped folder, which is not asked of the Hub."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None = None, *args: Any, **kwargs: Any
    ) -> Self:
        """Load the component as diffusers does.

        Args:
            pretrained_model_name_or_path: Folder, repository or shipped name.
            args: What diffusers takes.
            kwargs: What diffusers takes, `subfolder` say.
        """
        source = pretrained_model_name_or_path
        name = source if source is None else find_model(source)
        return super().from_pretrained(name, *args, **kwargs)  # type: ignore[misc]

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Load the config as diffusers does; arguments as in `from_pretrained`."""
        return super().load_config(find_model(pretrained_model_name_or_path), *args, **kwargs)  # type: ignore[misc]
