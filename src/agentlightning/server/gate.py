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


class RefusedError(Exception):
    """A request that goes nowhere; its text says why."""

    def __init__(self, status: int, reason: str, *, retry_after_s: int | None = None, name: str = "") -> None:
        """Refuse with *status*, for *reason*; *name* is that of an error of ours, where there is one."""
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
        most = self._limits.waiting_bytes
        self._hall = Hall(most, "too much is waiting for the disk", for_small=most // 4)
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
        room = Room(self._hall)
        try:
            await self._serve(scope, receive, send, room)
        finally:
            room.leave()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the bodies of all requests that are under way."""
        return self._hall.taken

    async def _serve(self, scope: Scope, receive: Receive, send: Send, room: Room) -> None:
        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            project = self._admit(scope, headers)
            body = await asyncio.wait_for(self._read(headers, receive, room), self._limits.body_timeout_s)
        except RefusedError as error:
            await self._refuse(scope, send, error)
            return
        except asyncio.TimeoutError:
            await self._refuse(scope, send, RefusedError(408, "the body took too long"))
            return
        # Not a header: a client could send one.
        scope["agentlightning.project"] = project
        is_small = len(body) < _LARGE_BYTES or required_scope(scope["method"], scope["path"]) == "read"
        async with contextlib.nullcontext() if is_small else self._turns:
            await self._app(_with_plain_body(scope), _replay(body, receive), send)

    def _admit(self, scope: Scope, headers: dict[str, str]) -> str | None:
        """Return the only project that the request may reach, None for all.

        Raises:
            RefusedError: It may reach nothing.
        """
        found = self._rules.admit(scope["method"], scope["path"], headers)
        if isinstance(found, Refusal):
            raise RefusedError(found.status, found.reason)
        return found.project

    async def _read(self, headers: dict[str, str], receive: Receive, room: Room) -> bytes:
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"identity", "gzip", "deflate"}:
            raise RefusedError(415, "a body may be sent plain, or compressed by gzip or deflate")
        announced = headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > self._limits.body_bytes:
            raise self._too_large()
        # Before it is read: else many would be read in part, and none to its end.
        room.grow(int(announced) if announced.isdigit() else 0)
        inflate = _Inflate(encoding, self._limits.body_bytes, room)
        checksum, size = 0, 0
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise RefusedError(400, "the client went away")
            part: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            checksum, size = zlib.crc32(part, checksum), size + len(part)
            if size > self._limits.body_bytes or not inflate.feed(part):
                raise self._too_large()
        if size and content_type not in _CONTENT_TYPES:
            raise RefusedError(415, f"content type {content_type!r} is not taken here")
        expected = headers.get(wire.CRC_HEADER)
        if expected is not None and expected.lower() != f"{checksum:08x}":
            raise RefusedError(400, "the body does not fit its checksum", name="ChecksumError")
        return inflate.result()

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"a body may have {self._limits.body_bytes} bytes after inflation")

    async def _refuse(self, scope: Scope, send: Send, error: RefusedError) -> None:
        self.refused += 1
        await refuse(scope, send, error, {"error": error.name or "Refused", "message": str(error)})


_UNAUTHORIZED = 401


def write_audit(event: str, *fields: object) -> None:
    """Write one audit line; every control character in it is escaped."""
    audit.warning("%s", json.dumps([event, *fields]))


async def refuse(scope: Scope, send: Send, error: RefusedError, content: object) -> None:
    """Answer a refused request with *content* as JSON, write its audit line, and close: its body is not read."""
    peer = scope.get("client")
    write_audit("refused", peer[0] if peer else None, scope["method"], scope["path"], error.status, str(error))
    body = json.dumps(content).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if error.status == _UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Hall:
    """Counts the bytes of the bodies of all requests that are under way; one event loop."""

    def __init__(self, most: int, reason: str, *, for_small: int = 0) -> None:
        """Take *most* bytes together, and say *reason* when there are more.

        The last *for_small* of them are for small requests: large ones that arrive slowly do not keep them out.
        """
        self.taken = 0
        self.reason = reason
        self._most = most
        self._for_small = for_small

    def has_room(self, taken: int, count: int) -> bool:
        """Tell whether a request that has *taken* so many bytes may take *count* more; a single one always may."""
        bound = self._most - (self._for_small if taken + count > _LARGE_BYTES else 0)
        return self.taken == taken or self.taken + count <= bound


class Room:
    """What one request takes of a hall, as its body is announced and as it arrives."""

    def __init__(self, hall: Hall) -> None:
        """Take nothing yet."""
        self._hall = hall
        self._taken = 0

    def grow(self, size: int) -> None:
        """Take *size* bytes in all; what was taken before stays.

        Raises:
            RefusedError: Too much is under way.
        """
        if self._taken >= max(size, 1):
            return
        more = size - self._taken
        if not self._hall.has_room(self._taken, more):
            raise RefusedError(503, self._hall.reason, retry_after_s=1)
        self._hall.taken += more
        self._taken = size

    def leave(self) -> None:
        """Give everything back."""
        self._hall.taken -= self._taken
        self._taken = 0


class _Inflate:
    """Collects a body, inflated, up to a bound; reads every member of a gzip body."""

    def __init__(self, encoding: str, limit: int, room: Room) -> None:
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
                    raise RefusedError(400, f"the body is no valid {self._encoding}") from None
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
                    raise RefusedError(400, f"the body has more than {_MOST_MEMBERS} members of {self._encoding}")
                self._stream = zlib.decompressobj(_GZIP if self._encoding == "gzip" else _ZLIB)
        return True

    def _keep(self, part: bytes) -> bool:
        self._size += len(part)
        self._room.grow(self._size)
        self._parts.append(part)
        return self._size <= self._limit

    def result(self) -> bytes:
        """Return the whole body."""
        if self._stream is not None and self._began and not self._stream.eof:
            raise RefusedError(400, f"the body ends in the middle of its {self._encoding}")
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
