"""The title of a process: what ``ps``, ``pgrep -f`` and psutil show."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path

_PR_SET_NAME = 15
_NAME_BYTES = 15
_ARG_START, _ARG_END = 45, 46
"""Fields 48 and 49 of /proc/PID/stat, counted from its third; proc(5)."""


def set_title(title: str) -> bool:
    """Show *title* as the name and command line of this process, where the system is Linux; tell whether it is done.

    The command line is overwritten where the kernel keeps it, after a look that it is really there, so the title may
    have as many bytes as the command line had; Python has copied its arguments before.
    """
    if sys.platform != "linux":
        return False
    with contextlib.suppress(OSError, ValueError, AttributeError, IndexError):
        ctypes.CDLL(None).prctl(_PR_SET_NAME, title.encode()[:_NAME_BYTES], 0, 0, 0)
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        shown = Path("/proc/self/cmdline").read_bytes()
        if not start or end - start != len(shown) or ctypes.string_at(start, len(shown)) != shown:
            return False
        ctypes.memmove(start, title.encode()[: len(shown) - 1].ljust(len(shown), b"\0"), len(shown))
        return True
    return False
