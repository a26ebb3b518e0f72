"""From a span of the SDK to a record that may be written: convert, redact, limit, in the only order that is safe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from agentlightning import settings
from agentlightning._internal.context import home_rollout
from agentlightning._internal.ids import implicit_ids, process_key
from agentlightning.pipeline.limits import MAX_SPAN_BYTES, cut_huge, limit
from agentlightning.pipeline.listener import notify
from agentlightning.pipeline.redaction import Redactor
from agentlightning.pipeline.sampling import policy
from agentlightning.types.convert import record_from_readable, resource_record
from agentlightning.view.integrity import flag

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    def convert(self, span: ReadableSpan, counter: int) -> SpanRecord:
        """Return the record of *span* as it is; *counter* is its place in the order, 0 if it has not ended."""
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
        cut_huge(record, settings.get(settings.MAX_VALUE_BYTES))
        return record

    def redact(self, records: Sequence[SpanRecord]) -> list[bool]:
        """Take credentials out of *records*; tell for each whether it may be written.

        Before the limits are kept: cutting first can cut a credential in half, and half of one matches no rule.
        """
        return self._redactor.redact_all(records)

    def finish(self, record: SpanRecord) -> int:
        """Bring a redacted record within its limits, flag it, show it to listeners; return the bytes of its texts."""
        size = limit(record, settings.get(settings.MAX_VALUE_BYTES))
        flag(record)
        notify(record)
        return size

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
