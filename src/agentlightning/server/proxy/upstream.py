"""Connections to model servers: kept open between requests, each answer passed on as it comes.

``httptools`` reads what servers send. A client with everything that httpx has takes 1.5 ms of processor time for a
request, ``h11`` on the streams of asyncio 0.5 ms; the proxy may add 2 ms in all.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, cast
from urllib.parse import urlsplit

import httptools

if TYPE_CHECKING:
    from collections.abc import Iterable

CONNECT_TIMEOUT_S = 10.0
"""Longest time until a connection stands, TLS included."""
_MOST_IDLE = 64
"""Connections to one server that are kept open without a request."""
_MOST_IDLE_S = 4.0
"""So long a connection is kept without a request; many servers close it after 5 s."""
_MOST_WAITING_BYTES = 2**18
"""Of an answer that is taken more slowly than it comes, so much waits here; the rest waits in the server."""
_NOT_IN_A_HEAD: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_WITHOUT_BODY: Final = frozenset({204, 304})
_FIRST_FINAL: Final = 200
_LAST_STATUS: Final = 599


class _Key(NamedTuple):
    scheme: str
    host: str
    port: int


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


@lru_cache(maxsize=256)
def _place(url: str) -> tuple[_Key, bytes, bytes]:
    """Return where to connect for *url*, the ``Host`` to name there, and the target of the request."""
    parts = urlsplit(url)
    key = _Key(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return key, parts.netloc.rpartition("@")[2].encode(), target.encode()


@dataclass(frozen=True)
class Outgoing:
    """A request."""

    method: bytes
    url: str
    headers: Iterable[tuple[bytes, bytes]]
    body: bytes


class Answer:
    """What a server answers; to be read to its end, or closed. One task."""

    def __init__(self, pool: Upstream, connection: _Connection) -> None:
        """Be what comes over *connection*, which goes back to *pool* when all is read."""
        self._pool = pool
        self._connection: _Connection | None = connection
        self.status = 0
        self.raw_headers: list[tuple[bytes, bytes]] = []
        """As the server writes them; known once ``head`` has returned."""

    @property
    def headers(self) -> dict[str, str]:
        """The headers by their names in lower case."""
        return {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in self.raw_headers}

    async def head(self) -> None:
        """Return when status and headers are there.

        Raises:
            ConnectionError: The connection broke, or what came is no HTTP.
        """
        connection = self._connection
        if connection is not None:
            while not connection.has_head:
                await connection.more()
            self.status, self.raw_headers = connection.status, connection.raw_headers

    async def next(self) -> bytes:
        """Return what has come of the body since the last call, at least a byte; nothing at its end.

        Raises:
            ConnectionError: The server broke off.
        """
        connection = self._connection
        if connection is None:
            return b""
        while not connection.parts and not connection.is_over:
            await connection.more()
        part = connection.take()
        if not part:
            self.close()
        return part

    async def read(self) -> bytes:
        """Return the whole body; errors as for ``next``."""
        parts: list[bytes] = []
        while part := await self.next():
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        """Leave the connection to the pool where all was read, else close it; a second call does nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)


class _Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.parts: list[bytes] = []
        """What has come of the body and was not taken yet."""
        self.is_over = True
        """Whether the answer has come to its end; there is no request yet."""
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._parser = httptools.HttpResponseParser(self)
        # Some servers end their lines without a carriage return; every client takes that.
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)
        self._waiting: asyncio.Future[None] | None = None
        self._is_paused = False
        self._problem = ""

    @property
    def is_open(self) -> bool:
        """Whether the server has not closed it, as far as we know, and has sent nothing that nobody asked for."""
        return not (self._transport.is_closing() or self._problem)

    @property
    def is_free(self) -> bool:
        """Whether another request may be sent over it."""
        return self.is_over and self._may_stay and not self.parts and self.is_open

    def ask(self, request: Outgoing) -> None:
        """Send *request*.

        Raises:
            ConnectionError: It cannot be sent.
        """
        self._expects_body = request.method != b"HEAD"
        self.has_head = self.is_over = self._ends_with_connection = self._may_stay = False
        self._size = 0
        _, host, target = _place(request.url)
        lines = [b"%b %b HTTP/1.1" % (request.method, target), b"host: " + host]
        lines += [b"%b: %b" % pair for pair in request.headers]
        if request.body or request.method not in {b"GET", b"HEAD"}:
            lines.append(b"content-length: %d" % len(request.body))
        if any(map(_NOT_IN_A_HEAD.search, lines)):
            msg = "the request cannot be sent: a control character in its head"
            raise ConnectionError(msg)
        self._transport.write(b"\r\n".join((*lines, b"", request.body)))

    async def more(self) -> None:
        """Return when something has come.

        Raises:
            ConnectionError: The connection broke, or what came is no HTTP.
        """
        if not self._problem:
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        if self._problem and not self.parts and not self.is_over:
            raise ConnectionError(self._problem)

    def take(self) -> bytes:
        """Return what has come of the body, and let more come."""
        part = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.parts = []
        self._size = 0
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        return part

    def abort(self) -> None:
        """Close it at once."""
        with contextlib.suppress(OSError, RuntimeError):  # the loop may be closed already
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep *transport*."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read *data*; what nobody asked for ends the connection."""
        if self.is_over:
            self._fail("the server sent what nobody asked for")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("the server changed the protocol")
        except httptools.HttpParserError as error:
            self._fail(f"what came is no HTTP: {error}")
        if self._size > _MOST_WAITING_BYTES and not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """Take the end of the connection for the end of the answer where it has no other, else for its break."""
        self._lost("the server closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the loss as in ``eof_received``; a connection that is torn down ends no answer."""
        if exc is not None:
            self._ends_with_connection = False
        self._lost(f"{type(exc).__name__}: {exc}" if exc else "the server closed the connection")

    def _lost(self, reason: str) -> None:
        if self._ends_with_connection and not self._problem:
            self.is_over = True
        self._problem = self._problem or reason
        self._wake()

    def _fail(self, reason: str) -> None:
        self._problem = self._problem or reason
        self._transport.abort()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Take a head: the first one, or that of the answer after one that only informs."""
        if self.is_over:
            self._problem = "the server answered twice"
        else:
            self.raw_headers: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes after the body is left out."""
        if not self.has_head:
            self.raw_headers.append((name, value.strip()))

    def on_headers_complete(self) -> None:
        """Note the head, unless it only informs."""
        status = self._parser.get_status_code()
        if self.is_over or status < _FIRST_FINAL:
            return
        if status > _LAST_STATUS:  # no server can pass it on
            self._fail(f"what came is no HTTP: status {status}")
            return
        self.status = status
        self.has_head = True
        self._may_stay = self._parser.should_keep_alive()
        self._ends_with_connection = status not in _WITHOUT_BODY and not any(map(_gives_end, self.raw_headers))
        if not self._expects_body:  # the parser waits for the body that the headers announce
            self._may_stay, self.is_over = False, True

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self.has_head and not self.is_over:
            self.parts.append(body)
            self._size += len(body)

    def on_message_complete(self) -> None:
        """Note the end of the answer, unless it only informed."""
        self.is_over = self.has_head

    idle_since = 0.0
    """When it was given back, by the monotonic clock."""
    status = 0
    has_head = False
    """Whether status and headers are there."""
    _expects_body = True
    _may_stay = False
    """Whether the server keeps the connection open after the answer."""
    _ends_with_connection = False
    _size = 0


def _gives_end(header: tuple[bytes, bytes]) -> bool:
    """Tell whether *header* says how long the body is; of the encodings only the chunked one does."""
    name, value = header
    name = name.lower()
    return name == b"content-length" or (name == b"transfer-encoding" and value.lower().endswith(b"chunked"))


class Upstream:
    """A pool of connections; one event loop."""

    def __init__(self) -> None:
        """Start without connections."""
        self._idle: dict[_Key, deque[_Connection]] = {}

    async def send(self, request: Outgoing) -> Answer:
        """Send *request* and return what will be its answer; does not wait where a connection is open.

        It is sent once: a server that broke off may have done what it was asked, and been paid for it.

        Raises:
            OSError: The server cannot be reached.
        """
        key = _place(request.url)[0]
        idle = self._idle.get(key)
        connection = None
        oldest = time.monotonic() - _MOST_IDLE_S
        while idle and connection is None:
            connection = idle.pop()
            if not connection.is_open or connection.idle_since < oldest:
                connection.abort()
                connection = None
        connection = connection or await self._connect(key)
        try:
            connection.ask(request)
        except ConnectionError:
            connection.abort()
            raise
        return Answer(self, connection)

    async def _connect(self, key: _Key) -> _Connection:
        context = _certificates() if key.scheme == "https" else None
        opening = asyncio.get_running_loop().create_connection(
            lambda: _Connection(key), key.host, key.port, ssl=context
        )
        try:
            return (await asyncio.wait_for(opening, CONNECT_TIMEOUT_S))[1]
        except asyncio.TimeoutError:
            msg = f"no connection within {CONNECT_TIMEOUT_S:g} s"
            raise ConnectionError(msg) from None

    def give_back(self, connection: _Connection) -> None:
        """Keep *connection* for another request, or close it."""
        idle = self._idle.setdefault(connection.key, deque())
        if len(idle) < _MOST_IDLE and connection.is_free:
            connection.idle_since = time.monotonic()
            idle.append(connection)
        else:
            connection.abort()

    def close(self) -> None:
        """Close all that are kept."""
        for idle in self._idle.values():
            while idle:
                idle.pop().abort()
