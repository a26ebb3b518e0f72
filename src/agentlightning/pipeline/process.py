"""The pipeline of this process: made on first use, made anew in a forked child, flushed when the process ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlightning import settings
from agentlightning._internal import fork as _fork  # its hooks have to be registered before ours: they run after
from agentlightning._internal.guard import failures, guard
from agentlightning.errors import StoreError
from agentlightning.pipeline.ledger import Account, Ledger, ledger_folder
from agentlightning.pipeline.open_spans import OpenSpans
from agentlightning.pipeline.prepare import Preparer
from agentlightning.pipeline.queue import Flush, SpanQueue
from agentlightning.pipeline.receipt import call_when_waited, drop
from agentlightning.pipeline.worker import Worker
from agentlightning.store.url import default_store_url, open_writer
from agentlightning.types.protocol import SwitchableWriter

if TYPE_CHECKING:
    from types import FrameType

    from opentelemetry.sdk.trace import ReadableSpan

    from agentlightning.types.protocol import SpanWriter
    from agentlightning.types.record import AttemptEnd, RolloutStart, WriteBatch, WriteResult

_ = _fork

_FORK_WAIT_S = 1.0
"""Longest time that a fork waits for the worker to finish its step."""

_OWN_THREADS = 2
"""Threads of a pipeline."""

_SIGTERM_FLUSH_S = 1.0

_SIGNAL_LOCK_S = 0.1
"""Longest wait of a signal handler for a lock: the thread that holds it may wait for the interrupted one."""

_MOST_LATE_ATTEMPTS = 10_000
"""Ended attempts whose stores are known for spans that end even later."""

_RESCUE_WAIT_S = 0.5
"""Longest time that the end of the process waits for the worker to have its records in order."""


class Pipeline:
    """Queue, worker, ledger and the stores behind them. Every method may be called from any thread."""

    def __init__(self) -> None:
        """Make the parts; the thread starts with the first item, the store is opened by the thread."""
        settings.apply_log_level()
        url = default_store_url()
        self._default = _process.take_writer(url)
        self._routes: dict[str, SpanWriter] = {}
        self._late: weakref.WeakValueDictionary[str, SpanWriter] = weakref.WeakValueDictionary()
        run_folder = os.environ.get("AGL_LEDGER")
        self.ledger = Ledger(Path(run_folder) if run_folder else ledger_folder(url, None))
        self.queue = SpanQueue(settings.get(settings.QUEUE_BYTES), self.ledger)
        self.open_spans = OpenSpans()
        self.worker = Worker(self.queue, self.open_spans, self.ledger, self._route, Preparer())
        self._exit_deadline: float | None = None
        self._is_sync = settings.get(settings.DURABILITY) == "SYNC"

    def hand_over(self, span: ReadableSpan) -> None:
        """Take a span that ended; O(1), but for ``durability`` SYNC: then it returns when the span is durable."""
        if not self.queue.put_ended(span):
            drop(span, "queue_full")
        if self._is_sync:
            self._secure(settings.get(settings.FLUSH_TIMEOUT_S))
        elif self._exit_deadline is not None:  # after our exit hook nobody else would wait for the worker
            self._secure(max(0.05, self._exit_deadline - time.monotonic()))

    def start_rollout(self, start: RolloutStart, writer: SpanWriter | None) -> None:
        """Announce a rollout; its spans go to *writer*, None for the default store."""
        if writer is not None:
            self._routes[start.attempt_id] = writer
        self.queue.put(start)

    def adopt_attempt(self, attempt_id: str, writer: SpanWriter | None) -> None:
        """Send the spans of an attempt that exists already to *writer*, None for the default store."""
        if writer is not None:
            self._routes[attempt_id] = writer

    def end_attempt(self, end: AttemptEnd) -> None:
        """Announce the final status of an attempt; it is written with the attempt's last spans."""
        self.queue.put(end)

    def release_attempt(self, attempt_id: str) -> None:
        """Stop keeping the store of an attempt whose spans were flushed; while it lives, late ones still go there."""
        writer = self._routes.pop(attempt_id, None)
        if writer is not None:
            if len(self._late) >= _MOST_LATE_ATTEMPTS:
                self._late.clear()
            self._late[attempt_id] = writer

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything handed over before this call is in its store, or was given up; False on timeout."""
        flush = self._ask(Flush())
        return flush is None or flush.wait(timeout_s)

    def hurry(self) -> bool:
        """Make the worker deliver at once what was handed over, without waiting; False in the worker itself."""
        return self._ask(Flush()) is not None

    def _ask(self, flush: Flush) -> Flush | None:
        if self.worker.is_current():
            return None
        self.queue.put(flush)
        self.worker.start()
        while not self.worker.is_alive() and self.queue.waiting():
            self.worker.step()  # no thread can be started: the work is done here
        return flush

    def begin_exit(self) -> None:
        """Flush for the end of the process; later spans are flushed one by one, all within one ``flush_timeout_s``."""
        self._exit_deadline = time.monotonic() + settings.get(settings.FLUSH_TIMEOUT_S)
        if self.ledger.account().produced or self.queue.waiting():
            self._finish(settings.get(settings.FLUSH_TIMEOUT_S))
            self.worker.let_go(_RESCUE_WAIT_S)  # not before: what keeps a trace may still have been in the queue
        account = self.ledger.account()
        if account.waiting == 0 and account.total_lost == 0 and not os.environ.get("AGL_LEDGER"):
            self.ledger.remove()

    def _finish(self, timeout_s: float) -> None:
        """Flush; what is not in its store after *timeout_s* seconds goes to the disk, for the next process."""
        if not self.flush(timeout_s):
            self.worker.rescue(_RESCUE_WAIT_S)

    def _secure(self, timeout_s: float) -> None:
        """The same for one span, by way of what is open on the disk already; a store that is away keeps its pauses."""
        flush = Flush()
        flush.is_tried = True
        if self._ask(flush) is not None and not flush.wait(timeout_s):
            account = self.ledger.account()
            if account.waiting - account.spilled > self.worker.held():
                self.worker.rescue(_RESCUE_WAIT_S)

    def inherit(self, parent: Pipeline) -> None:
        """In a child: send the attempts that the parent was running to the same stores, over connections of its own."""
        self._routes = parent._routes
        self._default, self._late = parent._default, parent._late
        writers = (self._default, *self._routes.values(), *self._late.values())
        for writer in {id(writer): writer for writer in writers}.values():
            writer.after_fork()

    def _route(self, attempt_id: str) -> SpanWriter:
        return self._routes.get(attempt_id) or self._late.get(attempt_id, self._default)


class DefaultWriter:
    """The default store, opened by the first batch, and again after that failed. Thread-safe."""

    def __init__(self, url: str) -> None:
        """Write to the store at *url*, which is not touched yet."""
        self._url = url
        self._writer: SpanWriter | None = None
        self._lock = threading.Lock()

    @property
    def url(self) -> str | None:
        """URL of the store."""
        return self._url

    def write_batch(self, batch: WriteBatch) -> WriteResult:
        """Write a batch.

        Raises:
            StoreError: The store cannot be opened or written.
        """
        return self.open().write_batch(batch)

    def open(self) -> SpanWriter:
        """Return the open store.

        Raises:
            StoreError: The store cannot be opened.
        """
        with self._lock:
            if self._writer is None:
                self._writer = open_writer(self._url)
            return self._writer

    def switch_server(self) -> bool:
        """Use the next server of the store for a while; False when there is no other one."""
        writer = self._writer
        return isinstance(writer, SwitchableWriter) and writer.switch_server()

    def after_fork(self) -> None:
        """Make the writer usable in a forked child."""
        self._lock = threading.Lock()
        if self._writer is not None:
            self._writer.after_fork()

    def close(self) -> None:
        """Close the store; a later batch opens it again."""
        with self._lock:
            if self._writer is not None:
                self._writer.close()


class _Process:
    """The pipeline of the running process, and the hooks that belong to it."""

    def __init__(self) -> None:
        self.pipeline: Pipeline | None = None
        self.parent: Pipeline | None = None
        self.prepared: DefaultWriter | None = None
        # Reentrant: a thread may fork, or be interrupted by a signal, while it makes the pipeline.
        self.lock = threading.RLock()
        self.hooked = False
        self.fork_lock_held = False
        self.making_held = False

    def take_writer(self, url: str) -> DefaultWriter:
        """Return the writer of the default store, the prepared one if it is still meant."""
        prepared, self.prepared = self.prepared, None
        return prepared if prepared is not None and prepared.url == url else DefaultWriter(url)

    def make(self) -> Pipeline:
        """Return the pipeline, made and started by the first caller."""
        with self.lock:
            if self.pipeline is None:
                pipeline = Pipeline()
                if self.parent is not None:
                    pipeline.inherit(self.parent)
                    self.parent = None
                self.hook()
                self.pipeline = pipeline
                pipeline.worker.start()
            return self.pipeline

    def hook(self) -> None:
        """Register what has to run at exit and at SIGTERM; once for all processes of a fork tree."""
        _flush_when_multiprocessing_ends()
        if self.hooked:
            return
        self.hooked = True
        atexit.register(_at_exit)
        install_sigterm()

    def before_fork(self) -> None:
        """Let the worker finish its step: the child must inherit no lock of SQLite, or of an import, that is held."""
        self.making_held = self.lock.acquire(timeout=_FORK_WAIT_S)
        if self.pipeline is not None and not self.pipeline.worker.is_current():
            if sys.version_info >= (3, 12) and threading.active_count() <= _OWN_THREADS + 1:
                self.pipeline.worker.rest(_FORK_WAIT_S)
            self.fork_lock_held = self.pipeline.worker.busy.acquire(timeout=_FORK_WAIT_S)

    def after_in_parent(self) -> None:
        """Let the worker go on."""
        if self.pipeline is not None and self.fork_lock_held:
            self.fork_lock_held = False
            self.pipeline.worker.busy.release()
        if self.making_held:
            self.making_held = False
            self.lock.release()
        if self.pipeline is not None and sys.version_info >= (3, 12):
            self.pipeline.worker.go_on()

    def after_in_child(self) -> None:
        """Begin anew in the child: what the parent queued is the parent's to deliver, and its threads are not here."""
        self.lock = threading.RLock()
        self.fork_lock_held = self.making_held = False
        failures.after_fork()
        if self.pipeline is not None:  # at once: a child that traces nothing would keep the lock of a replay
            with guard("fork"):
                self.pipeline.worker.abandon()
        self.parent, self.pipeline = self.pipeline or self.parent, None


_process = _Process()

# Not when the pipeline is made: another thread may fork just then, and its child would wait for the lock for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_process.before_fork, after_in_parent=_process.after_in_parent, after_in_child=_process.after_in_child
    )


def get_pipeline() -> Pipeline:
    """Return the pipeline of this process, made on first use with its worker running."""
    return _process.pipeline or _process.make()


def prepare_store() -> None:
    """Check the default store in the caller's thread, before anything is traced.

    Beside a thread that computes, loading what that needs and the check itself take the worker 0.3 s, which the first
    spans do not have. The file is closed again: descriptors are the program's. What goes wrong is found again, and
    counted, when the first batch is written.
    """
    if _process.pipeline is None and _process.prepared is None:
        writer = DefaultWriter(default_store_url())
        with contextlib.suppress(StoreError):
            writer.open().close()
        _process.prepared = writer


def current_pipeline() -> Pipeline | None:
    """Return the pipeline of this process if anything has used it."""
    return _process.pipeline


def flush(timeout_s: float | None = None) -> bool:
    """Wait until every span that ended is in its store; True at once when nothing was ever traced.

    Args:
        timeout_s: Longest wait in seconds, None for the setting ``flush_timeout_s``.
    """
    pipeline = _process.pipeline
    if pipeline is None:
        return True
    return pipeline.flush(settings.get(settings.FLUSH_TIMEOUT_S) if timeout_s is None else timeout_s)


def account() -> Account:
    """Return what this process produced, stored and lost so far."""
    pipeline = _process.pipeline
    return Account() if pipeline is None else pipeline.ledger.account()


def _hurry() -> bool:
    pipeline = _process.pipeline
    return pipeline is not None and pipeline.hurry()


call_when_waited(_hurry)


def _at_exit() -> None:
    with guard("exit"):
        if _process.pipeline is not None:
            _process.pipeline.begin_exit()


def _flush_when_multiprocessing_ends() -> None:
    """A child of multiprocessing leaves by ``os._exit`` and runs only multiprocessing's own finalizers."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, _at_exit, exitpriority=0)


def install_sigterm() -> None:
    """Where nobody handles SIGTERM, write what is waiting before it ends the process.

    Only in the main thread and only while the disposition is the default one; a program's own handler is never
    wrapped. ``AGL_SIGTERM=0`` turns it off.
    """
    if not settings.get(settings.SIGTERM) or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    with guard("sigterm"):
        if _process.pipeline is not None:
            if _process.pipeline.worker.defer(lambda: os.kill(os.getpid(), number)):
                return  # a second signal ends it at once
            _flush_from_signal(_process.pipeline)
    os.kill(os.getpid(), number)


def _flush_from_signal(pipeline: Pipeline) -> None:
    """Wait for the worker without taking a lock that the interrupted main thread may hold."""
    deadline = time.monotonic() + _SIGTERM_FLUSH_S
    pipeline.queue.wake.set()
    while time.monotonic() < deadline:
        account = pipeline.ledger.account()
        if account.waiting - account.spilled <= pipeline.worker.held():
            break
        time.sleep(0.005)
    else:
        pipeline.worker.rescue(0.0)
    pipeline.worker.let_go(_SIGNAL_LOCK_S)
