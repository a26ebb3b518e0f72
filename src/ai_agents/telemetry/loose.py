"""Reading what was written once: every function takes anything and gives a value of its type."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import Enum

    E = TypeVar("E", bound=Enum)

T = TypeVar("T")

EPOCH = datetime.fromtimestamp(0, timezone.utc)
"""What stands for a time that was not written."""


def now() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(timezone.utc)


def as_map(value: object) -> dict[str, object]:
    """Return *value* if it is an object of JSON, else an empty one."""
    return {str(key): item for key, item in cast("dict[object, object]", value).items()} if _is_map(value) else {}


def as_list(value: object, read: Callable[[dict[str, object]], T]) -> list[T]:
    """Return what *read* makes of each object in the list *value*; what is no object is left out."""
    if not isinstance(value, list):
        return []
    return [read(as_map(item)) for item in cast("list[object]", value) if _is_map(item)]


def as_text(value: object, default: str = "") -> str:
    """Return a text; numbers are written out."""
    if isinstance(value, str):
        return value
    return default if value is None or isinstance(value, (dict, list)) else str(value)


def optional_text(value: object) -> str | None:
    """Return a text, or None."""
    return value if isinstance(value, str) else None


def as_count(value: object) -> int:
    """Return a whole number, 0 where there is none."""
    number = as_number(value)
    return 0 if number is None else int(number)


def as_number(value: object) -> float | None:
    """Return a finite number, or None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return value
    return None


def optional_time(value: object) -> datetime | None:
    """Return a time in ISO 8601, or None; a time zone is kept as it was written, also when there is none."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromisoformat(value[:-1] + "+00:00" if value.endswith("Z") else value)
    except ValueError:
        return None


def as_time(value: object) -> datetime:
    """Return a time in ISO 8601, 1970 where there is none."""
    return optional_time(value) or EPOCH


def as_choice(value: object, choices: type[E], default: E) -> E:
    """Return the member of an enumeration with this value, upper or lower case, else *default*."""
    if isinstance(value, choices):
        return value
    word = str(value).lower()
    return next((choice for choice in choices if choice.value == word), default)


def seconds_between(start: datetime, end: datetime) -> float:
    """Return the seconds from *start* to *end*, at least 0; one of the two may lack its time zone."""
    if (start.tzinfo is None) != (end.tzinfo is None):
        start, end = aware(start), aware(end)
    return max(0.0, (end - start).total_seconds())


def aware(moment: datetime) -> datetime:
    """Return *moment* with a time zone; one without is local time."""
    return moment.astimezone() if moment.tzinfo is None else moment


def _is_map(value: object) -> bool:
    return isinstance(value, dict)
