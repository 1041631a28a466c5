"""JoVAConfigClassMixin: components that are built from a config of their own class alone."""

from collections.abc import Mapping
from typing import Any

import diffusers
from diffusers import SchedulerMixin


def check_config_class(cls: type, config: Any, what: str) -> None:
    """Refuse the config of another class, whose fields would be left out for defaults.

    Subclasses read each other's, and schedulers those of all schedulers, as those of diffusers do. A config names its
    class where it comes from a file; that of a model built in memory names none.

    Args:
        cls: To be built.
        config: Its fields; where they name no class that is known, nothing is wrong.
        what: Name of the config in messages.

    Raises:
        ValueError: Naming both classes.
    """
    name = config.get("_class_name") if isinstance(config, Mapping) else None
    other = getattr(diffusers, name, None) if isinstance(name, str) else None  # where `register` puts our classes
    readable = SchedulerMixin if issubclass(cls, SchedulerMixin) else cls
    if isinstance(other, type) and not (issubclass(cls, other) or issubclass(other, readable)):
        raise ValueError(
            f"{what} must be that of a {cls.__name__}, got one of a {name}; load it with that class, or convert it by "
            "`jova convert`"
        )


class JoVAConfigClassMixin:
    """A component that refuses to be built from the config of another class."""

    @classmethod
    def from_config(cls, config: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Build from a config, as diffusers does.

        Raises:
            ValueError: It is that of another class.
        """
        check_config_class(cls, config, "`config`")
        return super().from_config(config, *args, **kwargs)  # type: ignore[misc]
