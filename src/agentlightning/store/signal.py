"""Waking coroutines of any event loop when something in a store changed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


class ChangeSignal:
    """Tells waiters of this process that rollouts may have finished. Thread-safe."""

    def __init__(self) -> None:
        """Start without waiters."""
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
    def listen(self) -> Generator[asyncio.Event, None, None]:
        """Give an event of the running loop that is set at every change; whoever waits clears it."""
        event = asyncio.Event()
        with self._lock:
            self._waiters[event] = asyncio.get_running_loop()
        try:
            yield event
        finally:
            with self._lock:
                del self._waiters[event]


async def wait_for_event(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait until *event* is set or *timeout_s* is over, and tell which."""
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except asyncio.TimeoutError:
        return False
    return True
