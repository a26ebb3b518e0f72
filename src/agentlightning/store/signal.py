"""Waking coroutines of any event loop when something in a store changed.

This process wakes its waiters at once. What other processes write to the same file shows in the times of the file and
its log; asking the file system for them costs a few microseconds, and no query.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


_WATCH_S, _LONGEST_WATCH_S = 0.03, 0.5
"""Time between two looks at the file, for few waiters and for many."""
_WATCH_EACH_S = 0.005
"""All waiters together look at most 200 times a second: under constant writing each look is followed by a query."""


class ChangeSignal:
    """Tells waiters that something in a store changed. Thread-safe."""

    def __init__(self, stamp: Callable[[], object] | None = None) -> None:
        """Start without waiters.

        Args:
            stamp: Returns another value after another process has written; None when no other can.
        """
        self._stamp = stamp
        self._lock = threading.Lock()
        self._waiters: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def notify(self) -> None:
        """Wake all waiters; costs nothing without any."""
        if not self._waiters:
            return
        with self._lock:
            waiters = list(self._waiters.items())
        for event, loop in waiters:
            with contextlib.suppress(RuntimeError):  # its loop was closed while it waited
                loop.call_soon_threadsafe(event.set)

    @contextmanager
    def listen(self) -> Generator[Listener, None, None]:
        """Give a listener of the running loop, which hears of every change from now on."""
        event = asyncio.Event()
        with self._lock:
            self._waiters[event] = asyncio.get_running_loop()
        try:
            yield Listener(event, self._stamp, self._watch_s)
        finally:
            with self._lock:
                del self._waiters[event]

    def _watch_s(self) -> float:
        return min(max(_WATCH_S, _WATCH_EACH_S * len(self._waiters)), _LONGEST_WATCH_S)


class Listener:
    """Hears of changes, for one coroutine: ``clear``, look at the store, then ``wait``."""

    def __init__(self, event: asyncio.Event, stamp: Callable[[], object] | None, watch_s: Callable[[], float]) -> None:
        """Listen to *event*, and from now on every *watch_s* to *stamp*."""
        self._event = event
        self._watch_s = watch_s
        self._stamp = stamp
        self._seen = stamp() if stamp is not None else None

    def clear(self) -> None:
        """Forget what happened until now; to be called before the store is looked at."""
        self._event.clear()
        if self._stamp is not None:
            self._seen = self._stamp()

    async def wait(self, timeout_s: float) -> bool:
        """Wait until something happened since ``clear``, at most *timeout_s*, and tell whether it did."""
        if self._stamp is None:
            return await wait_for_event(self._event, timeout_s)
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            if await wait_for_event(self._event, min(left, self._watch_s())) or self._stamp() != self._seen:
                return True
        return False


async def wait_for_event(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait until *event* is set or *timeout_s* is over, and tell which."""
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except asyncio.TimeoutError:
        return False
    return True
