"""A spill that has reached its cap: ordinary spans go first, rewards and exceptions last, and the ledger adds up."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentlightning import settings
from agentlightning._internal.guard import failures
from agentlightning.errors import StoreUnavailableError
from agentlightning.pipeline import lane as lane_module
from agentlightning.pipeline import segment
from agentlightning.pipeline.lane import Lane
from agentlightning.pipeline.ledger import Account, Ledger, read_accounts
from agentlightning.pipeline.replay import Replayer
from agentlightning.pipeline.sampling import ALWAYS
from agentlightning.pipeline.spill import Spill, spill_folders
from agentlightning.semconv import SpanNames
from agentlightning.testing import RecordingStore
from agentlightning.types.record import AttemptEnd, ResourceRecord, RolloutStart, SpanRecord, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    MakeRecord = Callable[..., SpanRecord]

CAP = 400_000
REWARD, EXCEPTION = SpanNames.REWARD.value, SpanNames.EXCEPTION.value


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Make the counters of this process."""
    return Ledger(tmp_path / "x.db.ledger" / "direct")


@pytest.fixture
def spill(tmp_path: Path, ledger: Ledger) -> Spill:
    """Make a spill that holds four small segments."""
    settings.configure(spill_bytes=CAP)
    return Spill(f"sqlite:///{tmp_path}/x.db", ledger, "default")


@pytest.fixture
def make(make_record: MakeRecord) -> MakeRecord:
    """Make spans of 1 KB."""

    def made(name: str = "work") -> SpanRecord:
        return make_record(name=name, attributes={"x": "y" * 1_000})

    return made


def put(spill: Spill, ledger: Ledger, spans: Iterable[SpanRecord]) -> list[SpanRecord]:
    """Produce *spans*, spill them as one batch, and return them."""
    batch = WriteBatch(spans=list(spans))
    ledger.produced[0] += len(batch.spans)
    spill.put(batch)
    return batch.spans


def replay(spill: Spill, ledger: Ledger) -> RecordingStore:
    """Return a store with everything that is on the disk."""
    spill.close_segment()
    store = RecordingStore()
    for folder in spill.folders:
        replayer = Replayer(folder, ledger, settled=spill.cap.settled)
        while replayer.step(store.write_batch) is not None:
            pass
        replayer.close()
    return store


def ids(spans: Iterable[SpanRecord]) -> list[str]:
    """Return the span ids of *spans*."""
    return [span.span_id for span in spans]


def check(ledger: Ledger, store: RecordingStore) -> Account:
    """Check that the ledger says what is in *store*, in order, and that nothing waits; return it."""
    account = ledger.account()
    assert account.stored == len(set(ids(store.spans)))
    assert account.waiting == 0
    assert account.produced == account.stored + account.duplicate + account.total_lost
    counters = [span.counter for span in store.spans]
    assert counters == sorted(counters)
    return account


def test_rewards_and_exceptions_outlive_all_other_spans(spill: Spill, ledger: Ledger, make: MakeRecord) -> None:
    """Two megabytes go through a spill of 400 KB: every reward and exception is there afterwards, in order."""
    precious: list[SpanRecord] = []
    for round_ in range(200):
        name = (REWARD, EXCEPTION, "work", "work")[round_ % 4]
        spans = put(spill, ledger, [*(make() for _ in range(9)), make(name)])
        precious += spans[9:] if name in ALWAYS else []
        assert spill.folders[0].used_bytes() <= CAP
    store = replay(spill, ledger)
    assert len(precious) == 100
    assert [span.span_id for span in store.spans if span.name in ALWAYS] == ids(precious)
    account = check(ledger, store)
    assert account.lost == {"disk_full": 2_000 - len(store.spans)}
    assert len(store.spans) > 200  # the newest ordinary ones are there too
    assert [span.name for span in store.spans][-10:] == ["work"] * 10


def test_rollouts_and_ends_of_attempts_stay(spill: Spill, ledger: Ledger, make: MakeRecord) -> None:
    """What costs nothing and says what became of an attempt is not dropped with its spans."""
    start = RolloutStart(rollout_id="ro-1", attempt_id="at-1", project="p", start_ns=1)
    end = AttemptEnd(rollout_id="ro-1", attempt_id="at-1", status="succeeded", end_ns=2)
    spill.put(WriteBatch(starts=[start]))
    for place in range(80):
        put(spill, ledger, [make() for _ in range(10)])
        if place == 5:
            spill.put(WriteBatch(ends=[end]))
    store = replay(spill, ledger)
    assert [one for batch in store.batches for one in batch.starts] == [start]
    assert [one for batch in store.batches for one in batch.ends] == [end]
    assert check(ledger, store).lost["disk_full"] > 300


def test_of_rewards_alone_the_oldest_go(spill: Spill, ledger: Ledger, make: MakeRecord) -> None:
    """Where only rewards are left the cap holds all the same, and what is lost is counted."""
    for _ in range(100):
        put(spill, ledger, [make(REWARD) for _ in range(10)])
        assert spill.folders[0].used_bytes() <= CAP
    store = replay(spill, ledger)
    assert check(ledger, store).lost == {"disk_full": 1_000 - len(store.spans)}
    assert len(store.spans) > 100
    counters = [span.counter for span in store.spans]
    assert counters == list(range(counters[0], counters[0] + len(counters)))


def test_rewards_are_not_dropped_for_others_nor_in_vain(spill: Spill, ledger: Ledger, make: MakeRecord) -> None:
    """Where nothing dropped would be enough nothing is; and for ordinary spans the rewards on the disk stay."""
    kept = put(spill, ledger, [*(make() for _ in range(20)), *(make(REWARD) for _ in range(20))])
    spill.close_segment()
    folder = spill.folders[0]
    with pytest.raises(OSError, match="cap"):
        spill.cap.make_room(folder, CAP + 1, precious=True)  # so much is not there, whatever is dropped
    assert ledger.account().total_lost == 0
    folder = segment.SpillFolder(folder.path, folder.used_bytes() + 100)
    with pytest.raises(OSError, match="cap"):
        spill.cap.make_room(folder, 40_000, precious=False)
    store = replay(spill, ledger)
    assert ids(store.spans) == ids(kept[20:])
    assert check(ledger, store).lost == {"disk_full": 20}


def test_the_number_of_files_stays_bounded(spill: Spill, ledger: Ledger, make_record: MakeRecord) -> None:
    """What is left of many segments lies in few files, however much went through."""
    for _ in range(60):
        big = make_record(attributes={"x": "y" * 50_000})
        put(spill, ledger, [big, make_record(name=REWARD)])
        assert len(spill.folders[0].segments()) <= 10
    store = replay(spill, ledger)
    assert sum(span.name == REWARD for span in store.spans) == 60
    check(ledger, store)


def test_what_the_store_has_of_a_segment_is_not_counted_as_lost(spill: Spill, ledger: Ledger, make: MakeRecord) -> None:
    """The store fails in the middle of a segment, then the cap is reached: each span is stored or lost, never both."""
    first = put(spill, ledger, [*(make() for _ in range(40)), make(REWARD), *(make() for _ in range(40))])
    spill.close_segment()
    replayer = Replayer(spill.folders[0], ledger, 50, spill.cap.settled)
    store = RecordingStore()
    assert replayer.step(store.write_batch) is not None
    store.failures_left = 1
    with pytest.raises(StoreUnavailableError):
        replayer.step(store.write_batch)
    replayer.pause()
    for _ in range(60):
        put(spill, ledger, [make() for _ in range(10)])
    spill.close_segment()
    while replayer.step(store.write_batch) is not None:
        pass
    assert ids(store.spans)[:50] == ids(first)[:50]
    assert ids(store.spans).count(first[40].span_id) == 1
    assert not set(ids(first)[50:]) & set(ids(store.spans))
    check(ledger, store)


def test_a_kill_while_a_copy_is_made_loses_nothing(
    spill: Spill, ledger: Ledger, make: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the copy has taken the place of its original, both are there, and the store has each span once."""
    spans = [make() if place % 10 else make(REWARD) for place in range(250)]
    for start in range(0, 250, 50):
        put(spill, ledger, spans[start : start + 50])
    spill.close_segment()

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", kill)
        with pytest.raises(KeyboardInterrupt):
            spill.cap.make_room(spill.folders[0], CAP - 100_000, precious=True)
    store = replay(spill, ledger)
    assert list(dict.fromkeys(ids(store.spans))) == ids(spans)


def test_on_a_full_disk_the_copy_takes_the_place_of_its_original(
    spill: Spill, ledger: Ledger, make: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no byte left beside the spill its rewards survive all the same."""
    for _ in range(3):
        put(spill, ledger, [make() if place % 10 else make(REWARD) for place in range(100)])
    spill.close_segment()
    folder, full, real = spill.folders[0], spill.folders[0].used_bytes(), os.write

    def write(descriptor: int, content: bytes) -> int:
        if folder.used_bytes() + len(content) > full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content)

    monkeypatch.setattr(segment.os, "write", write)
    spill.cap.make_room(folder, CAP // 2, precious=False)
    monkeypatch.undo()
    settings.configure(spill_bytes=CAP)
    store = replay(spill, ledger)
    assert sum(span.name == REWARD for span in store.spans) == 30
    assert check(ledger, store).lost["disk_full"] >= 100


def test_segments_of_a_process_that_is_gone_are_thinned_out_too(
    spill: Spill, ledger: Ledger, make: MakeRecord, tmp_path: Path
) -> None:
    """Another process's spans are lost in its own counters, its rewards stay, and nothing of two is mixed."""
    other = Ledger(tmp_path / "x.db.ledger" / "other")
    gone = Spill(f"sqlite:///{tmp_path}/x.db", other, "elsewhere")
    gone.head = msgspec.structs.replace(gone.head, process=gone.head.process.rpartition("/")[0] + "/1")
    theirs = put(gone, other, [*(make() for _ in range(50)), make(REWARD)])
    gone.close_segment()
    mine: list[SpanRecord] = []
    for _ in range(50):
        mine += put(spill, ledger, [*(make() for _ in range(9)), make(REWARD)])[-1:]
    store = replay(spill, ledger)
    assert [span.span_id for span in store.spans if span.name == REWARD] == ids([theirs[-1], *mine])
    assert {batch.project for batch in store.batches if theirs[-1].span_id in ids(batch.spans)} == {"elsewhere"}
    assert other.path is not None
    found = read_accounts(other.path.parent)[0]
    assert (found.stored, found.lost, found.waiting) == (1, {"disk_full": 50}, 0)
    assert ledger.account().waiting == 0


_counters, _ids = itertools.count(1), itertools.count(1)
_RESOURCE = ResourceRecord({"service.name": "test"})


def _record(name: str, text: str) -> SpanRecord:
    return SpanRecord(
        rollout_id="ro-1", attempt_id="at-1", counter=0, trace_id=f"{1:032x}", span_id=f"{next(_ids):016x}", name=name,
        start_ns=1_000, end_ns=2_000, attributes={"x": text}, resource=_RESOURCE,
    )  # fmt: skip


class Schedules(RuleBasedStateMachine):
    """Spans and rewards, a store that fails now and then, and a spill that is always too small, in any order."""

    def __init__(self) -> None:
        """Begin with an empty store."""
        super().__init__()
        self.before = (lane_module.FIRST_PAUSE_S, lane_module.GRACE_S, failures.loud)
        lane_module.FIRST_PAUSE_S, lane_module.GRACE_S, failures.loud = 0.0, -1.0, False
        settings.configure(spill_bytes=CAP)
        self.folder = Path(tempfile.mkdtemp())
        self.ledger = Ledger(None)
        self.store = RecordingStore(url=f"sqlite:///{self.folder}/x.db")
        self.lane = Lane(self.store, self.ledger)
        self.precious: list[str] = []

    @rule(ordinary=st.integers(0, 40), place=st.integers(0, 40), relieve=st.booleans())
    def put(self, ordinary: int, place: int, *, relieve: bool) -> None:
        """End some spans, with a reward among them."""
        spans = [_record("work", "y" * 6_000) for _ in range(ordinary)]
        reward = _record(REWARD, "")
        spans.insert(min(place, ordinary), reward)
        for span in spans:
            span.counter = next(_counters)
        self.precious.append(reward.span_id)
        self.ledger.produced[0] += len(spans)
        self.lane.put(WriteBatch(spans=spans), relieve=relieve)

    @rule(failing=st.sampled_from([0, 0, 1, 3, 1_000]))
    def deliver(self, failing: int) -> None:
        """Let the worker do one step; the store fails the next few times."""
        self.store.failures_left = failing
        self.lane.deliver(patient=False)

    @invariant()
    def adds_up(self) -> None:
        """Nothing is counted twice, the cap holds, and what is stored is stored in order."""
        account = self.ledger.account()
        assert account.produced == account.stored + account.duplicate + account.waiting + account.total_lost
        assert set(account.lost) <= {"disk_full"}
        counters = list(dict.fromkeys(span.counter for span in self.store.spans))
        assert counters == sorted(counters)
        assert len(counters) == account.stored
        assert spill_folders(self.store.url or "")[0].used_bytes() <= CAP

    def teardown(self) -> None:
        """With everything well again nothing waits, and every reward is there."""
        try:
            self.store.failures_left = 0
            for _ in range(50):
                self.lane.deliver(patient=False)
            assert not self.lane.is_waiting
            self.adds_up()
            assert self.ledger.account().waiting == 0
            stored = dict.fromkeys(span.span_id for span in self.store.spans if span.name == REWARD)
            assert list(stored) == self.precious
        finally:
            lane_module.FIRST_PAUSE_S, lane_module.GRACE_S, failures.loud = self.before
            shutil.rmtree(self.folder)


TestSchedules = Schedules.TestCase
TestSchedules.settings = hypothesis_settings(max_examples=15, stateful_step_count=30, deadline=None)


def test_at_the_end_of_the_process_a_full_disk_takes_the_rewards(
    ledger: Ledger, make: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    """The store is away and the disk has 20 KB left: they hold the rewards, and the other spans are counted."""
    _ = quiet
    store = RecordingStore(url=f"sqlite:///{tmp_path}/x.db")
    store.failures_left = 1_000
    lane = Lane(store, ledger)
    spans = [make() if place % 10 else make(REWARD) for place in range(100)]
    ledger.produced[0] += 100
    end = AttemptEnd(rollout_id="ro-1", attempt_id="at-1", status="succeeded", end_ns=2)
    lane.put(WriteBatch(spans=spans, ends=[end]), relieve=False)
    real = os.write

    def write(descriptor: int, content: bytes) -> int:
        if len(content) > 20_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content)

    monkeypatch.setattr(segment.os, "write", write)
    lane.rescue()
    lane.abandon()  # as the end of the process closes what is open
    monkeypatch.undo()
    found = replay(Spill(store.url or "", ledger, "default"), ledger)
    assert ids(found.spans) == ids(span for span in spans if span.name == REWARD)
    assert [batch.ends for batch in found.batches] == [[end]]
    assert check(ledger, found).lost == {"disk_full": 90}


def test_at_the_end_of_the_process_rewards_take_the_place_of_other_spans(
    ledger: Ledger, make: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    """The disk was full with ordinary spans before the rewards came: some of those go, the rewards are there."""
    _ = quiet
    store = RecordingStore(url=f"sqlite:///{tmp_path}/x.db")
    store.failures_left = 1_000
    lane = Lane(store, ledger)
    monkeypatch.setattr(lane_module, "GRACE_S", -1.0)
    settings.configure(spill_bytes=2**30)
    folder, real = spill_folders(store.url or "")[0], os.write

    def write(descriptor: int, content: bytes) -> int:
        if folder.used_bytes() + len(content) > 500_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content)

    monkeypatch.setattr(segment.os, "write", write)
    rewards: list[SpanRecord] = []
    for round_ in range(20):
        spans = [*(make() for _ in range(50)), *(make(REWARD) for _ in range(5 if round_ > 10 else 0))]
        rewards += spans[50:]
        ledger.produced[0] += len(spans)
        lane.put(WriteBatch(spans=spans), relieve=False)
        lane.deliver(patient=False)
    lane.rescue()
    lane.abandon()  # as the end of the process closes what is open
    monkeypatch.undo()
    found = replay(Spill(store.url or "", ledger, "default"), ledger)
    assert [span.span_id for span in found.spans if span.name == REWARD] == ids(rewards)
    assert len(found.spans) > 150
    assert check(ledger, found).lost == {"disk_full": 1_045 - len(found.spans)}


def test_the_cap_holds_again_after_what_passed_it(ledger: Ledger, make: MakeRecord, tmp_path: Path) -> None:
    """A batch that goes beyond the cap, because it must not be lost, lifts it for itself only."""
    settings.configure(spill_bytes=1)
    spill = Spill(f"sqlite:///{tmp_path}/x.db", ledger, "default")
    for folder in spill.folders:
        folder.make()
    with pytest.raises(OSError, match="cap"):
        put(spill, ledger, [make()])
    spill.put_at_any_cost(WriteBatch(spans=[make(REWARD)]))
    spill.close_segment()
    with pytest.raises(OSError, match="cap"):
        put(spill, ledger, [make()])
