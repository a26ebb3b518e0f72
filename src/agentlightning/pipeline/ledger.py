"""The loss ledger: every span that was produced is stored, a duplicate, waiting, or lost for a named reason.

``produced = stored + duplicate + waiting + sum(lost)``. The counters of a process live in a small mapped file, so that
they survive its death: what was still waiting then is what was ``killed``.
"""

from __future__ import annotations

import mmap
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning._internal.ids import is_process_gone, process_key

if TYPE_CHECKING:
    from collections.abc import Iterable

REASONS = (
    "sampled",
    "filtered",
    "queue_full",
    "disk_full",
    "too_large",
    "redactor_failed",
    "rejected",
    "store_error",
)
"""Why a span was lost while its process lived; ``killed`` is computed afterwards."""

_NAMES = ("produced", "stored", "duplicate", *REASONS)
_MAGIC = b"AGLLEDG1"
_HEADER = 256
"""Bytes before the counters: magic, then the process key, padded with NUL."""
_SIZE = _HEADER + 8 * len(_NAMES)


@dataclass
class Account:
    """Counters of one or several processes; adds up."""

    produced: int = 0
    stored: int = 0
    duplicate: int = 0
    waiting: int = 0
    lost: dict[str, int] = field(default_factory=dict[str, int])
    """By reason; reasons without a loss are absent."""

    def __add__(self, other: Account) -> Account:
        """Return the sum of two accounts."""
        lost = {reason: self.lost.get(reason, 0) + other.lost.get(reason, 0) for reason in {*self.lost, *other.lost}}
        return Account(
            self.produced + other.produced,
            self.stored + other.stored,
            self.duplicate + other.duplicate,
            self.waiting + other.waiting,
            lost,
        )

    @property
    def total_lost(self) -> int:
        """Spans lost for any reason."""
        return sum(self.lost.values())


class Ledger:
    """Counters of this process. ``count`` may be called from any thread that holds the caller's own lock."""

    def __init__(self, folder: Path | None) -> None:
        """Count into a new file in *folder* (made when missing, mode 0700), or only in memory for None."""
        self.path: Path | None = None
        buffer: mmap.mmap | bytearray = bytearray(_SIZE)
        if folder is not None:
            try:
                buffer = self._map(folder)
            except OSError:  # a read-only place must not cost the spans: count in memory
                self.path = None
        self._cells = memoryview(buffer)[_HEADER:_SIZE].cast("q")
        self.produced = self._cells[:1]
        """The counter ``produced`` itself: the user's thread sets it, and a call would take longer than that."""

    def _map(self, folder: Path) -> mmap.mmap:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        key = process_key().encode()[: _HEADER - len(_MAGIC)]
        path = folder / f"{os.getpid()}-{os.urandom(4).hex()}.ledger"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.write(descriptor, (_MAGIC + key).ljust(_HEADER, b"\0") + bytes(_SIZE - _HEADER))
            buffer = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self.path = path
        return buffer

    def count(self, name: str, number: int = 1) -> None:
        """Add *number* to ``produced``, ``stored``, ``duplicate`` or one of ``REASONS``."""
        self._cells[_PLACES[name]] += number

    def account(self) -> Account:
        """Return the counters now."""
        return _account(list(self._cells), gone=False)

    def remove(self) -> None:
        """Delete the file, when nothing is waiting any more; the counters go on in memory."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path = None


_PLACES = {name: place for place, name in enumerate(_NAMES)}


def _account(cells: list[int], *, gone: bool) -> Account:
    values = dict(zip(_NAMES, cells, strict=True))
    lost = {reason: values[reason] for reason in REASONS if values[reason]}
    waiting = max(0, values["produced"] - values["stored"] - values["duplicate"] - sum(lost.values()))
    if gone and waiting:
        lost["killed"] = waiting
        waiting = 0
    return Account(values["produced"], values["stored"], values["duplicate"], waiting, lost)


def ledger_folder(store_url: str, attempt_id: str | None) -> Path | None:
    """Return where the processes that write to a store keep their counters, or None when it has no place for them."""
    prefix = "sqlite:///"
    if not store_url.startswith(prefix):
        return None
    return Path(store_url[len(prefix) :] + ".ledger") / (attempt_id or "direct")


def read_accounts(folder: Path) -> tuple[Account, int]:
    """Return the sum of all ledgers in *folder*, and how many of their processes are still alive."""
    total, alive = Account(), 0
    for path in _ledgers(folder):
        content = path.read_bytes()
        if len(content) != _SIZE or not content.startswith(_MAGIC):
            continue
        key = content[len(_MAGIC) : _HEADER].rstrip(b"\0").decode("utf-8", "replace")
        gone = is_process_gone(key)
        alive += not gone
        total += _account(list(memoryview(content)[_HEADER:].cast("q")), gone=gone)
    return total, alive


def remove_folder(folder: Path) -> None:
    """Delete the counters of an attempt once they have been noted elsewhere."""
    shutil.rmtree(folder, ignore_errors=True)


def _ledgers(folder: Path) -> Iterable[Path]:
    return sorted(folder.glob("*.ledger")) if folder.is_dir() else ()
