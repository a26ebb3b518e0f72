"""Worker and delivery: every schedule of failures adds up, order holds, one bad span costs itself only."""

from __future__ import annotations

import errno
import shutil
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from opentelemetry import context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from agentlightning._internal.guard import failures
from agentlightning.errors import StoreCorruptError, StoreFullError, StoreUnavailableError
from agentlightning.pipeline import lane, worker
from agentlightning.pipeline.cap import Cap
from agentlightning.pipeline.ledger import Account, Ledger
from agentlightning.pipeline.open_spans import OpenSpans
from agentlightning.pipeline.prepare import Preparer
from agentlightning.pipeline.queue import Flush, SpanQueue
from agentlightning.pipeline.worker import Worker
from agentlightning.testing import RecordingStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning.pipeline.segment import SpillFolder
    from agentlightning.types.record import WriteBatch, WriteResult

tracer = TracerProvider().get_tracer("test")


class Parts:
    """A pipeline without a process: queue, worker, ledger, and one store."""

    def __init__(self, store: RecordingStore, queue_bytes: int = 16 * 2**20) -> None:
        """Deliver to *store*."""
        self.store = store
        self.ledger = Ledger(None)
        self.queue = SpanQueue(queue_bytes, self.ledger)
        self.open_spans = OpenSpans()
        self.preparer = Preparer()
        self.worker = Worker(self.queue, self.open_spans, self.ledger, lambda _attempt: self.store, self.preparer)

    def emit(self, count: int = 1, **attributes: Any) -> None:
        """Hand over *count* ended spans."""
        for _ in range(count):
            span = tracer.start_span("work", attributes=attributes)
            span.end()
            assert isinstance(span, ReadableSpan)
            self.queue.put_ended(span)

    def drain(self) -> None:
        """Work until nothing waits."""
        for _ in range(200):
            self.worker.step()
            account = self.ledger.account()
            if not self.queue.waiting() and not account.waiting:
                return

    def counters(self) -> list[int]:
        """Return the places in the order of hand-over of what was stored first, in the order of storing."""
        return list(dict.fromkeys(span.counter for span in self.store.spans if span.end_ns is not None))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try a store again at once, and use the disk at once."""
    monkeypatch.setattr(lane, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(lane, "GRACE_S", -1.0)
    monkeypatch.setattr(failures, "loud", False)


def error_of(kind: str) -> Exception:
    """Return what a store raises."""
    return {
        "away": StoreUnavailableError("away"),
        "full": StoreFullError("full"),
        "corrupt": StoreCorruptError("corrupt"),
    }[kind]


class FailingStore(RecordingStore):
    """Raises what is planned, then works."""

    planned: list[Exception]

    def __init__(self, url: str | None) -> None:
        super().__init__(url=url)
        self.planned = []

    def write_batch(self, batch: WriteBatch) -> WriteResult:
        if self.planned:
            raise self.planned.pop()
        return super().write_batch(batch)


class Schedules(RuleBasedStateMachine):
    """Spans, failures of the store and of the disk, steps of the worker and of its relief, in any order."""

    has_disk = True

    def __init__(self) -> None:
        """Begin with an empty store."""
        super().__init__()
        self.before = (lane.FIRST_PAUSE_S, lane.GRACE_S, failures.loud, Cap.make_room)
        lane.FIRST_PAUSE_S, lane.GRACE_S, failures.loud = 0.0, -1.0, False
        self.folder = Path(tempfile.mkdtemp())
        url = f"sqlite:///{self.folder}/x.db" if self.has_disk else None
        self.store = FailingStore(url=url)
        self.parts = Parts(self.store)

    @rule(count=st.integers(1, 30))
    def produce(self, count: int) -> None:
        """End some spans."""
        self.parts.emit(count)

    @rule()
    def work(self) -> None:
        """Let the worker do one step."""
        self.parts.worker.step()

    @rule()
    def relieve(self) -> None:
        """Let the second thread do one step, as if the worker were stuck."""
        self.parts.worker.take(relieve=True)

    @rule(kind=st.sampled_from(["away", "full", "corrupt"]), times=st.integers(1, 3))
    def fail(self, kind: str, times: int) -> None:
        """Let the store fail some times."""
        self.store.planned = [error_of(kind)] * times

    @precondition(lambda self: self.has_disk)
    @rule(full=st.booleans())
    def fill_disk(self, *, full: bool) -> None:
        """Take the space of the disk away, or give it back."""

        def no_room(self: Cap, folder: SpillFolder, wanted: int, *, precious: bool) -> None:
            _ = self, folder, wanted, precious
            raise OSError(errno.ENOSPC, "No space left on device")

        Cap.make_room = no_room if full else self.before[3]

    @invariant()
    def adds_up(self) -> None:
        """Nothing is counted twice, nothing is missing, and what is stored is stored in order."""
        account = self.parts.ledger.account()
        assert account.produced == account.stored + account.duplicate + account.waiting + account.total_lost
        counters = self.parts.counters()
        assert len(counters) == account.stored
        assert counters == sorted(counters)
        assert account.lost == {}

    def teardown(self) -> None:
        """With everything well again, all that was produced is stored, in order."""
        try:
            Cap.make_room = self.before[3]
            self.store.planned = []
            self.parts.drain()
            account = self.parts.ledger.account()
            assert account == Account(account.produced, account.produced)
            assert self.parts.counters() == list(range(1, account.produced + 1))
        finally:
            lane.FIRST_PAUSE_S, lane.GRACE_S, failures.loud, Cap.make_room = self.before
            shutil.rmtree(self.folder)


class SchedulesWithoutDisk(Schedules):
    """The same for a store that has no URL, and so no place to spill."""

    has_disk = False


_SETTINGS = hypothesis_settings(max_examples=40, stateful_step_count=25, deadline=None)
TestSchedules = Schedules.TestCase
TestSchedules.settings = _SETTINGS
TestSchedulesWithoutDisk = SchedulesWithoutDisk.TestCase
TestSchedulesWithoutDisk.settings = _SETTINGS


def test_a_store_that_comes_back_gets_everything_in_order(impatient: None, tmp_path: Path) -> None:
    """Five failures, then success: nothing lost, nothing twice, in the order of hand-over."""
    parts = Parts(RecordingStore(url=f"sqlite:///{tmp_path}/x.db", failures=5))
    for _ in range(10):
        parts.emit(20)
        parts.worker.step()
    parts.drain()
    assert parts.counters() == list(range(1, 201))
    assert parts.ledger.account() == Account(200, 200)


def test_a_failing_store_is_not_asked_at_every_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause doubles from 0.1 s to at most 2 s; a success ends it."""
    monkeypatch.setattr(failures, "loud", False)
    now = [100.0]
    monkeypatch.setattr(lane.time, "monotonic", lambda: now[0])
    parts = Parts(RecordingStore(failures=-1))
    parts.emit()
    calls: list[float] = []
    while now[0] < 130:
        before = parts.store.calls
        parts.worker.step()
        if parts.store.calls > before:
            calls.append(now[0])
        now[0] += 0.05
    pauses = [after - before for before, after in pairwise(calls)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6] + [2.0] * (len(pauses) - 5), abs=0.06)
    parts.store.failures_left = 0
    now[0] += 6
    parts.worker.step()
    assert parts.ledger.account() == Account(1, 1)


def test_one_store_that_is_away_does_not_hold_up_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each store has a way of its own."""
    monkeypatch.setattr(failures, "loud", False)
    away, well = RecordingStore(failures=-1), RecordingStore()
    parts = Parts(away)
    parts.worker = Worker(
        parts.queue,
        parts.open_spans,
        parts.ledger,
        lambda attempt: away if attempt == "at-away" else well,
        Preparer(),
    )
    for attempt in ("at-away", "at-well", "at-away", "at-well"):
        stamps = {"agentlightning.rollout_id": "ro", "agentlightning.attempt_id": attempt}
        parts.emit(3, **stamps)
        parts.worker.step()
    assert len(well.spans) == 6
    assert parts.ledger.account() == Account(12, 6, 0, 6)


def test_without_disk_the_oldest_are_lost_beyond_the_bound(monkeypatch: pytest.MonkeyPatch, impatient: None) -> None:
    """A store in memory that stays away: memory is bounded, what is lost is counted by the store's reason."""
    monkeypatch.setattr(lane, "MOST_WAITING_BYTES", 100 * 2_004)
    parts = Parts(RecordingStore(failures=-1, error=StoreFullError("full")))
    for _ in range(30):
        parts.emit(10, text="four")
        parts.worker.step()
    account = parts.ledger.account()
    assert account.produced == account.waiting + account.total_lost == 300
    assert set(account.lost) == {"disk_full"}
    assert account.waiting <= 120
    parts.store.failures_left = 0
    parts.drain()
    counters = parts.counters()
    assert counters == list(range(301 - len(counters), 301))


def test_a_flush_waits_for_a_store_that_has_just_failed(impatient: None) -> None:
    """It is answered when the spans are there; by a store that stays away, with False."""
    parts = Parts(RecordingStore(failures=2))
    parts.emit()
    flush = Flush()
    parts.queue.put(flush)
    parts.worker.step()
    assert not flush.wait(0)
    parts.drain()
    parts.worker.step()
    assert flush.wait(0)


def test_a_flush_does_not_wait_for_a_store_that_is_long_away(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who ends a thousand rollouts while the store is down is not kept for two seconds each time."""
    monkeypatch.setattr(lane, "GIVEN_UP_S", -1.0)
    parts = Parts(RecordingStore(failures=-1))
    parts.emit()
    flush = Flush()
    parts.queue.put(flush)
    parts.worker.step()
    began = time.monotonic()
    assert not flush.wait(5)
    assert time.monotonic() - began < 1


def test_what_the_worker_sends_is_no_call_of_the_program() -> None:
    """Instrumentors of HTTP clients are asked for silence: their spans would be sent, and make spans, for ever."""
    seen: list[object] = []

    class Asking(RecordingStore):
        def write_batch(self, batch: WriteBatch) -> WriteResult:
            seen.append(context.get_value("suppress_instrumentation"))
            return super().write_batch(batch)

    parts = Parts(Asking())
    parts.worker.start()
    parts.emit()
    flush = Flush()
    parts.queue.put(flush)
    assert flush.wait(10)
    parts.worker.rest(10)
    assert seen == [True]
    assert context.get_value("suppress_instrumentation") is None


@pytest.mark.parametrize("error", [ValueError("bad"), MemoryError(), RecursionError(), SystemExit(3)])
def test_a_span_that_cannot_be_prepared_costs_itself_only(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of five raises, whatever it raises: four are stored, one is ``redactor_failed``."""
    monkeypatch.setattr(failures, "loud", False)
    parts = Parts(RecordingStore())
    prepare: Callable[..., Any] = parts.preparer.convert

    def picky(span: ReadableSpan, counter: int) -> Any:
        if counter == 3:
            raise error
        return prepare(span, counter)

    monkeypatch.setattr(parts.preparer, "convert", picky)
    parts.emit(5)
    parts.drain()
    assert parts.ledger.account() == Account(5, 4, 0, 0, {"redactor_failed": 1})
    assert parts.counters() == [1, 2, 4, 5]


def test_a_span_that_is_too_large_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 64 MiB of texts after all cuts: ``too_large``; its neighbours are stored."""
    parts = Parts(RecordingStore())
    parts.preparer.max_span_bytes = 10_000
    parts.emit(1)
    parts.emit(1, **{f"text.{number}": "x" * 900 for number in range(20)})
    parts.emit(1)
    parts.drain()
    assert parts.ledger.account() == Account(3, 2, 0, 0, {"too_large": 1})


def test_a_store_that_raises_for_one_record_gets_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other error than "away" is about a record: the batch is halved until it is found."""
    monkeypatch.setattr(failures, "loud", False)

    class Picky(RecordingStore):
        def write_batch(self, batch: WriteBatch) -> WriteResult:
            if any(span.counter == 77 for span in batch.spans):
                raise TypeError
            return super().write_batch(batch)

    parts = Parts(Picky())
    parts.emit(300)
    parts.drain()
    assert parts.ledger.account() == Account(300, 299, 0, 0, {"store_error": 1})
    assert parts.store.calls < 40


def test_a_store_that_raises_for_everything_is_not_asked_for_each_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken store costs some twenty calls a batch, and everything is counted."""
    monkeypatch.setattr(failures, "loud", False)
    calls: list[int] = []

    class Broken(RecordingStore):
        def write_batch(self, batch: WriteBatch) -> WriteResult:
            calls.append(len(batch.spans))
            raise RecursionError

    parts = Parts(Broken())
    parts.emit(500)
    parts.drain()
    assert parts.ledger.account() == Account(500, 0, 0, 0, {"store_error": 500})
    assert len(calls) < 60


def test_while_a_store_hangs_the_second_thread_spills(tmp_path: Path) -> None:
    """10,000 spans against a store that never answers: the program waits at no time for long, nothing is lost."""
    gate = threading.Event()
    parts = Parts(RecordingStore(url=f"sqlite:///{tmp_path}/x.db", gate=gate), queue_bytes=200 * 5_600)
    parts.worker.start()
    slowest = 0.0
    for _ in range(10_000):
        began = time.perf_counter()
        parts.emit()
        slowest = max(slowest, time.perf_counter() - began)
    account = parts.ledger.account()
    print(f"slowest hand-over {1e3 * slowest:.0f} ms")
    assert account.lost == {}
    assert account.spilled > 9_000
    gate.set()
    assert parts.store.wait_for_spans(10_000, 15)
    flush = Flush()
    parts.queue.put(flush)
    assert flush.wait(10)
    assert parts.ledger.account() == Account(10_000, 10_000)
    assert parts.counters() == list(range(1, 10_001))


def test_the_thread_goes_on_after_any_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even SystemExit out of the worker's own loop is counted, and the next span is stored."""
    monkeypatch.setattr(failures, "loud", False)
    monkeypatch.setattr(failures, "_counts", {})
    monkeypatch.setattr(worker, "_AGAIN_S", 0.001)
    parts = Parts(RecordingStore())
    take = parts.queue.take
    raised = threading.Event()

    def once(limit: int) -> list[Any]:
        if not raised.is_set():
            raised.set()
            sys.exit(3)
        return take(limit)

    monkeypatch.setattr(parts.queue, "take", once)
    parts.emit()
    parts.worker.start()
    assert parts.store.wait_for_spans(1)
    assert failures.counts()["worker.died"] == 1


def test_a_span_without_an_end_or_a_context_is_accounted_for() -> None:
    """Without a context a span gets ids of its own; one that was handed over as ended and is not is rejected."""
    parts = Parts(RecordingStore())
    resource = Resource.get_empty()
    parts.queue.put_ended(ReadableSpan("no context", resource=resource, start_time=1, end_time=2))
    parts.queue.put_ended(ReadableSpan("no end", resource=resource, start_time=1))
    parts.drain()
    (span,) = parts.store.spans
    assert (span.name, int(span.trace_id, 16) > 0, int(span.span_id, 16) > 0) == ("no context", True, True)
    assert parts.ledger.account() == Account(2, 1, 0, 0, {"rejected": 1})


def test_a_rest_ends_both_threads_while_the_queue_is_half_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a fork the second thread stops looking at the queue that nobody empties any more, at once."""
    parts = Parts(RecordingStore(), queue_bytes=20 * 5_600)
    looked = threading.Event()
    pressed = parts.queue.is_pressed

    def is_pressed() -> bool:
        looked.set()
        return pressed()

    def take_nothing(*, relieve: bool = False) -> int:
        _ = relieve
        return 0

    monkeypatch.setattr(parts.worker, "take", take_nothing)
    monkeypatch.setattr(parts.queue, "is_pressed", is_pressed)
    parts.emit(15)
    parts.worker.start()
    watcher = vars(parts.worker)["_watcher"]
    assert looked.wait(5)
    began = time.monotonic()
    parts.worker.rest(5.0)
    assert not watcher.is_alive()
    assert time.monotonic() - began < 4
