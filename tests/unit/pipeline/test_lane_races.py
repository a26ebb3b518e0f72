"""The worker writes while another thread brings the same lane to the disk: nothing is lost, nothing counted twice."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

import pytest

from agentlightning.pipeline import lane as lane_module
from agentlightning.pipeline.export import Exporter
from agentlightning.pipeline.lane import Lane
from agentlightning.pipeline.ledger import Account, Ledger
from agentlightning.pipeline.spill import Spill
from agentlightning.testing import RecordingStore
from agentlightning.types.record import SpanRecord, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    MakeRecord = Callable[..., SpanRecord]


@pytest.fixture
def gate() -> threading.Event:
    """Hold the writes of the store up until it is set, and before that until the test begins."""
    gate = threading.Event()
    gate.set()
    return gate


@pytest.fixture
def store(tmp_path: Path, gate: threading.Event) -> RecordingStore:
    """Make a store on this machine."""
    return RecordingStore(url=f"sqlite:///{tmp_path}/x.db", gate=gate)


@pytest.fixture
def ledger() -> Ledger:
    """Make the counters of this process."""
    return Ledger(None)


@pytest.fixture
def lane(store: RecordingStore, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None) -> Lane:
    """Make the way to the store; it is tried at once after a failure."""
    _ = quiet
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(lane_module, "FIRST_PAUSE_S", 0.0)
    made = Lane(store, ledger)
    made.deliver(patient=False)
    return made


def put(lane: Lane, ledger: Ledger, span: SpanRecord) -> None:
    """Hand *span* over as the worker does."""
    ledger.produced[0] += 1
    lane.put(WriteBatch(spans=[span]), relieve=False)


def drain(lane: Lane) -> None:
    """Deliver until nothing waits; a few times at most."""
    for _ in range(10):
        if lane.is_waiting:
            lane.deliver(patient=False)


def in_thread(function: Callable[[], None]) -> threading.Thread:
    """Run *function* as the worker."""
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_a_batch_behind_one_that_was_spilled_meanwhile_is_not_taken_for_it(
    lane: Lane, store: RecordingStore, ledger: Ledger, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two goes to the disk while the worker wants to write it, the disk refuses the second: both stay."""
    first, second = make_record(), make_record()
    put(lane, ledger, first)
    put(lane, ledger, second)
    plain, threads = Spill.put, list[threading.Thread]()

    def one_only(self: Spill, batch: WriteBatch, *, keep: bool = False) -> None:
        if threads:
            threads[0].join(0.3)  # the worker gets on as far as it can
            raise OSError(errno.ENOSPC, "No space left on device")
        threads.append(in_thread(lambda: lane.deliver(patient=False)))
        threads[0].join(0.1)
        plain(self, batch, keep=keep)

    with monkeypatch.context() as patch:
        patch.setattr(Spill, "put", one_only)
        lane.spill()
    threads[0].join()
    drain(lane)
    assert {span.span_id for span in store.spans} == {first.span_id, second.span_id}
    assert ledger.account() == Account(2, 2)


@pytest.mark.parametrize("fails", [True, False])
def test_what_was_rescued_during_a_write_changes_nothing_for_the_next_batch(
    lane: Lane, store: RecordingStore, ledger: Ledger, make_record: MakeRecord, gate: threading.Event, *, fails: bool
) -> None:
    """A span goes to the disk while the worker writes it, and then the write fails or not: the next one counts once."""
    gate.clear()
    put(lane, ledger, make_record())
    worker = in_thread(lambda: lane.deliver(patient=False))
    assert store.wait_for_calls(1)
    lane.rescue()
    store.failures_left = int(fails)
    gate.set()
    worker.join()
    drain(lane)
    put(lane, ledger, make_record())
    drain(lane)
    assert len(store.batches) == 2 + (not fails)
    account = ledger.account()
    assert (account.stored, account.duplicate, account.waiting) == ((2, 0, 0) if fails else (1, 1, 0))


def test_what_is_written_while_the_disk_refuses_it_is_counted(
    lane: Lane,
    store: RecordingStore,
    ledger: Ledger,
    make_record: MakeRecord,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rescue that the disk refuses leaves the batch with the worker: a failed write is tried again, and it counts."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    gate.clear()
    put(lane, ledger, make_record())
    store.failures_left = 1
    worker = in_thread(lambda: lane.deliver(patient=False))
    assert store.wait_for_calls(1)
    with monkeypatch.context() as patch:
        patch.setattr(Spill, "put", full)
        lane.rescue()
    gate.set()
    worker.join()
    drain(lane)
    assert ledger.account() == Account(1, 1)


def test_a_rescue_does_not_wait_for_ever(
    lane: Lane, ledger: Ledger, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler that needs what a stuck thread holds goes on without it; what waits stays counted as waiting."""
    monkeypatch.setattr(lane_module, "_RESCUE_LOCK_S", 0.05)
    put(lane, ledger, make_record())
    with vars(lane)["_lock"]:
        lane.rescue()
    assert ledger.account() == Account(1, waiting=1)
    lane.rescue()
    assert ledger.account() == Account(1, waiting=1, spilled=1)


def test_a_store_that_gets_something_is_not_forgotten(
    ledger: Ledger, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a batch is on its way into an idle lane, the worker looks through many of them: it is delivered."""
    stores = {f"at-{number}": RecordingStore() for number in range(20)}
    exporter = Exporter(lambda attempt: stores[attempt], ledger)
    for attempt in stores:
        exporter.put(WriteBatch(spans=[make_record(attempt_id=attempt)]))
    exporter.deliver()
    plain = Lane.put

    def late(self: Lane, batch: WriteBatch, *, relieve: bool) -> None:
        exporter.deliver()
        plain(self, batch, relieve=relieve)

    with monkeypatch.context() as patch:
        patch.setattr(Lane, "put", late)
        exporter.put(WriteBatch(spans=[make_record(attempt_id="at-3")]))
    exporter.deliver()
    assert len(stores["at-3"].spans) == 2
    exporter.forget_idle()
    assert len(vars(exporter)["_lanes"]) == 16
