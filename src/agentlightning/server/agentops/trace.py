"""Traces as the routes that read show them: rows of one trace, totals, logs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, cast

from agentlightning.semconv import SpanAttributeNames, SpanNames
from agentlightning.server.agentops.session import LOG_MARK, METADATA_KEY, tags_of
from agentlightning.view.tree import Totals, build

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import Rollout
    from agentlightning.types.query import SpanRow
    from agentlightning.types.record import JsonObject
    from agentlightning.types.tracer import Span
    from agentlightning.view.tree import RolloutView

_NS = 1_000_000_000


@dataclass(frozen=True)
class Trace:
    """One trace of a project."""

    trace_id: str
    rollout: Rollout
    rows: list[SpanRow]
    """Its spans in the order of the store, those of logs left out."""
    logs: list[SpanRow]

    @cached_property
    def root(self) -> SpanRow | None:
        """The span without a parent that began first, or where all have one the first of them."""
        rows = sorted(self.rows, key=lambda row: row.start_ns)
        return next((row for row in rows if row.parent_id is None), rows[0] if rows else None)

    @property
    def start_ns(self) -> int:
        """Begin of the first span."""
        return min((row.start_ns for row in self.rows or self.logs), default=0)

    @property
    def end_ns(self) -> int:
        """End of the last span."""
        return max((row.end_ns or row.start_ns for row in self.rows or self.logs), default=0)

    @property
    def errors(self) -> list[SpanRow]:
        """Spans that failed."""
        return [row for row in self.rows if row.status_code == "ERROR"]

    @property
    def name(self) -> str:
        """Name of the session, as far as its root span is there."""
        return self.root.name if self.root else "(only a log)"

    def noted(self, field: str) -> object:
        """Return what was noted of the session: ``tags``, ``end_state``."""
        noted: JsonObject = (self.rollout.metadata or {}).get(METADATA_KEY) or {}
        return noted.get(field)

    @cached_property
    def view(self) -> RolloutView:
        """The tree of the trace, with its prices: milliseconds for some hundred spans, see ``build_views``."""
        from agentlightning.view.cost import price  # noqa: PLC0415 - prices take memory that an idle server spares

        return build(self.rows, price=price)

    def totals(self) -> Totals:
        """Return tokens, cost and errors."""
        return self.view.root.totals if self.rows else Totals()


async def build_views(traces: Iterable[Trace]) -> None:
    """Build the trees of traces on a helper thread; a server that did it on its loop would hold up all the others."""
    await asyncio.to_thread(lambda: [trace.view for trace in traces])


async def find_trace(store: LightningStore, trace_id: str) -> Trace | None:
    """Return a trace of the store's project, or None."""
    owner = await store.find_attempt_of_trace(trace_id)
    if owner is None:
        return None
    rollouts = await store.query_rollouts(rollout_ids=[owner[0]])  # of this project only
    if not rollouts:
        return None
    rows = await store.query_span_rows(*owner, include_open=False)
    return trace_of(trace_id, rollouts[0], rows)


def trace_of(trace_id: str, rollout: Rollout, rows: Sequence[SpanRow]) -> Trace:
    """Return the trace *trace_id* among *rows*."""
    own = [row for row in rows if row.trace_id == trace_id]
    logs = [row for row in own if row.name == SpanNames.MESSAGE.value]
    return Trace(trace_id, rollout, [row for row in own if row.name != SpanNames.MESSAGE.value], logs)


async def traces_of(store: LightningStore, limit: int, offset: int) -> list[Trace]:
    """Return the newest traces: the first one of each rollout, newest first."""
    found: list[Trace] = []
    for rollout in await store.query_newest_rollouts(limit, offset, children=True):
        rows = await store.query_span_rows(rollout.rollout_id, "latest", include_open=False)
        if rows:
            found.append(trace_of(min(rows, key=lambda row: row.start_ns).trace_id, rollout, rows))
    return found


async def spans_of(store: LightningStore, trace: Trace) -> list[Span]:
    """Return the spans of a trace in full."""
    return await store.query_spans_by_key([(row.trace_id, row.span_id) for row in trace.rows])


async def logs_of(store: LightningStore, trace: Trace) -> list[str]:
    """Return the logs that were uploaded for a trace, in their order."""
    found = await store.query_spans_by_key([(row.trace_id, row.span_id) for row in trace.logs])
    return [str(span.attributes.get(SpanAttributeNames.MESSAGE.value, "")) for span in found if _is_log(span)]


def _is_log(span: Span) -> bool:
    return bool(span.attributes.get(LOG_MARK))


async def tags_of_trace(store: LightningStore, trace: Trace) -> list[str]:
    """Return the tags of a session: as they were noted, else as its root span has them."""
    noted = trace.noted("tags")
    root = trace.root
    if noted is not None or root is None:
        return list(cast("list[str]", noted or []))
    found = await store.query_spans_by_key([(root.trace_id, root.span_id)])
    return tags_of(found[0].attributes) if found else []


def iso(ns: int) -> str:
    """Return a time as ISO 8601 in UTC, with microseconds."""
    return datetime.fromtimestamp(ns // _NS, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S") + f".{ns % _NS // 1000:06d}Z"
