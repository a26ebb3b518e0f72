"""Ids of rollouts, attempts, resources, spans and processes."""

import functools
import hashlib
import os
import secrets
import socket
from pathlib import Path


def new_rollout_id() -> str:
    """Return a fresh rollout id, ``ro-`` and 16 hexadecimal digits."""
    return "ro-" + secrets.token_hex(8)


def new_attempt_id() -> str:
    """Return a fresh attempt id, ``at-`` and 16 hexadecimal digits."""
    return "at-" + secrets.token_hex(8)


def new_resources_id() -> str:
    """Return a fresh resources id, ``rs-`` and 16 hexadecimal digits."""
    return "rs-" + secrets.token_hex(8)


def new_trace_id() -> int:
    """Return a fresh, valid W3C trace id as a number below 2**128."""
    return secrets.randbits(128) or 1


def new_span_id() -> int:
    """Return a fresh, valid W3C span id as a number below 2**64."""
    return secrets.randbits(64) or 1


def virtual_span_id(attempt_id: str) -> int:
    """Return the id of the span that stands for the whole attempt and that no program writes.

    It is the same in every process, so a reader knows that a span under it is a root.
    """
    return int.from_bytes(hashlib.blake2b(attempt_id.encode(), digest_size=8).digest(), "big") or 1


def implicit_ids(trace_id: str) -> tuple[str, str]:
    """Return rollout and attempt id for the spans of a trace that no rollout claims."""
    return f"ro-{trace_id}", f"at-{trace_id}"


def process_start(pid: int) -> str | None:
    """Return when process *pid* started, as an opaque text, or None when there is no such process."""
    try:
        # Field 22 of /proc/PID/stat; the second field may hold spaces and brackets, so count from its end.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return _portable_start(pid)
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


def _portable_start(pid: int) -> str | None:
    """Return the start of a process where there is no /proc (macOS, Windows)."""
    if Path("/proc/self/stat").exists():
        return None
    import psutil  # noqa: PLC0415 - only where /proc is missing

    try:
        return str(int(psutil.Process(pid).create_time() * 1000))
    except psutil.Error:
        return None


@functools.lru_cache(maxsize=1)
def host_name() -> str:
    """Return this machine's name, as processes are told apart by it."""
    return socket.gethostname() or "localhost"


def process_key() -> str:
    """Return ``host/pid/start`` of this process: no two processes ever share it."""
    pid = os.getpid()
    return f"{host_name()}/{pid}/{process_start(pid)}"


def is_process_gone(key: str) -> bool:
    """Tell whether the process that *key* names is known to have ended; False when that cannot be seen from here."""
    host, _, rest = key.partition("/")
    pid, _, start = rest.partition("/")
    if host != host_name() or not pid.isdigit():
        return False
    return process_start(int(pid)) != start
