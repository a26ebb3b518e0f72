"""Handlers of events: functions of the program's that are called with each recorded event of a type.

They run on a worker thread of their own, behind the one that writes: a handler that is slow or hangs delays neither the
program nor the store. What waits for it is bounded; beyond that events are not handled, which is counted.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from agentlightning import semconv
from agentlightning._internal.answer import answer_of
from agentlightning._internal.guard import failures, guard
from agentlightning.pipeline.listener import add_span_listener

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning.emitter.event import CustomEvent
    from agentlightning.types.record import SpanRecord

MAX_WAITING = 1_000
"""Events that wait for their handlers; what comes beyond that is counted under ``event.handler.full``."""
_EXIT_S = 1.0
"""Longest time that the end of the process waits for handlers."""


class EventHandler(Protocol):
    """Who is told of events."""

    def __call__(self, event: CustomEvent, /) -> object:
        """Take in an event as it was recorded, after redaction and limits; what it raises is counted."""
        ...


def check_handler(handler: object) -> None:
    """Raise ``TypeError`` unless *handler* can be called."""
    if not callable(handler):
        msg = f"a handler is called with an event; {type(handler).__qualname__} cannot be called"
        raise TypeError(msg)


class _Handlers:
    """The handlers of this process, and the thread that calls them."""

    def __init__(self) -> None:
        self._by_type: dict[str, tuple[EventHandler, ...]] = {}
        self._waiting: deque[tuple[tuple[EventHandler, ...], str, Mapping[str, object]]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_busy = False
        self._is_hooked = False

    def add(self, event_type: str, handler: EventHandler) -> None:
        """Call *handler* for each event of *event_type* from now on; raises TypeError for what cannot be called."""
        check_handler(handler)
        with self._changed:
            self._by_type[event_type] = (*self._by_type.get(event_type, ()), handler)
            first, self._is_hooked = not self._is_hooked, True
        if first:
            add_span_listener(self.take)
            atexit.register(self._at_exit)

    def remove(self, event_type: str, handler: EventHandler) -> None:
        """Call *handler* no more for *event_type*; one that was never added changes nothing."""
        with self._changed:
            left = tuple(one for one in self._by_type.get(event_type, ()) if one != handler)
            self._by_type[event_type] = left

    def take(self, span: SpanRecord) -> None:
        """Queue an event for its handlers; in the pipeline's worker, which goes on at once."""
        event_type = _BUILTIN.get(span.name) or span.attributes.get(semconv.EVENT_TYPE)
        if span.end_ns is None or not isinstance(event_type, str):
            return
        handlers = self._by_type.get(event_type)
        if not handlers:
            return
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                failures.note("event.handler.full", RuntimeError(f"{MAX_WAITING} events wait for their handlers"))
                return
            self._waiting.append((handlers, event_type, dict(span.attributes)))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="agentlightning-handlers", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                while not self._waiting:
                    self._changed.wait()
                handlers, event_type, attributes = self._waiting.popleft()
                self._is_busy = True
            with guard("event.restore"):
                event = restore_event(event_type, attributes)
                for handler in handlers:
                    _call(handler, event)

    def finish(self, timeout_s: float) -> bool:
        """Wait at most *timeout_s* seconds until no handler has work; False when it has, or in a handler itself."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            if threading.current_thread() is self._thread:
                return False
            idle = self._changed.wait_for(
                lambda: not (self._waiting or self._is_busy), max(0.0, deadline - time.monotonic())
            )
        return bool(idle)

    def _at_exit(self) -> None:
        with guard("event.exit"):
            process = sys.modules.get("agentlightning.pipeline.process")  # loaded if anything was recorded
            if process is not None:
                process.flush(_EXIT_S)
                self.finish(_EXIT_S)

    def after_fork(self) -> None:
        """What waited is the parent's to handle, and its thread is not here."""
        self._changed = threading.Condition()
        self._waiting.clear()
        self._thread, self._is_busy = None, False


def _call(handler: EventHandler, event: CustomEvent) -> None:
    error = answer_of(lambda: handler(event)).error  # SystemExit must not end the thread either
    if error is not None:
        failures.note("event.handler", error)


def restore_event(event_type: str, attributes: Mapping[str, object]) -> CustomEvent:
    """Return the event that a span with *attributes* stands for.

    Raises:
        ValueError: The factory of its type refuses what was recorded.
    """
    from agentlightning.emitter.attribute import event_data  # noqa: PLC0415 - they import this module
    from agentlightning.emitter.event import event_factory  # noqa: PLC0415 - as above

    version = attributes.get(semconv.EVENT_VERSION, 1)
    return event_factory.restore(event_type, event_data(attributes), version if isinstance(version, int) else 1)


_BUILTIN: dict[str, str] = {
    semconv.SpanNames.MESSAGE.value: "message",
    semconv.SpanNames.REWARD.value: "reward",
    semconv.SpanNames.EXCEPTION.value: "exception",
    semconv.SpanNames.OBJECT.value: "object",
}

event_handlers = _Handlers()
"""The handlers of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=event_handlers.after_fork)


def add_event_handler(event_type: str, handler: EventHandler) -> None:
    """Call *handler* with each event of *event_type* that this process records from now on. Thread-safe.

    Also for ``message``, ``reward``, ``exception`` and ``object``; a type need not be registered. Handlers run one
    after the other on a thread of their own, with the event as it is stored; one that raises is counted and called for
    the next event. At the end of the process they get at most 1 s. A forked child keeps the handlers of its parent.
    """
    event_handlers.add(event_type, handler)


def remove_event_handler(event_type: str, handler: EventHandler) -> None:
    """Stop calling *handler*; an event that waits may still reach it. An unknown one is ignored. Thread-safe."""
    event_handlers.remove(event_type, handler)


def finish_handlers(timeout: float) -> bool:
    """Wait until every event that was flushed has been handled; False after *timeout* seconds."""
    return event_handlers.finish(timeout)
