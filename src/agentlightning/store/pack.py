"""Attributes on disk: JSON text for what JSON holds exactly, a packed blob for the rest.

The blob holds, by attribute name, long arrays of numbers (token ids, log-probabilities: compact, never cut) and
values that JSON would change (NaN, infinities, bytes, integers beyond 64 bit). Reading restores the same values.
Blob: one byte of format, then zlib over MessagePack.
"""

from __future__ import annotations

import math
import zlib
from typing import Any, cast

import msgspec

_FORMAT = b"\x01"
_LONG = 32
"""A list of numbers of this length or more is packed."""

_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode
_encode_packed = msgspec.msgpack.Encoder().encode
_decode_packed = msgspec.msgpack.Decoder().decode


def to_json(value: object) -> str:
    """Return *value* as JSON text; what JSON does not know becomes its ``repr``. Never raises for plain data."""
    try:
        return _encode_json(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return msgspec.json.encode(plain(value)).decode()


def from_json(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value of JSON text."""
    return _decode_json(text)


def dump_attributes(attributes: dict[str, Any]) -> tuple[str, bytes | None]:
    """Return the JSON text and the blob (None when it is not needed) that together hold *attributes*."""
    packed: dict[str, Any] | None = None
    for key, value in attributes.items():
        if isinstance(value, (str, int)):
            continue
        if _needs_packing(cast("list[object]", value)) if isinstance(value, list) else _is_odd(value):
            packed = {} if packed is None else packed
            packed[key] = value
    if packed is None:
        try:
            return _encode_json(attributes).decode(), None
        except (TypeError, ValueError, OverflowError, RecursionError):
            return to_json(attributes), None
    rest = {key: value for key, value in attributes.items() if key not in packed}
    return to_json(rest), _pack(packed)


def load_attributes(text: str, blob: bytes | None) -> dict[str, Any]:
    """Return the attributes that ``dump_attributes`` took apart.

    Raises:
        ValueError: The blob has a format that this release does not know, or is damaged.
    """
    attributes: dict[str, Any] = _decode_json(text)
    if blob is not None:
        if blob[:1] != _FORMAT:
            msg = f"unknown format {blob[:1]!r} of packed attributes"
            raise ValueError(msg)
        try:
            attributes.update(_decode_packed(zlib.decompress(blob[1:])))
        except (zlib.error, msgspec.DecodeError) as error:
            msg = "packed attributes are damaged"
            raise ValueError(msg) from error
    return attributes


def _pack(packed: dict[str, Any]) -> bytes:
    try:
        body = _encode_packed(packed)
    except (TypeError, ValueError, OverflowError, RecursionError):
        body = _encode_packed(plain(packed))
    return _FORMAT + zlib.compress(body, 6)


def _needs_packing(values: list[object]) -> bool:
    if not values or not isinstance(values[0], (int, float)):
        return _is_odd(values)
    return len(values) >= _LONG or any(isinstance(value, float) and not math.isfinite(value) for value in values)


def _is_odd(value: object) -> bool:
    """Tell whether a nested value holds something that JSON would change."""
    pending: list[object] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, float):
            if not math.isfinite(item):
                return True
        elif isinstance(item, bytes):
            return True
        elif isinstance(item, dict):
            pending.extend(cast("dict[str, object]", item).values())
        elif isinstance(item, (list, tuple)):
            pending.extend(cast("list[object]", item))
    return False


def plain(value: object, depth: int = 0) -> object:
    """Return *value* in types that any encoder takes; the slow way, for what the fast one refused. Never raises."""
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if depth < 100:  # noqa: PLR2004 - far below the recursion limit
        if isinstance(value, dict):
            items = cast("dict[object, object]", value).items()
            return {str(plain(str(key), depth)): plain(item, depth + 1) for key, item in items}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [plain(item, depth + 1) for item in cast("list[object]", value)]
    try:
        return repr(value)[:10_000].encode("utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything, and the span must not be lost for it
        return f"<{type(value).__qualname__}>"
