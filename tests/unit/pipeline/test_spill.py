"""The spill of a store: nothing is lost on the way to the disk and back, and what is lost is counted."""

from __future__ import annotations

import errno
import os
import random
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from agentlightning import settings
from agentlightning.errors import StoreUnavailableError
from agentlightning.pipeline import segment
from agentlightning.pipeline.ledger import Account, Ledger, read_accounts
from agentlightning.pipeline.lock import FolderLock
from agentlightning.pipeline.replay import Replayer, replay_spill
from agentlightning.pipeline.spill import Spill, spill_folders
from agentlightning.store.sql.writer import SqliteWriter
from agentlightning.testing import RecordingStore
from agentlightning.types.record import AttemptEnd, RolloutStart, SpanRecord, WriteBatch, WriteResult

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Name a store that is not made."""
    return f"sqlite:///{tmp_path}/x.db"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Make the counters of this process."""
    return Ledger(tmp_path / "x.db.ledger" / "direct")


@pytest.fixture
def spill(url: str, ledger: Ledger) -> Spill:
    """Make the spill of that store."""
    return Spill(url, ledger, "default")


def produce(ledger: Ledger, number: int) -> None:
    """Count spans as the queue does."""
    ledger.produced[0] += number


def put(spill: Spill, ledger: Ledger, spans: list[SpanRecord]) -> None:
    """Produce *spans* and spill them as one batch."""
    produce(ledger, len(spans))
    spill.put(WriteBatch(spans=spans))


def replay(spill: Spill, store: RecordingStore, ledger: Ledger) -> int:
    """Replay everything and return how many records were damaged."""
    spill.close_segment()
    damaged = 0
    for folder in spill.folders:
        replayer = Replayer(folder, ledger)
        while (done := replayer.step(store.write_batch)) is not None:
            damaged += done.damaged
        replayer.close()
    return damaged


def test_everything_comes_back_in_order(spill: Spill, ledger: Ledger, make_record: Callable[..., SpanRecord]) -> None:
    """Spans, open notes, rollouts and ends are replayed as they were, in the order in which they were spilled."""
    odd = {"big": 10**30, "nan": float("nan"), "ids": list(range(500)), "text": "日本\x00", "nested": {"a": [1, "x"]}}
    first = make_record(attributes=odd)
    opened = make_record(end_ns=None)
    start = RolloutStart(rollout_id="ro-1", attempt_id="at-1", project="p", start_ns=1, input={"q": 1})
    end = AttemptEnd(rollout_id="ro-1", attempt_id="at-1", status="succeeded", end_ns=2)
    produce(ledger, 3)
    spill.put(WriteBatch(starts=[start], spans=[first, opened]))
    spill.put(WriteBatch(spans=[make_record(span_id=opened.span_id), last := make_record()], ends=[end]))
    assert ledger.account().spilled == ledger.account().waiting == 3
    store = RecordingStore()
    assert replay(spill, store, ledger) == 0
    assert [span.counter for span in store.spans] == sorted(span.counter for span in store.spans)
    assert store.spans[0].attributes["big"] == str(10**30)
    assert store.spans[0].attributes["ids"] == odd["ids"]
    assert store.spans[0].attributes["text"] == odd["text"]
    assert msgspec.msgpack.encode(store.spans[-1]) == msgspec.msgpack.encode(last)
    assert [batch.starts for batch in store.batches] == [[start]]
    assert [batch.ends for batch in store.batches] == [[end]]
    assert ledger.account() == Account(produced=3, stored=3)
    assert spill.is_empty
    assert not spill.folders[0].segments()


def test_segments_rotate_and_keep_their_order(
    spill: Spill, ledger: Ledger, make_record: Callable[..., SpanRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment that is full is closed; the next one is replayed after it, and memory sees 500 records at most."""
    monkeypatch.setattr("agentlightning.pipeline.spill.SEGMENT_BYTES", 20_000)
    for _ in range(40):
        put(spill, ledger, [make_record(attributes={"x": "y" * 100}) for _ in range(40)])
    assert len(spill.folders[0].segments()) > 10
    store = RecordingStore()
    assert replay(spill, store, ledger) == 0
    counters = [span.counter for span in store.spans]
    assert len(counters) == 1_600
    assert counters == sorted(counters)
    assert max(len(batch.spans) for batch in store.batches) <= 500


def test_files_are_private_whatever_the_umask(
    spill: Spill, ledger: Ledger, make_record: Callable[..., SpanRecord]
) -> None:
    """The folder is 0700 and every file 0600, also under umask 000, and a folder that was open is closed."""
    folder = spill.folders[0].path
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    before = os.umask(0)
    try:
        put(spill, ledger, [make_record()])
        assert FolderLock(folder).acquire()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_symbolic_link_is_never_followed(
    spill: Spill, ledger: Ledger, make_record: Callable[..., SpanRecord], tmp_path: Path
) -> None:
    """A link in place of the folder is refused, and the next place is used."""
    trap = tmp_path / "trap"
    trap.mkdir()
    spill.folders[0].path.symlink_to(trap)
    put(spill, ledger, [make_record()])
    assert not list(trap.iterdir())
    assert len(spill.folders[1].segments()) == 1
    assert replay(spill, store := RecordingStore(), ledger) == 0
    assert len(store.spans) == 1


def test_a_planted_file_is_not_executed_and_not_read(url: str, tmp_path: Path) -> None:
    """Pickles and links with the name of a segment are no segments: nothing runs, nothing is written."""
    folder = spill_folders(url)[0]
    folder.make()
    secret = tmp_path / "secret"
    secret.write_text("content")
    (folder.path / "00000000000000000001-1-a.seg").symlink_to(secret)
    (folder.path / "00000000000000000002-1-a.seg").write_bytes(b"cos\nsystem\n(S'touch /tmp/planted'\ntR.")
    store = RecordingStore(url=url)
    replay_spill(store, timeout_s=5)
    assert store.spans == []
    assert secret.read_text() == "content"
    assert not Path("/tmp/planted").exists()


def test_beyond_the_cap_the_oldest_is_dropped_and_counted(
    url: str, ledger: Ledger, make_record: Callable[..., SpanRecord]
) -> None:
    """The spill never grows beyond its cap; the oldest segments go, their spans are ``disk_full``."""
    settings.configure(spill_bytes=400_000)
    spill = Spill(url, ledger, "default")
    for _ in range(100):
        put(spill, ledger, [make_record(attributes={"x": "y" * 1_000}) for _ in range(10)])
        assert spill.folders[0].used_bytes() <= 400_000
    store = RecordingStore()
    replay(spill, store, ledger)
    account = ledger.account()
    assert account.produced == 1_000
    assert account.lost == {"disk_full": 1_000 - account.stored}
    assert account.waiting == 0
    assert 100 < account.stored < 400
    counters = [span.counter for span in store.spans]
    assert counters == list(range(counters[0], counters[0] + account.stored))


def test_zero_turns_spilling_off(url: str, ledger: Ledger, make_record: Callable[..., SpanRecord]) -> None:
    """With ``AGL_SPILL_BYTES=0`` nothing is written beside the store."""
    settings.configure(spill_bytes=0)
    spill = Spill(url, ledger, "default")
    with pytest.raises(OSError, match="turned off"):
        spill.put(WriteBatch(spans=[make_record()]))
    assert not spill.folders[0].path.exists()


def test_a_full_disk_leaves_no_half_record(
    spill: Spill, ledger: Ledger, make_record: Callable[..., SpanRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails in the middle is undone: what follows it can be read, and only what was written is counted."""
    put(spill, ledger, [make_record()])
    real = os.write

    def half(descriptor: int, content: bytes) -> int:
        if len(content) > 50:
            return real(descriptor, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segment.os, "write", half)
    with pytest.raises(OSError, match="No space"):
        spill.put(WriteBatch(spans=[make_record(name="lost")]))
    monkeypatch.undo()
    put(spill, ledger, [make_record()])
    store = RecordingStore()
    assert replay(spill, store, ledger) == 0
    assert [span.name == "lost" for span in store.spans] == [False, False]
    assert ledger.account().stored == 2


def test_a_store_that_fails_halfway_gets_the_rest_later(
    spill: Spill, ledger: Ledger, make_record: Callable[..., SpanRecord]
) -> None:
    """The chunk that failed comes again, nothing twice; in between the folder is free for others."""
    for _ in range(4):
        put(spill, ledger, [make_record() for _ in range(400)])
    spill.close_segment()
    replayer = Replayer(spill.folders[0], ledger)
    store = RecordingStore()
    replayer.step(store.write_batch)
    store.failures_left = 1
    with pytest.raises(StoreUnavailableError):
        replayer.step(store.write_batch)
    replayer.pause()
    other = FolderLock(spill.folders[0].path)
    assert other.acquire()
    assert replayer.step(store.write_batch) is None
    other.release()
    while replayer.step(store.write_batch) is not None:
        pass
    assert ledger.account() == Account(produced=1_600, stored=1_600)


def test_two_replayers_never_share_a_folder(
    spill: Spill, ledger: Ledger, make_record: Callable[..., SpanRecord]
) -> None:
    """While one replays, another finds nothing to do; afterwards nothing is left for it."""
    put(spill, ledger, [make_record() for _ in range(1_200)])
    spill.close_segment()
    one, other = (Replayer(spill.folders[0], ledger) for _ in range(2))
    store = RecordingStore()
    assert one.step(store.write_batch) is not None
    assert other.step(store.write_batch) is None
    while one.step(store.write_batch) is not None:
        pass
    assert other.step(store.write_batch) is None
    assert len(store.spans) == 1_200


def test_a_replay_that_was_killed_before_the_delete_changes_nothing(
    spill: Spill, ledger: Ledger, url: str, make_record: Callable[..., SpanRecord], tmp_path: Path
) -> None:
    """Replaying a segment that is in the store already leaves store and ledger as they were."""
    put(spill, ledger, [make_record(attributes={"n": place}) for place in range(700)])
    spill.close_segment()
    (path,) = spill.folders[0].segments()
    copy = path.read_bytes()
    writer = SqliteWriter(tmp_path / "x.db")
    assert replay_spill(writer, timeout_s=10) == (700, 0, 0)
    path.write_bytes(copy)
    assert replay_spill(writer, timeout_s=10) == (0, 700, 0)
    writer.close()
    assert ledger.account() == Account(produced=700, stored=700)


def test_damage_anywhere_costs_one_span_and_is_counted(
    url: str, make_record: Callable[..., SpanRecord], tmp_path: Path, quiet: None
) -> None:
    """A bit flipped anywhere in a segment never stops a replay; the loss is in the ledger of who wrote it."""
    spans = [make_record(attributes={"x": "y" * 50}) for _ in range(20)]
    seed = random.Random(3)
    for number in range(150):
        ledger = Ledger(tmp_path / "ledgers" / str(number))
        spill = Spill(url, ledger, "default")
        put(spill, ledger, spans)
        spill.close_segment()
        (path,) = spill.folders[0].segments()
        damaged = bytearray(path.read_bytes())
        damaged[seed.randrange(len(damaged))] ^= 1 << seed.randrange(8)
        path.write_bytes(bytes(damaged))
        store = RecordingStore(url=url)
        replay_spill(store, timeout_s=10)
        account = ledger.account()
        assert account.stored == len(store.spans) >= 19
        assert account.stored + account.lost.get("store_error", 0) == 20
        assert account.waiting == 0
        assert not path.exists()


def test_another_process_s_spill_is_settled_in_its_ledger(
    url: str, tmp_path: Path, make_record: Callable[..., SpanRecord]
) -> None:
    """Spilled spans of a dead process are waiting, not killed; once replayed they are stored."""
    ledger = Ledger(tmp_path / "x.db.ledger" / "at-1")
    spill = Spill(url, ledger, "default")
    put(spill, ledger, [make_record() for _ in range(5)])
    produce(ledger, 2)
    spill.close_segment()
    (path,) = spill.folders[0].segments()
    gone = spill.head.process.rpartition("/")[0] + "/1"  # the same pid, started at another time
    assert ledger.path is not None
    content = ledger.path.read_bytes().replace(
        spill.head.process.encode(), gone.encode().ljust(len(spill.head.process), b"\0")
    )
    ledger.path.write_bytes(content)
    head = msgspec.structs.replace(spill.head, process=gone)
    rewritten = segment.SegmentWriter(spill.folders[0], head)
    reader = segment.open_segment(path)
    assert reader is not None
    rewritten.append([(frame.kind, frame.payload) for frame in reader if frame.kind == b"E"])
    reader.close()
    path.unlink()
    assert read_accounts(ledger.path.parent)[0] == Account(7, 0, 0, 5, {"killed": 2}, 5)
    rewritten.abandon()  # killed: never closed
    replay_spill(RecordingStore(url=url), timeout_s=5)
    assert read_accounts(ledger.path.parent)[0] == Account(7, 5, 0, 0, {"killed": 2}, 0)


def test_a_live_process_s_open_segment_is_left_alone(
    spill: Spill, ledger: Ledger, url: str, make_record: Callable[..., SpanRecord]
) -> None:
    """What is still being written is nobody else's to replay."""
    put(spill, ledger, [make_record()])
    store = RecordingStore(url=url)
    assert replay_spill(store, timeout_s=5) == (0, 0, 0)
    assert store.spans == []


def test_a_record_that_no_store_takes_costs_itself_only(
    spill: Spill, ledger: Ledger, make_record: Callable[..., SpanRecord], quiet: None
) -> None:
    """A writer that raises for one record gets all the others, and the loss is counted."""
    spans = [make_record() for _ in range(300)]
    put(spill, ledger, spans)
    store = RecordingStore()

    class Picky(RecordingStore):
        def write_batch(self, batch: WriteBatch) -> WriteResult:
            if any(span.counter == spans[137].counter for span in batch.spans):
                msg = "not this one"
                raise ValueError(msg)
            return store.write_batch(batch)

    replay(spill, Picky(), ledger)
    assert len(store.spans) == 299
    assert ledger.account() == Account(300, 299, 0, 0, {"store_error": 1}, 0)


def test_the_portable_lock_is_taken_over_from_the_dead(tmp_path: Path) -> None:
    """Where there is no ``flock``, a file with the owner's name does: others wait, the dead are replaced."""
    one, other = (FolderLock(tmp_path, portable=True) for _ in range(2))
    assert one.acquire()
    assert one.acquire()
    assert not other.acquire()
    one.release()
    assert other.acquire()
    other.abandon()
    content = (tmp_path / ".lock").read_text()
    (tmp_path / ".lock").write_text(content.rpartition("/")[0] + "/1")
    assert one.acquire()
    one.release()
