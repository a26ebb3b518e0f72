"""Limits on what one span may hold. A cut is marked on its span; arrays of numbers are never cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from agentlightning import semconv

if TYPE_CHECKING:
    from agentlightning.types.record import AttributeMap, SpanRecord

MAX_SPAN_BYTES = 64 * 2**20
"""A span whose texts together are longer than this, in bytes after cutting, is dropped as ``too_large``."""


def limit(record: SpanRecord, max_value_bytes: int) -> int:
    """Cut every text of *record* to *max_value_bytes* of UTF-8, replace lone surrogates, and mark both.

    Returns:
        Bytes of all texts afterwards, an estimate that is exact for ASCII.
    """
    cut: list[str] = []
    size = limit_attributes(record.attributes, max_value_bytes, cut)
    for event in record.events:
        size += limit_attributes(event.attributes, max_value_bytes, cut)
    for link in record.links:
        size += limit_attributes(link.attributes, max_value_bytes, cut)
    if record.status_description:
        record.status_description = _limited(record.status_description, 65_536)
    record.name = _limited(record.name, 65_536)
    if cut:
        record.attributes[semconv.TRUNCATED] = sorted(set(cut))
    return size


def limit_attributes(attributes: AttributeMap, max_bytes: int, cut: list[str]) -> int:
    """Limit the texts in *attributes* in place, add the keys that were changed to *cut*, return the bytes of texts."""
    size = 0
    for key, value in attributes.items():
        if isinstance(value, str):
            length = len(value)
            if length * 4 > max_bytes or not value.isascii():
                short = _limited(value, max_bytes)
                if short is not value:
                    attributes[key] = short  # only the value: the size of the dict stays
                    cut.append(key)
                length = len(short)
            size += length
        elif isinstance(value, list):
            size += _limit_list(key, cast("list[object]", value), max_bytes, cut)
        elif isinstance(value, bytes) and len(value) > max_bytes:
            attributes[key] = value[:max_bytes]
            cut.append(key)
            size += max_bytes
    return size


def _limit_list(key: str, values: list[object], max_bytes: int, cut: list[str]) -> int:
    if not values or not isinstance(values[0], str):
        return 8 * len(values)
    size = 0
    for place, value in enumerate(values):
        if isinstance(value, str):
            short = _limited(value, max_bytes)
            if short is not value:
                values[place] = short
                cut.append(key)
            size += len(short)
    return size


def _limited(text: str, max_bytes: int) -> str:
    """Return *text* itself when it is valid and short enough, else a copy that is."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError:  # a lone surrogate: no encoder takes it, so show it as an escape
        encoded = text.encode("utf-8", "backslashreplace")
        text = encoded.decode()
    if len(encoded) <= max_bytes:
        return text
    return encoded[:max_bytes].decode("utf-8", "ignore")
