"""A log file that several processes write, of mode 0600, rotated by size."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning import settings
from agentlightning._internal.private import private_folder

if TYPE_CHECKING:
    from collections.abc import Generator

try:
    import fcntl
except ImportError:  # Windows: one process at a time writes there
    fcntl = None

KEPT_FILES = 3
"""Older files that are kept: ``.1`` is the newest of them."""

_FLAGS = (
    os.O_CREAT | os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
)  # a link in the way is refused


def default_log_file() -> Path:
    """Return the file of all AgentOps servers of this user, in the state directory."""
    return state_folder() / "agentops.log"


def state_folder() -> Path:
    """Return the folder of pid files, logs and the key that tokens are signed with; it may not exist yet."""
    import platformdirs  # noqa: PLC0415 - 5 ms that no importer of this module needs

    return Path(platformdirs.user_state_dir("agentlightning", appauthor=False)) / "agentops"


class RotatingFile(logging.Handler):
    """Appends each record as one line, and renames the file when it has grown. Thread-safe, and between processes."""

    def __init__(self, path: Path, max_bytes: int | None = None, label: str = "") -> None:
        """Write to *path*; *label* stands in each line before its text.

        Raises:
            OSError: It cannot be opened.
        """
        super().__init__()
        self.path = path
        self._max_bytes = settings.get(settings.AGENTOPS_LOG_BYTES) if max_bytes is None else max_bytes
        self._label = label
        private_folder(path.parent)
        self._file = os.open(path, _FLAGS, 0o600)

    def emit(self, record: logging.LogRecord) -> None:
        """Write *record*; a full disk is no reason to stop serving."""
        with contextlib.suppress(OSError):
            if os.fstat(self._file).st_size >= self._max_bytes or self._was_renamed():
                self._rotate()
            os.write(self._file, self._line(record).encode("utf-8", "backslashreplace"))

    def _line(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += " " + logging.Formatter().formatException(record.exc_info)
        # One record is one line, whatever is in it.
        clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(record.created))
        return f"{when} {record.levelname} {record.name} [{record.process}{self._label}] {clean}\n"

    def _was_renamed(self) -> bool:
        try:
            return self.path.stat().st_ino != os.fstat(self._file).st_ino
        except FileNotFoundError:
            return True

    def _rotate(self) -> None:
        with self._only_one():
            if not self._was_renamed():  # else another process did it
                for number in range(KEPT_FILES - 1, 0, -1):
                    with contextlib.suppress(FileNotFoundError):
                        _older(self.path, number).replace(_older(self.path, number + 1))
                self.path.replace(_older(self.path, 1))
            fresh = os.open(self.path, _FLAGS, 0o600)
            os.close(self._file)
            self._file = fresh

    @contextlib.contextmanager
    def _only_one(self) -> Generator[None]:
        lock = os.open(self.path.with_name(self.path.name + ".lock"), _FLAGS, 0o600)
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def close(self) -> None:
        """Close the file; the handler is not used afterwards."""
        with contextlib.suppress(OSError):
            os.close(self._file)
        super().close()


def _older(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def log_to_file(path: Path | None, label: str) -> RotatingFile | None:
    """Send audit lines and warnings of the server to *path*, default the common file; None when it cannot be."""
    target = path or default_log_file()
    audit, ours = logging.getLogger("agentlightning.audit"), logging.getLogger("agentlightning")
    try:
        handler = RotatingFile(target, label=label)
    except OSError as error:
        ours.warning("no log: %s: %s", target, error.strerror)
        return None
    audit.setLevel(logging.INFO)
    # Those of the server's libraries would go to the stderr of the program that started it.
    for logger in (ours, logging.getLogger("uvicorn.error"), logging.getLogger("asyncio")):
        logger.addHandler(handler)
    if ours.level == logging.NOTSET or ours.level > logging.INFO:
        ours.setLevel(logging.INFO)
    return handler
