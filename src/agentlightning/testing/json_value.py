"""JSON as the type checker understands it, and readers that never fail on what a stranger sent."""

from __future__ import annotations

from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""Any JSON value."""

JsonObject: TypeAlias = "dict[str, Json]"
"""A JSON object."""


def as_object(value: Json) -> JsonObject:
    """Return *value* when it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Json) -> list[Json]:
    """Return *value* when it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: Json) -> str:
    """Return *value* when it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def as_count(value: Json, default: int) -> int:
    """Return *value* when it is a positive whole number, else *default*."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default
