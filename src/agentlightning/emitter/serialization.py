"""Events as bytes and back, without loss: JSON in which everything that JSON cannot hold is tagged.

A tagged value is an object with the one key ``$`` or the two keys ``$`` and ``v``: ``{"$": "bytes", "v": "<base64>"}``.
Tags: ``float`` (NaN, infinities), ``int`` (beyond 64 bit, hexadecimal), ``str`` (with lone surrogates), ``bytes``,
``bytearray``, ``tuple``, ``set``, ``frozenset``, ``dict`` (keys that are no text, or a key ``$``), ``datetime``,
``date``, ``time``, ``timedelta``, ``uuid``, ``decimal``. No code is ever run to read one.
"""

from __future__ import annotations

import base64
import json
import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning.emitter.event import CustomEvent, EventFactory

MAX_DEPTH = 100
"""Containers nested deeper are refused."""
MAX_BYTES = 64 * 2**20
"""Longest text that is read."""

_TAG = "$"
_MAX_INT = 2**63
_PLAIN: frozenset[type] = frozenset({bool, type(None)})


class EventDataError(ValueError):
    """Data that cannot be kept without loss, or bytes that are no serialised event; the message says why."""


class SerializationEngine:
    """Turns events into bytes, bytes into events, and checks events against the schema of their type. Thread-safe."""

    def __init__(self, factory: EventFactory | None = None) -> None:
        """Make events by *factory*, None for that of the process."""
        if factory is None:
            from agentlightning.emitter.event import event_factory  # noqa: PLC0415 - it serialises by this module

            factory = event_factory
        self._factory = factory

    def serialize(self, event: CustomEvent) -> bytes:
        """Return *event* as bytes (ASCII), by its own ``serialize``.

        Raises:
            EventDataError: An attribute is of a type that has no form here, contains itself, or is nested too deeply.
        """
        return event.serialize()

    def deserialize(self, data: bytes) -> CustomEvent:
        """Return the event that ``serialize`` made *data* of; of an unregistered type it is a plain ``CustomEvent``.

        Times keep their offset from UTC, not the name of their zone.

        Raises:
            EventDataError: It is no serialised event, or the factory of its type refuses what it holds.
        """
        event_type, version, attributes = decode_event(data)
        return self._factory.restore(event_type, attributes, version)

    def validate_schema(self, event: CustomEvent) -> bool:
        """Tell whether the attributes of *event* fit the schema of its type and version; True where it has none.

        Never raises. A version that is not the registered one does not fit.
        """
        return self._factory.fits_schema(event)


def encode_event(event_type: str, version: int, attributes: dict[str, object]) -> bytes:
    """Return an event as bytes.

    Raises:
        EventDataError: As ``SerializationEngine.serialize``.
    """
    envelope = {"type": event_type, "version": version, "attributes": _tagged(attributes, 0, set())}
    return json.dumps(envelope, allow_nan=False, separators=(",", ":")).encode()


def decode_event(data: bytes) -> tuple[str, int, dict[str, object]]:
    """Return type, version and attributes of a serialised event.

    Raises:
        EventDataError: It is none.
    """
    if not isinstance(cast("object", data), (bytes, bytearray, str)):
        msg = f"a serialised event is bytes, not {type(data).__qualname__}"
        raise EventDataError(msg)
    if len(data) > MAX_BYTES:
        msg = f"more than {MAX_BYTES:,} bytes"
        raise EventDataError(msg)
    try:
        envelope: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        msg = f"no JSON: {error}"
        raise EventDataError(msg) from None
    if not isinstance(envelope, dict):
        msg = "no serialised event: it is no object"
        raise EventDataError(msg)
    fields = cast("dict[str, object]", envelope)
    event_type, version = fields.get("type"), fields.get("version", 1)
    try:
        attributes = _untagged(fields.get("attributes"), 0)
    except EventDataError:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        msg = f"no serialised event: {error}"
        raise EventDataError(msg) from None
    if not isinstance(event_type, str) or type(version) is not int or not isinstance(attributes, dict):
        msg = "no serialised event: type, version or attributes are missing"
        raise EventDataError(msg)
    return event_type, version, cast("dict[str, object]", attributes)


def _tagged(value: object, depth: int, above: set[int]) -> object:
    """Return *value* in the form that JSON holds; *above* are the containers that it lies in."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    write = _WRITERS.get(kind)
    if write is not None:
        return write(value)
    if kind not in _CONTAINERS:
        msg = f"{kind.__module__}.{kind.__qualname__} has no serialised form"
        raise EventDataError(msg)
    if depth >= MAX_DEPTH or id(value) in above:
        msg = "it contains itself" if id(value) in above else f"nested deeper than {MAX_DEPTH}"
        raise EventDataError(msg)
    above.add(id(value))
    try:
        if kind is dict:
            return _tagged_dict(cast("dict[object, object]", value), depth + 1, above)
        items = [_tagged(item, depth + 1, above) for item in cast("list[object]", value)]
        return items if kind is list else _tag(kind.__name__, items)
    finally:
        above.discard(id(value))


_CONTAINERS: frozenset[type] = frozenset({dict, list, tuple, set, frozenset})


def _tagged_dict(value: dict[object, object], depth: int, above: set[int]) -> object:
    if all(type(key) is str and _is_text(key) for key in value) and _TAG not in value:
        return {key: _tagged(item, depth, above) for key, item in value.items()}
    pairs = [[_tagged(key, depth, above), _tagged(item, depth, above)] for key, item in value.items()]
    return _tag("dict", pairs)


def _tag(name: str, value: object) -> dict[str, object]:
    return {_TAG: name, "v": value}


def _is_text(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _write_str(value: str) -> object:
    # JSON would join two surrogates that happen to stand side by side.
    return value if _is_text(value) else _tag("str", _base64(value.encode("utf-8", "surrogatepass")))


def _write_int(value: int) -> object:
    return value if -_MAX_INT <= value < _MAX_INT else _tag("int", hex(value))


def _write_float(value: float) -> object:
    return value if math.isfinite(value) else _tag("float", repr(value))


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


_WRITERS: dict[type, Callable[[Any], object]] = {
    str: _write_str,
    int: _write_int,
    float: _write_float,
    bytes: lambda value: _tag("bytes", _base64(value)),
    bytearray: lambda value: _tag("bytearray", _base64(value)),
    datetime: lambda value: _tag("datetime", value.isoformat()),
    date: lambda value: _tag("date", value.isoformat()),
    time: lambda value: _tag("time", value.isoformat()),
    timedelta: lambda value: _tag("timedelta", [value.days, value.seconds, value.microseconds]),
    UUID: lambda value: _tag("uuid", value.hex),
    Decimal: lambda value: _tag("decimal", str(value)),
}
_READERS: dict[str, Callable[[Any], object]] = {
    "str": lambda text: base64.b64decode(text, validate=True).decode("utf-8", "surrogatepass"),
    "int": lambda text: int(text, 16),
    "float": float,
    "bytes": lambda text: base64.b64decode(text, validate=True),
    "bytearray": lambda text: bytearray(base64.b64decode(text, validate=True)),
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda parts: timedelta(*parts),
    "uuid": lambda text: UUID(hex=text),
    "decimal": Decimal,
}
_COLLECTIONS: dict[str, Callable[[list[object]], object]] = {"tuple": tuple, "set": set, "frozenset": frozenset}


def _untagged(value: object, depth: int) -> object:
    if depth > 3 * MAX_DEPTH:
        msg = f"nested deeper than {MAX_DEPTH}"
        raise EventDataError(msg)
    if isinstance(value, list):
        return [_untagged(item, depth + 1) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, object]", value)
    if _TAG not in fields:
        return {key: _untagged(item, depth + 1) for key, item in fields.items()}
    name, held = str(fields[_TAG]), fields.get("v")
    read = _READERS.get(name)
    if read is not None:
        return read(held)
    if not isinstance(held, list) or (name != "dict" and name not in _COLLECTIONS):
        msg = f"no serialised event: unknown tag {name[:40]!r}"
        raise EventDataError(msg)
    items = [_untagged(item, depth + 1) for item in cast("list[object]", held)]
    if name == "dict":
        return dict(cast("list[tuple[object, object]]", items))
    return _COLLECTIONS[name](items)
