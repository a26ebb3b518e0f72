"""Connections that say nothing: uvicorn waits for a request's head as long as the client likes, this one does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

HEAD_TIMEOUT_S = 20.0
"""Longest time from the opening of a connection, or the first byte of a later request, to the end of its head."""


class PatientProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1, which closes a connection on which the head of a request does not arrive in time.

    Between two requests uvicorn's own clock for connections that are kept open runs, until the first byte.
    """

    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._clock = self.loop.call_later(HEAD_TIMEOUT_S, self._close)

    def data_received(self, data: bytes) -> None:
        """Take *data*; the clock runs as long as it ends in the middle of a head."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._stop_clock()
        elif self._clock is None:
            self._clock = self.loop.call_later(HEAD_TIMEOUT_S, self._close)

    def _close(self) -> None:
        self._clock = None
        if not self.transport.is_closing():
            self.transport.close()

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)
