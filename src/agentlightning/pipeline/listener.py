"""Readers of the stream inside the traced process: functions that see each span on its way to the store.

They run in the pipeline's worker, never on a thread of the program, and see a span after redaction and limits, as it
will be stored. What they raise is counted and goes no further.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from agentlightning._internal.guard import guard

if TYPE_CHECKING:
    from agentlightning.types.record import SpanRecord


class SpanListener(Protocol):
    """Who is told of spans."""

    def __call__(self, span: SpanRecord, /) -> object:
        """Take in a span; they come one at a time, in the order of hand-over. Only read it, and be quick.

        One that lasts comes twice: first as a note with ``end_ns`` None, then with its end. ``agentlightning.flush``
        returns after every span that ended before it was seen.
        """
        ...


class _Listeners:
    """The listeners of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: tuple[SpanListener, ...] = ()

    def add(self, listener: SpanListener) -> None:
        """Tell *listener* of spans from now on; twice changes nothing. Thread-safe."""
        with self._lock:
            if listener not in self._all:
                self._all = (*self._all, listener)

    def remove(self, listener: SpanListener) -> None:
        """Tell *listener* of spans no more; one that was never added changes nothing. Thread-safe."""
        with self._lock:
            self._all = tuple(one for one in self._all if one != listener)

    def notify(self, span: SpanRecord) -> None:
        """Tell every listener of *span*; what one raises is counted and keeps it from no other."""
        for listener in self._all:
            with guard("listener"):
                listener(span)


_listeners = _Listeners()


def add_span_listener(listener: SpanListener) -> None:
    """Tell *listener* of every span that this process records from now on; adding it twice changes nothing.

    Thread-safe. A forked child keeps the listeners of its parent.
    """
    _listeners.add(listener)


def remove_span_listener(listener: SpanListener) -> None:
    """Stop telling *listener*; a batch that is under way may still reach it. An unknown one is ignored. Thread-safe."""
    _listeners.remove(listener)


def notify(span: SpanRecord) -> None:
    """Tell every listener of *span*; called where records are made."""
    _listeners.notify(span)
