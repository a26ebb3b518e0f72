"""Spill segments: files of framed records in a folder of ours, written by one process, read by whoever replays them.

A segment ends in ``.open`` while its process writes it and in ``.seg`` afterwards. Its name begins with the time of
its making, so that the names of a process's segments sort in the order of their records.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import TYPE_CHECKING

import msgspec

from agentlightning._internal.ids import host_name, is_process_gone
from agentlightning._internal.private import private_folder
from agentlightning.pipeline.frame import ENDED, HEAD, SEAL, Frame, FrameReader, encode_frame

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SEGMENT_BYTES = 16 * 2**20
"""A segment that has reached this is closed; one record alone may be longer."""

_VERSION = 1
_OPEN, _CLOSED = ".open", ".seg"
_ABANDONED_S = 600.0
"""An open segment whose process cannot be seen from here (another host's) is taken as abandoned after this time."""
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)


class SegmentHead(msgspec.Struct, kw_only=True, frozen=True):
    """Who wrote a segment; at the front of it twice, so that damage to one copy does no harm."""

    process: str
    """``process_key`` of the writer."""
    ledger: str = ""
    """File of the writer's counters, empty when it has none."""
    project: str = "default"
    """Project of rollouts that nobody announced."""
    rules: str = ""
    """Hash of the rule set by which its spans were redacted."""
    version: int = _VERSION


class SpillFolder:
    """A folder that holds segments: mode 0700, files 0600, never through a symbolic link."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Use the folder at *path*, made when something is written; keep at most *max_bytes* in it."""
        self.path = path
        self.max_bytes = max_bytes

    def make(self) -> None:
        """Make the folder, or check that the one there is ours and nobody else's to read.

        Raises:
            OSError: It cannot be made, is a symbolic link, no folder, or belongs to another user.
        """
        with contextlib.suppress(FileExistsError):  # what is there instead is looked at below
            private_folder(self.path)
        found = self.path.lstat()
        if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "geteuid") and found.st_uid != os.geteuid()):
            msg = f"{self.path} is no folder of this user; move it away"
            raise PermissionError(msg)
        if stat.S_IMODE(found.st_mode) & 0o077:
            self.path.chmod(0o700)

    def segments(self) -> list[Path]:
        """Return all segments, oldest first; none when there is no folder."""
        try:
            return sorted(path for path in self.path.iterdir() if path.suffix in (_OPEN, _CLOSED))
        except OSError:
            return []

    def ready(self) -> list[Path]:
        """Return the segments that nobody writes any more, oldest first."""
        return [path for path in self.segments() if path.suffix == _CLOSED or _is_abandoned(path)]

    def used_bytes(self) -> int:
        """Return the size of all segments."""
        total = 0
        for path in self.segments():
            with contextlib.suppress(OSError):
                total += path.stat().st_size
        return total


class SegmentWriter:
    """Writes one segment; after an error the file ends where its last good group ends. Used under one lock."""

    def __init__(self, folder: SpillFolder, head: SegmentHead, *, place: int | None = None) -> None:
        """Make a new segment in *folder*, to be replayed at *place* (see ``place_of``), None for after all others.

        Raises:
            OSError: It cannot be made or written; no file is left behind.
        """
        folder.make()
        name = f"{time.time_ns() if place is None else place:020d}-{os.getpid()}-{os.urandom(4).hex()}"
        self.path = folder.path / (name + _OPEN)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | _NO_FOLLOW | _CLOSE_ON_EXEC
        self._descriptor = os.open(self.path, flags, 0o600)
        self._ordinal = self._ended = 0
        self.size = 0
        """Bytes written."""
        payload = msgspec.msgpack.encode(head)
        try:
            self.append([(HEAD, payload), (HEAD, payload)])
        except OSError:
            self.abandon()
            self.path.unlink(missing_ok=True)
            raise

    def append(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        """Write *records* (kind, payload) as one group; on the disk when it returns.

        Raises:
            OSError: Nothing of the group is in the segment.
        """
        ordinal, ended, parts = self._ordinal, self._ended, list[bytes]()
        for kind, payload in records:
            parts.append(encode_frame(Frame(kind, ordinal, ended, payload)))
            ordinal += 1
            ended += kind == ENDED
        try:
            size = self._write(b"".join(parts))
        except OSError:
            # A part of the group may be there: cut it off, so that what follows is not behind a hole.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
                os.lseek(self._descriptor, self.size, os.SEEK_SET)
            raise
        self._ordinal, self._ended = ordinal, ended
        self.size += size

    def _write(self, content: bytes) -> int:
        view = memoryview(content)
        while view:
            view = view[os.write(self._descriptor, view) :]
        os.fsync(self._descriptor)
        return len(content)

    def close(self) -> Path:
        """Close the segment for good and return where it is now. Never raises: an unsealed segment can be read too."""
        with contextlib.suppress(OSError):
            self.append([(SEAL, b"")])
        self.abandon()
        closed = self.path.with_suffix(_CLOSED)
        with contextlib.suppress(OSError):
            self.path.rename(closed)
            self.path = closed
        return self.path

    def discard(self) -> None:
        """Delete the segment, whose records are in the store. Never raises: what stays is replayed, as duplicates."""
        self.abandon()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Close the file as it is: after an error, and in a forked child, where it is the parent's."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:  # a second call must not close what has got the number since
            with contextlib.suppress(OSError):
                os.close(descriptor)


def place_of(path: Path) -> int:
    """Return the place of the segment at *path* in the order of replay: when it was begun, in nanoseconds since 1970.

    Raises:
        ValueError: It has not the name of a segment.
    """
    return int(path.name.partition("-")[0])


def open_segment(path: Path) -> FrameReader | None:
    """Return a reader of the segment at *path*, None when it is gone.

    Raises:
        OSError: It cannot be read, or is no plain file of this user.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOW | _CLOSE_ON_EXEC)
    except FileNotFoundError:
        return None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or (hasattr(os, "geteuid") and found.st_uid != os.geteuid()):
        os.close(descriptor)
        msg = f"{path} is no file of this user"
        raise PermissionError(msg)
    return FrameReader(os.fdopen(descriptor, "rb"))


def decode_head(payload: bytes) -> SegmentHead | None:
    """Return the head in *payload*, None when this release does not know it."""
    try:
        head = msgspec.msgpack.decode(payload, type=SegmentHead)
    except msgspec.MsgspecError:
        return None
    return head if head.version == _VERSION else None


def read_head(path: Path) -> SegmentHead | None:
    """Return who wrote the segment at *path*, None when that cannot be read."""
    try:
        reader = open_segment(path)
        if reader is None:
            return None
        with contextlib.closing(reader):
            for frame in reader:
                return decode_head(frame.payload) if frame.kind == HEAD else None
    except OSError:
        return None
    return None


def _is_abandoned(path: Path) -> bool:
    """Tell whether the process that wrote an open segment is gone."""
    head = read_head(path)
    if head is not None and head.process.partition("/")[0] == host_name():
        return is_process_gone(head.process)
    try:
        return time.time() - path.stat().st_mtime > _ABANDONED_S
    except OSError:
        return False
