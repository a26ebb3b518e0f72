"""What lies on the disk goes to its store: segments are read, written to the store chunk by chunk, and deleted.

By this process when the store is back, or by the next process that uses the store. The key rule of stores makes a
replay safe to repeat: a span that is stored already counts as a duplicate and changes nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from agentlightning import settings
from agentlightning._internal.guard import failures
from agentlightning.errors import StoreError
from agentlightning.pipeline import stage
from agentlightning.pipeline.cap import settle_for
from agentlightning.pipeline.frame import ENDED, FINISH, HEAD, OPEN, START, Frame, FrameReader
from agentlightning.pipeline.lock import FolderLock
from agentlightning.pipeline.receipt import STORED, settle, settle_missing, take_rejected
from agentlightning.pipeline.segment import SegmentHead, SpillFolder, decode_head, open_segment
from agentlightning.pipeline.spill import spill_folders
from agentlightning.store.url import open_writer
from agentlightning.types.record import AttemptEnd, ResourceRecord, RolloutStart, SpanRecord, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agentlightning.pipeline.ledger import Ledger
    from agentlightning.types.protocol import SpanWriter
    from agentlightning.types.record import WriteResult

_CHUNK_RECORDS = 500
_CHUNK_BYTES = 4 * 2**20
"""What is read and written at once in a replay: memory stays flat, and other writers of the store get their turn."""

_MOST_FAILURES = 20
"""Halving a batch of 500 finds its one bad record after ten failures."""

_encode = msgspec.msgpack.Encoder().encode
decode_span = msgspec.msgpack.Decoder(SpanRecord).decode
_decode_start = msgspec.msgpack.Decoder(RolloutStart).decode
_decode_end = msgspec.msgpack.Decoder(AttemptEnd).decode


class Replayed(NamedTuple):
    """What a replay did, in ended spans; ``damaged`` in records of any kind."""

    stored: int = 0
    duplicate: int = 0
    damaged: int = 0


class Replayer:
    """Reads segments and writes their records to a store, one chunk a call. Used by one thread."""

    def __init__(
        self,
        folder: SpillFolder,
        ledger: Ledger | None = None,
        most_records: int | None = None,
        settled: dict[Path, int] | None = None,
    ) -> None:
        """Replay what lies in *folder*; *ledger* is this process's own, if it has one.

        *most_records*: so many in one chunk at most; None for as many as a local store takes at once.
        *settled*: where to note the last frame that the store has of a segment that was replayed in part.
        """
        self._settled = {} if settled is None else settled
        self._most_records = most_records or _CHUNK_RECORDS
        self._most_bytes = min(_CHUNK_BYTES, settings.get(settings.MEMORY_THRESHOLD) // 8)
        self._folder = folder
        self._ledger = ledger
        self._lock = FolderLock(folder.path)
        self._path: Path | None = None
        self._reader: FrameReader | None = None
        self._frames: Iterator[Frame] | None = None
        self._head = SegmentHead(process="")
        self._chunk: WriteBatch | None = None
        self._last = -1
        """Place in the segment of the last record that was read."""
        self._resources: dict[bytes, ResourceRecord] = {}
        self._damaged = self._damaged_ended = 0

    def step(self, write: Callable[[WriteBatch], WriteResult]) -> Replayed | None:
        """Write the next chunk with *write*; None when nothing is left, or another process is at it.

        Raises:
            StoreError: Of *write*; the same chunk comes again with the next call.
            OSError: The folder cannot be read.
        """
        if not (self._resume() if self._frames is not None else self._begin()):
            return None
        if self._chunk is None:
            self._chunk = self._read()
        if self._chunk is None:
            return self._end()
        chunk, spans = self._chunk, self._chunk.spans
        stage.note(spans, stage.DELIVERED)
        stored, duplicate = write_or_split(chunk, write, lambda number, reason: self._settle(reason, number))
        settle_missing(spans, chunk.spans, "store_error")
        settle(chunk.spans, STORED)
        self._settle("stored", stored)
        self._settle("duplicate", duplicate)
        if self._path is not None:
            self._settled[self._path] = self._last
        self._chunk = self._read()
        damaged = self._end().damaged if self._chunk is None else 0  # at once: the segment is in the store
        return Replayed(stored, duplicate, damaged)

    def pause(self) -> None:
        """Give the folder back while the store is away; the next step goes on where this one stopped."""
        self._lock.release()

    def _resume(self) -> bool:
        if not self._lock.acquire():
            return False
        if self._path is not None and self._reader is not None and self._reader.is_at(self._path):
            return True
        self._forget()  # it was replayed, dropped or thinned out meanwhile
        return self._begin()

    def _begin(self) -> bool:
        if not self._folder.ready():
            self._lock.release()
            return False
        self._folder.make()
        if not self._lock.acquire():
            return False
        for path in self._folder.ready():  # again: another process may have replayed them before we had the lock
            self._reader = open_segment(path)
            if self._reader is not None:
                self._path, self._frames = path, iter(self._reader)
                self._head = SegmentHead(process="")
                self._damaged = self._damaged_ended = 0
                return True
        self._lock.release()
        return False

    def _read(self) -> WriteBatch | None:
        """Return the next records of the segment, None at its end."""
        batch = WriteBatch(project=self._head.project, rules=self._head.rules)
        count = size = 0
        for frame in self._frames or ():
            self._last = frame.ordinal
            if frame.kind == HEAD:
                self._head = decode_head(frame.payload) or self._head
                batch.project, batch.rules = self._head.project, self._head.rules
                continue
            if not self._add(batch, frame):
                self._damaged += 1
                self._damaged_ended += frame.kind == ENDED
                continue
            count += 1
            size += len(frame.payload)
            if count >= self._most_records or size >= self._most_bytes:
                return batch
        return batch if count else None

    def _add(self, batch: WriteBatch, frame: Frame) -> bool:
        """Add the record of *frame*; False when it is none: another release's, or not ours."""
        try:
            if frame.kind in (ENDED, OPEN):
                span = decode_span(frame.payload)
                span.resource = self._shared(span.resource)
                batch.spans.append(span)
            elif frame.kind == START:
                batch.starts.append(_decode_start(frame.payload))
            elif frame.kind == FINISH:
                batch.ends.append(_decode_end(frame.payload))
        except msgspec.MsgspecError:
            return False
        return True

    def _shared(self, resource: ResourceRecord) -> ResourceRecord:
        """Return one object for all equal resources: stores recognise them by identity."""
        key = _encode(resource)
        if len(self._resources) >= 64:  # noqa: PLR2004 - a bound; a process has one or two
            self._resources.clear()
        return self._resources.setdefault(key, resource)

    def _end(self) -> Replayed:
        """Delete the segment, which is in the store now, and count what was damaged."""
        reader, path = self._reader, self._path
        if reader is None or path is None:
            return Replayed()
        damaged = reader.damaged + self._damaged
        lost = reader.damaged_ended + self._damaged_ended
        if reader.is_torn and not reader.is_sealed:
            lost += 1  # the record that was cut in the middle; only counted if its writer had counted it
        if damaged:
            failures.note("spill.damaged", ValueError(f"{damaged} records in {path.name}"))
        self._settle("store_error", lost)
        path.unlink(missing_ok=True)
        self._settled.pop(path, None)
        self._forget()
        return Replayed(damaged=damaged)

    def _forget(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = self._frames = self._path = self._chunk = None

    def _settle(self, outcome: str, number: int) -> None:
        settle_for(self._head, outcome, number, self._ledger)

    def close(self) -> None:
        """Stop; what was not finished is replayed by the next one from the beginning of its segment."""
        self._forget()
        self._lock.release()

    def abandon(self) -> None:
        """In a forked child: leave the replay to the parent."""
        self._lock.abandon()
        self._forget()


def replay_spill(writer: SpanWriter, *, timeout_s: float) -> Replayed:
    """Write what earlier processes spilled for the store of *writer*, for at most about *timeout_s* seconds.

    What remains then, or what another process is replaying, is left for later. Never raises.
    """
    deadline = time.monotonic() + timeout_s
    total = Replayed()
    for folder in spill_folders(writer.url or ""):
        replayer = Replayer(folder)
        try:
            while time.monotonic() < deadline:
                done = replayer.step(writer.write_batch)
                if done is None:
                    break
                total = Replayed(*(a + b for a, b in zip(total, done, strict=True)))
        except (StoreError, OSError) as error:
            failures.note("spill.replay", error)
        finally:
            replayer.close()
    return total


def replay_store(url: str | None, *, timeout_s: float) -> Replayed:
    """Open the store at *url* if anything lies there for it, and replay it; see ``replay_spill``. Never raises."""
    if not url or not any(folder.ready() for folder in spill_folders(url)):
        return Replayed()
    try:
        writer = open_writer(url)
    except StoreError as error:
        failures.note("spill.replay", error)
        return Replayed()
    try:
        return replay_spill(writer, timeout_s=timeout_s)
    finally:
        writer.close()


def write_or_split(
    batch: WriteBatch, write: Callable[[WriteBatch], WriteResult], lose: Callable[[int, str], None]
) -> tuple[int, int]:
    """Write *batch*; when it cannot be written for what is in it, write its parts, so that only the bad ones are lost.

    Returns:
        How many ended spans were stored and how many were there already; *lose* is told how many are lost, and why.

    Raises:
        StoreError: The store cannot be used now; a part of the batch may be in it, and is a duplicate the next time.
    """
    stored = duplicate = failures_seen = 0
    pending = [batch]
    while pending:
        part = pending.pop()
        try:
            result = write(part)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - a record that no encoder or database takes; found, and counted
            failures.note("store", error)
            failures_seen += 1
            halves = _halves(part)
            # A writer that takes nothing at all is not asked a thousand times.
            if halves and (stored or failures_seen < _MOST_FAILURES):
                pending.extend(reversed(halves))
            else:
                lose(sum(span.end_ns is not None for span in part.spans), "store_error")
                bad = {id(span) for span in part.spans}
                batch.spans = [span for span in batch.spans if id(span) not in bad]  # not to be lost twice
        else:
            stored += result.stored
            duplicate += result.duplicate
            if result.rejected:
                take_rejected(batch, set(result.rejected))
                lose(len(result.rejected), "rejected")
    return stored, duplicate


def _halves(batch: WriteBatch) -> list[WriteBatch]:
    """Return *batch* in two parts, none when it holds one record; starts come first and ends last."""
    spans = batch.spans
    if batch.starts and (spans or batch.ends):
        return [
            WriteBatch(project=batch.project, rules=batch.rules, starts=batch.starts),
            WriteBatch(project=batch.project, rules=batch.rules, spans=spans, ends=batch.ends),
        ]
    if batch.ends and spans:
        first = WriteBatch(project=batch.project, rules=batch.rules, spans=spans)
        return [first, WriteBatch(project=batch.project, ends=batch.ends)]
    for name in ("starts", "spans", "ends"):
        records: list[Any] = getattr(batch, name)
        if len(records) > 1:
            parts = records[: len(records) // 2], records[len(records) // 2 :]
            return [WriteBatch(project=batch.project, rules=batch.rules, **{name: part}) for part in parts]
    return []
