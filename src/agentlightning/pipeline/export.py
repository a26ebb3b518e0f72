"""Delivery of records to stores: one call per batch and store, one retry policy, the disk when a store stays away."""

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
from agentlightning.pipeline.receipt import DROPPED, STORED, settle, settle_missing
from agentlightning.pipeline.spill import Replayer, Spill, folder_beside, write_or_split
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentlightning.pipeline.ledger import Ledger
    from agentlightning.types.protocol import SpanWriter
    from agentlightning.types.record import WriteResult

log = logging.getLogger("agentlightning.pipeline")

FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
GRACE_S = 0.5
"""A store that fails for longer gets its records by way of the disk."""
GIVEN_UP_S = 2.0
"""Who waits for a flush is not kept waiting by a store that has failed for longer."""
MOST_WAITING_BYTES = 8 * 2**20
"""Bytes of texts, 2 KB added for each span, that wait in memory for a store that can neither be reached nor spilled
for; older spans are lost."""
_MOST_FIRST_SPANS = 1_000
"""Spans that wait in memory for a store that has begun to fail; what is more goes to the disk at once."""
_REPLAY_SLICE_S = 0.1
"""Longest time of a replay between two looks at what is new."""


class Exporter:
    """Hands batches to the writers of their attempts, in order, each store for itself.

    ``put`` runs under the worker's lock of order, in whatever thread; ``deliver`` only in the worker.
    """

    def __init__(self, route: Callable[[str], SpanWriter], ledger: Ledger) -> None:
        """Use the writer that *route* returns for an attempt id, and count in *ledger*."""
        self._route = route
        self._ledger = ledger
        self._lanes: dict[int, Lane] = {}

    def waiting(self) -> bool:
        """Tell whether a store could not take something yet."""
        return any(lane.is_waiting for lane in list(self._lanes.values()))

    def may_resolve_flushes(self) -> bool:
        """Tell whether everything is delivered, or no store that is away is worth waiting for."""
        return not any(lane.is_waiting and not lane.is_given_up for lane in list(self._lanes.values()))

    def put(self, batch: WriteBatch, *, relieve: bool = False) -> None:
        """Take new records, in the order of hand-over.

        Args:
            batch: May be empty.
            relieve: A writer may be stuck: put the records on the disk where that is possible.
        """
        for lane, part in self._by_lane(batch):
            lane.put(part, relieve=relieve)

    def deliver(self, *, patient: bool = True) -> None:
        """Write what waits; *patient*: not to a store whose pause is not over."""
        for key, lane in list(self._lanes.items()):
            lane.deliver(patient=patient)
            if len(self._lanes) > 16 and not lane.is_waiting:  # noqa: PLR2004 - many short-lived stores
                del self._lanes[key]

    def rescue(self) -> None:
        """At the end of the process: bring what waits to the disk, and count what cannot be brought there as lost."""
        for lane in list(self._lanes.values()):
            lane.rescue()

    def abandon(self) -> None:
        """In a forked child: leave the parent's files to the parent."""
        for lane in self._lanes.values():
            lane.abandon()

    def _by_lane(self, batch: WriteBatch) -> Iterable[tuple[Lane, WriteBatch]]:
        parts: dict[int, tuple[Lane, WriteBatch]] = {}
        for name in ("starts", "spans", "ends"):
            for record in getattr(batch, name):
                writer = self._route(record.attempt_id)
                part = parts.get(id(writer))
                if part is None:
                    part = (self._lane(writer), WriteBatch(project=settings.get(settings.PROJECT)))
                    parts[id(writer)] = part
                getattr(part[1], name).append(record)
        return parts.values()

    def _lane(self, writer: SpanWriter) -> Lane:
        lane = self._lanes.get(id(writer))
        if lane is None:
            lane = self._lanes[id(writer)] = Lane(writer, self._ledger)
        return lane


class Lane:
    """What is on its way to one store, in order: in memory, then on the disk, then in memory behind that."""

    def __init__(self, writer: SpanWriter, ledger: Ledger) -> None:
        """Deliver to *writer*, which the lane keeps alive."""
        self._writer = writer
        self._ledger = ledger
        self._first: deque[WriteBatch] = deque()
        self._spill: Spill | None = None
        self._last: deque[WriteBatch] = deque()
        self._replayer: Replayer | None = None
        self._inherited: Replayer | None = None
        self._has_looked = False
        self._pause_s = FIRST_PAUSE_S
        self._not_before = 0.0
        self._failing_since: float | None = None
        self._reason = "store_error"
        self._spill_not_before = 0.0
        self._is_abandoned = False
        self._lock = threading.Lock()
        """Held while the three parts change, so that a rescue at the end of the process sees each batch once."""

    @property
    def is_waiting(self) -> bool:
        """Whether something is not in the store yet."""
        return bool(self._first or self._last or self._has_spilled or self._inherited)

    @property
    def is_given_up(self) -> bool:
        """Whether the store has been failing for so long that nobody should wait for it."""
        return self._failing_since is not None and time.monotonic() - self._failing_since > GIVEN_UP_S

    @property
    def _has_spilled(self) -> bool:
        return self._spill is not None and not self._spill.is_empty

    def put(self, batch: WriteBatch, *, relieve: bool) -> None:
        """Take *batch*; to the disk when the store is away or *relieve* says that its writer hangs."""
        with self._lock:
            failing = self._is_failing()
            if not (relieve or failing or self._last or self._has_spilled):
                self._first.append(batch)
                return
            self._last.append(batch)
            # What the worker may be writing at the moment stays, and so does what must come before the disk's.
            self._spill_all(move_first=failing and not relieve and not self._has_spilled)
            self._shed()

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
            self._spill = Spill(self._writer.url, self._ledger, settings.get(settings.PROJECT))
        parts = (self._first, self._last) if move_first else (self._last,)
        try:
            for part in parts:
                while part:
                    self._spill.put(part[0])
                    part.popleft()
        except OSError as error:  # no space, no folder: memory goes on, and the disk is tried again later
            failures.note("spill", error)
            self._spill_not_before = time.monotonic() + FIRST_PAUSE_S
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self._reason = "disk_full"

    def _shed(self) -> None:
        """Lose the oldest spans beyond the bound; rollouts and their ends are kept, they cost nothing."""
        sizes = [(batch, _size(batch)) for batch in (*self._first, *self._last)]
        waiting = sum(size for _, size in sizes)
        for batch, size in sizes:
            if waiting <= MOST_WAITING_BYTES:
                return
            if batch is not self._writing:
                waiting -= size
                self._lose(batch, self._reason)
                batch.spans.clear()

    _writing: WriteBatch | None = None
    """The batch that the worker is writing at the moment."""

    def deliver(self, *, patient: bool) -> None:
        """Write what waits, oldest first; return at the first failure."""
        if not self.is_waiting and self._has_looked:
            return
        if patient and time.monotonic() < self._not_before:
            return
        try:
            self._deliver_first()
            self._replay()
        except StoreError as error:
            self._fail(error)

    def _deliver_first(self) -> None:
        while self._first:
            batch = self._first[0]
            self._writing, spans = batch, batch.spans
            try:
                stored, duplicate = write_or_split(batch, self._write, self._count_bad)
            finally:
                self._writing = None
                settle_missing(spans, batch.spans, "store_error")
            with self._lock:
                if self._is_abandoned:  # a rescue has brought it to the disk meanwhile; who replays it counts it
                    self._is_abandoned = False
                    return
                self._first.popleft()
                self._ledger.count("stored", stored)
                self._ledger.count("duplicate", duplicate)
            settle(batch.spans, STORED)

    def _count_bad(self, number: int) -> None:
        self._ledger.count("store_error", number)

    def _write(self, batch: WriteBatch) -> WriteResult:
        result = self._writer.write_batch(batch)
        self._pause_s, self._not_before, self._failing_since = FIRST_PAUSE_S, 0.0, None
        self._reason = "store_error"
        return result

    def _replay(self) -> None:
        """Write what lies on the disk, ours and once what earlier processes left there, for a short while."""
        if not self._has_looked:
            self._has_looked = True
            beside = folder_beside(self._writer.url or "")
            if beside is not None and beside.ready():
                self._inherited = Replayer(beside, self._ledger)
        deadline = time.monotonic() + _REPLAY_SLICE_S
        if self._has_spilled:
            self._replay_own(deadline)
        elif self._inherited is not None and self._step(self._inherited, deadline):
            self._inherited.close()
            self._inherited = None
        with self._lock:
            if self._last and not self._has_spilled:
                self._first.extend(self._last)
                self._last.clear()

    def _replay_own(self, deadline: float) -> None:
        if self._spill is None:
            return
        with self._lock:
            self._spill.close_segment()
        for folder in self._spill.folders:
            if self._replayer is None:
                self._replayer = Replayer(folder, self._ledger)
            if not self._step(self._replayer, deadline):
                return
            self._replayer.close()
            self._replayer = None

    def _step(self, replayer: Replayer, deadline: float) -> bool:
        """Replay until *deadline*; True when nothing is left, or another process has taken it over."""
        try:
            while replayer.step(self._write) is not None:
                if time.monotonic() > deadline:
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
        self._reason = "disk_full" if isinstance(error, StoreFullError) else "store_error"
        for replayer in (self._replayer, self._inherited):
            if replayer is not None:
                replayer.pause()

    def rescue(self) -> None:
        """Bring everything to the disk, also what the worker is writing: the store recognises what comes twice."""
        with self._lock:
            self._is_abandoned = self._writing is not None
            self._spill_not_before = 0.0
            if self._first and self._has_spilled and self._spill is not None:
                with contextlib.suppress(OSError):  # what cannot be written is counted below
                    while self._first:
                        self._spill.put_before(self._first[-1])
                        self._first.pop()
            elif self._first or self._last:
                self._spill_all(move_first=True)
            if self._last:
                self._spill_all(move_first=False)
            if self._spill is not None:
                self._spill.close_segment()
            self._lose_rest()

    def _lose_rest(self) -> None:
        """Count what cannot be brought to the disk as lost, but for the batch that is being written right now."""
        for part in (self._first, self._last):
            for batch in part:
                if batch is not self._writing:
                    self._lose(batch, self._reason)
        self._first.clear()
        self._last.clear()

    def abandon(self) -> None:
        """In a forked child: leave the parent's files to the parent."""
        if self._spill is not None:
            self._spill.abandon()
        for replayer in (self._replayer, self._inherited):
            if replayer is not None:
                replayer.abandon()

    def _lose(self, batch: WriteBatch, reason: str) -> None:
        ended = sum(span.end_ns is not None for span in batch.spans)
        if ended:
            self._ledger.count(reason, ended)
            settle(batch.spans, DROPPED, reason)
            log.warning("%d spans are lost: %s", ended, reason)


def _size(batch: WriteBatch) -> int:
    size = 2_000 * len(batch.spans)
    for span in batch.spans:
        size += sum(len(value) for value in span.attributes.values() if isinstance(value, str))
    return size
