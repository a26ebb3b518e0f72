"""What a program sends: read whole, for so long, and with all others together within a bound; or refused."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

from agentlightning.server.connection import CONNECTION
from agentlightning.server.gate import RefusedError
from agentlightning.server.proxy.backend import is_anthropic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning.server.connection import PatientProtocol
    from agentlightning.server.gate import Receive, Room, Scope, Send

MOST_BODY_BYTES = 256 * 2**20
MOST_WAITING_BYTES = 2**29
"""Bodies of all calls that are under way together."""
PART_TIMEOUT_S = 30.0
"""Longest pause between two parts of a body."""


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


async def reply(send: Send, status: int, reason: str, kind: str) -> None:
    """Answer with an error of our own."""
    body = json.dumps(error_body(reason, kind)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_body(reason: str, kind: str) -> dict[str, dict[str, str | None]]:
    """Return an error of our own in the form that clients of the OpenAI API read."""
    return {"error": {"message": f"agentlightning proxy: {reason}", "type": kind, "code": None}}
