"""Connections that say nothing: uvicorn waits for a request's head as long as the client likes, this one does not."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator

HEAD_TIMEOUT_S = 20.0
"""Longest time from the opening of a connection, or the first byte of a later request, to the end of its head."""
CONNECTION = "agentlightning.connection"
"""Where the scope of a request has the connection that it came over."""
MOST_HEAD_BYTES = 2**16
"""Longest head of a request, to within what is read at once; also what may come between the parts of its body."""
_OFFER = re.compile(rb"\r\nupgrade:[^\r\n]*(?=\r\n[^ \t])", re.IGNORECASE)
"""A whole line, which the next one does not continue: what would be left of a part would belong to another header."""
_END_BYTES = 4
_BEFORE_END = _END_BYTES - 1
_MOST_FRAMING = 16
"""Bytes that may come for each byte of a body: one that is sent in chunks of a byte takes six."""


class PatientProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP/1.1 by ``httptools``, with bounds for what comes before a body and around its parts.

    It closes a connection on which the head of a request does not arrive in time, and refuses a head that has no end.
    Between two requests uvicorn's own clock for connections that are kept open runs, until the first byte.
    """

    _clock: asyncio.TimerHandle | None = None
    _when_lost: Callable[[], None] | None = None
    _in_head = False
    _in_body = False
    _tail = b""
    """The last bytes that came: what ends a head may come in two reads."""
    _other_bytes = 0
    """What came since the request began and is not of its body."""
    _body_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start the clock."""
        self._collecting = _CollectingTransport(transport)
        super().connection_made(cast("asyncio.Transport", self._collecting))
        self._in_head = True
        self._clock = self.loop.call_later(HEAD_TIMEOUT_S, self.close)

    def data_received(self, data: bytes) -> None:
        """Take *data*; the clock runs as long as it ends in the middle of a head."""
        self._other_bytes += len(data)
        if not self._in_head and not self._in_body and (not self.cycle or self.cycle.response_complete):
            self._in_head = True  # until the parser has seen the end of one: an empty line before it is no request
        tail, self._tail = self._tail, (self._tail + data[-_BEFORE_END:])[-_BEFORE_END:]
        if self._in_head and b"pgrade:" in data.lower():
            data = _without_offer(tail, data)
        super().data_received(data)
        if self._other_bytes > MOST_HEAD_BYTES + _MOST_FRAMING * self._body_bytes and not self.transport.is_closing():
            self.send_400_response("The request has too much beside its body.")
        if not self._in_head or self.transport.is_closing():
            self._stop_clock()
        elif self._clock is None:
            self._clock = self.loop.call_later(HEAD_TIMEOUT_S, self.close)

    def on_message_begin(self) -> None:
        """Count anew."""
        self._in_head = True
        self._other_bytes = self._body_bytes = 0
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[typeddict-unknown-key]

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes after the body is none: access was decided without it."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Note the end of the head; refuse an offer that is still in it, since the parser would go astray."""
        self._in_head = False
        if self.parser is not None and self.parser.should_upgrade():
            raise _OfferError
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note the end of the body, if there is any."""
        self._in_body = False
        super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._other_bytes -= len(body)
        self._body_bytes += len(body)
        super().on_body(body)

    def close(self) -> None:
        """Close the connection, if it is still open."""
        self._stop_clock()
        if not self.transport.is_closing():
            self.transport.close()

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock, and tell who wants to know."""
        self._stop_clock()
        super().connection_lost(exc)
        if self._when_lost is not None:
            self._when_lost()

    @contextlib.contextmanager
    def together(self) -> Generator[None]:
        """Send what is sent meanwhile in one piece: a client that gets head and body at once wakes up once."""
        self._collecting.begin()
        try:
            yield
        finally:
            self._collecting.end()

    def tell_when_lost(self, callback: Callable[[], None] | None) -> None:
        """Call *callback* when the client leaves, None nothing: a task that waits for it costs as much as a request."""
        self.flow.resume_reading()  # else it is not noticed
        self._when_lost = callback
        if callback is not None and self.transport.is_closing():
            callback()


class _OfferError(Exception):
    """Another protocol is offered in a head that came in pieces, or behind another request: answered with 400."""


def _without_offer(tail: bytes, data: bytes) -> bytes:
    """Take the offer of another protocol out of a head: the parser would take the body for that protocol's.

    *tail*: The last bytes before *data*; what they end together with it is the head, and the rest is a body.
    """
    end = (tail + data).find(b"\r\n\r\n")
    if end < 0:
        return _OFFER.sub(b"", data)
    end = max(0, end + _END_BYTES - len(tail))
    return _OFFER.sub(b"", data[:end]) + data[end:]


class _CollectingTransport:
    """A transport that can keep for a moment what is written to it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] | None = None
        self._is_closed = False

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - everything else is the transport's
        return getattr(self._transport, name)

    def begin(self) -> None:
        """Keep what is written from now on."""
        self._parts = []

    def write(self, data: bytes) -> None:
        """Write *data*, or keep it until ``end``."""
        if self._parts is None:
            self._transport.write(data)
        else:
            self._parts.append(data)

    def close(self) -> None:
        """Close the connection, after what is kept."""
        if self._parts is None:
            self._transport.close()
        else:
            self._is_closed = True

    def end(self) -> None:
        """Write all that was kept at once; without ``begin`` nothing was."""
        parts, self._parts = self._parts, None
        if parts:
            self._transport.write(b"".join(parts))
        if self._is_closed:
            self._transport.close()
