"""The cap of a spill: where it is reached the oldest ordinary spans go first, rewards and exceptions last.

A closed segment gives its ordinary spans up by being replaced with a shorter copy, at the same place in the order. The
copy holds rewards, exceptions, rollouts and the ends of attempts; neighbours of one process are joined, so that their
number is bounded. It is a segment like any other until it takes the place of its original in one step: a kill meanwhile
leaves both, and stores recognise what comes twice. While a copy is written, the spill may be larger by that copy.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agentlightning._internal.ids import process_key
from agentlightning.pipeline.frame import ENDED, FINISH, HEAD, START, Frame
from agentlightning.pipeline.ledger import settle_file
from agentlightning.pipeline.lock import FolderLock
from agentlightning.pipeline.sampling import ALWAYS as PRECIOUS
from agentlightning.pipeline.segment import (
    SEGMENT_BYTES,
    SegmentHead,
    SegmentWriter,
    SpillFolder,
    decode_head,
    open_segment,
    place_of,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from agentlightning.pipeline.ledger import Ledger

log = logging.getLogger("agentlightning.pipeline")


class _Named(msgspec.Struct):
    """All that is read of a span to know its lane."""

    name: str


_decode_name = msgspec.msgpack.Decoder(_Named).decode


class _Content(NamedTuple):
    """What a segment holds that its store does not have yet."""

    head: SegmentHead | None
    kept: list[tuple[bytes, bytes]]
    """What is lost last, as kind and payload."""
    kept_ended: int
    """Ended spans of that."""
    ordinary: int
    """Ended spans beside that, damaged ones included."""
    size: int
    """Bytes of the file."""


class Cap:
    """Keeps the spill folders of one store within their cap, for one process. Used under the worker's lock of order."""

    def __init__(self, ledger: Ledger) -> None:
        """Count what is lost as ``disk_full``, in *ledger* where this process had spilled it."""
        self._ledger = ledger
        self._lean: set[Path] = set()
        """Segments that are known to hold nothing ordinary."""
        self.wait_until = 0.0
        """Until when, by the monotonic clock, it waits for a replay that is under way."""
        self.settled: dict[Path, int] = {}
        """Of segments that this process has replayed in part, the last frame that its store has."""

    def make_room(self, folder: SpillFolder, wanted: int, *, precious: bool) -> None:
        """Make *folder* take *wanted* more bytes within its cap, at the cost of closed segments.

        *precious*: They are for rewards and exceptions alone; only for these older ones of their kind are dropped.

        Raises:
            OSError: That is not possible: what is there is precious, or of processes that write or replay it. Nothing
                is dropped where all of it would not be enough.
        """
        excess = folder.used_bytes() + wanted - folder.max_bytes
        if excess <= 0:
            return
        with self._hold(folder) as is_held:
            if is_held and sum(path.stat().st_size for path in folder.ready()) >= excess:
                excess = self._thin_out(folder, excess)
                if precious:
                    excess = self._drop_oldest(folder, excess)
        if excess > 0:
            raise OSError(errno.ENOSPC, "the spill has reached its cap")

    def give_up(self, folder: SpillFolder, wanted: int) -> None:
        """Drop ordinary spans of *folder* until *wanted* more bytes are free, or there are no more. Never raises."""
        with contextlib.suppress(OSError), self._hold(folder) as is_held:
            if is_held:
                self._thin_out(folder, wanted)

    @contextlib.contextmanager
    def _hold(self, folder: SpillFolder) -> Generator[bool]:
        """Return a block with the lock of *folder*; False where another process has it, or a replay of this one.

        Raises:
            OSError: The folder cannot be used.
        """
        lock = FolderLock(folder.path)
        while not lock.acquire():
            if time.monotonic() >= self.wait_until:
                yield False
                return
            time.sleep(0.005)
        try:
            yield True
        finally:
            lock.release()

    def _thin_out(self, folder: SpillFolder, excess: int) -> int:
        """Drop the ordinary spans of the oldest segments and return how many bytes are still too many."""
        ready = folder.ready()
        self._lean.intersection_update(ready)
        before: Path | None = None
        for path in ready:
            if excess <= 0:
                break
            if path not in self._lean:
                with contextlib.suppress(OSError, ValueError):
                    excess -= self._thin(folder, path, before)
            before = path if path.exists() else before
        return excess

    def _drop_oldest(self, folder: SpillFolder, excess: int) -> int:
        """Drop the oldest segments with all that they hold, and return how many bytes are still too many."""
        for path in folder.ready() if excess > 0 else ():
            if excess <= 0:
                break
            with contextlib.suppress(OSError):
                content = self._read(path)
                path.unlink(missing_ok=True)
                self._lose(path, content.head, content.kept_ended + content.ordinary)
                excess -= content.size
        return excess

    def _thin(self, folder: SpillFolder, path: Path, before: Path | None) -> int:
        """Drop the ordinary spans of the segment at *path* and return how many bytes that made free.

        *before*: The segment in front of it, which is joined to it where that is possible.
        """
        content = self._read(path)
        if content.head is None:  # nobody can read it
            path.unlink(missing_ok=True)
            return content.size
        if not content.ordinary:
            self._lean.add(path)
            return 0
        kept, joined = content.kept, self._joinable(before, content)
        if joined is not None:
            kept = joined.kept + kept
        if not kept:
            path.unlink(missing_ok=True)
            self._lose(path, content.head, content.ordinary)
            return content.size
        try:
            size = _replace(folder, path, content.head, kept)
        except OSError:  # the disk is full too: the copy needs the place of its original
            joined, kept = None, content.kept
            try:
                os.truncate(path, 0)  # a replay that was interrupted may have it open, which would keep its place taken
                path.unlink()
                size = _replace(folder, path, content.head, kept)
            except OSError:
                self._lose(path, content.head, content.ordinary + content.kept_ended)
                return content.size
        self._lose(path, content.head, content.ordinary)
        self._lean.add(path)
        if joined is None or before is None:
            return content.size - size
        before.unlink(missing_ok=True)
        self.settled.pop(before, None)
        return content.size + joined.size - size

    def _joinable(self, before: Path | None, content: _Content) -> _Content | None:
        """Return what the lean segment *before* holds if it may be joined with *content*, else None."""
        if before is None or before not in self._lean:
            return None
        size = sum(len(payload) for _, payload in content.kept)
        if before.stat().st_size + size > SEGMENT_BYTES:
            return None
        found = self._read(before)
        return found if found.head == content.head else None

    def _read(self, path: Path) -> _Content:
        """Read the segment at *path*.

        Raises:
            OSError: It is gone, or no plain file of this user.
        """
        size, reader = path.stat().st_size, open_segment(path)
        head: SegmentHead | None = None
        kept, kept_ended, ordinary, last = list[tuple[bytes, bytes]](), 0, 0, self.settled.get(path, -1)
        if reader is None:
            return _Content(None, kept, 0, 0, 0)
        with contextlib.closing(reader):
            for frame in reader:
                if frame.kind == HEAD:
                    head = decode_head(frame.payload) or head
                elif frame.ordinal <= last:
                    continue
                elif _is_kept(frame):
                    kept.append((frame.kind, frame.payload))
                    kept_ended += frame.kind == ENDED
                else:
                    ordinary += frame.kind == ENDED
        return _Content(head, kept, kept_ended, ordinary + reader.damaged_ended, size)

    def _lose(self, path: Path, head: SegmentHead | None, spans: int) -> None:
        """Count *spans* of what was the segment at *path* as lost."""
        self.settled.pop(path, None)
        if head is not None:
            settle_for(head, "disk_full", spans, self._ledger)
        if spans:
            log.warning("the spill is full: %d spans are lost", spans)


def _is_kept(frame: Frame) -> bool:
    """Tell whether *frame* is among what is lost last."""
    if frame.kind != ENDED:
        return frame.kind in {START, FINISH}
    try:
        return _decode_name(frame.payload).name in PRECIOUS
    except msgspec.MsgspecError:
        return False


def _replace(folder: SpillFolder, path: Path, head: SegmentHead, kept: list[tuple[bytes, bytes]]) -> int:
    """Put a segment with *kept* in the place of the one at *path*, and return its size.

    Raises:
        OSError: It could not be written; the one at *path* is as it was.
        ValueError: That one has not the name of a segment.
    """
    # Behind its original: after a kill that one is replayed first, in order, and the copy is nothing new.
    writer = SegmentWriter(folder, head, place=place_of(path) + 1)
    try:
        writer.append(kept)
        writer.close().replace(path)
    except OSError:
        writer.discard()
        raise
    return path.stat().st_size


def settle_for(head: SegmentHead, outcome: str, number: int, own: Ledger | None) -> None:
    """Note what became of spilled spans, by whoever wrote the segment with *head*; *own*: this process's counters."""
    if not number:
        return
    if own is not None and head.process == process_key():
        own.settle(outcome, number)
    elif head.ledger:
        settle_file(Path(head.ledger), outcome, number)
