"""What a task changed in the files of its project: from git in a repository, else from a look before and after.

The first look takes some ten milliseconds. In a large folder it goes on beside the agent, whose first call of a model
takes longer than it.
"""

from __future__ import annotations

import difflib
import os
import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ai_agents.telemetry.error_handler import safe_telemetry_operation
from ai_agents.telemetry.types import CodeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Contents = dict[str, bytes | None]

MAX_FILES = 5_000
MAX_FILE_BYTES = 2**20
"""A larger file counts as changed by its size and time, without its lines."""

MAX_TOTAL_BYTES = 32 * 2**20

_GIT_TIMEOUT_S = 10
_PRECISE_LINES = 2_000
_LEFT_OUT = {"__pycache__", "node_modules", "venv", "build", "dist", "target"}


class CodeWatch:
    """One look before and one after; use from one thread."""

    def __init__(self, folder: str | Path) -> None:
        """Watch *folder* and everything below it."""
        self._folder = Path(folder)
        self._thread = threading.Thread(target=self._look, name="ai-agents-code-watch", daemon=True)
        self._before: Contents = {}
        self._commit: str | None = None
        self._looked = False

    def start(self, wait_s: float = 0.25) -> None:
        """Begin the first look, and wait so long for its end: what is changed before it is over is not seen."""
        with safe_telemetry_operation("code_watch"):
            self._thread.start()
            self._thread.join(wait_s)

    def finish_beside(self, apply: Callable[[CodeMetrics], object]) -> threading.Thread:
        """Look again in another thread, which is returned, and hand *apply* what has changed.

        The program goes on meanwhile: what it changes itself in the next moments may be counted too.
        """

        def look() -> None:
            """Find the changes out and hand them on, if they can be found out."""
            changes = self.finish()
            if changes is not None:
                apply(changes)

        thread = threading.Thread(target=look, name="ai-agents-code-watch", daemon=True)
        thread.start()
        return thread

    def finish(self, timeout_s: float = 10.0) -> CodeMetrics | None:
        """Return what has changed since ``start``; None where that cannot be found out."""
        with safe_telemetry_operation("code_watch"):
            self._thread.join(timeout_s)
            if not self._looked:
                return None
            if self._commit is None:
                return compare(self._before, _read_all(self._folder))
            return self._compare_with_commit(self._commit)
        return None

    def _look(self) -> None:
        with safe_telemetry_operation("code_watch"):
            commit = _git(self._folder, "rev-parse", "--verify", "HEAD")
            if commit is None:
                self._before = _read_all(self._folder)
            else:
                self._commit = commit.decode().strip()
                # Only what differs from the commit needs to be read: the commit holds the rest.
                self._before = _read(self._folder, self._changed_since(self._commit))
            self._looked = True

    def _compare_with_commit(self, commit: str) -> CodeMetrics:
        before, names = dict(self._before), self._changed_since(commit)
        for name in names:
            if name not in before:
                before[name] = _git(self._folder, "show", f"{commit}:./{name}")
        return compare(before, _read(self._folder, {*names, *before}))

    def _changed_since(self, commit: str) -> set[str]:
        """Return the files that differ from *commit*, and those that git does not know and does not ignore."""
        arguments = ("--name-only", "-z", "--no-renames", "--relative", commit, "--", ".")
        changed = _git(self._folder, "diff", *arguments) or b""
        unknown = _git(self._folder, "ls-files", "--others", "--exclude-standard", "-z", "--", ".") or b""
        names = [os.fsdecode(name) for name in (changed + unknown).split(b"\0") if name]
        return set(names[:MAX_FILES])


def compare(before: Contents, after: Contents) -> CodeMetrics:
    """Return what lies between two looks; None stands for a file that is not there."""
    metrics = CodeMetrics()
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if old is None:
            metrics.files_created += 1
        elif new is None:
            metrics.files_deleted += 1
        else:
            metrics.files_modified += 1
        added, removed, modified = _lines(old or b"", new or b"")
        metrics.lines_added += added
        metrics.lines_removed += removed
        metrics.lines_modified += modified
    return metrics


def _lines(old: bytes, new: bytes) -> tuple[int, int, int]:
    """Return how many lines were added, removed and replaced by another."""
    if b"\0" in old[:8192] or b"\0" in new[:8192]:
        return 0, 0, 0
    before, after = old.splitlines(), new.splitlines()
    if max(len(before), len(after)) > _PRECISE_LINES:  # the exact way takes the square of the number of lines
        more, fewer = Counter(after), Counter(before)
        added, removed = (more - fewer).total() if hasattr(more, "total") else sum((more - fewer).values()), 0
        removed = sum((fewer - more).values())
        modified = min(added, removed)
        return added - modified, removed - modified, modified
    added = removed = modified = 0
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for _, start, end, new_start, new_end in matcher.get_opcodes():
        if before[start:end] == after[new_start:new_end]:
            continue
        both = min(end - start, new_end - new_start)
        modified += both
        removed += end - start - both
        added += new_end - new_start - both
    return added, removed, modified


def _git(folder: Path, *arguments: str) -> bytes | None:
    """Return what git says, None where it fails or is not there."""
    command = ["git", "-C", str(folder), "-c", "core.quotepath=off", "-c", "core.fsmonitor=false", *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        answer = subprocess.run(  # noqa: S603 - fixed words, and names that git itself gave
            command, capture_output=True, check=False, timeout=_GIT_TIMEOUT_S, env=environment, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout if answer.returncode == 0 else None


def _read_all(folder: Path) -> Contents:
    return _read(folder, _walk(folder))


def _walk(folder: Path) -> Iterator[str]:
    """Yield the files below *folder*, without hidden folders and those that tools fill."""
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _LEFT_OUT]
        for name in files:
            yield os.path.relpath(os.path.join(path, name), folder)  # noqa: PTH118 - os.walk speaks text


def _read(folder: Path, names: Iterable[str]) -> Contents:
    """Return the contents of files; of those beyond the limits only what tells that they changed."""
    contents: Contents = {}
    total = 0
    for name in names:
        if len(contents) >= MAX_FILES:
            break
        path = folder / name
        try:
            found = path.lstat()
            small = found.st_size <= MAX_FILE_BYTES and total + found.st_size <= MAX_TOTAL_BYTES and path.is_file()
            mark = f"\0{found.st_size} {found.st_mtime_ns}".encode()
            contents[name] = path.read_bytes() if small and not path.is_symlink() else mark
        except OSError:
            contents[name] = None
            continue
        total += found.st_size if small else 0
    return contents
