"""The loss ledger: every span that was produced is stored, a duplicate, waiting, or lost for a named reason.

``produced = stored + duplicate + waiting + sum(lost)``. The counters of a process live in a small mapped file, so that
they survive its death: what was still waiting then is what was ``killed``.

Spans in spill segments are ``waiting``, also when their process is dead. It counts them as ``spilled``; whoever replays
them, this process or another, adds what became of them to the ``settled`` counters, under the lock of the spill folder.
A replay that was killed between the store's commit and the end of its segment is done again; the settled counters never
pass ``spilled``, so nothing is counted twice.
"""

from __future__ import annotations

import mmap
import os
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agentlightning._internal.ids import is_process_gone, process_key
from agentlightning._internal.private import private_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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

_SETTLED = {
    "stored": "settled_stored",
    "duplicate": "settled_duplicate",
    "disk_full": "settled_disk_full",
    "store_error": "settled_store_error",
    "rejected": "settled_rejected",
}
"""What can become of a spilled span, and who counts it."""

_NAMES = ("produced", "stored", "duplicate", *REASONS, "spilled", *_SETTLED.values(), "flagged")
_MAGIC = b"AGLLEDG3"
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
    spilled: int = 0
    """Those of ``waiting`` that are safe on the disk, in spill segments."""
    flagged: int = 0
    """Those of ``produced`` that break a rule of ``view.integrity``; they are stored like the others."""

    def __add__(self, other: Account) -> Account:
        """Return the sum of two accounts."""
        lost = {reason: self.lost.get(reason, 0) + other.lost.get(reason, 0) for reason in {*self.lost, *other.lost}}
        return Account(
            self.produced + other.produced,
            self.stored + other.stored,
            self.duplicate + other.duplicate,
            self.waiting + other.waiting,
            lost,
            self.spilled + other.spilled,
            self.flagged + other.flagged,
        )

    @property
    def total_lost(self) -> int:
        """Spans lost for any reason."""
        return sum(self.lost.values())


class Ledger:
    """Counters of this process; thread-safe, but for ``produced``, whose one user counts under a lock of its own."""

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
        # Reentrant: the garbage collector may end a span while its thread counts.
        self._lock = threading.RLock()

    def _map(self, folder: Path) -> mmap.mmap:
        private_folder(folder)
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
        """Add *number* to ``produced``, ``stored``, ``duplicate``, ``spilled``, ``flagged`` or one of ``REASONS``."""
        with self._lock:
            self._cells[_PLACES[name]] += number

    def settle(self, outcome: str, number: int) -> None:
        """Note what became of *number* spilled spans of this process: one of the keys of ``_SETTLED``."""
        with self._lock:
            _settle(self._cells, outcome, number)

    def account(self) -> Account:
        """Return the counters now."""
        return _account(list(self._cells), gone=False)

    def remove(self) -> None:
        """Delete the file, when nothing is waiting any more; the counters go on in memory."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path = None


_PLACES = {name: place for place, name in enumerate(_NAMES)}


def _settle(cells: memoryview, outcome: str, number: int) -> None:
    open_count = cells[_PLACES["spilled"]] - sum(cells[_PLACES[name]] for name in _SETTLED.values())
    cells[_PLACES[_SETTLED[outcome]]] += max(0, min(number, open_count))


def _account(cells: list[int], *, gone: bool) -> Account:
    values = dict(zip(_NAMES, cells, strict=True))
    settled = {outcome: values[name] for outcome, name in _SETTLED.items()}
    lost = {reason: values[reason] + settled.get(reason, 0) for reason in REASONS}
    lost = {reason: number for reason, number in lost.items() if number}
    stored, duplicate = values["stored"] + settled["stored"], values["duplicate"] + settled["duplicate"]
    waiting = max(0, values["produced"] - stored - duplicate - sum(lost.values()))
    spilled = min(waiting, max(0, values["spilled"] - sum(settled.values())))
    if gone and waiting > spilled:
        lost["killed"] = waiting - spilled
        waiting = spilled
    return Account(values["produced"], stored, duplicate, waiting, lost, spilled, values["flagged"])


def settle_file(path: Path, outcome: str, number: int) -> None:
    """Note in the counters of another process, at *path*, what became of *number* spans that it had spilled.

    A file that is gone or is none of ours is left alone. The counters of a dead process outside ``agl run`` are deleted
    once nothing of it waits any more. Call it under the lock of the spill folder.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return
    try:
        if os.fstat(descriptor).st_size != _SIZE:
            return
        with mmap.mmap(descriptor, _SIZE) as buffer:
            if buffer[: len(_MAGIC)] != _MAGIC:
                return
            with memoryview(buffer) as view, view[_HEADER:_SIZE] as part, part.cast("q") as cells:
                _settle(cells, outcome, number)
                gone = is_process_gone(_owner(buffer[:_HEADER]))
                account = _account(list(cells), gone=gone)
    finally:
        os.close(descriptor)
    if gone and path.parent.name == _DIRECT and not account.waiting and not account.total_lost:
        path.unlink(missing_ok=True)


_DIRECT = "direct"
"""Folder of the processes that ``agl run`` did not start."""


def ledger_folder(store_url: str, attempt_id: str | None) -> Path | None:
    """Return where the processes that write to a store keep their counters, or None when it has no place for them."""
    prefix = "sqlite:///"
    if not store_url.startswith(prefix):
        return None
    return Path(store_url[len(prefix) :] + ".ledger") / (attempt_id or _DIRECT)


def read_accounts(folder: Path) -> tuple[Account, int]:
    """Return the sum of all ledgers in *folder*, and how many of their processes are still alive.

    A file that is none of ours, is damaged or goes away meanwhile is left out.
    """
    total, alive = Account(), 0
    for one in read_each(folder):
        alive += one.is_alive
        total += one.account
    return total, alive


class ProcessAccount(NamedTuple):
    """The counters of one process."""

    process: str
    """Its key: ``host/pid/start``."""
    is_alive: bool
    """False only where it is known to have ended."""
    account: Account


def read_each(folder: Path) -> Iterator[ProcessAccount]:
    """Yield the counters of each process in *folder*; what ``read_accounts`` leaves out is left out here too."""
    for path in _ledgers(folder):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if len(content) != _SIZE or not content.startswith(_MAGIC):
            continue
        owner = _owner(content)
        gone = is_process_gone(owner)
        account = _account(list(memoryview(content)[_HEADER:].cast("q")), gone=gone)
        yield ProcessAccount(owner, not gone, account)


def _owner(content: bytes) -> str:
    return content[len(_MAGIC) : _HEADER].rstrip(b"\0").decode("utf-8", "replace")


def remove_folder(folder: Path) -> None:
    """Delete the counters of an attempt once they have been noted elsewhere."""
    shutil.rmtree(folder, ignore_errors=True)


def own_folder(folder: Path) -> None:
    """Make the folder of a run and note in it that this process, ``agl run``, is who will delete it."""
    private_folder(folder)
    (folder / _RUN).write_text(process_key(), "utf-8")


def sweep(parent: Path) -> None:
    """Delete the folders under *parent* of runs that are over: their children outlived them, or they were killed.

    A folder stays while a process of its run lives and while a span waits in it; what was lost can be asked for
    (``agl doctor``) for 30 days more. A child that has not traced anything yet makes the folder again.
    """
    for folder in list(parent.iterdir())[:_MOST_SWEPT] if parent.is_dir() else ():
        if folder.name == _DIRECT or not folder.is_dir() or not _is_run_over(folder):
            continue
        account, alive = read_accounts(folder)
        if not alive and not account.waiting and (not account.total_lost or _age_s(folder) > _LOSS_KEPT_S):
            remove_folder(folder)


_RUN = "run"
"""File that names the process of ``agl run``."""
_MOST_SWEPT = 200
_LOSS_KEPT_S = 30 * 86_400.0
_UNOWNED_S = 86_400.0
"""A folder in which no process is named is left alone for so long."""


def _is_run_over(folder: Path) -> bool:
    try:
        return is_process_gone((folder / _RUN).read_text("utf-8"))
    except (OSError, ValueError):
        return _age_s(folder) > _UNOWNED_S


def _age_s(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0


def _ledgers(folder: Path) -> Iterable[Path]:
    return sorted(folder.glob("*.ledger")) if folder.is_dir() else ()
