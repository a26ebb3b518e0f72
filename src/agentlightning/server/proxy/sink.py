"""Where the proxy's spans go: redacted, committed in groups, spilled to the disk when the store is away."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from typing import TYPE_CHECKING

from agentlightning import semconv, settings
from agentlightning._internal.guard import guard
from agentlightning.pipeline.export import Exporter
from agentlightning.pipeline.ledger import Ledger, ledger_folder
from agentlightning.pipeline.limits import cut_huge, limit
from agentlightning.pipeline.redaction import Redactor
from agentlightning.types.record import WriteBatch
from agentlightning.view.integrity import flag

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from agentlightning.server.proxy.record import RecordedCall
    from agentlightning.store.base import LightningStore
    from agentlightning.types.record import AttributeMap, SpanRecord

_MOST = 256
"""Spans of one transaction."""
_RETRY_S = 0.2
"""Pause between two looks at a store that could not take something."""

_Written = tuple["asyncio.AbstractEventLoop", "asyncio.Future[None]"]
_Item = tuple["RecordedCall", "_Written | None"]


class SpanSink:
    """Makes and writes spans on one thread of its own; whatever waits meanwhile goes into the next transaction."""

    def __init__(self, store: LightningStore, folder: Path | None = None) -> None:
        """Write to *store*, count in *folder*; without one beside the store, until everything is written."""
        self.store = store
        self._is_run = folder is not None
        self.ledger = Ledger(folder or (ledger_folder(store.url, None) if store.url else None))
        self._exporter = Exporter(lambda _attempt: store, self.ledger, project=store.project)
        self._redactor = Redactor(store_url=store.url)
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._counter = 0
        self._thread = threading.Thread(target=self._run, name="agentlightning-proxy-sink", daemon=True)
        self._thread.start()

    def look(self, call: RecordedCall) -> None:
        """Read what *call* knows so far, while there is time for it: what was asked, and a part of a stream."""
        self._queue.put((call, None))

    def put(self, call: RecordedCall, loop: asyncio.AbstractEventLoop, written: asyncio.Future[None]) -> None:
        """Resolve *written*, of *loop*, when the span of *call* is durable, or when the store cannot take it now."""
        self._queue.put((call, (loop, written)))

    def close(self, timeout_s: float) -> None:
        """Write what waits, or bring it to the disk; at most *timeout_s*."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        closing = False
        while not closing:
            found = self._next()
            closing = None in found
            items = [item for item in found if item is not None]
            ended = [(call, written) for call, written in items if written is not None]
            with guard("proxy.sink"):
                self._write([call for call, _ in ended])
            for _, (loop, written) in ended:
                with guard("proxy.sink"):
                    if not loop.is_closed():
                        loop.call_soon_threadsafe(resolve, written)
            for call, written in items:  # somebody waits for the others
                if written is None and not call.has_ended:
                    with guard("proxy.sink"):
                        self._look(call)
        with guard("proxy.sink"):
            self._exporter.rescue()
            if not self._is_run and not self.ledger.account().waiting:
                self.ledger.remove()

    def _next(self) -> list[_Item | None]:
        """Wait for calls, and take all that are there."""
        found: list[_Item | None] = []
        while not found:
            try:
                found.append(self._queue.get(timeout=_RETRY_S if self._exporter.waiting() else None))
            except queue.Empty:
                with guard("proxy.sink"):
                    self._exporter.deliver()
        while len(found) < _MOST and not self._queue.empty():
            found.append(self._queue.get_nowait())
        return found

    def _write(self, calls: list[RecordedCall]) -> None:
        if not calls:
            return
        self.ledger.produced[0] += len(calls)
        records = [self._finished(call) for call in calls]
        self._exporter.put(WriteBatch(spans=[record for record in records if record is not None]))
        self._exporter.deliver()

    def _look(self, call: RecordedCall) -> None:
        """Read what there is of *call*; what was asked is redacted at once, while nobody waits for it."""
        question = call.question()
        if question is not None:
            call.asked = self._redacted(question)
        call.look()

    def _finished(self, call: RecordedCall) -> SpanRecord | None:
        """Return the span of *call*; one that cannot be redacted is dropped and counted."""
        self._look(call)
        record = call.answer()
        answered = self._redacted(record)
        with guard("proxy.redact"):
            if call.asked is not None and answered is not None:
                self._counter += 1
                record.counter = self._counter
                record.attributes = _joined(call.asked, answered)
                limit(record, settings.get(settings.MAX_VALUE_BYTES))
                flag(record)
                return record
        self.ledger.count("redactor_failed")
        return None

    def _redacted(self, record: SpanRecord) -> AttributeMap | None:
        """Return the attributes of *record* without credentials; what is far too long is cut before."""
        with guard("proxy.redact"):
            cut_huge(record, settings.get(settings.MAX_VALUE_BYTES))
            self._redactor.redact(record)
            return record.attributes
        return None


def _joined(asked: AttributeMap, answered: AttributeMap) -> AttributeMap:
    """Return both, with the marks of both: what was cut, what holds a credential no more, and by which rules."""
    joined = {**asked, **answered}
    for name in (semconv.TRUNCATED, semconv.REDACTED):
        if name in asked and name in answered:
            joined[name] = sorted({*asked[name], *answered[name]})
    if semconv.REDACTED_RULES in asked and semconv.REDACTED_RULES in answered:
        counts: Counter[str] = Counter()
        for mark in (*asked[semconv.REDACTED_RULES], *answered[semconv.REDACTED_RULES]):
            rule, _, number = mark.rpartition(":")
            counts[rule] += int(number)
        joined[semconv.REDACTED_RULES] = [f"{rule}:{number}" for rule, number in sorted(counts.items())]
    return joined


def resolve(written: asyncio.Future[None]) -> None:
    """Resolve *written*, unless nobody waits for it any more; in its loop."""
    if not written.done():
        written.set_result(None)
