"""The worker thread: takes what waits every 50 ms, makes records of it, and delivers them to their stores."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from agentlightning._internal.guard import failures, guard
from agentlightning.pipeline.export import Exporter
from agentlightning.pipeline.queue import EndedSpan, Flush, OpenSpan
from agentlightning.types.record import AttemptEnd, RolloutStart, SpanRecord, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning.pipeline.ledger import Ledger
    from agentlightning.pipeline.open_spans import OpenSpans
    from agentlightning.pipeline.prepare import Preparer
    from agentlightning.pipeline.queue import Item, SpanQueue
    from agentlightning.types.protocol import SpanWriter

log = logging.getLogger("agentlightning.pipeline")

TICK_S = 0.05
"""How often the worker writes what it has; the promise of 200 ms rests on it."""

BATCH_SPANS = 500
"""Most spans in one transaction; a longer one would keep other processes waiting."""

_IDLE_TICKS = 20
"""After so many empty ticks the worker sleeps until it is woken."""


class Worker:
    """One daemon thread; the only one that converts, redacts, encodes and writes."""

    def __init__(
        self,
        queue: SpanQueue,
        open_spans: OpenSpans,
        ledger: Ledger,
        route: Callable[[str], SpanWriter],
        preparer: Preparer,
    ) -> None:
        """Deliver what *queue* and *open_spans* hold to the writer that *route* returns for an attempt."""
        self._queue = queue
        self._open_spans = open_spans
        self._ledger = ledger
        self._prepare = preparer
        self._exporter = Exporter(route, ledger)
        self.busy = threading.RLock()
        """Held while the worker works: a fork waits for it, so that no child inherits a half-done step."""
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def start(self) -> None:
        """Start the thread; a second call does nothing while it lives."""
        if self._thread is not None and self._thread.is_alive():
            return
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="agentlightning-worker", daemon=True)
                thread.start()
                self._thread = thread

    def is_current(self) -> bool:
        """Tell whether the caller is the worker itself, which must not wait for itself."""
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        idle = 0
        while True:
            idle = 0 if self._drain() or self._exporter.waiting() else idle + 1
            if idle >= _IDLE_TICKS and self._fell_asleep():
                self._queue.wake.wait()
                self._queue.sleeping = False
                idle = 0
            self._queue.wake.clear()
            # A span that comes after a quiet time is not taken at once either: a burst has the first tick for itself.
            if not self._queue.urgent:
                self._queue.wake.wait(TICK_S)

    def _drain(self) -> bool:
        """Deliver what waited when the tick began, and return whether there was anything.

        Between batches the program gets as long as the last batch took, unless somebody waits for us: the interpreter
        runs one thread at a time, and a backlog must not take more than half of it.
        """
        waiting = self._queue.waiting()
        worked = False
        while True:
            started = time.monotonic()
            worked = self.step() or worked
            waiting -= BATCH_SPANS
            if waiting <= 0:
                return worked
            if not self._queue.urgent:
                self._queue.wake.wait(min(TICK_S, time.monotonic() - started))

    def _fell_asleep(self) -> bool:
        """Go to sleep unless something came in between; whoever queues the next item sees the flag."""
        self._queue.sleeping = True
        if self._queue.waiting():
            self._queue.sleeping = False
        return self._queue.sleeping

    def step(self) -> bool:
        """Deliver one batch and return whether there was anything; for the thread, and for tests without it."""
        with self.busy, guard("worker"):
            started = time.monotonic()
            items = self._queue.take(BATCH_SPANS)
            # Taken after the queue: a span that ended in between is in the queue behind its note, never before it.
            opened = self._open_spans.take()
            if not items and not opened and not self._exporter.waiting():
                return False
            self._deliver([*items, *(OpenSpan(span) for span in opened)])
            log.debug(
                "worker: %d items, %d open notes in %.1f ms",
                len(items),
                len(opened),
                1e3 * (time.monotonic() - started),
            )
            return bool(items or opened)
        return True

    def _deliver(self, items: list[Item]) -> None:
        flushes: list[Flush] = []
        batch = WriteBatch()
        texts = 0
        for item in items:
            if isinstance(item, (EndedSpan, OpenSpan)):
                prepared = self._record(item)
                if prepared is not None:
                    batch.spans.append(prepared[0])
                    texts += prepared[1]
            elif isinstance(item, RolloutStart):
                batch.starts.append(self._prepare.rollout_start(item))
            elif isinstance(item, AttemptEnd):
                batch.ends.append(item)
            elif isinstance(item, Flush):
                flushes.append(item)
        if batch.spans:
            self._queue.learn(texts / len(batch.spans))
        self._exporter.deliver(batch, patient=not flushes)
        for flush in flushes:
            flush.done.set()

    def _record(self, item: EndedSpan | OpenSpan) -> tuple[SpanRecord, int] | None:
        ended = isinstance(item, EndedSpan)
        try:
            record, size = self._prepare.span(item.span, item.counter if ended else 0)
        except Exception as error:  # noqa: BLE001 - one bad span must not cost the others; it is counted
            failures.note("redaction", error)
            if ended:
                self._ledger.count("redactor_failed")
            return None
        if size > self._prepare.max_span_bytes:
            if ended:
                self._ledger.count("too_large")
            return None
        return record, size
