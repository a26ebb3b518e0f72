"""Attributes on disk: JSON text for what JSON holds exactly, a packed blob for the rest.

The blob holds, by attribute name, long arrays of numbers (token ids, log-probabilities: compact, never cut) and
values that JSON would change (NaN, infinities, bytes, integers beyond 64 bit). Reading restores the same values.
Blob: one byte of format, then zlib over MessagePack. Format 2 keeps whole numbers below 2**32 and numbers that are, or
were printed from, 32-bit floats as arrays of four bytes, all first bytes together, then all second ones and so on:
what random digits leave to compress is in the high bytes. Format 1 had all lists as MessagePack.
"""

from __future__ import annotations

import math
import sys
import zlib
from array import array
from typing import TYPE_CHECKING, Any, cast

import msgspec

from agentlightning._internal.failing import ask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning.types.record import AttributeMap

_FORMAT, _FIRST_FORMAT = b"\x02", b"\x01"
_WORD = 4
_FEWEST_DIGITS, _MOST_DIGITS = 6, 9
"""A 32-bit float is told by at most nine digits."""
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


def dump_attributes(attributes: Mapping[str, object]) -> tuple[str, bytes | None]:
    """Return the JSON text and the blob (None when it is not needed) that together hold *attributes*."""
    packed: dict[str, object] | None = None
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


def load_attributes(text: str, blob: bytes | None) -> AttributeMap:
    """Return the attributes that ``dump_attributes`` took apart.

    Raises:
        ValueError: The blob has a format that this release does not know, or is damaged.
    """
    attributes: AttributeMap = _decode_json(text)
    if blob is not None:
        if blob[:1] not in {_FORMAT, _FIRST_FORMAT}:
            msg = f"unknown format {blob[:1]!r} of packed attributes"
            raise ValueError(msg)
        try:
            packed: AttributeMap = _decode_packed(zlib.decompress(blob[1:]))
            attributes.update(packed if blob[:1] == _FIRST_FORMAT else _unpacked(packed))
        except (zlib.error, msgspec.DecodeError) as error:
            msg = "packed attributes are damaged"
            raise ValueError(msg) from error
    return attributes


def _pack(packed: dict[str, object]) -> bytes:
    kinds: dict[str, dict[str, object]] = {"values": {}, "ints": {}, "floats": {}, "decimals": {}}
    for key, value in packed.items():
        kind, kept = _compact(cast("list[object]", value)) if isinstance(value, list) else ("values", value)
        kinds[kind][key] = kept
    try:
        body = _encode_packed(kinds)
    except (TypeError, ValueError, OverflowError, RecursionError):
        body = _encode_packed(plain(kinds | {"ints": {}, "floats": {}, "decimals": {}}))
        arrays = {kind: kinds[kind] for kind in ("ints", "floats", "decimals")}
        body = _encode_packed({**_decode_packed(body), **arrays})
    return _FORMAT + zlib.compress(body, 6)


def _unpacked(kinds: Mapping[str, AttributeMap]) -> dict[str, object]:
    """Return the attributes of a blob."""
    found = dict(kinds["values"])
    found |= {key: _joined("I", planes).tolist() for key, planes in kinds["ints"].items()}
    found |= {key: _joined("f", planes).tolist() for key, planes in kinds["floats"].items()}
    found |= {key: _shortest(_joined("f", planes)) for key, planes in kinds["decimals"].items()}
    return found


def _compact(values: list[object]) -> tuple[str, object]:
    """Return how a list is kept, and what is kept of it; reading gives the same values of the same types."""
    types = set(map(type, values))
    try:
        if types == {int}:
            return "ints", _planes(array("I", cast("list[int]", values)))
        if types == {float}:
            words = array("f", cast("list[float]", values))
            if words.tolist() == values:
                return "floats", _planes(words)
            if _shortest(words) == values:
                return "decimals", _planes(words)
    except (OverflowError, ValueError):
        pass  # negative or too large for four bytes
    return "values", values


def _planes(words: array[Any]) -> bytes:
    """Return the bytes of *words* (little-endian), sorted by their place in a word."""
    if sys.byteorder == "big":
        words.byteswap()
    body = words.tobytes()
    return b"".join(body[place::_WORD] for place in range(_WORD))


def _joined(code: str, planes: bytes) -> array[Any]:
    count = len(planes) // _WORD
    body = bytearray(len(planes))
    for place in range(_WORD):
        body[place::_WORD] = planes[place * count : (place + 1) * count]
    words: array[Any] = array(code)
    words.frombytes(bytes(body))
    if sys.byteorder == "big":
        words.byteswap()
    return words


def _shortest(words: array[float]) -> list[float]:
    """Return for each 32-bit float the number with the fewest decimal digits that tells it from all others."""
    exact = words.tolist()
    found: list[float] = exact
    for digits in range(_MOST_DIGITS, _FEWEST_DIGITS - 1, -1):
        shorter = [float(f"{value:.{digits}g}") for value in exact]
        same = array("f", shorter).tolist()
        rows = zip(shorter, same, exact, found, strict=True)
        found = [short if again == value else kept for short, again, value, kept in rows]
    return found


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
    return ask(
        lambda: repr(value)[:10_000].encode("utf-8", "backslashreplace").decode(),
        lambda _: f"<{type(value).__qualname__}>",
    )
