"""Any data as attributes of a span, in a form that OpenTelemetry takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from agentlightning import semconv
from agentlightning.emitter.object import json_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning.emitter.utils import EmittedValue

MAX_ATTRIBUTES = 1_000
"""Attributes of one event; more are left out, and their number is noted."""

_PLAIN: frozenset[type] = frozenset({str, bool, float})
_ARRAYS: tuple[frozenset[type], ...] = (frozenset({str}), frozenset({bool}), frozenset({int}), frozenset({float}))
_MAX_INT = 2**63


def event_attributes(data: Mapping[str, object]) -> dict[str, EmittedValue]:
    """Return *data* as attributes: plain values and lists of one plain type as they are, all else as JSON text.

    The keys of those that are JSON text are listed under ``agentlightning.event.json``, so that ``event_data`` gives
    nested data back. A list is copied: what the program does with it later is not seen.
    """
    attributes: dict[str, EmittedValue] = {}
    as_json: list[str] = []
    for key, value in data.items():
        if len(attributes) >= MAX_ATTRIBUTES:
            attributes[semconv.DROPPED_ATTRIBUTES] = len(data) - MAX_ATTRIBUTES
            break
        name = key if type(key) is str else _text(key)
        kind = type(value)
        if kind in _PLAIN or (kind is int and -_MAX_INT <= cast("int", value) < _MAX_INT):
            attributes[name] = cast("str", value)
        elif kind is list and frozenset(map(type, items := cast("list[object]", value))) in _ARRAYS and _fits(items):
            attributes[name] = cast("list[str]", list(items))
        else:
            attributes[name] = json_text(value)
            as_json.append(name)
    if as_json:
        attributes[semconv.EVENT_JSON] = as_json
    return attributes


def event_data(attributes: Mapping[str, object]) -> dict[str, object]:
    """Return the data that ``event_attributes`` made *attributes* of; without what the recording itself added."""
    named = attributes.get(semconv.EVENT_JSON)
    as_json = set(cast("list[str]", named)) if isinstance(named, (list, tuple)) else set[str]()
    data: dict[str, object] = {}
    for key, value in attributes.items():
        if key in _OURS:
            continue
        data[key] = list(cast("tuple[object, ...]", value)) if isinstance(value, tuple) else value
        if key in as_json and isinstance(value, str):
            try:
                data[key] = json.loads(value)
            except (ValueError, RecursionError):  # cut to the limit, or redacted: the text says so
                data[key] = value
    return data


_OURS = frozenset({
    semconv.EVENT_TYPE, semconv.EVENT_VERSION, semconv.EVENT_JSON, semconv.ROLLOUT_ID, semconv.ATTEMPT_ID,
    semconv.REDACTED, semconv.TRUNCATED, semconv.KEEP, semconv.TARGET, semconv.INTEGRITY, semconv.INCLUSION,
    semconv.DROPPED_ATTRIBUTES,
})  # fmt: skip


def _fits(items: list[object]) -> bool:
    return type(items[0]) is not int or all(-_MAX_INT <= cast("int", item) < _MAX_INT for item in items)


def _text(key: object) -> str:
    return str.__str__(key) if isinstance(key, str) else json_text(key)
