"""One call of a pipeline at a time: a second thread is refused, because both would write to the same attributes.

Pipelines that share a transformer may be called side by side, unless it keeps something from step to step, a cache, or
a call weighs its adapters by a factor of its own, which lie in the transformer.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from diffusers.utils.torch_utils import unwrap_module

from .adapter_removal import tuner_layers
from .adapter_scale import factor_of


Call = TypeVar("Call", bound=Callable[..., Any])
COPY = "give each thread `copy.copy(pipeline)`, which shares the weights"
NO_CACHE = "call `disable_cache` on it, which the pipelines that share it may do without"

# beside the pipelines and not in them: a copy of a pipeline that is at work is free, and can be pickled
_threads: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_with_adapters: WeakKeyDictionary[Any, list[tuple[int, bool]]] = WeakKeyDictionary()  # threads, and who weighs them
_lock = threading.Lock()


def one_thread_at_a_time(call: Call) -> Call:
    """Refuse a call of a method while another thread is in one of the same object; a thread may call again inside.

    Args:
        call: The method.
    """

    @wraps(call)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as held:
            held.enter_context(_called_by_this_thread(self, "a pipeline", COPY))
            if (transformer := _transformer_with_cache(self)) is not None:
                held.enter_context(_called_by_this_thread(transformer, "a transformer with a cache", NO_CACHE))
            if (tuned := _transformer_with_adapters(self)) is not None:
                held.enter_context(_adapters_of_this_weight(tuned, factor_of(kwargs) != 1))
            return call(self, *args, **kwargs)

    return guarded  # type: ignore[return-value]


def _transformer_with_cache(pipeline: Any) -> Any:
    """The transformer of a pipeline, if it keeps from step to step what belongs to one call; else None."""
    transformer = getattr(pipeline, "transformer", None)
    return unwrap_module(transformer) if getattr(transformer, "is_cache_enabled", False) else None


def _transformer_with_adapters(pipeline: Any) -> Any:
    """The transformer of a pipeline, if it has layers of adapters; else None."""
    transformer = getattr(pipeline, "transformer", None)
    return None if transformer is None or not tuner_layers(transformer) else unwrap_module(transformer)


@contextmanager
def _adapters_of_this_weight(transformer: Any, weighs: bool) -> Iterator[None]:
    """Note a call that reads adapters.

    Args:
        transformer: That has them.
        weighs: Whether the call weighs them by a factor, for itself alone.

    Raises:
        RuntimeError: If another thread reads adapters that this call weighs, or weighs those that this call reads.
    """
    here = threading.get_ident()
    with _lock:
        calls = _with_adapters.setdefault(transformer, [])
        if any(thread != here and (weighs or other_weighs) for thread, other_weighs in calls):
            raise RuntimeError(
                "`attention_kwargs` must weigh adapters in one thread at a time, got a second call while the first "
                "goes on; wait for it, or weigh them by `set_adapters`, for all threads alike"
            )
        calls.append((here, weighs))
    try:
        yield
    finally:
        with _lock:
            calls.remove((here, weighs))


@contextmanager
def _called_by_this_thread(called: Any, what: str, remedy: str) -> Iterator[None]:
    """Note the thread that is in a call.

    Args:
        called: What only one thread may call.
        what: It is, for the message.
        remedy: Besides waiting.

    Raises:
        RuntimeError: If it is another thread's.
    """
    here = threading.get_ident()
    with _lock:
        owner = _threads.get(called)
        if owner is None:
            _threads[called] = here
    if owner not in (None, here):
        raise RuntimeError(
            f"{what} must be called by one thread at a time, got a second call while the first goes on; wait for it, "
            f"or {remedy}"
        )
    try:
        yield
    finally:
        if owner is None:  # the outermost call of this thread
            with _lock:
                del _threads[called]
