"""One call of a pipeline at a time: a second thread is refused, because both would write to the same attributes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary


Call = TypeVar("Call", bound=Callable[..., Any])

# beside the pipelines and not in them: a copy of a pipeline that is at work is free, and can be pickled
_threads: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_lock = threading.Lock()


def one_thread_at_a_time(call: Call) -> Call:
    """Refuse a call of a method while another thread is in one of the same object; a thread may call again inside.

    Args:
        call: The method.
    """

    @wraps(call)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _called_by_this_thread(self):
            return call(self, *args, **kwargs)

    return guarded  # type: ignore[return-value]


@contextmanager
def _called_by_this_thread(pipeline: Any) -> Iterator[None]:
    """Note the thread that is in a call of a pipeline.

    Raises:
        RuntimeError: If it is another thread's.
    """
    here = threading.get_ident()
    with _lock:
        owner = _threads.get(pipeline)
        if owner is None:
            _threads[pipeline] = here
    if owner not in (None, here):
        raise RuntimeError(
            "a pipeline must be called by one thread at a time, got a second call while the first goes on; wait for "
            "it, or give each thread `copy.copy(pipeline)`, which shares the weights"
        )
    try:
        yield
    finally:
        if owner is None:  # the outermost call of this thread
            with _lock:
                del _threads[pipeline]
