"""Connections that say nothing: uvicorn waits for a request's head as long as the client likes, this one does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

HEAD_TIMEOUT_S = 20.0
"""Longest time from the opening of a connection to the end of the first request's head."""


class PatientProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1, which closes a connection whose first request does not begin in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._close_if_silent)

    def _close_if_silent(self) -> None:
        cycle: object = getattr(self, "cycle", None)  # None until the first request, whatever its annotation says
        if cycle is None and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        deadline: Any = getattr(self, "_deadline", None)
        if deadline is not None:
            deadline.cancel()
        super().connection_lost(exc)
