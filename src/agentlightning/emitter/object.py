"""Any object as a span, as JSON text."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import logging
import math
import sys
from collections import deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import date, time, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from agentlightning import semconv
from agentlightning._internal.guard import guard
from agentlightning.emitter.event import CustomEvent, event_factory
from agentlightning.emitter.utils import EmittedValue, emit_span, is_enabled
from agentlightning.semconv import SpanAttributeNames, SpanNames

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_NAME = SpanNames.OBJECT.value

log = logging.getLogger(__name__)

MAX_DEPTH = 100
"""Containers nested deeper than this are named, not written out."""
MAX_ITEMS = 1_000_000
"""Values of one object that are written out; the text of more would not fit under the limit of one attribute."""
MAX_REPR_CHARS = 2_000
"""Length of the ``repr`` that stands for what JSON cannot hold."""

MAX_INT_BITS = 10_000
"""Whole numbers longer than this are hexadecimal text."""

_KEY_DEPTH = 3
_TOO_MANY = f"more than {MAX_ITEMS:,} values"
_BUILTIN: tuple[type, ...] = (list, tuple, dict, set, frozenset, deque)
_AS_TEXT = frozenset({"uuid.UUID", "decimal.Decimal", "fractions.Fraction"})


def emit_object(object: Any) -> None:  # noqa: A002, ANN401 - name and type of the API sheet
    """Record *object* as JSON text in a span ``agentlightning.object`` under the current span.

    Beside what JSON knows: pydantic models and dataclasses are objects, enums their value, dates ISO 8601, time spans
    seconds, sets lists, bytes ``{"type": "bytes", "base64": ...}``, numpy arrays lists, NaN and infinities strings.
    Anything else, a cycle, and what is nested deeper than 100 is ``{"type": ..., "repr": ...}`` with at most 2,000
    characters of its ``repr``, and logged. Never raises, never skips. Thread-safe; works without any tracer.
    """
    with guard("emitter.object"):
        if is_enabled():
            emit_span(_NAME, object_attributes(object))


class ObjectEvent(CustomEvent):
    """Any object as an event; it is turned into JSON text when the event is made, once."""

    event_type = "object"
    emit_object = staticmethod(emit_object)

    def __init__(self, object: Any, attributes: Mapping[str, object] | None = None) -> None:  # noqa: A002, ANN401 - as emit_object
        """Make it of *object*; of *attributes* where it was recorded elsewhere."""
        super().__init__(attributes=object_attributes(object) if attributes is None else attributes)
        self.object = object

    def serialize_json(self) -> str:
        """Return the object as JSON text, as ``emit_object`` records it."""
        return str(self.attributes[SpanAttributeNames.OBJECT.value])

    def validate(self) -> bool:
        """Tell whether there is JSON text of the object."""
        return isinstance(self.attributes.get(SpanAttributeNames.OBJECT.value), str)

    def span_name(self) -> str:
        """Return ``agentlightning.object``."""
        return _NAME

    def span_attributes(self) -> dict[str, EmittedValue]:
        """Return the JSON text and the name of the class."""
        return dict(self.attributes)


def _make(data: dict[str, object]) -> ObjectEvent:
    value = data[SpanAttributeNames.OBJECT.value]
    if semconv.OBJECT_TYPE not in data:
        return ObjectEvent(value)
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):  # cut to the limit
            value = json.loads(value)
    return ObjectEvent(value, data)


event_factory.add_builtin("object", _make)


def object_attributes(value: object) -> dict[str, EmittedValue]:
    """Return the attributes of the span that ``emit_object`` writes for *value*; never raises."""
    encoder = _Encoder()
    text = encoder.encode(value)
    if encoder.foreign:
        names = ", ".join(sorted(encoder.foreign))
        log.error("an emitted object must be JSON serializable; the repr was recorded for: %s", names)
    return {SpanAttributeNames.OBJECT.value: text, semconv.OBJECT_TYPE: _type_name(value)}


def json_text(value: object, *, max_items: int = MAX_ITEMS, max_chars: int | None = None) -> str:
    """Return *value* as ``emit_object`` writes it, with at most *max_items* values and *max_chars* of each text in it.

    Never raises.
    """
    return _Encoder(max_items, max_chars).encode(value)


class _Encoder:
    """Turns one object into JSON text; remembers what JSON could not hold."""

    def __init__(self, max_items: int = MAX_ITEMS, max_chars: int | None = None) -> None:
        self.foreign: set[str] = set()
        """Names of types of which only the ``repr`` was taken."""
        self._left = max_items
        self._max_chars = max_chars
        self._open: set[int] = set()
        """Containers that are being written, to see cycles."""

    def encode(self, value: object) -> str:
        """Return *value* as JSON text; lone surrogates are escaped."""
        try:
            text = json.dumps(self._plain(value, 0), ensure_ascii=False, allow_nan=False)
        except Exception:  # noqa: BLE001 - a stack that is full already, or memory that is
            text = json.dumps(self._named(value), ensure_ascii=False)
        if text.isascii():
            return text
        try:
            text.encode()
        except UnicodeEncodeError:
            return json.dumps(json.loads(text))
        return text

    def _plain(self, value: object, depth: int) -> object:
        kind = type(value)
        if kind is str:
            return self._text(cast("str", value))
        if value is None or kind is bool:
            return value
        if kind is int or kind is float:
            return self._number(cast("float", value))
        try:
            return self._container(value, depth) if _is_container(value) else self._scalar(value, depth)
        except Exception:  # noqa: BLE001 - code of the user's class: a property, a __float__, an iterator
            return self._named(value)

    def _scalar(self, value: object, depth: int) -> object:
        """Return a value that is no container, or one that stands for another."""
        if isinstance(value, Enum):
            return self._plain(value.value, depth + 1) if depth < MAX_DEPTH else self._named(value)
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, (int, float)):
            return self._number(value)
        if isinstance(value, (date, time)):
            return value.isoformat()
        if isinstance(value, timedelta):
            return value.total_seconds()
        if isinstance(value, (bytes, bytearray)):
            return {"type": type(value).__name__, "base64": base64.b64encode(value).decode()}
        if _type_name(value) in _AS_TEXT:
            return str(value)
        if isinstance(value, _class("numpy", "generic")):
            return self._numpy_scalar(value, depth)
        return self._named(value)

    def _text(self, value: str) -> str:
        if self._max_chars is None or len(value) <= self._max_chars:
            return value
        return f"{value[: self._max_chars]}… ({len(value):,} characters)"

    def _number(self, value: float) -> object:
        if isinstance(value, float):
            return _finite(float.__float__(value))
        # Python refuses to write longer numbers in decimal (sys.set_int_max_str_digits).
        return int.__index__(value) if value.bit_length() < MAX_INT_BITS else self._named(value, _bounded(hex(value)))

    def _numpy_scalar(self, value: Any, depth: int) -> object:  # noqa: ANN401 - numpy.generic; numpy is not ours
        item: object = value.item()
        # A long double is its own item; Python has no number for it.
        return self._named(value) if type(item) is type(value) else self._plain(item, depth + 1)

    def _container(self, value: object, depth: int) -> object:
        if depth >= MAX_DEPTH or self._left <= 0 or id(value) in self._open:
            return self._named(value)
        self._open.add(id(value))
        try:
            return self._members(value, depth + 1)
        finally:
            self._open.discard(id(value))

    def _members(self, value: object, depth: int) -> object:
        if isinstance(value, Mapping):
            return self._object(cast("Mapping[object, object]", value).items(), depth)
        if isinstance(value, AbstractSet):
            return self._array(_sorted(cast("Collection[object]", value)), depth)
        if isinstance(value, (list, tuple, deque)):
            return self._array(cast("Collection[object]", value), depth)
        if dataclasses.is_dataclass(value):
            fields = ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))
            return self._object(fields, depth)
        return self._third_party(value, depth)

    def _third_party(self, value: Any, depth: int) -> object:  # noqa: ANN401 - a pydantic model or a numpy array
        if isinstance(value, _class("pydantic.main", "BaseModel")):
            dumped: object = value.model_dump(warnings=False)
            return self._plain(dumped, depth)
        if value.size > self._left:
            return self._named(value, f"<array of shape {value.shape}, {value.dtype}>")
        return self._plain(value.tolist(), depth)

    def _object(self, items: Iterable[tuple[object, object]], depth: int) -> dict[str, object]:
        result: dict[str, object] = {}
        for key, value in items:
            self._left -= 1
            if self._left <= 0:
                result["..."] = "more"
                self.foreign.add(_TOO_MANY)
                break
            name = self._key(key)
            while name in result:  # 1 and "1" are two keys of a dict, and one of an object
                name += "'"
            result[name] = self._plain(value, depth)
        return result

    def _array(self, values: Collection[object], depth: int) -> list[object]:
        result: list[object] = []
        for value in values:
            self._left -= 1
            if self._left <= 0:
                result.append(f"... {len(values) - len(result)} more")
                self.foreign.add(_TOO_MANY)
                break
            result.append(self._plain(value, depth))
        return result

    def _key(self, key: object) -> str:
        if isinstance(key, str) and not isinstance(key, Enum):
            return str.__str__(key)
        plain = self._plain(key, MAX_DEPTH - _KEY_DEPTH)
        return plain if isinstance(plain, str) else _bounded(json.dumps(plain, ensure_ascii=False))

    def _named(self, value: object, text: str | None = None) -> dict[str, str]:
        name = _type_name(value)
        self.foreign.add(name)
        return {"type": name, "repr": _repr(value) if text is None else text}


def _is_container(value: object) -> bool:
    if isinstance(value, (Mapping, list, tuple, AbstractSet, deque)):
        return True
    if dataclasses.is_dataclass(value):
        return not isinstance(value, type)
    return isinstance(value, (_class("pydantic.main", "BaseModel"), _class("numpy", "ndarray")))


def _class(module: str, name: str) -> type:
    """Return a class of a module that the program has loaded; who has not loaded numpy has no array either."""
    loaded = sys.modules.get(module)
    return cast("type", getattr(loaded, name, _NoSuchClass))


class _NoSuchClass:
    """Nothing is an instance of it."""


def _sorted(values: Collection[object]) -> Collection[object]:
    """Return *values* in an order that does not depend on the hash seed, where they have one."""
    try:
        return sorted(cast("Collection[str]", values))
    except TypeError:
        return values


def _finite(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _type_name(value: object) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _repr(value: object) -> str:
    try:
        if isinstance(value, _BUILTIN):
            # Not repr(): of a deeply nested list it overflows the C stack once the recursion limit is raised.
            return f"<{type(value).__name__} of {len(cast('Collection[object]', value))}>"
        return _bounded(str.__str__(repr(value)))
    except Exception as error:  # noqa: BLE001 - __repr__ of the user's class
        return f"<repr failed: {type(error).__name__}>"


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_REPR_CHARS else text[: MAX_REPR_CHARS - 1] + "…"
