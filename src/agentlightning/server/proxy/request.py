"""What a program sends: read whole, for so long, and with all others together within a bound; or refused."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

from agentlightning.server.connection import CONNECTION
from agentlightning.server.gate import write_audit
from agentlightning.server.proxy.backend import is_anthropic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning.server.connection import PatientProtocol
    from agentlightning.server.gate import Receive, Scope, Send

MOST_BODY_BYTES = 256 * 2**20
MOST_WAITING_BYTES = 2**29
"""Bodies of all calls that are under way together."""
PART_TIMEOUT_S = 30.0
"""Longest pause between two parts of a body."""
_UNAUTHORIZED = 401


class RefusedError(Exception):
    """A request that goes nowhere; its text says why."""

    def __init__(self, status: int, reason: str, *, retry_after_s: int | None = None) -> None:
        """Refuse with *status*, for *reason*."""
        super().__init__(reason)
        self.status = status
        self.retry_after_s = retry_after_s


class Request:
    """What the program asked."""

    def __init__(self, scope: Scope, traceparent: str, path: str, ids: tuple[str, str] | None, body: bytes) -> None:
        """Be the request of *scope* with *body*; *path* is below ``/v1``, *ids* those of its attempt."""
        self.connection: PatientProtocol = scope[CONNECTION]
        self.method: bytes = scope["method"].encode()
        self.query: str = scope["query_string"].decode("latin-1")
        self.headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.traceparent = traceparent
        self.path = path
        """As it was sent, below ``/v1``."""
        self.ids = ids
        self.body = body
        self.fields = _fields(body)

    @property
    def is_anthropic(self) -> bool:
        """Whether it is for Anthropic's API, some of whose paths are also paths of OpenAI's."""
        return is_anthropic(self.path) or any(name == b"anthropic-version" for name, _ in self.headers)


def _fields(body: bytes) -> dict[str, Any] | None:
    try:
        value = cast("object", json.loads(body))
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


class Hall:
    """Counts the bytes of all bodies; one event loop."""

    def __init__(self, most: int = MOST_WAITING_BYTES) -> None:
        """Take *most* bytes together."""
        self.most = most
        self.taken = 0


class Room:
    """What one request takes of a hall."""

    def __init__(self, hall: Hall) -> None:
        """Take nothing yet."""
        self._hall = hall
        self._taken = 0

    def grow(self, size: int) -> None:
        """Take *size* bytes in all; a single request always may.

        Raises:
            RefusedError: Too much is under way.
        """
        more = size - self._taken
        if more <= 0:
            return
        if self._hall.taken > self._taken and self._hall.taken + more > self._hall.most:
            raise RefusedError(503, "too much is under way", retry_after_s=1)
        self._hall.taken += more
        self._taken = size

    def leave(self) -> None:
        """Give everything back."""
        self._hall.taken -= self._taken
        self._taken = 0


async def read_body(headers: Mapping[str, str], receive: Receive, connection: PatientProtocol, room: Room) -> bytes:
    """Return the whole body of a request.

    Raises:
        RefusedError: It is too large or too slow, too much is under way, or the program went away.
    """
    loop = asyncio.get_running_loop()
    announced = headers.get("content-length", "")
    # Before it is read: else many would be read in part, and none to its end.
    _grow(room, int(announced) if announced.isdecimal() else 0)
    parts: list[bytes] = []
    size = 0
    while True:
        clock = loop.call_later(PART_TIMEOUT_S, connection.close)  # ``wait_for`` makes a task
        try:
            message = await receive()
        finally:
            clock.cancel()
        if message["type"] != "http.request":
            raise RefusedError(400, "the request was not sent to its end, or too slowly")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        _grow(room, size)
        if not message.get("more_body", False):
            return b"".join(parts)


def _grow(room: Room, size: int) -> None:
    if size > MOST_BODY_BYTES:
        raise RefusedError(413, f"a request may have {MOST_BODY_BYTES} bytes")
    room.grow(size)


async def refuse(scope: Scope, send: Send, error: RefusedError) -> None:
    """Answer a request that goes nowhere, write its audit line, and close the connection: its body is not read."""
    peer = scope.get("client")
    write_audit("refused", peer[0] if peer else None, scope["method"], scope["path"], error.status, str(error))
    more = [(b"connection", b"close")]
    if error.retry_after_s is not None:
        more.append((b"retry-after", str(error.retry_after_s).encode()))
    if error.status == _UNAUTHORIZED:
        more.append((b"www-authenticate", b"Bearer"))
    await reply(send, error.status, str(error), "refused", more)


async def reply(send: Send, status: int, reason: str, kind: str, more: list[tuple[bytes, bytes]] | None = None) -> None:
    """Answer with an error of our own, in the form that clients of the OpenAI API read, and *more* headers."""
    body = json.dumps({"error": {"message": f"agentlightning proxy: {reason}", "type": kind, "code": None}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *(more or ())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
