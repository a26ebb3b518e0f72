"""One row of ``agl doctor``: what was looked at, what was found, and what to do about it."""

from __future__ import annotations

from typing import NamedTuple

OK, NOTE, WARN, FAIL = "ok", "note", "warn", "fail"
"""In order, worst last: well; good to know; works, but look at it; broken. Only the last gives exit code 1."""


class Finding(NamedTuple):
    """A row; ``fail`` and ``warn`` always have a remedy."""

    level: str
    """``ok``, ``note``, ``warn`` or ``fail``."""
    what: str
    """What was looked at, in two words."""
    found: str
    """What was found, with figures."""
    remedy: str = ""
    """What to do: a command, or a setting with a value."""


def taken(value: Finding | tuple[bool, str, str]) -> Finding:
    """Return what a check of another package found as a row; its remedy is in its text."""
    if isinstance(value, Finding):
        return value
    good, what, found = value
    return Finding(OK if good else FAIL, what, found)
