"""From spans to the records of a session: what was recorded automatically, each call once.

Spans end from the inside out, so each one brings to its parent what lay below it: a model call that two libraries
recorded counts once, the inner one, and a call belongs to the nearest agent above it. Nothing of a span is kept but
times, counts and names.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from agentlightning import semconv
from agentlightning.view.facts import facts as facts_of
from ai_agents.telemetry.collector import shorten
from ai_agents.telemetry.types import AgentExecution, AgentType, LLMCall, TaskStatus, ToolExecution

if TYPE_CHECKING:
    from agentlightning.types.query import SpanFacts
    from agentlightning.types.record import SpanRecord
    from ai_agents.telemetry.book import Book, Record
    from ai_agents.telemetry.collector import TelemetryCollector
    from ai_agents.telemetry.types import TaskExecution

TASK_ID = "ai_agents.task_id"
"""Attribute: task that a span was made for."""

SUB_TASK_ID = "ai_agents.sub_task_id"
"""Attribute: part of a task, given to one agent, that a span was made for."""

AGENT_ID = "ai_agents.agent_id"
"""Attribute: run of an agent of the framework that a span was made in."""

AGENT_PARENT = "ai_agents.agent_parent"
"""Attribute: span under which that run began; its own span is the one below this."""

RECORDED = "ai_agents.recorded"
"""Attribute: the model call was recorded by hand, so its spans do not count."""

PLANNING = "planning"
"""Name of the span of a planning step."""

FINAL_ANSWER = "final_answer"

_AGENT_CLASS = "smolagents.agent_class"
_AGENT_STATE = "smolagents.state"
_MAX_WAITING = 10_000
"""Spans whose parent has not ended; beyond it the oldest are given to their task."""

_MEASURED = 8
"""One span of so many is measured: reading the clock costs a tenth of reading the span."""

_NS = 1_000_000_000
_CALLS = ("llm", "embedding")
_CANCELLED = ("KeyboardInterrupt", "CancelledError", "GeneratorExit")


@dataclass(slots=True)
class _Below:
    """What lies below a span that has not ended yet."""

    records: list[Record] = field(default_factory=list["Record"])
    agents: list[AgentExecution] = field(default_factory=list[AgentExecution])
    calls: set[str] = field(default_factory=set[str])
    """Kinds of calls, ``llm`` or ``embedding``, that were counted."""
    planning: int = 0

    def take(self, other: _Below) -> None:
        """Add what lies below a sibling."""
        self.records += other.records
        self.agents += other.agents
        self.calls |= other.calls
        self.planning += other.planning


class SpanReader:
    """Feeds a collector from the stream of spans. Called by one thread at a time, the pipeline's."""

    def __init__(self, collector: TelemetryCollector) -> None:
        """Feed *collector*."""
        self._collector = collector
        self._book: Book = collector.book
        self._below: OrderedDict[str, _Below] = OrderedDict()
        self._salt = secrets.token_bytes(16)
        # Under `agl run`, spans without a parent are put below this one, which is in another process.
        self._outside = next(iter(os.environ.get("TRACEPARENT", "").split("-")[2:3]), None)
        self.spans = 0
        """Spans that were read."""
        self._measured_ns = 0

    def __call__(self, span: SpanRecord, /) -> None:
        """Take in a span that ended; notes of open ones say nothing that is needed."""
        if span.end_ns is None:
            return
        self.spans += 1
        if self.spans % _MEASURED:
            self._read(span)
            return
        began = time.thread_time_ns()
        self._read(span)
        self._measured_ns += time.thread_time_ns() - began

    @property
    def spent_ns(self) -> int:
        """CPU time that reading the spans took on its thread, by every eighth of them."""
        measured = self.spans // _MEASURED
        return self._measured_ns * self.spans // measured if measured else 0

    def _read(self, span: SpanRecord) -> None:
        below = self._below.pop(span.span_id, None)
        facts = facts_of(span.name, span.attributes, scope=span.scope_name)
        kind = facts.kind
        if kind in _CALLS:
            # A call that an inner span was already counted for, or that was recorded by hand, is passed on as such.
            is_new = (below is None or kind not in below.calls) and RECORDED not in span.attributes
            self._pass_on(span, below, self._model_call(span, facts) if is_new else None, kind)
        elif kind == "tool":
            self._pass_on(span, below, self._tool(span, facts))
        elif kind == "agent":
            self._pass_on(span, self._agent(span, facts, below or _Below()))
        elif span.name == PLANNING:
            below = below or _Below()
            below.planning += 1
            self._pass_on(span, below)
        elif below is not None:
            self._pass_on(span, below)

    def _model_call(self, span: SpanRecord, facts: SpanFacts) -> LLMCall:
        cached, output = facts.cache_read_tokens or 0, facts.output_tokens or 0
        prompt = (facts.fresh_tokens or 0) + cached + (facts.cache_write_tokens or 0)
        return LLMCall(
            facts.model or span.name,
            prompt,
            output,
            prompt + output,
            _seconds(span),
            _time(span.start_ns),
            None,
            cached,
            span.status_code == "ERROR",
            facts.fresh_tokens is None and facts.output_tokens is None,
            facts,
        )

    def _tool(self, span: SpanRecord, facts: SpanFacts) -> ToolExecution:
        name = facts.tool_name or span.name
        result = span.attributes.get(semconv.OUTPUT_VALUE)
        return ToolExecution(
            name,
            _time(span.start_ns),
            _time(span.end_ns or span.start_ns),
            _seconds(span),
            _status(span),
            _error(span),
            is_final_answer=name == FINAL_ANSWER,
            result_chars=len(result) if isinstance(result, str) else None,
            arguments_key=self._fingerprint(span.attributes.get(semconv.INPUT_VALUE)),
        )

    def _agent(self, span: SpanRecord, facts: SpanFacts, below: _Below) -> _Below:
        """Record the run of an agent, or give what it did to the run that was begun by hand."""
        for inner in below.agents:
            if inner.agent_type in (AgentType.CODE, AgentType.TOOL_CALLING):
                inner.agent_type = AgentType.MANAGED
        run = self._begun_by_hand(span)
        if run is None:
            began = _time(span.start_ns)
            run = AgentExecution(
                _kind(span), facts.agent_name or span.name, began, _time(span.end_ns or span.start_ns), _seconds(span)
            )
            run.status, run.error_message = _status(span), _error(span)
            self._book.add_agent(self._task(span, began), run)
        run.planning_steps += below.planning
        self._book.settle(below.records, run)
        self._collector.changed()
        return _Below(agents=[run], calls=below.calls)

    def _begun_by_hand(self, span: SpanRecord) -> AgentExecution | None:
        """Return the run that a wrapper of ours recorded, if *span* is its outermost one."""
        agent_id = span.attributes.get(AGENT_ID)
        if not isinstance(agent_id, str) or span.attributes.get(AGENT_PARENT) != (self._parent(span) or ""):
            return None
        return self._book.agent(agent_id)

    def _pass_on(self, span: SpanRecord, below: _Below | None, record: Record | None = None, call: str = "") -> None:
        """Give what lies below *span*, and the *record* and the kind of *call* of itself, to its parent.

        Without one it belongs to no agent, and goes to its task at once.
        """
        parent = self._parent(span)
        above = None
        if parent is not None:
            above = self._below.get(parent)
            if above is None:
                above = self._below[parent] = below or _Below()
                self._limit_waiting()
            elif below is not None:
                above.take(below)
            if call:
                above.calls.add(call)
        elif below is not None:
            self._book.settle(below.records, None)
        if record is not None:
            task = self._task(span, record.timestamp if isinstance(record, LLMCall) else record.start_time)
            if above is None:
                self._book.add(record, task)
            else:
                self._book.float(record, task)
                above.records.append(record)
            self._collector.changed()

    def _limit_waiting(self) -> None:
        while len(self._below) > _MAX_WAITING:
            self._book.settle(self._below.popitem(last=False)[1].records, None)

    def _parent(self, span: SpanRecord) -> str | None:
        return None if span.parent_id == self._outside else span.parent_id

    def _task(self, span: SpanRecord, began: datetime) -> TaskExecution:
        task_id = span.attributes.get(TASK_ID)
        return self._book.task_at(task_id if isinstance(task_id, str) else None, began)

    def _fingerprint(self, value: object) -> str | None:
        if not isinstance(value, str):
            return None
        return hashlib.blake2b(value.encode("utf-8", "replace"), digest_size=6, key=self._salt).hexdigest()


def _kind(span: SpanRecord) -> AgentType:
    # OpenInference's instrumentor says the class in the span's name only.
    name = str(span.attributes.get(_AGENT_CLASS, span.name))
    if "CodeAgent" in name:
        return AgentType.CODE
    return AgentType.TOOL_CALLING if "ToolCalling" in name else AgentType.MICRO


def _status(span: SpanRecord) -> TaskStatus:
    if span.status_code == "ERROR":
        cancelled = (span.status_description or "").startswith(_CANCELLED)
        return TaskStatus.CANCELLED if cancelled else TaskStatus.FAILED
    if span.attributes.get(semconv.STREAM_STATE) == "closed_early":
        return TaskStatus.CANCELLED
    return TaskStatus.PARTIAL if span.attributes.get(_AGENT_STATE) == "max_steps_error" else TaskStatus.COMPLETED


def _error(span: SpanRecord) -> str | None:
    return shorten(span.status_description or "error", 200) if span.status_code == "ERROR" else None


def _seconds(span: SpanRecord) -> float:
    return ((span.end_ns or span.start_ns) - span.start_ns) / _NS


def _time(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / _NS, timezone.utc)
