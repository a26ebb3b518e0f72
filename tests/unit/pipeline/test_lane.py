"""What is on its way to a remote store: on the disk and in memory at once, sent from memory, in order and all of it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from agentlightning.errors import StoreUnavailableError
from agentlightning.pipeline import lane as lane_module
from agentlightning.pipeline import replay
from agentlightning.pipeline.cap import Cap
from agentlightning.pipeline.lane import Lane
from agentlightning.pipeline.ledger import Account, Ledger
from agentlightning.pipeline.segment import open_segment
from agentlightning.pipeline.spill import PARCEL_RECORDS, Spill, spill_folders
from agentlightning.testing import RecordingStore
from agentlightning.types.record import SpanRecord, WriteBatch, WriteResult

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    MakeRecord = Callable[..., SpanRecord]

URL = "http://127.0.0.1:9"


class Remote(RecordingStore):
    """A server that can be away."""

    is_away = False

    def write_batch(self, batch: WriteBatch) -> WriteResult:
        """Take *batch* unless the server is away."""
        if self.is_away:
            msg = "away"
            raise StoreUnavailableError(msg)
        return super().write_batch(batch)


@pytest.fixture
def store() -> Remote:
    """Make the server."""
    made = Remote()
    made.url = URL
    return made


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Make the counters of this process."""
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def lane(store: Remote, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None) -> Lane:
    """Make the way to the server, which has looked for what others left there."""
    _ = quiet
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = Lane(store, ledger)
    made.deliver(patient=False)
    return made


def put(lane: Lane, ledger: Ledger, spans: list[SpanRecord]) -> None:
    """Hand *spans* over as the worker does."""
    ledger.produced[0] += len(spans)
    lane.put(WriteBatch(spans=spans), relieve=False)


def on_disk() -> list[str]:
    """Return the ids of the spans that lie on the disk for the server."""
    found: list[str] = []
    for folder in spill_folders(URL):
        for path in folder.segments():
            reader = open_segment(path)
            assert reader is not None
            found += [replay.decode_span(frame.payload).span_id for frame in reader if frame.kind == b"E"]
            reader.close()
    return found


def check_all(store: Remote, ledger: Ledger, spans: list[SpanRecord]) -> None:
    """Make sure that the server has *spans*, once and in order, and that nothing else is left anywhere."""
    assert [span.span_id for span in store.spans] == [span.span_id for span in spans]
    assert on_disk() == []
    assert ledger.account() == Account(produced=len(spans), stored=len(spans))


def test_what_waits_is_on_the_disk_and_is_sent_from_memory(
    lane: Lane, store: Remote, ledger: Ledger, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch is on the disk at once; a request holds all of them, and no segment is read back for it."""
    put(lane, ledger, [make_record()])
    lane.deliver(patient=False)  # also looks once for what other processes left
    first = list(store.spans)

    def refuse(*_: object) -> None:
        pytest.fail("a segment was read back")

    monkeypatch.setattr(replay, "open_segment", refuse)
    spans = [make_record() for _ in range(1_200)]
    for start in range(0, len(spans), 100):
        put(lane, ledger, spans[start : start + 100])
        assert on_disk() == [span.span_id for span in spans[: start + 100]]
    assert ledger.account().spilled == len(spans)
    lane.deliver(patient=False, now=False)
    assert len(store.batches) == 2
    check_all(store, ledger, [*first, *spans])


def test_requests_and_memory_are_bounded(lane: Lane, store: Remote, ledger: Ledger, make_record: MakeRecord) -> None:
    """However much waits, a request holds 2,000 records at most, and only some of them are in memory too."""
    spans = [make_record(attributes={"text": "x" * 500}) for _ in range(30_000)]
    for start in range(0, len(spans), 500):
        put(lane, ledger, spans[start : start + 500])
    assert lane.bytes < 20 * 2**20
    while lane.is_waiting:
        lane.deliver(patient=False)
    assert max(len(batch.spans) for batch in store.batches) <= PARCEL_RECORDS
    check_all(store, ledger, spans)


def test_a_server_that_goes_away_gets_all_of_it_in_order(
    lane: Lane, store: Remote, ledger: Ledger, make_record: MakeRecord
) -> None:
    """What could not be sent is on the disk alone; after the server is back it comes first, then what came since."""
    spans = [make_record() for _ in range(900)]
    put(lane, ledger, spans[:300])
    store.is_away = True
    lane.deliver(patient=False)
    assert lane.bytes == 0
    put(lane, ledger, spans[300:600])
    lane.deliver(patient=False)
    assert on_disk() == [span.span_id for span in spans[:600]]
    store.is_away = False
    put(lane, ledger, spans[600:])
    while lane.is_waiting:
        lane.deliver(patient=False)
    check_all(store, ledger, spans)


def test_the_last_of_a_replay_does_not_wait_for_more(
    lane: Lane, store: Remote, ledger: Ledger, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay whose slice is over before its last two records goes on at the next look, not after the interval."""
    monkeypatch.setenv("AGL_FLUSH_INTERVAL", "3600")
    monkeypatch.setattr(lane_module, "_REPLAY_SLICE_S", 0.0)
    spans = [make_record() for _ in range(PARCEL_RECORDS + 2)]
    store.is_away = True
    put(lane, ledger, spans[:1])
    lane.deliver(patient=False)
    put(lane, ledger, spans[1:])
    store.is_away = False
    for _ in range(4):
        lane.deliver(patient=False, now=False)
    check_all(store, ledger, spans)


def test_the_end_of_the_process_leaves_segments_that_others_replay(
    lane: Lane, store: Remote, ledger: Ledger, make_record: MakeRecord
) -> None:
    """What is in memory too when the process ends lies on the disk, closed; another way to the server finds it."""
    put(lane, ledger, [make_record()])
    lane.deliver(patient=False)
    spans = [make_record() for _ in range(50)]
    put(lane, ledger, spans)
    lane.rescue()
    assert [path.suffix for folder in spill_folders(URL) for path in folder.segments()] == [".seg"]
    other = Lane(store, ledger)
    more = make_record()
    put(other, ledger, [more])
    while other.is_waiting or on_disk():
        other.deliver(patient=False)
    assert {span.span_id for span in store.spans} >= {span.span_id for span in (*spans, more)}
    assert ledger.account() == Account(produced=52, stored=52)


def test_what_others_left_is_replayed_to_its_end(
    lane: Lane, store: Remote, ledger: Ledger, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay of many segments goes on over its slices, also when nothing of this process waits; no flush waits."""
    monkeypatch.setattr(lane_module, "_REPLAY_SLICE_S", 0.0)
    monkeypatch.setattr(lane_module, "_LOOK_AROUND_S", 0.0)
    left: list[SpanRecord] = []
    for _ in range(5):
        earlier = Lane(store, ledger)
        spans = [make_record() for _ in range(20)]
        put(earlier, ledger, spans)
        earlier.rescue()
        left += spans
    mine = make_record()
    put(lane, ledger, [mine])
    for _ in range(3):
        lane.deliver(patient=False)
    assert lane.is_busy
    assert not lane.is_waiting
    while lane.is_busy:
        lane.deliver(patient=False, now=False)
    assert [span.span_id for span in store.spans if span.counter != mine.counter] == [span.span_id for span in left]
    assert not on_disk()


def test_what_the_disk_could_not_take_goes_there_as_soon_as_it_can(
    lane: Lane, store: Remote, ledger: Ledger, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans that wait in memory because the disk was full are on it at the next step, without a span behind them."""
    monkeypatch.setattr(lane_module, "FIRST_PAUSE_S", 0.0)
    store.is_away = True

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Cap, "make_room", full)
        put(lane, ledger, spans := [make_record() for _ in range(10)])
        assert not on_disk()
    lane.deliver(patient=True)
    assert on_disk() == [span.span_id for span in spans]


def test_a_child_leaves_the_files_to_its_parent(
    lane: Lane, store: Remote, ledger: Ledger, make_record: MakeRecord
) -> None:
    """After ``abandon``, as in a forked child, nothing is sent and nothing deleted."""
    spans = [make_record() for _ in range(10)]
    put(lane, ledger, spans)
    before = on_disk()
    lane.abandon()
    lane.deliver(patient=False)
    assert (store.spans, on_disk()) == ([], before)
    assert len(before) == len(spans)


def test_a_parcel_ends_where_the_rules_change(ledger: Ledger, make_record: MakeRecord, tmp_path: Path) -> None:
    """Spans that were redacted by other rules go in another request, which says so."""
    spill = Spill(f"sqlite:///{tmp_path}/x.db", ledger, "default")
    for rules in ("one", "one", "two"):
        spill.put(WriteBatch(spans=[make_record()], rules=rules), keep=True)
    found: list[tuple[str, int]] = []
    while (parcel := spill.take()) is not None:
        found.append((parcel.batch.rules, len(parcel.batch.spans)))
        spill.done(parcel)
    assert found == [("one", 2), ("two", 1)]
    assert spill.is_empty
