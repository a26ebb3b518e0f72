"""What a store cannot take now goes to the disk, already redacted and limited, and is replayed in order later.

By this process when the store is back, or by the next process that uses the store. The key rule of stores makes a
replay safe to repeat: a span that is stored already counts as a duplicate and changes nothing.
"""

from __future__ import annotations

import errno
import hashlib
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec

from agentlightning import settings
from agentlightning._internal.ids import process_key
from agentlightning.pipeline import stage
from agentlightning.pipeline.cap import Cap
from agentlightning.pipeline.frame import ENDED, FINISH, HEADER_BYTES, OPEN, START
from agentlightning.pipeline.heap import heap_bytes
from agentlightning.pipeline.receipt import SPILLED, settle
from agentlightning.pipeline.sampling import ALWAYS as PRECIOUS
from agentlightning.pipeline.segment import SEGMENT_BYTES, SegmentHead, SegmentWriter, SpillFolder, place_of
from agentlightning.types.convert import plain_value
from agentlightning.types.record import AttemptEnd, RolloutStart, SpanRecord, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.pipeline.ledger import Ledger

PARCEL_RECORDS, PARCEL_BYTES = 2_000, 2 * 2**20
"""What one request to a remote store holds at most, passed by one batch of the worker."""
_HEADS_BYTES, _SEAL_BYTES = 2**12, HEADER_BYTES
"""What a segment holds beside its records, at its front (at most, as a rule) and at its end."""
_SPARE_BYTES = 2**16
"""What is given up beyond what has to be written: file systems count in blocks."""

_encode = msgspec.msgpack.Encoder().encode


class Parcel:
    """A segment whose records are in memory too: one request, for which nothing has to be read back."""

    def __init__(self, writer: SegmentWriter, head: SegmentHead) -> None:
        """Begin with an empty segment."""
        self.writer = writer
        self.batch = WriteBatch(project=head.project, rules=head.rules)
        self.records = self.size = 0
        self.bytes = 0
        """Estimate of the heap that it takes."""

    def add(self, batch: WriteBatch, records: int, size: int) -> None:
        """Add what has just been written to the segment."""
        self.batch.starts.extend(batch.starts)
        self.batch.spans.extend(batch.spans)
        self.batch.ends.extend(batch.ends)
        self.records += records
        self.size += size
        self.bytes += heap_bytes(batch.spans)

    def has_room(self, records: int, size: int) -> bool:
        """Tell whether so much more may go into the same request."""
        most = min(PARCEL_BYTES, settings.get(settings.MEMORY_THRESHOLD) // 16)
        return self.records + records <= PARCEL_RECORDS and self.size + size <= most


class Spill:
    """The spill of one store in this process. ``put`` is called under the worker's lock of order.

    What is put with ``keep`` while nothing waits on the disk alone stays in memory too, in parcels, which come before
    everything else. A parcel that is delivered takes its segment with it; one that cannot be becomes a segment like
    the others.
    """

    def __init__(self, url: str, ledger: Ledger, project: str) -> None:
        """Spill for the store at *url*; count in *ledger*."""
        self.folders = spill_folders(url)
        self._ledger = ledger
        self.cap = Cap(ledger)
        """What keeps it within its bounds."""
        self.head = SegmentHead(process=process_key(), ledger=str(ledger.path or ""), project=project)
        """What a segment of this process begins with; its spans were redacted by one rule set."""
        self._writer: SegmentWriter | None = None
        self._closed: deque[Path] = deque()
        self._parcel: Parcel | None = None
        """What the segment that is being written holds, where that is kept."""
        self._parcels: deque[Parcel] = deque()
        self._is_ending, self._is_capped = False, True

    @property
    def is_empty(self) -> bool:
        """Whether nothing of this process waits on the disk."""
        return self._writer is None and not self._parcels and not self._has_closed

    @property
    def _has_closed(self) -> bool:
        while self._closed and not self._closed[0].exists():
            self._closed.popleft()  # it was replayed, by this process or another one
        return bool(self._closed)

    @property
    def bytes(self) -> int:
        """Estimate of the heap that records on the disk take in memory too."""
        return sum(parcel.bytes for parcel in (*self._parcels, *([self._parcel] if self._parcel else ())))

    def take(self) -> Parcel | None:
        """Return the oldest parcel, None without one. It stays where it is until ``done``."""
        if not self._parcels:
            self._finish_parcel()
        return self._parcels[0] if self._parcels else None

    def done(self, parcel: Parcel) -> None:
        """Delete the segment of *parcel*, which was delivered."""
        if self._parcels and self._parcels[0] is parcel:
            self._parcels.popleft()
        parcel.writer.discard()

    def _finish_parcel(self) -> None:
        if self._parcel is not None:
            self._parcels.append(self._parcel)
            self._parcel = self._writer = None

    def put(self, batch: WriteBatch, *, keep: bool = False) -> None:
        """Write *batch* to the disk and count its ended spans as ``spilled``; *keep*: in memory too where possible.

        Raises:
            OSError: Nothing of it was written; the disk is full, or no folder can be used.
        """
        records = list(_encoded(batch))
        if not records:
            return
        size = sum(len(payload) + HEADER_BYTES for _, payload in records)
        self._make_way(batch.rules, len(records), size)
        if self._writer is None:
            keep = keep and self.bytes < settings.get(settings.MEMORY_THRESHOLD) // 8 and not self._has_closed
            self._writer = self._open(size, precious=all(span.name in PRECIOUS for span in batch.spans))
            self._parcel = Parcel(self._writer, self.head) if keep else None
        try:
            self._writer.append(records)
        except OSError:
            self.close_segment()  # perhaps another folder, or the same one later, takes it
            raise
        if self._parcel is not None:
            self._parcel.add(batch, len(records), size)
        self._ledger.count("spilled", sum(kind == ENDED for kind, _ in records))
        settle(batch.spans, SPILLED)

    def put_at_any_cost(self, batch: WriteBatch) -> None:
        """Write *batch*, beyond the cap if need be; where the disk is full, in the place of ordinary spans there.

        Raises:
            OSError: Nothing of it was written.
        """
        try:
            self.put(batch)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            for folder in self.folders:
                self.cap.give_up(folder, sum(len(payload) for _, payload in _encoded(batch)) + _SPARE_BYTES)
            self._is_capped = False
            try:
                self.put(batch)
            finally:
                self._is_capped = True

    def _make_way(self, rules: str, records: int, size: int) -> None:
        """End the segment that is being written when the next records do not fit into it."""
        if self._writer is not None:
            is_over = rules != self.head.rules or self._writer.size + size > self._segment_bytes()
            if self._parcel is not None and (is_over or not self._parcel.has_room(records, size)):
                self._finish_parcel()
            elif is_over:
                self._end_segment()
        if rules != self.head.rules:
            self.head = msgspec.structs.replace(self.head, rules=rules)

    def put_before(self, batch: WriteBatch) -> None:
        """Write *batch* in front of everything that waits on the disk; see ``put``.

        Raises:
            OSError: Nothing of it was written.
        """
        self.close_segment()
        if self.is_empty:
            self.put(batch)
            return
        records = list(_encoded(batch))
        head = msgspec.structs.replace(self.head, rules=batch.rules)
        writer = SegmentWriter(SpillFolder(self._closed[0].parent, 0), head, place=place_of(self._closed[0]) - 1)
        try:
            writer.append(records)
        finally:
            self._closed.appendleft(writer.close())
        self._ledger.count("spilled", sum(kind == ENDED for kind, _ in records))
        settle(batch.spans, SPILLED)

    def _open(self, size: int, *, precious: bool) -> SegmentWriter:
        problem: OSError = OSError("spilling is turned off (AGL_SPILL_BYTES is 0)")
        for folder in self.folders:
            if not folder.max_bytes:
                break
            try:
                if self._is_capped:
                    least = 0 if self._is_ending else self._segment_bytes()
                    self.cap.make_room(folder, max(least, size + _HEADS_BYTES) + _SEAL_BYTES, precious=precious)
                return SegmentWriter(folder, self.head)
            except OSError as error:
                problem = error
        raise problem

    def _segment_bytes(self) -> int:
        return min(SEGMENT_BYTES, max(2**16, self.folders[0].max_bytes // 4)) - _SEAL_BYTES

    def close_segment(self) -> None:
        """Close what is being written, so that all of it can be replayed; nothing is kept in memory any more."""
        self._finish_parcel()
        while self._parcels:
            self._closed.appendleft(self._parcels.pop().writer.close())
        self._end_segment()

    def _end_segment(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            self._closed.append(writer.close())

    def begin_end(self, deadline: float) -> None:
        """The process ends: segments get no more than what is there, and may wait for others until *deadline*."""
        self._is_ending = True
        self.cap.wait_until = deadline

    def abandon(self) -> None:
        """In a forked child: leave the parent's segment to the parent."""
        self._finish_parcel()
        writer, self._writer = self._writer, None
        for one in (writer, *(parcel.writer for parcel in self._parcels)):
            if one is not None:
                one.abandon()
        self._parcels.clear()
        self._closed.clear()


def spill_folders(url: str) -> list[SpillFolder]:
    """Return where the records of a store may be spilled, best place first; none for a store without URL."""
    if not url:
        return []
    import platformdirs  # noqa: PLC0415 - only when something is spilled or looked for

    # A name that says nothing: the URL may hold a credential.
    digest = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
    state = Path(platformdirs.user_state_dir("agentlightning", appauthor=False)) / f"{digest}.spill"
    elsewhere = SpillFolder(state, settings.get(settings.SPILL_BYTES))
    beside = folder_beside(url)
    return [elsewhere] if beside is None else [beside, elsewhere]


def folder_beside(url: str) -> SpillFolder | None:
    """Return the spill folder beside the file of a SQLite store, None for other stores."""
    prefix = "sqlite:///"
    if not url.startswith(prefix):
        return None
    return SpillFolder(Path(url[len(prefix) :] + ".spill"), settings.get(settings.SPILL_BYTES))


def _encoded(batch: WriteBatch) -> Iterator[tuple[bytes, bytes]]:
    stage.note(batch.spans, stage.SPILLED)
    for start in batch.starts:
        yield START, _payload(start)
    for span in batch.spans:
        yield (OPEN if span.end_ns is None else ENDED), _payload(span)
    for end in batch.ends:
        yield FINISH, _payload(end)


def _payload(record: SpanRecord | RolloutStart | AttemptEnd) -> bytes:
    try:
        return _encode(record)
    except (TypeError, ValueError, OverflowError, RecursionError):
        # Something that MessagePack does not know, such as an integer of 100 digits: the slow way.
        return _encode(_plain(msgspec.to_builtins(record, builtin_types=(int, bytes))))


def _plain(value: object) -> object:
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_plain(str(key)): _plain(item) for key, item in cast("dict[object, object]", value).items()}
    if isinstance(value, list):
        return [_plain(item) for item in cast("list[object]", value)]
    return plain_value(value)
