"""Read JSON text and loosely typed values without ever raising: attributes come from anyone.

What these functions return holds only what JSON can hold: dict, list, str, int, float, bool, None.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeGuard, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)  # of both decoders, for any text


def decoded(value: object) -> object:
    """Return what the JSON text *value* holds, or None where it is no text or no JSON."""
    if not isinstance(value, str) or not value:
        return None
    try:
        return cast("object", msgspec.json.decode(value))
    except _ERRORS:
        pass
    try:
        return cast("object", json.loads(value))  # NaN and lone surrogates, which msgspec refuses
    except _ERRORS:
        return None


def encoded(value: object) -> str:
    """Return *value* as JSON text; a text as it is; empty for None."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(type(value).__name__)


def is_dict(value: object) -> TypeGuard[dict[str, object]]:
    """Whether *value* is a dict, as JSON makes them."""
    return isinstance(value, dict)


def as_dict(value: object) -> dict[str, object]:
    """Return *value* if it is a dict, else an empty one."""
    return value if is_dict(value) else {}


def as_list(value: object) -> list[object]:
    """Return *value* if it is a list, its values in order if it is a dict of a flattened list, else an empty list."""
    if isinstance(value, (list, tuple)):
        return list(cast("list[object]", value))
    items = as_dict(value)
    if items and all(key.isdecimal() for key in items):
        return [items[key] for key in sorted(items, key=int)]
    return []


def as_text(value: object) -> str:
    """Return *value* if it is a text, else an empty one."""
    return value if isinstance(value, str) else ""


def first_text(raw: Mapping[str, object], *keys: str) -> str:
    """Return the first of the values at *keys* that is a text with something in it, else an empty text."""
    for key in keys:
        value = raw.get(key)
        if isinstance(value, str) and value:
            return value
    return ""


def unflattened(attributes: Mapping[str, object], prefix: str) -> dict[str, object]:
    """Return the attributes below *prefix*, which ends with a dot, as nested dicts: ``a.0.b`` is ``{"0": {"b": ...}}``.

    A name that is both a value and the beginning of others keeps the others.
    """
    tree: dict[str, object] = {}
    for key, value in attributes.items():
        if not key.startswith(prefix):
            continue
        *way, last = key[len(prefix) :].split(".")
        place = tree
        for step in way:
            below = place.get(step)
            if not is_dict(below):
                below = {}
                place[step] = below
            place = below
        if not is_dict(place.get(last)):
            place[last] = value
    return tree


def is_complete(tree: Mapping[str, object]) -> bool:
    """Whether a flattened list has all its elements: a span limit drops the oldest attributes, so 0 is lost first."""
    return bool(tree) and all(str(place) in tree for place in range(len(tree)))
