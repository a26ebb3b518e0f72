"""Where the proxy's spans go: redacted, committed in groups, spilled to the disk when the store is away."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from agentlightning import settings
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

    from agentlightning.store.base import LightningStore
    from agentlightning.types.record import SpanRecord

_MOST = 256
"""Spans of one transaction."""
_RETRY_S = 0.2
"""Pause between two looks at a store that could not take something."""

_Waiting = tuple["SpanRecord", "asyncio.AbstractEventLoop", "asyncio.Future[None]"]


class SpanSink:
    """Writes spans on one thread of its own; whatever waits meanwhile goes into the next transaction."""

    def __init__(self, store: LightningStore, folder: Path | None = None) -> None:
        """Write to *store*, count in *folder*; without one beside the store, until everything is written."""
        self._is_run = folder is not None
        self.ledger = Ledger(folder or (ledger_folder(store.url, None) if store.url else None))
        self._exporter = Exporter(lambda _attempt: store, self.ledger)
        self._redactor = Redactor(store_url=store.url)
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._counter = 0
        self._thread = threading.Thread(target=self._run, name="agentlightning-proxy-sink", daemon=True)
        self._thread.start()

    def put(self, record: SpanRecord, loop: asyncio.AbstractEventLoop, written: asyncio.Future[None]) -> None:
        """Resolve *written*, of *loop*, when *record* is durable, or when the store cannot take it now."""
        self._queue.put((record, loop, written))

    def close(self, timeout_s: float) -> None:
        """Write what waits, or bring it to the disk; at most *timeout_s*."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        closing = False
        while not closing:
            waiting = self._next()
            closing = None in waiting
            items = [item for item in waiting if item is not None]
            with guard("proxy.sink"):
                self._write([record for record, _, _ in items])
            for _, loop, written in items:
                with guard("proxy.sink"):
                    if not loop.is_closed():
                        loop.call_soon_threadsafe(resolve, written)
        with guard("proxy.sink"):
            self._exporter.rescue()
            if not self._is_run and not self.ledger.account().waiting:
                self.ledger.remove()

    def _next(self) -> list[_Waiting | None]:
        """Wait for spans, and take all that are there."""
        found: list[_Waiting | None] = []
        while not found:
            try:
                found.append(self._queue.get(timeout=_RETRY_S if self._exporter.waiting() else None))
            except queue.Empty:
                with guard("proxy.sink"):
                    self._exporter.deliver()
        while len(found) < _MOST and not self._queue.empty():
            found.append(self._queue.get_nowait())
        return found

    def _write(self, records: list[SpanRecord]) -> None:
        if not records:
            return
        self.ledger.produced[0] += len(records)
        self._exporter.put(WriteBatch(spans=self._prepared(records)))
        self._exporter.deliver()

    def _prepared(self, records: list[SpanRecord]) -> list[SpanRecord]:
        """Redact, then limit; a span that cannot be redacted is dropped and counted."""
        max_bytes = settings.get(settings.MAX_VALUE_BYTES)
        for record in records:
            self._counter += 1
            record.counter = self._counter
            cut_huge(record, max_bytes)
        done = self._redactor.redact_all(records)
        ready = [record for record, is_done in zip(records, done, strict=True) if is_done]
        for record in ready:
            limit(record, max_bytes)
            flag(record)
        self.ledger.count("redactor_failed", len(records) - len(ready))
        return ready


def resolve(written: asyncio.Future[None]) -> None:
    """Resolve *written*, unless nobody waits for it any more; in its loop."""
    if not written.done():
        written.set_result(None)
