"""What stands before every route: access, size, compression and checksum of the body, and the audit line of a refusal.

Bodies are read whole before a route sees them, at most so many bytes and for so long, and all of them together are
bounded: a client that sends faster than the disk takes gets 503 and ``Retry-After``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentlightning.server.access import Refusal, required_scope
from agentlightning.store import wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping

    from agentlightning.server.access import AccessRules

    Message = MutableMapping[str, Any]
    Scope = Message
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

audit: Final = logging.getLogger("agentlightning.audit")
"""One line of JSON for each refusal and for each deletion: who, what, why; never content."""

_CONTENT_TYPES = frozenset({wire.JSON, wire.MSGPACK, wire.PROTOBUF})
_LARGE_BYTES, _LARGE_AT_ONCE = 2**18, 2
"""Requests that write with a body of this size or more, and how many of them are read and written at once: one is
decoded while the other waits for the disk."""
_MOST_MEMBERS = 1000
"""Members of one gzip body: each costs a copy of what comes after it, and who writes in blocks has some hundred."""
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


@dataclass(frozen=True)
class GateLimits:
    """Bounds of what clients may send."""

    body_bytes: int = 20 * 2**20
    """Largest body, measured after inflation."""
    waiting_bytes: int = 64 * 2**20
    """Bodies of all requests that are under way together."""
    body_timeout_s: float = 30.0
    """Longest time for a body to arrive."""


class _RefusedError(Exception):
    def __init__(self, status: int, reason: str, *, retry_after_s: int | None = None, name: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after_s = retry_after_s
        self.name = name


class Gate:
    """ASGI middleware; one event loop."""

    def __init__(self, app: App, rules: AccessRules, limits: GateLimits | None = None) -> None:
        """Stand before *app*."""
        self._app = app
        self._rules = rules
        self._limits = limits or GateLimits()
        # Spans take several times the room of their body: but for these few, requests wait as bytes.
        self._turns = asyncio.Semaphore(_LARGE_AT_ONCE)
        self.waiting_bytes = 0
        self.refused = 0
        """Requests that were refused, for ``/metrics``."""
        self.further_counts: Callable[[], Mapping[str, int]] = dict
        """Counts of what else runs beside the application, for ``/metrics``."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer why not."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        room = _Room(self)
        try:
            await self._serve(scope, receive, send, room)
        finally:
            self.waiting_bytes -= room.taken

    async def _serve(self, scope: Scope, receive: Receive, send: Send, room: _Room) -> None:
        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            project = self._admit(scope, headers)
            body = await asyncio.wait_for(self._read(headers, receive, room), self._limits.body_timeout_s)
        except _RefusedError as error:
            await self._refuse(scope, send, error)
            return
        except asyncio.TimeoutError:
            await self._refuse(scope, send, _RefusedError(408, "the body took too long"))
            return
        # Not a header: a client could send one.
        scope["agentlightning.project"] = project
        is_small = len(body) < _LARGE_BYTES or required_scope(scope["method"], scope["path"]) == "read"
        async with contextlib.nullcontext() if is_small else self._turns:
            await self._app(_with_plain_body(scope), _replay(body, receive), send)

    def _admit(self, scope: Scope, headers: dict[str, str]) -> str | None:
        """Return the only project that the request may reach, None for all.

        Raises:
            _RefusedError: It may reach nothing.
        """
        found = self._rules.admit(scope["method"], scope["path"], headers)
        if isinstance(found, Refusal):
            raise _RefusedError(found.status, found.reason)
        return found.project

    def has_room(self, taken: int, count: int) -> bool:
        """Tell whether a request that has *taken* so many bytes may take *count* more; a single one always may.

        The last part of the room is for small requests: large ones that arrive slowly do not keep them out.
        """
        bound = self._limits.waiting_bytes
        if taken + count > _LARGE_BYTES:
            bound -= bound // 4
        return self.waiting_bytes == taken or self.waiting_bytes + count <= bound

    async def _read(self, headers: dict[str, str], receive: Receive, room: _Room) -> bytes:
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"identity", "gzip", "deflate"}:
            raise _RefusedError(415, "a body may be sent plain, or compressed by gzip or deflate")
        announced = headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > self._limits.body_bytes:
            raise self._too_large()
        # Before it is read: else many would be read in part, and none to its end.
        room.reserve(int(announced) if announced.isdigit() else 0)
        inflate = _Inflate(encoding, self._limits.body_bytes, room)
        checksum, size = 0, 0
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise _RefusedError(400, "the client went away")
            part: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            checksum, size = zlib.crc32(part, checksum), size + len(part)
            if size > self._limits.body_bytes or not inflate.feed(part):
                raise self._too_large()
        if size and content_type not in _CONTENT_TYPES:
            raise _RefusedError(415, f"content type {content_type!r} is not taken here")
        expected = headers.get(wire.CRC_HEADER)
        if expected is not None and expected.lower() != f"{checksum:08x}":
            raise _RefusedError(400, "the body does not fit its checksum", name="ChecksumError")
        return inflate.result()

    def _too_large(self) -> _RefusedError:
        return _RefusedError(413, f"a body may have {self._limits.body_bytes} bytes after inflation")

    async def _refuse(self, scope: Scope, send: Send, error: _RefusedError) -> None:
        self.refused += 1
        peer = scope.get("client")
        write_audit("refused", peer[0] if peer else None, scope["method"], scope["path"], error.status, str(error))
        body = json.dumps({"error": error.name or "Refused", "message": str(error)}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),  # the rest of the body is not read
        ]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", str(error.retry_after_s).encode()))
        if error.status == _UNAUTHORIZED:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


_UNAUTHORIZED = 401


def write_audit(event: str, *fields: object) -> None:
    """Write one audit line; every control character in it is escaped."""
    audit.warning("%s", json.dumps([event, *fields]))


class _Room:
    """What one request takes of the bytes that may wait, counted as they arrive."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._arrived = 0
        self.taken = 0

    def reserve(self, count: int) -> None:
        """Take *count* bytes for what was announced.

        Raises:
            _RefusedError: Too much is waiting.
        """
        if not self._gate.has_room(self.taken, count):
            raise _RefusedError(503, "too much is waiting for the disk", retry_after_s=1)
        self._gate.waiting_bytes += count
        self.taken += count

    def take(self, count: int) -> None:
        """Note that *count* bytes have arrived, inflated; errors as in ``reserve``."""
        self._arrived += count
        if self._arrived > self.taken:
            self.reserve(self._arrived - self.taken)


class _Inflate:
    """Collects a body, inflated, up to a bound; reads every member of a gzip body."""

    def __init__(self, encoding: str, limit: int, room: _Room) -> None:
        self._room = room
        self._parts: list[bytes] = []
        self._size = 0
        self._limit = limit
        self._encoding = encoding
        self._stream = None if encoding == "identity" else zlib.decompressobj(_GZIP if encoding == "gzip" else _ZLIB)
        self._began = False
        self._members = 1

    def feed(self, part: bytes) -> bool:
        """Take a part; return False when the bound is passed."""
        if self._stream is None:
            return self._keep(part)
        while part:
            try:
                inflated = self._stream.decompress(part, self._limit - self._size + 1)
            except zlib.error:
                if self._encoding != "deflate" or self._began:
                    raise _RefusedError(400, f"the body is no valid {self._encoding}") from None
                # Some clients send deflate without its zlib header.
                self._stream, self._began = zlib.decompressobj(_RAW), True
                continue
            self._began = True
            if not self._keep(inflated):
                return False
            part = self._stream.unconsumed_tail or self._stream.unused_data
            if self._stream.eof and part:
                self._members += 1
                if self._members > _MOST_MEMBERS:
                    raise _RefusedError(400, f"the body has more than {_MOST_MEMBERS} members of {self._encoding}")
                self._stream = zlib.decompressobj(_GZIP if self._encoding == "gzip" else _ZLIB)
        return True

    def _keep(self, part: bytes) -> bool:
        self._room.take(len(part))
        self._size += len(part)
        self._parts.append(part)
        return self._size <= self._limit

    def result(self) -> bytes:
        """Return the whole body."""
        if self._stream is not None and self._began and not self._stream.eof:
            raise _RefusedError(400, f"the body ends in the middle of its {self._encoding}")
        return b"".join(self._parts)


def _with_plain_body(scope: Scope) -> Scope:
    dropped = {b"content-encoding", b"content-length"}
    return {**scope, "headers": [pair for pair in scope["headers"] if pair[0] not in dropped]}


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives *body* once and then what the connection says."""
    pending = [body]

    async def again() -> Message:
        """Hand the body out once, then whatever the server receives."""
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return again
