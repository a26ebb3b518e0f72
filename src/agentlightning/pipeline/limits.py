"""Limits on what one span may hold. A cut is marked on its span; arrays of numbers are never cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from agentlightning import semconv

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentlightning.types.record import AttributeMap, SpanRecord

MAX_SPAN_BYTES = 64 * 2**20
"""A span whose texts together are longer than this, in bytes after cutting, is dropped as ``too_large``."""

_MAX_NAME_BYTES = 65_536
_NUMBERS = frozenset({int, float, bool, type(None)})
_TEXTS = frozenset({str})
_PLAIN = _NUMBERS | _TEXTS


def limit(record: SpanRecord, max_value_bytes: int) -> int:
    """Cut every text of *record* to *max_value_bytes* of UTF-8, replace lone surrogates, and mark both.

    Args:
        record: Changed in place.
        max_value_bytes: Longest text; names and the status description have a limit of their own, 64 KiB.

    Returns:
        Bytes of all texts afterwards, an estimate that is exact for ASCII.
    """
    cut: list[str] = []
    size = limit_attributes(record.attributes, max_value_bytes, cut)
    for event in record.events:
        event.name = _limited(event.name, _MAX_NAME_BYTES)
        size += limit_attributes(event.attributes, max_value_bytes, cut)
    for link in record.links:
        size += limit_attributes(link.attributes, max_value_bytes, cut)
    if record.status_description:
        record.status_description = _limited(record.status_description, _MAX_NAME_BYTES)
    record.name = _limited(record.name, _MAX_NAME_BYTES)
    _mark(record, cut)
    return size


def _mark(record: SpanRecord, cut: list[str]) -> None:
    """Name on *record* what was cut, beside what was cut before."""
    if cut:
        before = record.attributes.get(semconv.TRUNCATED)
        known = cast("list[object]", before) if isinstance(before, list) else []
        record.attributes[semconv.TRUNCATED] = sorted({*cut, *(key for key in known if isinstance(key, str))})


def limit_attributes(attributes: AttributeMap, max_bytes: int, cut: list[str]) -> int:
    """Limit the texts in *attributes* in place, add the keys that were changed to *cut*, return the bytes of texts.

    Names of attributes are limited too, to 64 KiB, and lose lone surrogates.
    """
    size = _size_if_plain(attributes, max_bytes)
    if size is not None:
        return size
    size = 0
    odd: list[str] = []
    for key, value in attributes.items():
        if not key.isascii() or len(key) > _MAX_NAME_BYTES:
            odd.append(key)
        if type(value) is str:
            length = len(value)
            if length * 4 > max_bytes or not value.isascii():
                short = _limited(value, max_bytes)
                if short is not value:
                    attributes[key] = short  # only the value: the size of the dict stays
                    cut.append(key)
                length = len(short)
            size += length
        elif isinstance(value, (list, dict)):
            size += _limit_nested(attributes, key, max_bytes, cut)
        elif isinstance(value, bytes):
            attributes[key] = value[:max_bytes]
            size += min(len(value), max_bytes)
            if len(value) > max_bytes:
                cut.append(key)
    for key in odd:
        name = _limited(key, _MAX_NAME_BYTES)
        if name != key:
            attributes[name] = attributes.pop(key)
            cut.append(name)
    return size


def _size_if_plain(attributes: AttributeMap, max_bytes: int) -> int | None:
    """Return the bytes of all texts where nothing can need a cut, the usual case, in a few calls of C; else None."""
    values = attributes.values()
    kinds = set(map(type, values))
    if not kinds <= _PLAIN:
        return None
    texts = values if kinds <= _TEXTS else [value for value in values if type(value) is str]
    text, names = "".join(cast("Iterable[str]", texts)), "".join(attributes)
    is_short = len(text) * 4 <= max_bytes and len(names) <= _MAX_NAME_BYTES
    return len(text) if is_short and text.isascii() and names.isascii() else None


def cut_huge(record: SpanRecord, max_value_bytes: int) -> None:
    """Cut texts of *record* that are far longer than their limit before anything looks at them, and mark them.

    They keep four times as much, so that a credential that is cut in half here is gone when the limit has been kept.
    """
    longest, cut = 4 * max_value_bytes, list[str]()
    for attributes in (record.attributes, *(event.attributes for event in record.events)):
        for key, value in attributes.items():
            if type(value) is str:
                if len(value) > longest:
                    attributes[key] = value[:longest]
                    cut.append(key)
            elif type(value) is list and _has_longer(cast("list[object]", value), longest):
                items = cast("list[object]", value)
                attributes[key] = [item[:longest] if type(item) is str else item for item in items]
                cut.append(key)
    _mark(record, cut)
    longest = 4 * _MAX_NAME_BYTES
    record.name = record.name[:longest]
    if record.status_description:
        record.status_description = record.status_description[:longest]


def _has_longer(items: list[object], longest: int) -> bool:
    if str not in set(map(type, items)):  # one pass in C: token ids are tens of thousands of numbers
        return False
    return any(type(item) is str and len(item) > longest for item in items)


def _limit_nested(attributes: AttributeMap, key: str, max_bytes: int, cut: list[str]) -> int:
    """Limit the texts in a list or dict; numbers are never touched, however many there are."""
    value: object = attributes[key]
    if isinstance(value, list):
        values = cast("list[object]", value)
        if set(map(type, values)) <= _NUMBERS:
            return 8 * len(values)
    changed: list[bool] = []
    limited, size = _walk(cast("object", value), max_bytes, changed)
    if changed:
        attributes[key] = limited
        cut.append(key)
    return size


def _walk(value: object, max_bytes: int, changed: list[bool]) -> tuple[object, int]:
    """Return *value* with every text in it limited, and the bytes of its texts; plain values are never deep."""
    if isinstance(value, str):
        short = _limited(value, max_bytes)
        if short is not value:
            changed.append(True)
        return short, len(short)
    if isinstance(value, list):
        parts = [_walk(item, max_bytes, changed) for item in cast("list[object]", value)]
        return [part for part, _ in parts], sum(size for _, size in parts)
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        walked = {_limited(str(key), _MAX_NAME_BYTES): _walk(item, max_bytes, changed) for key, item in items}
        if list(walked) != list(cast("dict[str, object]", value)):
            changed.append(True)
        return {key: part for key, (part, _) in walked.items()}, sum(size for _, size in walked.values())
    return value, 8


def _limited(text: str, max_bytes: int) -> str:
    """Return *text* itself when it is valid and short enough, else a copy that is."""
    if len(text) > max_bytes:  # no need to encode what will be cut off anyway
        text = text[:max_bytes]
        encoded = text.encode("utf-8", "backslashreplace")
        return encoded[:max_bytes].decode("utf-8", "ignore")
    try:
        encoded = text.encode()
    except UnicodeEncodeError:  # a lone surrogate: no encoder takes it, so show it as an escape
        encoded = text.encode("utf-8", "backslashreplace")
        text = encoded.decode()
    if len(encoded) <= max_bytes:
        return text
    return encoded[:max_bytes].decode("utf-8", "ignore")
