"""What is on its way to one store: in memory, on the disk, in memory behind that; in order, with one retry policy."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from agentlightning import settings
from agentlightning._internal.guard import failures
from agentlightning.errors import StoreError, StoreFullError
from agentlightning.pipeline import stage
from agentlightning.pipeline.heap import heap_bytes
from agentlightning.pipeline.receipt import DROPPED, STORED, settle, settle_missing
from agentlightning.pipeline.replay import Replayer, write_or_split
from agentlightning.pipeline.sampling import ALWAYS as PRECIOUS
from agentlightning.pipeline.spill import PARCEL_RECORDS, Spill, folder_beside
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from agentlightning.pipeline.ledger import Ledger
    from agentlightning.types.protocol import SpanWriter
    from agentlightning.types.record import WriteResult

log = logging.getLogger("agentlightning.pipeline")

FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
GRACE_S = 0.5
"""A store that fails for longer gets its records by way of the disk."""
GIVEN_UP_S = 2.0
"""Who waits for a flush is not kept waiting by a store that has failed for longer."""
_REMOTE = ("http://", "https://")
"""Stores that get requests of ``batch_size`` spans at intervals; the disk of this machine is the journal meanwhile."""
MOST_WAITING_BYTES = 8 * 2**20
"""Estimate of the heap of spans that wait for a store that can neither be reached nor spilled for; older ones are
lost."""
_MOST_FIRST_SPANS = 1_000
"""Spans that wait in memory for a store that has begun to fail; what is more goes to the disk at once."""
_LOOK_AROUND_S = 10.0
"""How often it is looked for what other processes have left on the disk for a remote store."""
_REPLAY_SLICE_S = 0.1
"""Longest time of a replay between two looks at what is new."""
_RESCUE_LOCK_S = 2.0
"""Longest wait of a rescue for the lane: in a signal handler its holder may wait for the thread that is interrupted."""


class Health:
    """How the deliveries of this process went lately; written by the worker, read by the watch."""

    def __init__(self) -> None:
        """Begin with nothing known."""
        self.outcomes: deque[bool] = deque(maxlen=100)
        """Of the last deliveries, whether each worked."""
        self.slowest_s = 0.0
        """Longest delivery since somebody asked last."""
        self.since: float | None = None
        """When the delivery began that is under way, by the monotonic clock."""

    def take_slowest_s(self) -> float:
        """Return how long the slowest delivery took, also one that is under way; and forget it."""
        slowest, self.slowest_s = self.slowest_s, 0.0
        since = self.since
        return slowest if since is None else max(slowest, time.monotonic() - since)


class Lane:
    """What is on its way to one store, in order: in memory, then on the disk, then in memory behind that."""

    def __init__(
        self, writer: SpanWriter, ledger: Ledger, health: Health | None = None, *, project: str | None = None
    ) -> None:
        """Deliver to *writer*, which the lane keeps alive; *project* as in ``Exporter``."""
        self._writer = writer
        self._project = project
        self._health = health or Health()
        self.is_remote: bool = (writer.url or "").startswith(_REMOTE)
        self._collected = 0
        """Spans that came since the last request to a remote store."""
        self._sent_at = float("-inf")
        self._ledger = ledger
        self._first: deque[WriteBatch] = deque()
        self._spill: Spill | None = None
        self._last: deque[WriteBatch] = deque()
        self._replayer: Replayer | None = None
        self._inherited: Replayer | None = None
        self._has_looked = False
        self._looked_at = float("-inf")
        """When the folders of the spill were looked through last."""
        self._pause_s = FIRST_PAUSE_S
        self._not_before = 0.0
        self._failing_since: float | None = None
        self._store_is_full = self._disk_is_full = False
        self._spill_not_before = 0.0
        self._lock = threading.Lock()
        """Held while the three parts change, and what is being written: each batch is in one place, and counts once."""

    @property
    def is_waiting(self) -> bool:
        """Whether something is not in the store yet."""
        return bool(self._first or self._last or self._has_spilled or self._inherited)

    @property
    def is_busy(self) -> bool:
        """Whether something waits, or a replay of what other processes left is under way: no flush waits for that."""
        return self.is_waiting or self._replayer is not None

    @property
    def writer(self) -> SpanWriter:
        """Where it delivers."""
        return self._writer

    @property
    def bytes(self) -> int:
        """Estimate of the heap that it takes."""
        with self._lock:
            kept = self._spill.bytes if self._spill is not None else 0
            return kept + sum(heap_bytes(batch.spans) for batch in (*self._first, *self._last))

    def spill(self) -> None:
        """Bring what waits in memory to the disk where that is possible."""
        with self._lock:
            if self._spill is not None and self._spill.bytes:
                self._spill.close_segment()
            if self._writing is None and (self._first or self._last):
                self._spill_all(move_first=not self._has_spilled)

    @property
    def is_given_up(self) -> bool:
        """Whether the store has been failing for so long that nobody should wait for it."""
        return self._failing_since is not None and time.monotonic() - self._failing_since > GIVEN_UP_S

    @property
    def _has_spilled(self) -> bool:
        return self._spill is not None and not self._spill.is_empty

    def put(self, batch: WriteBatch, *, relieve: bool) -> None:
        """Take *batch*; to the disk when the store is remote or away, or *relieve* says that its writer hangs."""
        with self._lock:
            failing = self._is_failing()
            self._collected += len(batch.spans)
            if not (relieve or failing or self.is_remote or self._last or self._has_spilled):
                self._first.append(batch)
                return
            self._last.append(batch)
            # What the worker may be writing at the moment stays, and so does what must come before the disk's.
            self._spill_all(move_first=failing and not relieve and not self._has_spilled)
            self._shed()

    def _is_due(self) -> bool:
        """Tell whether it is time for a request to a remote store: the first spans are sent at once."""
        if self._collected >= settings.get(settings.BATCH_SIZE):
            return True
        return time.monotonic() - self._sent_at >= settings.get(settings.FLUSH_INTERVAL)

    def _is_failing(self) -> bool:
        since = self._failing_since
        if since is None:
            return False
        return time.monotonic() - since > GRACE_S or sum(len(part.spans) for part in self._first) > _MOST_FIRST_SPANS

    def _spill_all(self, *, move_first: bool) -> None:
        """Move to the disk what waits behind it; *move_first*: what waits before it too."""
        if self._writer.url is None or time.monotonic() < self._spill_not_before:
            return
        if self._spill is None:
            self._spill = Spill(self._writer.url, self._ledger, self._project or settings.get(settings.PROJECT))
        parts = (self._first, self._last) if move_first else (self._last,)
        try:
            for part in parts:
                while part:
                    self._spill.put(part[0], keep=self.is_remote and self._failing_since is None)
                    part.popleft()
                    self._disk_is_full = False
        except OSError as error:  # no space, no folder: memory goes on, and the disk is tried again later
            failures.note("spill", error)
            self._spill_not_before = time.monotonic() + FIRST_PAUSE_S
            self._disk_is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        except Exception as error:  # noqa: BLE001 - no memory, for one: what was not written waits in memory as before
            failures.note("spill", error)
            self._spill_not_before = time.monotonic() + FIRST_PAUSE_S

    def _shed(self) -> None:
        """Lose the oldest spans beyond the bound, rewards and exceptions after all others.

        Rollouts and their ends are kept, they cost nothing.
        """
        limit = min(MOST_WAITING_BYTES, settings.get(settings.MEMORY_THRESHOLD) // 4)
        batches = [batch for batch in (*self._first, *self._last) if batch is not self._writing]
        waiting = sum(heap_bytes(batch.spans) for batch in (*self._first, *self._last))
        for lane in (False, True):
            for batch in batches:
                if waiting <= limit:
                    return
                lost = WriteBatch(spans=[span for span in batch.spans if (span.name in PRECIOUS) is lane])
                waiting -= heap_bytes(lost.spans)
                self._lose(lost)
                batch.spans = [span for span in batch.spans if (span.name in PRECIOUS) is not lane]

    _writing: WriteBatch | None = None
    """The batch that the worker is writing at the moment."""

    def deliver(self, *, patient: bool, now: bool = True) -> None:
        """Write what waits, oldest first; return at the first failure. *now*: whatever the interval of requests is."""
        if not self.is_busy and self._has_looked:
            return
        if self._last:  # the disk had no place for it when it came
            with self._lock:
                self._spill_all(move_first=False)
        if patient and time.monotonic() < self._not_before:
            return
        try:
            self._deliver_first()
            # A replay that ran out of its slice goes on: its last few records need not wait for others.
            if self.is_remote and not (now or self._replayer is not None or self._is_due()):
                return
            self._replay()
            if not self.is_waiting:
                self._collected = 0
        except StoreError as error:
            self._fail(error)

    def _deliver_first(self) -> None:
        while True:
            with self._lock:
                if not self._first:
                    return
                batch = self._writing = self._first[0]
                spans = batch.spans
            counts: tuple[int, int] | None = None
            try:
                counts = write_or_split(batch, self._write, self._count_bad)
            finally:
                with self._lock:
                    self._writing = None
                    # Else a rescue has brought it to the disk meanwhile, and who replays it counts it.
                    is_ours = bool(self._first) and self._first[0] is batch
                    if is_ours and counts is not None:
                        self._first.popleft()
                        self._ledger.count("stored", counts[0])
                        self._ledger.count("duplicate", counts[1])
                settle_missing(spans, batch.spans, "store_error")
            if not is_ours:
                return
            settle(batch.spans, STORED)

    def _count_bad(self, number: int, reason: str) -> None:
        self._ledger.count(reason, number)

    def _write(self, batch: WriteBatch) -> WriteResult:
        began = self._health.since = time.monotonic()
        is_well = False
        stage.note(batch.spans, stage.DELIVERED)
        try:
            result = self._writer.write_batch(batch)
            is_well = True
        finally:
            self._health.since = None
            self._health.slowest_s = max(self._health.slowest_s, time.monotonic() - began)
            self._health.outcomes.append(is_well)
        self._pause_s, self._not_before, self._failing_since = FIRST_PAUSE_S, 0.0, None
        self._store_is_full = False
        return result

    def _replay(self) -> None:
        """Write what lies on the disk, ours and once what earlier processes left there, for a short while."""
        if not self._has_looked:
            self._has_looked = True
            beside = folder_beside(self._writer.url or "")
            if beside is not None and beside.ready():
                self._inherited = Replayer(beside, self._ledger)
        deadline = time.monotonic() + _REPLAY_SLICE_S
        if self._has_spilled or self._replayer is not None:
            self._replay_own(deadline)
        elif self._inherited is not None and self._step(self._inherited, deadline):
            self._inherited.close()
            self._inherited = None
        with self._lock:
            if self._last and not self._has_spilled:
                self._first.extend(self._last)
                self._last.clear()

    def _replay_own(self, deadline: float) -> None:
        if self._spill is None or self._deliver_parcels(deadline):
            return
        with self._lock:
            self._spill.close_segment()
        for folder in self._spill.folders:
            if self._replayer is None:
                self._replayer = Replayer(folder, self._ledger, self._most_records(), self._spill.cap.settled)
            if not self._step(self._replayer, deadline):
                return
            self._replayer.close()
            self._replayer = None
        self._looked_at = time.monotonic()

    def _deliver_parcels(self, deadline: float) -> bool:
        """Send what is in memory too; True when that is all that there is to do for now."""
        while self._spill is not None:
            with self._lock:
                parcel = self._spill.take()
            if parcel is None:
                break
            batch, spans = parcel.batch, parcel.batch.spans
            stored, duplicate = write_or_split(
                batch, self._write, lambda number, reason: self._ledger.settle(reason, number)
            )
            settle_missing(spans, batch.spans, "store_error")
            with self._lock:
                self._spill.done(parcel)
            self._ledger.settle("stored", stored)
            self._ledger.settle("duplicate", duplicate)
            settle(batch.spans, STORED)
            self._note_sent(stored + duplicate)
            if self._sent_at > deadline and self._has_spilled:
                return True
        # What other processes left for this store is looked for now and then.
        return not self._has_spilled and time.monotonic() - self._looked_at < _LOOK_AROUND_S

    def _note_sent(self, spans: int) -> None:
        self._collected -= spans
        self._sent_at = time.monotonic()

    def _most_records(self) -> int | None:
        return PARCEL_RECORDS if self.is_remote else None

    def _step(self, replayer: Replayer, deadline: float) -> bool:
        """Replay until *deadline*; True when nothing is left, or another process has taken it over."""
        try:
            while (done := replayer.step(self._write)) is not None:
                self._note_sent(done.stored + done.duplicate)
                if self._sent_at > deadline:
                    return False
        except OSError as error:
            failures.note("spill.replay", error)
        return True

    def _fail(self, error: StoreError) -> None:
        failures.note("store", error)
        now = time.monotonic()
        self._not_before = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._failing_since = self._failing_since or now
        self._store_is_full = isinstance(error, StoreFullError)
        for replayer in (self._replayer, self._inherited):
            if replayer is not None:
                replayer.pause()
        with self._lock:
            if self._spill is not None:
                self._spill.close_segment()

    def rescue(self, deadline: float = 0.0) -> None:
        """Bring everything to the disk, also what the worker is writing: the store recognises what comes twice.

        *deadline*: Until when, by the monotonic clock, it may wait for another process that has the spill.
        """
        if not self._lock.acquire(timeout=_RESCUE_LOCK_S):
            return
        try:
            if self._spill is not None:
                self._spill.begin_end(deadline)
            self._spill_not_before = 0.0
            if self._first and self._has_spilled and self._spill is not None:
                with contextlib.suppress(Exception):  # what cannot be written is counted below
                    while self._first:
                        self._spill.put_before(self._first[-1])
                        self._first.pop()
            elif self._first or self._last:
                self._spill_all(move_first=True)
            if self._last:
                self._spill_all(move_first=False)
            self._lose_rest()
            if self._spill is not None:
                self._spill.close_segment()
        finally:
            self._lock.release()

    def _lose_rest(self) -> None:
        """Count what cannot be brought to the disk as lost, but for the batch that is being written right now."""
        for part in (self._first, self._last):
            for _ in range(len(part)):
                batch = part.popleft()
                if batch is self._writing:
                    part.append(batch)
                else:
                    self._lose(self._save_precious(batch))

    def _save_precious(self, batch: WriteBatch) -> WriteBatch:
        """Bring to a disk that has no place for all of *batch* what is lost last, and return the rest."""
        precious = [span for span in batch.spans if span.name in PRECIOUS]
        if self._spill is None or not (precious or batch.starts or batch.ends):
            return batch
        few = WriteBatch(project=batch.project, rules=batch.rules, starts=batch.starts, spans=precious, ends=batch.ends)
        try:
            self._spill.put_at_any_cost(few)
        except Exception as error:  # noqa: BLE001 - not even that has a place; it is counted
            failures.note("spill", error)
            return batch
        return WriteBatch(spans=[span for span in batch.spans if span.name not in PRECIOUS])

    def abandon(self) -> None:
        """In a forked child: leave the parent's files to the parent."""
        if self._spill is not None:
            self._spill.abandon()
        for replayer in (self._replayer, self._inherited):
            if replayer is not None:
                replayer.abandon()

    def _lose(self, batch: WriteBatch) -> None:
        reason = "disk_full" if self._disk_is_full or self._store_is_full else "store_error"
        ended = sum(span.end_ns is not None for span in batch.spans)
        if ended:
            self._ledger.count(reason, ended)
            settle(batch.spans, DROPPED, reason)
            log.warning("%d spans are lost: %s", ended, reason)
