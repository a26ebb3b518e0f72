"""What a reader gets that follows a store while others write to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from agentlightning.types.core import Rollout
    from agentlightning.types.query import SpanRow


class ChangeCursor(msgspec.Struct, frozen=True):
    """Up to where a reader has seen a store; made by the store, opaque to everyone else."""

    version: str = ""
    """State of the whole store; while it stays the same there is nothing to read."""
    span: int = 0
    """Newest place of a span that was looked at."""
    rollout: int = 0
    """The same for rollouts."""
    open_spans: tuple[tuple[str, str], ...] = ()
    """Trace and span id of the spans that were open."""
    running: tuple[str, ...] = ()
    """Ids of the rollouts that were not finished."""
    rewind: int = 0
    """Newest deletion of newest rows that was looked at."""


BEGINNING = ChangeCursor()
"""Before everything that a store holds."""


@dataclass(frozen=True)
class Changes:
    """What happened since a cursor."""

    cursor: ChangeCursor
    """Where to go on."""
    rollouts: list[Rollout] = field(default_factory=list["Rollout"])
    """Rollouts that are new, or finished since; oldest first."""
    spans: list[SpanRow] = field(default_factory=list["SpanRow"])
    """Spans that are new, open or ended, and spans that ended since; in no order."""
