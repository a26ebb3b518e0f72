"""From a span of the SDK to a record that may be written: convert, redact, limit, in the only order that is safe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from agentlightning import settings
from agentlightning._internal.context import home_rollout
from agentlightning._internal.ids import implicit_ids, process_key
from agentlightning.pipeline.limits import MAX_SPAN_BYTES, cut_huge, cut_huge_names, limit
from agentlightning.pipeline.listener import notify
from agentlightning.pipeline.redaction import Redactor
from agentlightning.pipeline.sampling import policy
from agentlightning.types.convert import record_from_readable, resource_record
from agentlightning.view.integrity import flag

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

    from agentlightning.types.record import ResourceRecord, RolloutStart, SpanRecord


class Preparer:
    """Makes records for one process; used by one worker thread."""

    def __init__(self) -> None:
        """Take process, rollout and secrets from the environment as it is now."""
        self.max_span_bytes = MAX_SPAN_BYTES
        self._process = process_key()
        self._redactor = Redactor()
        # The resource is kept beside its record: an id() is only unique while its object lives.
        self._resources: dict[int, tuple[Resource, ResourceRecord]] = {}

    def span(self, span: ReadableSpan, counter: int) -> tuple[SpanRecord, int]:
        """Return the record of *span* and the bytes of its texts; *counter* is its place in the order, 0 if open."""
        home = home_rollout()  # not kept: a child of multiprocessing learns its own after it has started
        rollout_id, attempt_id = (home.rollout_id, home.attempt_id) if home else ("", "")
        parent = f"{home.parent_span_id:016x}" if home and home.parent_span_id else None
        record = record_from_readable(
            span,
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            counter=counter,
            process=self._process,
            resource=self._resource(span.resource),
            parent_id_default=parent,
        )
        above = span.parent
        if above is not None and not above.is_remote and not above.trace_flags.sampled and policy().tail is None:
            record.parent_id = None  # a reward in a trace that was not sampled: its parent is nowhere
        if not counter:
            record.end_ns = None  # it may have ended since it was taken for open; its end comes by itself, in order
        if not record.rollout_id:
            record.rollout_id, record.attempt_id = implicit_ids(record.trace_id)
        elif record.parent_id is parent and home and record.attempt_id != home.attempt_id:
            record.parent_id = None  # the span is in a rollout of its own, not under our parent's span
        max_bytes, cut = settings.get(settings.MAX_VALUE_BYTES), list[str]()
        for attributes in (record.attributes, *(event.attributes for event in record.events)):
            cut_huge(attributes, max_bytes, cut)
        cut_huge_names(record)
        # Redact before limit: cutting first can cut a credential in half, and half of one matches no rule.
        self._redactor.redact(record)
        size = limit(record, max_bytes, cut)
        flag(record)
        notify(record)
        return record, size

    def rollout_start(self, start: RolloutStart) -> RolloutStart:
        """Return *start* with this process's name and without credentials in its input and metadata."""
        start.process = self._process
        start.input = self._redactor.value(start.input)
        start.metadata = cast("dict[str, Any]", self._redactor.value(start.metadata))
        return start

    def _resource(self, resource: Resource) -> ResourceRecord:
        known = self._resources.get(id(resource))
        if known is None:
            if len(self._resources) >= 64:  # noqa: PLR2004 - a provider has one; more means that they come and go
                self._resources.clear()
            record = resource_record(resource)
            known = self._resources[id(resource)] = (resource, record)
        return known[1]
