"""From what was handed over to batches of records: converted, redacted, limited, and kept or not.

One span that cannot be made a record costs itself only, and is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlightning import semconv
from agentlightning._internal.guard import failures, guard
from agentlightning.pipeline import stage
from agentlightning.pipeline.queue import EndedSpan, OpenSpan
from agentlightning.pipeline.receipt import drop
from agentlightning.pipeline.sampling import policy
from agentlightning.pipeline.tail import is_unsampled
from agentlightning.types.record import AttemptEnd, RolloutStart, SpanRecord, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.pipeline.ledger import Ledger
    from agentlightning.pipeline.prepare import Preparer
    from agentlightning.pipeline.queue import Item, SpanQueue
    from agentlightning.pipeline.sampling import Policy
    from agentlightning.pipeline.tail import Tail

_BATCH_BYTES = 8 * 2**20
"""Most bytes of texts in one transaction, passed by one span at most."""


class Intake:
    """Makes batches, in the order of hand-over. Used under the worker's lock of order."""

    def __init__(self, queue: SpanQueue, ledger: Ledger, preparer: Preparer, tail: Tail) -> None:
        """Make records by *preparer*, hold some in *tail*, count losses in *ledger*, tell *queue* the size of spans."""
        self._ledger = ledger
        self._prepare = preparer
        self._tail = tail
        self._queue = queue
        self.last: SpanRecord | None = None
        """The record that was made last: an alert is put beside it."""

    def batches(self, items: list[Item], taken_ns: int) -> Iterator[WriteBatch]:
        """Yield what is to be written of *items*, which were taken from the queue at *taken_ns*."""
        batch = WriteBatch()
        texts = size = spans = 0
        rules = policy()
        samples = not rules.is_plain or bool(self._tail)
        for item, prepared in zip(items, self._prepared(items, taken_ns), strict=True):
            if isinstance(item, (EndedSpan, OpenSpan)):
                if prepared is not None:
                    if samples:
                        self._sample(batch, item, prepared[0], rules)
                    else:
                        batch.spans.append(prepared[0])
                    texts += prepared[1]
                    size += prepared[1]
                    spans += 1
            else:
                self._put_other(batch, item)
            if size > _BATCH_BYTES:
                yield batch
                batch, size = WriteBatch(), 0
        yield batch
        with guard("worker.learn"):
            if spans:
                self._queue.learn(texts / spans)

    def _sample(self, batch: WriteBatch, item: EndedSpan | OpenSpan, record: SpanRecord, rules: Policy) -> None:
        """Put a span on the batch unless a rule refuses it, or it waits for a tail rule."""
        unsampled = is_unsampled(item.span)
        if isinstance(item, OpenSpan):
            # A note that nothing follows would be taken for a span that was interrupted.
            if not rules.late_rules and (not unsampled or self._tail.admits_note(record.trace_id)):
                batch.spans.append(record)
            return
        try:
            reason, rate = rules.refused(record.name, record.attributes, int(record.trace_id, 16))
            if rate < record.attributes.get(semconv.INCLUSION, 1.0):
                record.attributes[semconv.INCLUSION] = rate
            admitted = [] if reason else self._tail.admit(record, rules.tail, unsampled=unsampled)
        except Exception as error:  # noqa: BLE001 - as with a span that cannot be converted: it is counted
            failures.note("worker.sample", error)
            reason, admitted = "store_error", list[SpanRecord]()
        if reason:
            self._ledger.count(reason)
            drop(item.span, reason)
        batch.spans.extend(admitted)

    def _put_other(self, batch: WriteBatch, item: Item) -> None:
        with guard("worker.item"):
            if isinstance(item, RolloutStart):
                batch.starts.append(self._prepare.rollout_start(item))
            elif isinstance(item, AttemptEnd):
                batch.ends.append(item)

    def _prepared(self, items: list[Item], taken_ns: int) -> Iterator[tuple[SpanRecord, int] | None]:
        """Yield for each item its record and the bytes of its texts; None where it is no span, or is dropped."""
        records = [self._converted(item) for item in items]
        clean = iter(self._redacted([record for record in records if record is not None]))
        for item, record in zip(items, records, strict=True):
            is_clean = record is not None and next(clean)
            if not isinstance(item, (EndedSpan, OpenSpan)):
                yield None
                continue
            done = self._finished(item, record, is_clean=is_clean)
            if done is not None:
                self.last = done[0]
                stage.begin(done[0], item.counter if isinstance(item, EndedSpan) else 0, taken_ns)
            yield done

    def _converted(self, item: Item) -> SpanRecord | None:
        if not isinstance(item, (EndedSpan, OpenSpan)):
            return None
        try:
            return self._prepare.convert(item.span, item.counter if isinstance(item, EndedSpan) else 0)
        except BaseException as error:  # noqa: BLE001 - one bad span must not cost the others; it is counted
            failures.note("redaction", error)
            return None

    def _redacted(self, records: list[SpanRecord]) -> list[bool]:
        try:
            return self._prepare.redact(records)
        except Exception as error:  # noqa: BLE001 - what is not clean is never written, whatever the reason
            failures.note("redaction", error)
            return [False] * len(records)

    def _finished(
        self, item: EndedSpan | OpenSpan, record: SpanRecord | None, *, is_clean: bool
    ) -> tuple[SpanRecord, int] | None:
        size, reason = 0, "redactor_failed"
        if record is not None and is_clean:
            try:
                size = self._prepare.finish(record)
                reason = "too_large" if size > self._prepare.max_span_bytes else ""
            except Exception as error:  # noqa: BLE001 - as with a span that cannot be converted
                failures.note("redaction", error)
        ended = isinstance(item, EndedSpan)
        if ended and record is not None and record.end_ns is None:
            reason = "rejected"  # whoever handed it over says that it has ended, and it has not
        if record is None or reason:
            if ended:
                self._ledger.count(reason)
                drop(item.span, reason)
            return None
        if ended and semconv.INTEGRITY in record.attributes:
            self._ledger.count("flagged")
        return record, size
