"""The worker thread: takes what waits every 50 ms, makes records of it, and delivers them to their stores.

A second thread watches it: while a store holds the worker up, it brings what comes in meanwhile to the disk.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from opentelemetry import context

from agentlightning import semconv, settings
from agentlightning._internal.guard import failures, guard
from agentlightning.pipeline import stage
from agentlightning.pipeline.export import Exporter
from agentlightning.pipeline.intake import Intake
from agentlightning.pipeline.lane import Health
from agentlightning.pipeline.queue import EndedSpan, Flush, OpenSpan, Wake
from agentlightning.pipeline.receipt import DROPPED, settle
from agentlightning.pipeline.tail import Tail
from agentlightning.pipeline.watch import Actions, Watch, record_of
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from agentlightning.pipeline.ledger import Ledger
    from agentlightning.pipeline.open_spans import OpenSpans
    from agentlightning.pipeline.prepare import Preparer
    from agentlightning.pipeline.queue import Item, SpanQueue
    from agentlightning.pipeline.watch import ResourceAlert
    from agentlightning.types.protocol import SpanWriter

log = logging.getLogger("agentlightning.pipeline")

TICK_S = 0.05
"""How often the worker writes what it has; the promise of 200 ms rests on it."""

BATCH_SPANS = 500
"""Most spans in one transaction; a longer one would keep other processes waiting."""

_IDLE_TICKS = 20
"""After so many empty ticks the worker sleeps until it is woken."""

_WATCH_S = 0.25
"""How often the second thread looks while the worker is awake."""

_STUCK_S, _STUCK_PRESSED_S = 1.0, 0.1
"""A delivery that takes longer has the worker stuck; the second holds when the queue is half full."""

_STUCK_REMOTE_S = 0.05
"""The same where a store is remote: what comes during a request has to be on the disk in time."""

_CLEAN_UP_S = 1.0
"""Shortest pause between two clean-ups: a collection stops the program for a moment."""

_AGAIN_S = 0.2
"""Pause after the worker thread failed as a whole."""


class _Beginning(Wake):
    """Calls a function when somebody is to be woken."""

    def __init__(self, begin: Callable[[], None]) -> None:
        super().__init__()
        self._begin = begin

    def set(self) -> None:
        """Begin, instead of waking a thread that is not there yet."""
        self._begin()


class Worker:
    """Two daemon threads; the only ones that convert, redact, encode and write."""

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
        health = Health()
        self._exporter = Exporter(route, ledger, health)
        self._resources = Watch(health, Actions(self._note, self._free, self._exporter.switch_server))
        self._tail = Tail(ledger, queue.number)
        self._intake = Intake(queue, ledger, preparer, self._tail)
        self.busy = threading.RLock()
        """Held while the worker works: a fork waits for it, so that no child inherits a half-done step."""
        self._order = threading.RLock()
        """Held from taking items to having them in order behind the earlier ones; not while a store is written."""
        self._flushes: list[Flush] = []
        self._next_count = 0.0
        self._delivering_since: float | None = None
        self._thread: threading.Thread | None = None
        self._watcher: threading.Thread | None = None
        self._is_resting = False
        self._starting = threading.Lock()
        self._inside: set[int] = set()
        """Threads that work at the moment, in ``step`` or ``rescue``: a signal handler must not begin anew there."""
        self._deferred: dict[int, Callable[[], None]] = {}
        """What such threads do afterwards."""
        self._watch = Wake()
        queue.on_pressure = self._watch.set

    def start(self) -> None:
        """Start the threads; a second call does nothing while they live. Without a thread ``flush`` does the work."""
        if self._thread is not None and self._thread.is_alive():
            return
        with self._starting:
            if self._thread is not None and self._thread.is_alive():
                return
            if self._thread is not None:
                failures.note("worker.died", RuntimeError("the worker thread ended"))
            thread = threading.Thread(target=self._run, name="agentlightning-worker", daemon=True)
            watcher = threading.Thread(target=self._relieve_when_stuck, name="agentlightning-relief", daemon=True)
            try:
                thread.start()
                self._thread = thread
                watcher.start()
                self._watcher = watcher
            except RuntimeError as error:  # no more threads: the system's limit, or the interpreter is ending
                failures.note("worker.start", error)

    def rest(self, timeout_s: float) -> None:
        """End both threads, unless they need longer than *timeout_s*; ``start`` begins anew.

        For a fork: since Python 3.12 a process with threads gets a warning there, which the program alone would not.
        """
        deadline = time.monotonic() + timeout_s
        self._is_resting = True
        self._queue.wake.set()
        self._watch.set()
        for thread in (self._thread, self._watcher):
            if thread is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
                # The system forgets a thread a moment after Python does, and it is the system that is asked.
                while os.path.exists(f"/proc/self/task/{thread.native_id}") and time.monotonic() < deadline:  # noqa: PTH110 - 10 times faster
                    time.sleep(0.0001)
        if not self.is_alive():
            self._thread = self._watcher = None
            while self.step():  # nobody else writes it for a while
                pass
        self._is_resting = False

    def go_on(self) -> None:
        """After ``rest``: start as soon as there is something to do."""
        if self.is_alive():
            return
        if self._exporter.waiting() or self._queue.waiting():
            self.start()
            return
        plain, self._queue.sleeping = self._queue.wake, True

        def begin() -> None:
            """Put the queue's own event back and start the threads, at the first span of the child."""
            self._queue.wake, self._queue.sleeping = plain, False
            self.start()

        # Not at once: from 3.13 on the warning is given after the hooks of a fork.
        self._queue.wake = _Beginning(begin)

    def is_current(self) -> bool:
        """Tell whether the caller is one of the two threads, or does their work: they must not wait for themselves."""
        return threading.current_thread() in {self._thread, self._watcher} or threading.get_ident() in self._inside

    def defer(self, action: Callable[[], None]) -> bool:
        """For a signal handler: if it has interrupted ``step`` or ``rescue``, call *action* after that; else False."""
        me = threading.get_ident()
        if me in self._inside:
            self._deferred[me] = action
        return me in self._inside

    @contextlib.contextmanager
    def _at_work(self) -> Generator[None]:
        me = threading.get_ident()
        self._inside.add(me)
        try:
            yield
        finally:
            self._inside.discard(me)
            action = self._deferred.pop(me, None)
            if action is not None:
                action()

    def is_alive(self) -> bool:
        """Tell whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        # Requests of ours are none of the program's: instrumentors of HTTP clients would make spans of them for ever.
        context.attach(context.set_value(semconv.SUPPRESS, value=True))
        while not self._is_resting:
            try:
                self._work()
            except BaseException as error:  # noqa: BLE001 - SystemExit from a user's __str__ must not end the thread
                failures.note("worker.died", error)
                time.sleep(_AGAIN_S)

    def _work(self) -> None:
        idle = 0
        self._queue.sleeping = False
        self._watch.set()
        while not self._is_resting:
            idle = 0 if self._drain() or self._exporter.is_busy() else idle + 1
            if idle >= _IDLE_TICKS and self._fell_asleep():
                self._queue.wake.wait()
                self._queue.sleeping = False
                self._watch.set()
                idle = 0
            self._queue.wake.clear()
            if self._is_resting:
                return
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
            taken = self.step()
            worked = worked or taken > 0
            waiting -= max(1, taken)
            if waiting <= 0:
                return worked
            if not self._queue.urgent:
                self._queue.wake.wait(min(TICK_S, time.monotonic() - started))

    def _fell_asleep(self) -> bool:
        """Go to sleep unless something came in between; whoever queues the next item sees the flag."""
        self._queue.sleeping = True
        if self._queue.waiting() or self._open_spans:
            self._queue.sleeping = False
        return self._queue.sleeping

    def step(self) -> int:
        """Deliver one batch and return how many items were in it; for the thread, and for tests without it."""
        taken = 0
        with self._at_work(), self.busy:
            started = time.monotonic()
            with guard("worker"):
                taken = self.take()
            with guard("worker.deliver"):
                self._deliver()
            if taken:
                log.debug("worker: %d items in %.1f ms", taken, 1e3 * (time.monotonic() - started))
        return taken

    def take(self, *, relieve: bool = False) -> int:
        """Bring the next items in order behind the earlier ones, as records, and return how many there were."""
        with self._order:
            items = self._queue.take(BATCH_SPANS)
            taken_ns = stage.now_ns()
            # Taken after the queue: a span that ended in between is in the queue behind its note, never before it.
            items.extend(OpenSpan(span) for span in self._open_spans.take())
            with guard("worker.tail"):
                self._tail.expire()
            if items:
                try:
                    self._put(items, taken_ns, relieve=relieve)
                except Exception as error:  # noqa: BLE001 - a step of ours that must not fail did: count what it cost
                    failures.note("worker.put", error)
                    self._ledger.count("store_error", sum(isinstance(item, EndedSpan) for item in items))
            return len(items)

    def _deliver(self) -> None:
        with self._order:
            flushes, self._flushes = self._flushes, []
            self._exporter.forget_idle()
        self._delivering_since = time.monotonic()
        if self._has_backlog():
            self._watch.set()
        try:
            self._exporter.deliver(patient=all(flush.is_tried for flush in flushes), now=bool(flushes))
        finally:
            self._delivering_since = None
            for flush in flushes:
                flush.is_tried = True
            if self._exporter.may_resolve_flushes():
                delivered = not self._exporter.waiting()
                for flush in flushes:
                    flush.resolve(delivered=delivered)
            else:
                with self._order:
                    self._flushes = [*flushes, *self._flushes]

    def _put(self, items: list[Item], taken_ns: int, *, relieve: bool) -> None:
        # First, and in any case: nobody looks at them before this lock is given back.
        self._flushes += [item for item in items if isinstance(item, Flush)]
        for batch in self._intake.batches(items, taken_ns):
            self._hand_on(batch, relieve=relieve)

    def held(self) -> int:
        """Return how many spans wait for a tail rule."""
        return self._tail.waiting()

    def let_go(self, timeout_s: float) -> None:
        """At the end of the process, after everything else: no tail rule will keep what is held, nor what comes later.

        It waits up to *timeout_s* seconds for the threads to finish their conversion.
        """
        if self._order.acquire(timeout=timeout_s):
            try:
                self._tail.close()
            finally:
                self._order.release()

    def _hand_on(self, batch: WriteBatch, *, relieve: bool) -> None:
        try:
            self._exporter.put(batch, relieve=relieve)
        except Exception as error:  # noqa: BLE001 - a step of ours that must not fail did: count what it cost
            failures.note("worker.put", error)
            self._ledger.count("store_error", sum(span.end_ns is not None for span in batch.spans))
            settle(batch.spans, DROPPED, "store_error")

    def _relieve_when_stuck(self) -> None:
        while not self._is_resting:
            if self._queue.sleeping:
                self._watch.wait()
            else:
                self._watch.wait(_STUCK_REMOTE_S if self._exporter.has_remote else _WATCH_S)
            with guard("relief"):
                self._relieve()
            with guard("watch"):
                self._resources.look()
                self._keep_within_memory()

    def _relieve(self) -> None:
        """While the worker is stuck in a store, bring what comes in to the disk, where its store has one."""
        while not self._is_resting:
            pressed = self._queue.is_pressed()
            since = self._delivering_since
            stuck_s = 0.0 if since is None else time.monotonic() - since
            if pressed and not self._queue.spills:
                return
            backlog = self._has_backlog()
            if stuck_s > (0.0 if backlog else _patience_s(self._exporter, pressed=pressed)):
                began = time.monotonic()
                if not self.take(relieve=True):
                    return
                if backlog and not self._queue.urgent:  # the program gets as long as we took, as between batches
                    time.sleep(min(TICK_S, time.monotonic() - began))
            elif pressed:
                time.sleep(_STUCK_PRESSED_S / 5)
            else:
                return

    def _has_backlog(self) -> bool:
        """Tell whether the next batch for a remote store can be made ready while a request is on its way."""
        return self._exporter.has_remote and self._queue.waiting() >= BATCH_SPANS

    def _keep_within_memory(self) -> None:
        """Clean up before queue, held traces and what waits for stores together reach ``memory_threshold``."""
        now = time.monotonic()
        if now < self._next_count:
            return
        self._next_count = now + _WATCH_S
        used = self._queue.bytes + self._tail.bytes + self._exporter.bytes
        if used > 0.75 * settings.get(settings.MEMORY_THRESHOLD):
            log.warning("%d bytes wait: cleaning up", used)
            self._next_count = now + _CLEAN_UP_S
            self._free()
            gc.collect()

    def _free(self) -> None:
        """Bring to the disk what waits in memory, and let go what is held for tail rules."""
        with self._order:
            self._tail.shrink(0)
            while self._queue.is_pressed() and self.take(relieve=True):
                pass
            self._exporter.spill()

    def _note(self, alert: ResourceAlert) -> None:
        """Write *alert* as an event in the trace that was written last; nowhere when nothing was traced yet."""
        with self._order:
            like = self._intake.last
            if like is None:
                return
            record = record_of(alert, like, self._queue.number())
            self._hand_on(WriteBatch(spans=[record]), relieve=self._delivering_since is not None)
        self._queue.wake.set()

    def rescue(self, timeout_s: float) -> None:
        """At the end of the process, bring everything that is not in a store to the disk; in the caller's thread.

        It waits up to *timeout_s* seconds for the threads to finish their conversion; a store that hangs holds nobody
        up. Called out of itself, or out of ``step``, as by a finalizer, it does nothing.
        """
        deadline = time.monotonic() + timeout_s
        if threading.get_ident() in self._inside or not self._order.acquire(timeout=timeout_s):
            return
        try:
            with self._at_work():
                while self._queue.waiting() and self.take(relieve=True):
                    pass
                self._exporter.rescue(deadline)
        finally:
            self._order.release()

    def abandon(self) -> None:
        """In a forked child: leave the parent's files to the parent."""
        self._exporter.abandon()


def _patience_s(exporter: Exporter, *, pressed: bool) -> float:
    """Return how long a delivery may take before what comes meanwhile goes to the disk."""
    if exporter.has_remote:
        return _STUCK_REMOTE_S
    return _STUCK_PRESSED_S if pressed else _STUCK_S
