"""Sessions in memory and on disk: the current one, those read back, files of our own, and a thread that writes them.

A full or read-only disk stops the writing for a while, never the collecting. Every method may be called from any
thread; those that write raise nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import time
from collections import OrderedDict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from ai_agents.telemetry.error_handler import PERSISTENT_STORAGE, get_error_handler, safe_storage_operation
from ai_agents.telemetry.folder import (
    append,
    default_folder,
    file_name,
    find_file,
    free_bytes,
    make_folder,
    own_files,
    session_files,
    writable_file,
    write_durably,
)
from ai_agents.telemetry.log import logger
from ai_agents.telemetry.session_file import decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from ai_agents.telemetry.types import TelemetrySession
    from ai_agents.telemetry.value import JsonObject

FIRST_WRITE_S = 1.0
"""How soon after its first record a session is on disk; the next writes come after 2, 4, 8 … seconds, until it is the
interval, so that a killed process leaves most of what it did."""

RETRY_S = 60.0
"""How long nothing is written after the disk refused."""

LOW_WATER_BYTES = 5 * 2**20
"""With less than this left on the disk nothing is written: the rest is the program's."""

WRITING_SHARE = 0.01
"""Part of the time that writing may take where tasks end often: a large session is written less often."""

_TOGETHER_S = 0.05

_NO_SPACE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, getattr(errno, "EDQUOT", errno.ENOSPC)}
_DAY_S = 86_400


class TelemetryDataStore:
    """Keeps one current session and reads those of before."""

    def __init__(
        self,
        storage_dir: str | Path | None = None,
        max_file_age_days: float = 30,
        *,
        flush_interval: float = 60.0,
        max_memory_sessions: int = 50,
    ) -> None:
        """Use *storage_dir*, made if needed, default ``~/.cache/ept/sop_agents``.

        Args:
            storage_dir: Folder of the files. Where it cannot be made they go to one in the temporary folder, which is
                counted as an error.
            max_file_age_days: Age after which ``cleanup_old_files`` deletes a file.
            flush_interval: Most seconds between two writes of a session that changes; 0 or less writes it once, and
                at its ends.
            max_memory_sessions: How many sessions that were read from disk are kept in memory.
        """
        wanted = default_folder() if storage_dir is None else Path(storage_dir).expanduser()
        self.storage_dir = make_folder(wanted)
        if self.storage_dir != wanted:
            logger.warning("sessions are kept in %s: %s cannot be used", self.storage_dir, wanted)
            get_error_handler().handle_storage_error(NotADirectoryError(str(wanted)), "open")
        self.max_file_age_days = max_file_age_days
        self.flush_interval = flush_interval
        self.max_memory_sessions = max_memory_sessions
        self.source: Callable[[], TelemetrySession | None] | None = None
        """Where the writing thread gets the session as it is now."""
        self._current_session: TelemetrySession | None = None
        self._read: OrderedDict[str, TelemetrySession] = OrderedDict()
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        self._written: tuple[Path, bytes] | None = None
        self._not_before = 0.0
        self._writer = _Writer(self)

    def store_session_data(self, session_id: str, session: TelemetrySession | None) -> None:
        """Make *session* the current one; None is ignored. Nothing is written yet."""
        del session_id  # the session knows it
        if session is not None:
            with self._lock:
                self._current_session = session

    def get_session_data(self, session_id: str) -> TelemetrySession | None:
        """Return a session from memory or disk; None if there is none, or if its file is damaged."""
        with self._lock:
            current = self._current_session
            if current is not None and current.session_id == session_id:
                return current
            if session_id in self._read:
                self._read.move_to_end(session_id)
                return self._read[session_id]
        session = self._load(session_id)
        if session is not None and session.end_time is not None:
            with self._lock:
                self._read[session_id] = session
                self._limit_memory()
        return session

    def get_session_ids(self) -> list[str]:
        """Return the ids of the sessions on disk, the one that started first before the others."""
        found: list[tuple[str, float, str]] = []
        for path, name in session_files(self.storage_dir):
            with contextlib.suppress(OSError):
                found.append((path.name[:10], path.stat().st_mtime, name))
        return list(dict.fromkeys(name for _, _, name in sorted(found)))

    def set_limits(self, *, flush_interval: float | None = None, max_memory_sessions: int | None = None) -> None:
        """Change limits while the store is used."""
        with self._lock:
            if flush_interval is not None:
                self.flush_interval = flush_interval
            if max_memory_sessions is not None:
                self.max_memory_sessions = max_memory_sessions
            self._limit_memory()
        self._writer.look()

    def touch(self, *, now: bool = False, urgent: bool = False) -> None:
        """Note that the session changed: it is written within the interval, with *now* soon, with *urgent* at once.

        Soon means that writing takes at most ``WRITING_SHARE`` of the time, however often tasks end.
        """
        self._writer.touch(now=now, urgent=urgent)

    def flush_to_disk(self) -> bool:
        """Write the current session; True when it is durable. Never raises; after a failure memory still has it."""
        with self._writing:
            with self._lock:
                session = self._current_session
            if session is None:
                return True
            if not self._may_write():
                return False
            try:
                path, content = writable_file(self.storage_dir, session), encode(session)
                new = (path, hashlib.blake2b(content, digest_size=16).digest())
                if new == self._written and path.exists():
                    return True
                write_durably(path, content)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with disk or data, the agent goes on
                self._failed(error)
                return False
            self._written = new
            logger.debug("session %s: written, %d tasks", session.session_id, len(session.tasks))
            get_error_handler().enable_component(PERSISTENT_STORAGE)
            return True

    def archive(self, session: TelemetrySession, lines: bytes) -> bool:
        """Append records that leave the memory to a file beside the session's; True when they are there."""
        if not self._may_write():
            return False
        try:
            append(self.storage_dir / file_name(session, "records.jsonl"), lines)
        except OSError as error:
            self._failed(error)
            return False
        return True

    def cleanup_old_files(self, max_age_days: float | None = None) -> int:
        """Delete session files that were not changed for so many days and return how many; other files stay."""
        age_days = self.max_file_age_days if max_age_days is None else max_age_days
        limit = time.time() - age_days * _DAY_S
        current = self._current_session
        kept = None if current is None else writable_file(self.storage_dir, current).name
        removed = 0
        for path in own_files(self.storage_dir):
            with contextlib.suppress(OSError):
                if path.name != kept and path.stat().st_mtime < limit:
                    path.unlink()
                    removed += 1
        return removed

    def get_storage_stats(self) -> JsonObject:
        """Return path, number, size and age of the files; zeros and ``error`` when the folder cannot be read."""
        stats: JsonObject = {
            "storage_dir": str(self.storage_dir),
            "storage_path": str(self.storage_dir),
            "has_current_session": self._current_session is not None,
            "disk_files": 0,
            "total_files": 0,
            "total_disk_size_mb": 0.0,
            "oldest_file": None,
            "newest_file": None,
        }
        try:
            os.stat(self.storage_dir)  # noqa: PTH116 - Path.stat is what tests replace
            found = [
                (path.stat().st_mtime, path.stat().st_size, path.name) for path, _ in session_files(self.storage_dir)
            ]
        except OSError as error:
            return {**stats, "error": f"{type(error).__name__}: {error.strerror}"}
        if found:
            stats["disk_files"] = stats["total_files"] = len(found)
            stats["total_disk_size_mb"] = round(sum(size for _, size, _ in found) / 2**20, 6)
            stats["oldest_file"], stats["newest_file"] = _described(min(found)), _described(max(found))
        return stats

    def get_storage_path(self) -> Path:
        """Return the folder of the files."""
        return self.storage_dir

    def shutdown(self) -> None:
        """Stop the writing thread, write what is there and delete what is too old. A second call writes again."""
        self._writer.stop()
        self.flush_to_disk()
        self.cleanup_old_files()

    def __enter__(self) -> Self:
        """Return the store."""
        return self

    def __exit__(self, *_: object) -> None:
        """Shut down."""
        self.shutdown()

    def _may_write(self) -> bool:
        """Tell whether the disk may be tried: not soon after it refused, and not when it is nearly full."""
        if time.monotonic() < self._not_before:
            return False
        handler = get_error_handler()
        if handler.is_component_disabled(PERSISTENT_STORAGE):
            if self._not_before == 0.0:  # disabled by many errors: try again later
                self._not_before = time.monotonic() + RETRY_S
                return False
            handler.enable_component(PERSISTENT_STORAGE)
        free = free_bytes(self.storage_dir)
        if free is not None and free < LOW_WATER_BYTES:
            self._failed(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            return False
        return True

    def _failed(self, error: Exception) -> None:
        handler = get_error_handler()
        handler.handle_storage_error(error, "flush")
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            handler.disable_component(PERSISTENT_STORAGE)
            self._not_before = time.monotonic() + RETRY_S

    def _load(self, session_id: str) -> TelemetrySession | None:
        path = find_file(self.storage_dir, session_id)
        if path is None or get_error_handler().is_file_corrupted(path):
            return None
        try:
            return decode(path.read_bytes(), path.stat().st_mtime)
        except OSError as error:
            get_error_handler().handle_storage_error(error, "load")
        except (ValueError, RecursionError) as error:
            get_error_handler().handle_data_corruption(path, error)
        return None

    def _limit_memory(self) -> None:
        while len(self._read) > max(0, self.max_memory_sessions):
            self._read.popitem(last=False)


class _Writer:
    """The thread that writes a session while it grows; it starts with the first change."""

    def __init__(self, store: TelemetryDataStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._dirty = False
        self._urgent = False
        self._stopped = False

    def touch(self, *, now: bool, urgent: bool) -> None:
        """Note a change; cheap, as every record comes here."""
        self._dirty = True
        if urgent:
            self._urgent = True
        if self._thread is None:
            self._start()
        elif now:
            self._wake.set()

    def look(self) -> None:
        """Let the thread see a new interval."""
        if self._thread is not None:
            self._wake.set()

    def stop(self) -> None:
        """End the thread and wait for what it is writing."""
        self._stopped = True
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._stopped:
                thread = threading.Thread(target=self._run, name="ai-agents-telemetry", daemon=True)
                with contextlib.suppress(RuntimeError):  # no more threads, or the interpreter is ending
                    thread.start()
                    self._thread = thread

    def _run(self) -> None:
        pause: float | None = FIRST_WRITE_S
        step, cost_s = FIRST_WRITE_S, 0.0
        while not self._stopped:
            woken = self._wake.wait(pause)
            self._wake.clear()
            if woken:
                self._rest(cost_s)
                self._wake.clear()
            if self._dirty and not self._stopped:
                self._dirty = self._urgent = False
                began = time.thread_time()
                self._write()
                cost_s = time.thread_time() - began
            step, interval = 2 * step, self._store.flush_interval
            pause = min(step, interval) if interval > 0 else None

    def _rest(self, cost_s: float) -> None:
        """Wait, that several tasks that end at once are one write, and that writing takes no more than its share."""
        until = time.monotonic() + max(_TOGETHER_S, cost_s / WRITING_SHARE)
        while not self._stopped and not self._urgent and (left := until - time.monotonic()) > 0:
            self._wake.wait(left)
            if not self._stopped:
                self._wake.clear()

    @safe_storage_operation("auto_flush")  # the thread must live on
    def _write(self) -> None:
        source = self._store.source
        session = source() if source is not None else None
        if session is not None:
            self._store.store_session_data(session.session_id, session)
            self._store.flush_to_disk()


def _described(found: tuple[float, int, str]) -> dict[str, str]:
    return {"name": found[2], "mtime": datetime.fromtimestamp(found[0], timezone.utc).isoformat()}
