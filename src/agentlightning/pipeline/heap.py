"""What records take of the heap, as an estimate: their texts, and as many numbers as they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentlightning.types.record import SpanRecord

_RECORD_BYTES = 2_000
"""A span without its texts."""
_EVENT_BYTES = 500
_NUMBER_BYTES = 36
"""A number in a list, with its place there: token ids are too large to be shared."""
_ITEM_BYTES = 57
"""A text in a list or dict, beside its characters."""
_CONTAINER_BYTES = 120

_NUMBERS = frozenset({int, float, bool})


def heap_bytes(spans: Iterable[SpanRecord]) -> int:
    """Return an estimate of the bytes that *spans* take; a list of numbers costs no more time than a text."""
    size = 0
    for span in spans:
        size += _RECORD_BYTES
        for value in cast("dict[str, object]", span.attributes).values():
            if isinstance(value, str):
                size += len(value)
            elif isinstance(value, (list, dict)):
                size += _nested(cast("object", value))
        for event in span.events:
            size += _EVENT_BYTES + _nested(event.attributes)
    return size


def _nested(value: object) -> int:
    """Return the same for a plain value of any kind; the first of a list of numbers speaks for the others."""
    if isinstance(value, str):
        return _ITEM_BYTES + len(value)
    if isinstance(value, list):
        items = cast("list[object]", value)
        if items and type(items[0]) in _NUMBERS:
            return _NUMBER_BYTES * len(items)
        return _CONTAINER_BYTES + sum(map(_nested, items))
    if isinstance(value, dict):
        entries = cast("dict[str, object]", value)
        return _CONTAINER_BYTES + sum(_ITEM_BYTES + len(key) + _nested(item) for key, item in entries.items())
    return _NUMBER_BYTES
