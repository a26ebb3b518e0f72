"""Following a database while others write to it, without triggers and at no cost to them.

New rows have a higher place (``rowid``) than all before. A deletion of the newest rows leaves a note (``rewinds``):
their places are given again. Compacting the file keeps places: SQLite does that for every table with an index, and
``upkeep.vacuum`` looks. A span that was noted open keeps its place when its end replaces the note, so the reader brings
the keys of the spans that it knows to be open and asks for those that ended.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from agentlightning._internal.clock import NS_PER_S, now_ns
from agentlightning.store.base import DEFAULT_POLL_S
from agentlightning.store.lifecycle import FINISHED
from agentlightning.store.pack import to_json
from agentlightning.store.sql import rows
from agentlightning.store.sql.handle import SqlHandle
from agentlightning.types.change import ChangeCursor, Changes
from agentlightning.types.tracer import Span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentlightning.store.sql.connector import Transaction
    from agentlightning.types.core import Rollout

MAX_OPEN_SPANS = 10_000
"""Open spans that a cursor carries; the oldest are forgotten first."""

_STEP = 2_000
"""New spans that one answer holds; the next call goes on."""
_RECENT_NS = 7 * 86_400 * NS_PER_S
"""A rollout that began earlier is not looked at for spans that are open when a reader begins."""


class SqlFollow(SqlHandle):
    """What changes in a database; see ``LightningStore`` for the promises."""

    async def query_changes(self, after: ChangeCursor | None = None, *, wait_s: float = 0.0) -> Changes:
        """Return what happened since a cursor; see ``LightningStore``."""
        if wait_s <= 0 or after is None:
            return await self._changes(after)
        deadline = time.monotonic() + wait_s
        with self.activity.listen() as listener:
            while True:
                listener.clear()
                found = await self._changes(after)
                after = found.cursor
                left = min(DEFAULT_POLL_S, deadline - time.monotonic())
                if found.spans or found.rollouts or left <= 0:
                    return found
                await listener.wait(left)

    async def _changes(self, after: ChangeCursor | None) -> Changes:
        return await self._look(
            lambda transaction: _changes(transaction, self.project, after, self.connector.generation())
        )

    async def query_spans_by_key(self, keys: Sequence[tuple[str, str]]) -> list[Span]:
        """Return spans in full by trace and span id; see ``LightningStore``."""
        found = await self.fetch("spans_by_key", (to_json([list(key) for key in keys]),))
        return await asyncio.to_thread(lambda: [Span.from_record(*rows.to_span_record(row)) for row in found])


def _changes(transaction: Transaction, project: str, after: ChangeCursor | None, generation: str) -> Changes:
    version = "/".join([generation, *map(str, transaction.fetch("data_version")[0])])
    if after is not None and after.version == version:
        return Changes(after)
    last_span, last_rollout = transaction.fetch("newest_places")[0]
    if after is None:
        rewind = transaction.fetch("rewound", (0,))[0][2] or 0
        return _present(transaction, project, ChangeCursor(version, last_span, last_rollout, rewind=rewind))
    # Since the cursor was made, the newest rows may have been deleted, and their places given to others.
    low_span, low_rollout, rewind = transaction.fetch("rewound", (after.rewind,))[0]
    span_place = min(after.span, last_span if rewind is None else low_span)
    rollout_place = min(after.rollout, last_rollout if rewind is None else low_rollout)
    new = transaction.fetch("new_spans", (project, span_place, _STEP))
    known = to_json(after.open_spans)
    ended = transaction.fetch("ended_spans", (known, span_place)) if after.open_spans else []
    spans = [rows.to_span_row(row[1:]) for row in (*ended, *new)]
    changed = transaction.fetch("changed_rollouts", (project, rollout_place, to_json(after.running)))
    rollouts = [rows.to_rollout(row) for row in changed]
    over = {(span.trace_id, span.span_id) for span in spans if span.end_ns is not None}
    still_open = [key for key in after.open_spans if key not in over]
    still_open += [(span.trace_id, span.span_id) for span in spans if span.end_ns is None]
    complete = len(new) < _STEP
    cursor = ChangeCursor(
        version=version if complete else "",
        span=last_span if complete else new[-1][0],
        rollout=last_rollout,
        open_spans=tuple(still_open[-MAX_OPEN_SPANS:]),
        running=_running(after.running, rollouts),
        rewind=after.rewind if rewind is None else rewind,
    )
    return Changes(cursor, rollouts, spans)


def _present(transaction: Transaction, project: str, cursor: ChangeCursor) -> Changes:
    """Return what is under way: the open spans of recent rollouts that are not finished."""
    since = now_ns() - _RECENT_NS
    running = [rows.to_rollout(row) for row in transaction.fetch("unfinished_rollouts", (project, since))]
    ids = to_json([rollout.rollout_id for rollout in running])
    spans = [rows.to_span_row(row) for row in transaction.fetch("open_spans_of", (ids, MAX_OPEN_SPANS))]
    cursor = msgspec.structs.replace(
        cursor,
        open_spans=tuple((span.trace_id, span.span_id) for span in spans),
        running=tuple(rollout.rollout_id for rollout in running),
    )
    return Changes(cursor, running, spans)


def _running(before: tuple[str, ...], changed: list[Rollout]) -> tuple[str, ...]:
    over = {rollout.rollout_id for rollout in changed if rollout.status in FINISHED}
    new = [rollout.rollout_id for rollout in changed if rollout.rollout_id not in over]
    return tuple(dict.fromkeys([*(item for item in before if item not in over), *new]))
