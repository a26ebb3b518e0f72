"""The word to stop, within a process and between processes."""

from __future__ import annotations

import multiprocessing
import threading
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from multiprocessing import synchronize
    from multiprocessing.context import BaseContext


@runtime_checkable
class ExecutionEvent(Protocol):
    """A flag that everybody who runs for one trainer looks at. Every method may be called from any thread."""

    def set(self) -> None:
        """Tell everybody to stop."""
        ...

    def clear(self) -> None:
        """Take it back."""
        ...

    def is_set(self) -> bool:
        """Tell whether to stop."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, at most *timeout* seconds (None: for ever), and return whether it is."""
        ...


class _Event:
    """An ``ExecutionEvent`` over an event of the standard library."""

    __slots__ = ("_evt",)

    def __init__(self, event: threading.Event | synchronize.Event) -> None:
        self._evt = event

    def set(self) -> None:
        """Tell everybody to stop."""
        self._evt.set()

    def clear(self) -> None:
        """Take it back."""
        self._evt.clear()

    def is_set(self) -> bool:
        """Tell whether to stop."""
        return self._evt.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, at most *timeout* seconds, and return whether it is."""
        return self._evt.wait(timeout)


class ThreadingEvent(_Event):
    """An ``ExecutionEvent`` for the threads of one process."""

    __slots__ = ()

    def __init__(self) -> None:
        """Make it; not set."""
        super().__init__(threading.Event())


class MultiprocessingEvent(_Event):
    """An ``ExecutionEvent`` for several processes; hand it to ``multiprocessing.Process`` as an argument."""

    __slots__ = ()

    def __init__(self, *, ctx: BaseContext | None = None) -> None:
        """Make it; not set. *ctx* is the context that starts the processes, None for the default one."""
        super().__init__((ctx or multiprocessing.get_context()).Event())
