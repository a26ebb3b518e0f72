"""A forwarder on a thread of its own, beside a server."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

    from agentlightning.server.forward.forwarder import Forwarder

_STOP_TIMEOUT_S = 15.0
"""Longest wait for the request under way."""


class ForwardThread:
    """Lets a forwarder follow its store while the block runs; the store must be thread-safe."""

    def __init__(self, forwarder: Forwarder) -> None:
        """Prepare the thread."""
        self._forwarder = forwarder
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agentlightning-forward", daemon=True)

    def _run(self) -> None:
        async def work() -> None:
            """Forward until the task is cancelled."""
            self._loop = asyncio.get_running_loop()
            self._started.set()
            await self._forwarder.follow()

        asyncio.run(work())

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *error: object) -> None:
        """End after the request under way."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._forwarder.stop)
        self._thread.join(_STOP_TIMEOUT_S)
