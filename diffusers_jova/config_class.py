"""JoVAConfigClassMixin: components that are built from a config of their own class alone."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
from diffusers import SchedulerMixin
from diffusers.utils import logging


logger = logging.get_logger(__name__)


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


def warn_of_strange_fields(cls: type, given: Mapping[str, Any]) -> None:
    """Name in one line what is given beside a config and no field of its class, which diffusers leaves out.

    Args:
        cls: To be built.
        given: By name.
    """
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if takes_any or given.get("return_unused_kwargs"):  # whoever asks gets them back
        return
    fields = [*parameters]
    for name in sorted(given.keys() - {*fields, "return_unused_kwargs"}):
        near = difflib.get_close_matches(name, fields, n=1)
        advice = f"did you mean `{near[0]}`?" if near else "it is left out"
        logger.warning(f"`{name}` is no field of a {cls.__name__}; {advice}")


class JoVAConfigClassMixin:
    """A component that refuses to be built from the config of another class."""

    @classmethod
    def from_config(cls, config: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Build from a config, as diffusers does.

        Raises:
            ValueError: It is that of another class.
        """
        check_config_class(cls, config, "`config`")
        warn_of_strange_fields(cls, kwargs)
        return super().from_config(config, *args, **kwargs)  # type: ignore[misc]
