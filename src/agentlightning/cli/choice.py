"""How a command chooses among rollouts: by name, with those inside them, and by when they began."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentlightning.store.base import LightningStore

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def age_s(text: str) -> float:
    """Return the seconds in an age such as ``30d``.

    Raises:
        click.UsageError: It is none.
    """
    match = _AGE.match(text.strip())
    if match is None:
        msg = f"{text!r} is no age; write a number and s, m, h, d or w, such as 30d"
        raise click.UsageError(msg)
    return float(match[1]) * _SECONDS[match[2]]


def _moment(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """Return the seconds since the epoch of an age, a date or a local time."""
    if text is None:
        return None
    if _AGE.match(text.strip()):
        return max(0.0, time.time() - age_s(text))
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        msg = f"{text!r} is no time: write 30m, 12h, 7d, 2w, or a date like 2026-11-01 or 2026-11-01T12:00"
        raise click.BadParameter(msg) from None


since_option = click.option(
    "--since", callback=_moment, metavar="WHEN", help="Rollouts from then on: 30m, 12h, 7d, 2w, or a date."
)
"""Adds ``--since``, which the command gets in seconds since the epoch, or as None."""


async def named_rollouts(store: LightningStore, names: tuple[str, ...]) -> AsyncIterator[str]:
    """Yield the ids of the rollouts that *names* mean, each followed by those inside it, none of them twice.

    Raises:
        UnknownIdError: A name means none, or several; nothing was yielded.
    """
    waiting = [await store.find_rollout_id(name) for name in reversed(names)]
    seen: set[str] = set()
    while waiting:
        rollout_id = waiting.pop()
        if rollout_id in seen:
            continue
        seen.add(rollout_id)
        yield rollout_id
        children = await store.query_child_rollouts(rollout_id)
        waiting += [child.rollout_id for child in reversed(children)]
