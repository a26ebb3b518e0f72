"""Connections to model servers: kept open between requests, each answer passed on as it comes.

``h11`` speaks the protocol. A client with everything that httpx has takes 1.5 ms of processor time for a request, more
than the proxy may add in all.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import h11

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

CONNECT_TIMEOUT_S = 10.0
"""Longest time until a connection stands, TLS included."""
_MOST_IDLE = 64
"""Connections to one server that are kept open without a request."""
_READ_BYTES = 2**16

_Key = tuple[str, str, int]


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


@dataclass(frozen=True)
class Outgoing:
    """A request."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes


class Answer:
    """What a server answers; to be read to its end, or closed."""

    def __init__(self, pool: Upstream, connection: _Connection, response: h11.Response) -> None:
        """Read the rest of *response* from *connection*, which goes back to *pool* when all is read."""
        self._pool = pool
        self._connection = connection
        self.status = response.status_code
        self.raw_headers: list[tuple[bytes, bytes]] = list(response.headers.raw_items())
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the parts of the body as they come.

        Raises:
            ConnectionError: The server broke off.
        """
        while True:
            event = await self._connection.next_event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._pool.give_back(self._connection)
                return

    async def read(self) -> bytes:
        """Return the whole body; errors as for ``chunks``."""
        return b"".join([chunk async for chunk in self.chunks()])

    def close(self) -> None:
        """Close the connection, unless everything was read."""
        if not self._connection.is_given_back:
            self._connection.close()


class _Connection:
    """One connection; one request at a time."""

    def __init__(self, key: _Key, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.key = key
        self.is_given_back = False
        self._reader = reader
        self._writer = writer
        self._state = h11.Connection(h11.CLIENT)

    @property
    def is_open(self) -> bool:
        """Whether the server has not closed it, as far as we know."""
        return not (self._writer.is_closing() or self._reader.at_eof())

    async def send(self, request: Outgoing) -> h11.Response:
        """Send *request* and return the head of the answer.

        Raises:
            ConnectionError: The connection broke, or what came is no HTTP.
        """
        self.is_given_back = False
        parts = urlsplit(request.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = [("host", parts.netloc.rpartition("@")[2]), *request.headers.items()]
        if request.body or request.method not in {"GET", "HEAD"}:
            headers.append(("content-length", str(len(request.body))))
        state = self._state
        try:
            head = h11.Request(method=request.method, target=target, headers=headers)
            data = (state.send(head), state.send(h11.Data(data=request.body)), state.send(h11.EndOfMessage()))
            self._writer.write(b"".join(part for part in data if part))
            await self._writer.drain()
            while True:
                event = await self.next_event()
                if isinstance(event, h11.Response):
                    return event
        except h11.LocalProtocolError as error:
            msg = f"the request cannot be sent: {error}"
            raise ConnectionError(msg) from error

    async def next_event(self) -> h11.Event | type[h11.PAUSED]:
        """Return what comes next.

        Raises:
            ConnectionError: The connection broke, or what came is no HTTP.
        """
        try:
            while True:
                event = self._state.next_event()
                if event is not h11.NEED_DATA:
                    return event  # pyright: ignore[reportReturnType] - NEED_DATA is ruled out
                self._state.receive_data(await self._reader.read(_READ_BYTES))
        except h11.RemoteProtocolError as error:
            raise ConnectionError(str(error)) from error

    def is_reusable(self) -> bool:
        """Make it ready for another request, if it can be."""
        state = self._state
        if state.our_state is not h11.DONE or state.their_state is not h11.DONE:
            return False
        state.start_next_cycle()
        return True

    def close(self) -> None:
        """Close it at once."""
        with contextlib.suppress(OSError, RuntimeError):  # the loop may be closed already
            self._writer.transport.abort()


class Upstream:
    """A pool of connections; one event loop."""

    def __init__(self) -> None:
        """Start without connections."""
        self._idle: dict[_Key, deque[_Connection]] = {}

    async def send(self, request: Outgoing) -> Answer:
        """Send *request* and return its answer, whose body is still to be read.

        It is sent once: a server that broke off may have done what it was asked, and been paid for it.

        Raises:
            OSError: The server cannot be reached, or broke off before the head of its answer was there.
        """
        parts = urlsplit(request.url)
        key = (parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        idle = self._idle.setdefault(key, deque())
        while idle:
            connection = idle.pop()
            if connection.is_open:
                return await self._ask(connection, request)
            connection.close()
        return await self._ask(await self._connect(key), request)

    async def _ask(self, connection: _Connection, request: Outgoing) -> Answer:
        try:
            return Answer(self, connection, await connection.send(request))
        except BaseException:
            connection.close()
            raise

    async def _connect(self, key: _Key) -> _Connection:
        scheme, host, port = key
        context = _certificates() if scheme == "https" else None
        try:
            opening = asyncio.open_connection(host, port, ssl=context)
            return _Connection(key, *await asyncio.wait_for(opening, CONNECT_TIMEOUT_S))
        except asyncio.TimeoutError:
            msg = f"no connection within {CONNECT_TIMEOUT_S:g} s"
            raise ConnectionError(msg) from None

    def give_back(self, connection: _Connection) -> None:
        """Keep *connection* for another request, or close it."""
        connection.is_given_back = True
        idle = self._idle.setdefault(connection.key, deque())
        if len(idle) < _MOST_IDLE and connection.is_open and connection.is_reusable():
            idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close all that are kept."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close()
