"""A lock between processes on a folder: whoever holds it may replay what lies there. Never waits."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from agentlightning._internal.failing import Telling
from agentlightning._internal.ids import is_process_gone, process_key

if TYPE_CHECKING:
    from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)


class FolderLock:
    """The lock of one folder. Given back by the system when its process dies, however it dies. Not thread-safe."""

    def __init__(self, folder: Path, *, portable: bool = fcntl is None) -> None:
        """Prepare the lock of *folder*, which must exist when it is taken; *portable*: without ``flock``."""
        self._path = folder / ".lock"
        self._portable = portable
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock and return True, or False at once when another process has it. Held already: True.

        Raises:
            OSError: The folder cannot be used.
        """
        if self._descriptor is not None:
            return True
        self._descriptor = self._acquire_portably() if self._portable else self._acquire_flock()
        return self._descriptor is not None

    def release(self) -> None:
        """Give the lock back; without it, nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if self._portable:
            self._path.unlink(missing_ok=True)
        elif fcntl is not None:
            # Said aloud: a forked child shares the open file, and closing ours alone would leave the lock with it.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    def abandon(self) -> None:
        """In a forked child: forget the parent's lock without giving it back."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _acquire_flock(self) -> int | None:
        descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | _NO_FOLLOW | _CLOSE_ON_EXEC, 0o600)
        with contextlib.suppress(BlockingIOError), Telling(lambda _: os.close(descriptor)):
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        return None

    def _acquire_portably(self) -> int | None:
        """Make a file that holds our name; one whose process is gone is taken away first."""
        for _ in range(2):
            try:
                descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | _NO_FOLLOW, 0o600)
            except FileExistsError:
                if not self._is_stale():
                    return None
                self._path.unlink(missing_ok=True)
            else:
                os.write(descriptor, process_key().encode())
                return descriptor
        return None

    def _is_stale(self) -> bool:
        try:
            owner = self._path.read_text("utf-8", "replace")
        except FileNotFoundError:
            return True
        return is_process_gone(owner)
