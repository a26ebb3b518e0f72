"""Frames of a spill segment: each holds one record, can be checked alone and found again behind damage.

A frame is a header and MessagePack. The header: a mark of four bytes, the kind (one byte), the place of the frame in
its segment, how many ended spans come before it, the bytes of the payload, and a CRC-32 of all that and the payload
(each four bytes, little endian). The two counts tell exactly how many records lie in a damaged stretch.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MARK = b"\xf5AGL"
"""Begins every frame; 0xF5 is in no UTF-8 text, so texts cannot look like one."""

ENDED, OPEN, START, FINISH, HEAD, SEAL = b"E", b"O", b"S", b"F", b"H", b"Z"
"""Kinds: a span that ended, a note of an open span, a rollout, an attempt's end, the segment itself, its end."""

_FIELDS = struct.Struct("<4scIII")
_CHECK = struct.Struct("<I")
HEADER_BYTES = _FIELDS.size + _CHECK.size
_MAX_PAYLOAD_BYTES = 2**28
_BLOCK_BYTES = 2**16


class Frame(NamedTuple):
    """One frame that was read and is undamaged."""

    kind: bytes
    ordinal: int
    """Place in the segment, from 0."""
    ended_before: int
    """Ended spans in the segment before this frame."""
    payload: bytes


def encode_frame(frame: Frame) -> bytes:
    """Return the bytes of *frame*."""
    fields = _FIELDS.pack(MARK, frame.kind, frame.ordinal, frame.ended_before, len(frame.payload))
    return fields + _CHECK.pack(zlib.crc32(frame.payload, zlib.crc32(fields))) + frame.payload


class FrameReader:
    """Reads the frames of a segment one after the other and steps over whatever is damaged. Used by one thread."""

    def __init__(self, file: BinaryIO) -> None:
        """Read *file*, which can be sought, from where it is."""
        self._file = file
        self._next = 0
        self._ended = 0
        self.damaged = 0
        """Frames that were lost so far, of any kind."""
        self.damaged_ended = 0
        """Ended spans among them."""
        self.is_sealed = False
        """Whether the last frame is there: then nothing is missing at the end."""
        self.is_torn = False
        """Whether bytes follow the last good frame: its writer was killed, or the end is damaged."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def is_at(self, path: Path) -> bool:
        """Tell whether the file that is read is the one at *path*."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), path.stat())
        except OSError:
            return False

    def __iter__(self) -> Iterator[Frame]:
        """Yield the undamaged frames in their order."""
        while True:
            place = self._file.tell()
            frame = self._frame()
            if frame is None:
                found = self._find(place + 1)
                if found is None:
                    self._file.seek(0, 2)
                    self.is_torn = self._file.tell() > place
                    return
                self._file.seek(found)
                continue
            self.damaged += max(0, frame.ordinal - self._next)
            self.damaged_ended += max(0, frame.ended_before - self._ended)
            self._next = frame.ordinal + 1
            self._ended = frame.ended_before + (frame.kind == ENDED)
            if frame.kind == SEAL:
                self.is_sealed = True
            else:
                yield frame

    def _frame(self) -> Frame | None:
        """Read the frame that begins here, None when there is no good one."""
        header = self._file.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES or not header.startswith(MARK):
            return None
        _, kind, ordinal, ended_before, length = _FIELDS.unpack_from(header)
        if length > _MAX_PAYLOAD_BYTES:
            return None
        payload = self._file.read(length)
        checksum = zlib.crc32(payload, zlib.crc32(header[: _FIELDS.size]))
        if len(payload) < length or _CHECK.unpack_from(header, _FIELDS.size)[0] != checksum:
            return None
        return Frame(kind, ordinal, ended_before, payload)

    def _find(self, place: int) -> int | None:
        """Return where the next good frame from *place* on begins."""
        while True:
            self._file.seek(place)
            block = self._file.read(_BLOCK_BYTES)
            if len(block) < len(MARK):
                return None
            offset = block.find(MARK)
            if offset < 0:
                place += len(block) - len(MARK) + 1  # a mark may lie across the border of two blocks
                continue
            place += offset
            self._file.seek(place)
            if self._frame() is not None:
                return place
            place += 1
