"""The folder of session files: names that no id can break out of, durable writes, and files of our own only."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ai_agents.telemetry.loose import aware

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from ai_agents.telemetry.types import TelemetrySession

_SAFE = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"
_SESSION_FILE = re.compile(rf"(\d{{4}}_\d\d_\d\d)_({_SAFE})\.json")
_OWN_FILE = re.compile(rf"\d{{4}}_\d\d_\d\d_{_SAFE}\.(json|records\.jsonl|corrupted_\d{{8}}_\d{{6}})")
_FALLBACK = "ept_telemetry"
_PROCESS = re.compile(rb'"process": "(\d+:[\d.]+)"')
_HEAD_BYTES = 1024
"""In which part of a session's file its process is."""

_MOST_NAMESAKES = 1000


def default_folder() -> Path:
    """Return where sessions are kept unless a folder is given."""
    return Path.home() / ".cache" / "ept" / "sop_agents"


def make_folder(wanted: Path) -> Path:
    """Make *wanted*, readable by its owner only, or where that is not possible one in the temporary folder."""
    try:
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        if wanted == default_folder():
            _close_to_others(wanted)
    except OSError:
        return _fallback_folder()
    return wanted


def _fallback_folder() -> Path:
    """Return a folder of our own in the temporary one, which anybody may write to."""
    folder = Path(tempfile.gettempdir()) / _FALLBACK
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == _user_id(found.st_uid):
            _close_to_others(folder)
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix=_FALLBACK + "_"))


def _user_id(default: int) -> int:
    return os.getuid() if hasattr(os, "getuid") else default


def _close_to_others(folder: Path) -> None:
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def safe_id(session_id: str) -> str:
    """Return a part of a file name for *session_id*: itself where that is safe, else a safe and unique one."""
    if re.fullmatch(_SAFE, session_id) and len(session_id) <= 100:  # noqa: PLR2004 - file names end at 255 bytes
        return session_id
    digest = hashlib.blake2b(session_id.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", session_id)[:60].strip("_")
    return f"{plain or 'session'}-{digest}"


def file_name(session: TelemetrySession, kind: str = "json") -> str:
    """Return the name of a session's file: the local date of its start and its id; it never changes."""
    return f"{_local(session.start_time):%Y_%m_%d}_{safe_id(session.session_id)}.{kind}"


def _local(moment: datetime) -> datetime:
    return aware(moment).astimezone()


def session_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the session files in *folder* with the id in their name, in no order."""
    for path, name in _names(folder):
        match = _SESSION_FILE.fullmatch(name)
        if match:
            yield path, match[2]


def own_files(folder: Path) -> Iterator[Path]:
    """Yield the files in *folder* whose name is one of ours."""
    return (path for path, name in _names(folder) if _OWN_FILE.fullmatch(name))


def writable_file(folder: Path, session: TelemetrySession) -> Path:
    """Return the file to write *session* to: another one than that of a process that calls its session the same."""
    path = folder / file_name(session)
    for number in range(2, _MOST_NAMESAKES):
        if _owner(path) in {None, session.process}:
            break
        path = folder / file_name(session, f"{number}.json")
    return path


def _owner(path: Path) -> str | None:
    """Return the process that wrote a session's file; None where that is not known, or there is no file."""
    try:
        with path.open("rb") as file:
            found = _PROCESS.search(file.read(_HEAD_BYTES))
    except OSError:
        return None
    return None if found is None else found[1].decode()


def find_file(folder: Path, session_id: str) -> Path | None:
    """Return the newest file of a session, None if there is none; one that is called by the id alone counts too."""
    wanted = safe_id(session_id)
    found = sorted(path for path, name in session_files(folder) if name == wanted)
    if found:
        return found[-1]
    plain = folder / f"{wanted}.json"
    return plain if plain.is_file() and not plain.is_symlink() else None


def _names(folder: Path) -> Iterator[tuple[Path, str]]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                yield Path(entry.path), entry.name


def write_durably(path: Path, content: bytes) -> None:
    """Replace *path* by *content* in one step, readable by its owner only; durable when this returns.

    Raises:
        OSError: Nothing was changed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(temporary, flags, 0o600)
    try:
        with open(handle, "wb") as stream:  # noqa: PTH123 - a descriptor, not a path
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):  # it is gone where all went well
            temporary.unlink()
    _sync_folder(path.parent)


def append(path: Path, content: bytes) -> None:
    """Append *content* to a file that only its owner can read."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(path, flags, 0o600), "ab") as stream:  # noqa: PTH123 - a descriptor, not a path
        stream.write(content)


def free_bytes(folder: Path) -> int | None:
    """Return how many bytes can still be written to the disk of *folder*; None where that cannot be found out."""
    if not hasattr(os, "statvfs"):
        return None
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _sync_folder(folder: Path) -> None:
    """Make the new name durable too, where folders can be synchronised."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
