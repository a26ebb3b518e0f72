"""What goes over HTTP between client and server of a store: bodies, headers, errors.

Rollouts, attempts and resources travel as JSON, spans as MessagePack, which holds every value of an attribute. A body
has a CRC-32 in a header; a server that finds another one answers 400 and stores nothing.
"""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING, Any, Final, Optional
from urllib.parse import quote

import msgspec

from agentlightning import errors
from agentlightning.store.pack import plain
from agentlightning.types.change import ChangeCursor
from agentlightning.types.query import SpanRow
from agentlightning.types.record import SpanRecord, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEFAULT_PORT: Final = 4747
JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"
PROTOBUF: Final = "application/x-protobuf"

CRC_HEADER: Final = "x-agl-crc32"
"""CRC-32 of the body as it is sent, compressed or not, in hexadecimal."""
PROJECT_HEADER: Final = "x-agl-project"
"""Project of the handle; without it, the server's own."""


class ChecksumError(errors.StoreError):
    """The body was changed on its way; nothing was stored."""


class BodyTooLargeError(errors.StoreError):
    """The body is larger than the server takes; nothing was stored."""


_COMPRESS_FROM_BYTES = 1024
_TOO_LARGE = 413
_ERRORS: dict[str, tuple[type[errors.StoreError], int]] = {
    "UnknownIdError": (errors.UnknownIdError, 404),
    "StaleAttemptError": (errors.StaleAttemptError, 409),
    "TransitionError": (errors.TransitionError, 409),
    "StoreFullError": (errors.StoreFullError, 507),
    "StoreUnavailableError": (errors.StoreUnavailableError, 503),
    "QueryTimeoutError": (errors.QueryTimeoutError, 422),
    "AccessError": (errors.AccessError, 403),
    "StoreVersionError": (errors.StoreVersionError, 503),
    "StoreCorruptError": (errors.StoreCorruptError, 503),
    "ChecksumError": (ChecksumError, 400),
    "BodyTooLargeError": (BodyTooLargeError, 413),
    "StoreError": (errors.StoreError, 503),
}


class NumberedSpan(msgspec.Struct):
    """A span with its place in the rollout."""

    record: SpanRecord
    sequence_id: int


class ChangesReply(msgspec.Struct):
    """Answer of ``query_changes``."""

    cursor: ChangeCursor
    rollouts: list[dict[str, Any]]
    spans: list[SpanRow]


_encode = msgspec.msgpack.Encoder().encode
encode_any: Callable[[object], bytes] = _encode
decode_cursor: Callable[[bytes], ChangeCursor | None] = msgspec.msgpack.Decoder(Optional[ChangeCursor]).decode  # noqa: UP045 - a value, not a type
decode_changes: Callable[[bytes], ChangesReply] = msgspec.msgpack.Decoder(ChangesReply).decode
decode_keys: Callable[[bytes], list[tuple[str, str]]] = msgspec.msgpack.Decoder(list[tuple[str, str]]).decode
decode_batch: Callable[[bytes], WriteBatch] = msgspec.msgpack.Decoder(WriteBatch).decode
"""Read a batch; ``msgspec.DecodeError`` (a ``ValueError``) says what is wrong with it."""
decode_spans: Callable[[bytes], list[NumberedSpan]] = msgspec.msgpack.Decoder(list[NumberedSpan]).decode
decode_rows: Callable[[bytes], list[SpanRow]] = msgspec.msgpack.Decoder(list[SpanRow]).decode


def encode(value: WriteBatch | list[NumberedSpan] | list[SpanRow]) -> bytes:
    """Return MessagePack; attribute values that it cannot hold (integers beyond 64 bit) become text."""
    try:
        return _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        spans = (
            value.spans if isinstance(value, WriteBatch) else [s.record for s in value if isinstance(s, NumberedSpan)]
        )
        for span in spans:
            span.attributes = {str(key): plain(item) for key, item in span.attributes.items()}
            for part in (*span.events, *span.links):
                part.attributes = {str(key): plain(item) for key, item in part.attributes.items()}
        return _encode(value)


def quoted(text: str) -> str:
    """Return *text* as a header can carry it."""
    return quote(text, safe=" ")


def body_headers(body: bytes, content_type: str, *, compress: bool) -> tuple[bytes, dict[str, str]]:
    """Return the body to send, compressed where that pays, and the headers that describe it."""
    headers = {"content-type": content_type}
    if compress and len(body) >= _COMPRESS_FROM_BYTES:
        body = gzip.compress(body, 1)
        headers["content-encoding"] = "gzip"
    headers[CRC_HEADER] = f"{zlib.crc32(body):08x}"
    return body, headers


def error_status(error: errors.StoreError) -> int:
    """Return the HTTP status of an error of the store."""
    return next(status for kind, status in _ERRORS.values() if isinstance(error, kind))


def error_body(error: Exception) -> dict[str, str]:
    """Return what a reply says about an error of the store: the name of its class and its message."""
    name = next((name for name, (kind, _) in _ERRORS.items() if type(error) is kind), "StoreError")
    return {"error": name, "message": str(error)}


def error_from(status: int, body: Mapping[str, object]) -> errors.StoreError:
    """Return the error that a reply stands for."""
    kind = _ERRORS.get(str(body.get("error")), (errors.StoreError, 0))[0]
    if kind is errors.StoreError and status in {401, 403}:
        kind = errors.AccessError
    elif kind is errors.StoreError and status == _TOO_LARGE:
        kind = BodyTooLargeError
    elif kind is errors.StoreError and status in {408, 429, 502, 503, 504}:
        kind = errors.StoreUnavailableError
    return kind(str(body.get("message") or f"the server answered {status}"))
