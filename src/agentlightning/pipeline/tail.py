"""Tail rules: spans of traces that were not sampled wait here, in memory, for something that makes them worth keeping.

A trace is kept as a whole by an error, a reward, a slow span or a costly call; what came before it is written then,
what comes later at once. What no rule keeps is let go a minute after the end of its root and counted ``sampled``. Each
process decides for its own spans. Held spans are not durable. Used by the worker, under its lock of order.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from agentlightning import semconv, settings
from agentlightning._internal.ids import new_span_id
from agentlightning.pipeline.heap import heap_bytes
from agentlightning.pipeline.receipt import DROPPED, settle
from agentlightning.types.record import SpanRecord
from agentlightning.view.facts import facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan

    from agentlightning.pipeline.ledger import Ledger
    from agentlightning.pipeline.sampling import TailRules

UNSAMPLED = "_agentlightning_unsampled"
"""Attribute of a span of somebody else's provider that our sampling does not keep: the reason."""

_REMEMBERED = 10_000
"""Traces whose decision is known for spans that come later."""
_FORGOTTEN_S = 600.0
"""A trace whose root never ends is let go when nothing was heard of it for so long."""


class _Trace:
    """What is held of one trace."""

    __slots__ = ("bytes", "deadline", "has_ended", "records")

    def __init__(self) -> None:
        self.records: list[SpanRecord] = []
        self.bytes = 0
        self.deadline = 0.0
        self.has_ended = False


class Tail:
    """The held spans of one process."""

    def __init__(self, ledger: Ledger, number: Callable[[], int]) -> None:
        """Count what is let go in *ledger*; *number* gives the place in the order to a span of our own."""
        self._ledger = ledger
        self._number = number
        self._held: OrderedDict[str, _Trace] = OrderedDict()
        self._decided: OrderedDict[str, bool] = OrderedDict()
        self.bytes = 0
        """Estimate of the heap that the held spans take."""
        self._is_open = True

    def admit(self, record: SpanRecord, rules: TailRules | None, *, unsampled: bool) -> list[SpanRecord]:
        """Take an ended span and return what is to be written now, in order."""
        trace_id = record.trace_id
        decided = self._decided.get(trace_id)
        if decided:
            return [record]
        reason = _reason(record, rules) if rules is not None else ""
        if reason:
            return [*self._release(trace_id), record, self._mark(record, reason)]
        if not unsampled:
            return [record]
        if decided is False or rules is None or not self._is_open:
            self._let_go([record])
            return []
        self._hold(record)
        return []

    def __bool__(self) -> bool:
        """Tell whether a span is held."""
        return bool(self._held)

    def admits_note(self, trace_id: str) -> bool:
        """Tell whether the note of an open span of a trace that was not sampled is to be written."""
        return self._decided.get(trace_id) is True

    def _hold(self, record: SpanRecord) -> None:
        trace = self._held.get(record.trace_id)
        if trace is None:
            trace = self._held[record.trace_id] = _Trace()
        trace.records.append(record)
        cost = heap_bytes((record,))
        trace.bytes += cost
        self.bytes += cost
        now = time.monotonic()
        if record.parent_id is None:  # its root, or another one: from here on the time is running
            trace.deadline, trace.has_ended = now + settings.get(settings.TAIL_WAIT_S), True
        elif not trace.has_ended:
            trace.deadline = now + _FORGOTTEN_S
        self.shrink(min(settings.get(settings.TAIL_BYTES), settings.get(settings.MEMORY_THRESHOLD) // 4))

    def expire(self) -> None:
        """Let go what has waited long enough."""
        if not self._held:
            return
        now = time.monotonic()
        for trace_id in [trace_id for trace_id, trace in self._held.items() if trace.deadline <= now]:
            self._drop(trace_id)

    def shrink(self, max_bytes: int) -> None:
        """Let the oldest traces go until the others take at most *max_bytes*."""
        while self.bytes > max_bytes and self._held:
            self._drop(next(iter(self._held)))

    def close(self) -> None:
        """Let go what is held, and from now on at once what would have to be."""
        self._is_open = False
        self.shrink(-1)

    def waiting(self) -> int:
        """Return how many spans are held; from any thread."""
        return sum(len(trace.records) for trace in list(self._held.values()))

    def _release(self, trace_id: str) -> list[SpanRecord]:
        self._decide(trace_id, keep=True)
        trace = self._held.pop(trace_id, None)
        if trace is None:
            return []
        self.bytes -= trace.bytes
        return trace.records

    def _drop(self, trace_id: str) -> None:
        trace = self._held.pop(trace_id)
        self.bytes -= trace.bytes
        self._decide(trace_id, keep=False)
        self._let_go(trace.records)

    def _let_go(self, records: list[SpanRecord]) -> None:
        self._ledger.count("sampled", len(records))
        settle(records, DROPPED, "sampled")

    def _decide(self, trace_id: str, *, keep: bool) -> None:
        self._decided[trace_id] = keep
        if len(self._decided) > _REMEMBERED:
            self._decided.popitem(last=False)

    def _mark(self, record: SpanRecord, reason: str) -> SpanRecord:
        """Return a span that says so: every span of the trace is there for sure, also those that were sampled."""
        return SpanRecord(
            rollout_id=record.rollout_id,
            attempt_id=record.attempt_id,
            counter=self._number(),
            trace_id=record.trace_id,
            span_id=f"{new_span_id():016x}",
            parent_id=record.span_id,
            name=semconv.SAMPLING,
            start_ns=record.end_ns or record.start_ns,
            end_ns=record.end_ns or record.start_ns,
            attributes={semconv.SAMPLING_REASON: reason},
            resource=record.resource,
            scope_name="agentlightning",
            trace_state=record.trace_state,
            process=record.process,
        )


def is_unsampled(span: ReadableSpan) -> bool:
    """Tell whether *span* was recorded for the tail rules only."""
    context = span.get_span_context()
    return context is not None and (not context.trace_flags.sampled or UNSAMPLED in vars(span))


def _reason(record: SpanRecord, rules: TailRules) -> str:
    """Return which rule *record* fulfils, empty for none."""
    if rules.errors and record.status_code == "ERROR":
        return "error"
    if rules.slow_ns and record.end_ns is not None and record.end_ns - record.start_ns >= rules.slow_ns:
        return "slow"
    if not (rules.rewards or rules.cost_usd):
        return ""
    found = facts(record.name, record.attributes, scope=record.scope_name)
    if rules.rewards and found.kind == "reward":
        return "reward"
    if not rules.cost_usd or found.kind not in {"llm", "embedding"}:
        return ""
    usd = found.reported_cost
    if usd is None:
        from agentlightning.view.cost import price  # noqa: PLC0415 - a table of prices is only loaded for this rule

        priced = price(found, record.start_ns).usd
        usd = 0.0 if priced is None else float(priced)
    return "cost" if usd >= rules.cost_usd else ""
