"""Files of a project, for agents: to list, search and read them, confined to the project's folder.

Links that lead out of it are not followed. What a model gets is text, cut to a size that it can read.
"""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_RESULTS = 200
"""Lines of a list or search that a model gets."""

MAX_CHARS = 40_000
"""Characters of a file that a model gets."""

_MAX_GREP_BYTES = 2 * 2**20
_MAX_LINE = 300
_LEFT_OUT = {"__pycache__", "node_modules", "venv"}
_HIDDEN_KEPT = {".github", ".gitlab", ".ci", ".circleci"}
"""Hidden folders that a project writes itself; the others hold what tools put there."""


class ProjectFiles:
    """The files below one folder. Thread-safe."""

    def __init__(self, root: str | Path = "") -> None:
        """Confine everything to *root*, default the working directory."""
        self.root = Path(root or Path.cwd()).resolve()

    def browse_directory(self, path: str = ".") -> str:
        """Return the entries of a folder, folders with a slash.

        Raises:
            ValueError: The path leads out of the project, or is no folder.
        """
        folder = self._inside(path)
        if not folder.is_dir():
            msg = f"{path} is no folder"
            raise ValueError(msg)
        entries = sorted(folder.iterdir(), key=lambda entry: (not entry.is_dir(), entry.name))
        return _listed(
            entry.name + "/" * entry.is_dir() for entry in entries if not (entry.is_dir() and _is_left_out(entry.name))
        )

    def file_search(self, pattern: str, path: str = ".") -> str:
        """Return the files whose name or path matches *pattern*: a part of it, or with ``*`` and ``?``.

        Raises:
            ValueError: The path leads out of the project.
        """
        wanted = pattern.strip().lower()
        glob = any(sign in wanted for sign in "*?[")

        def fits(name: str) -> bool:
            """Tell whether *name* has the pattern in it, or fits it, whole or by its last part; case does not count."""
            lower = name.lower()
            if not glob:
                return wanted in lower
            return fnmatch.fnmatch(lower, wanted) or fnmatch.fnmatch(lower.rpartition("/")[2], wanted)

        return _listed(name for name in self._files(self._inside(path)) if fits(name))

    def text_grep(self, pattern: str, path: str = ".", file_pattern: str | None = None) -> str:
        """Return the lines that match a regular expression, each as ``file:line: text``.

        Raises:
            ValueError: The path leads out of the project, or *pattern* is no regular expression.
        """
        try:
            expression = re.compile(pattern)
        except re.error as error:
            msg = f"{pattern!r} is no regular expression: {error}"
            raise ValueError(msg) from None
        start = self._inside(path)
        names = [self._name(start)] if start.is_file() else self._files(start)
        return _listed(
            hit
            for name in names
            if not file_pattern or fnmatch.fnmatch(name.rpartition("/")[2], file_pattern)
            for hit in self._hits(name, expression)
        )

    def file_reader(self, path: str, start_line: int | None = None, end_line: int | None = None) -> str:
        """Return a file, or its lines from *start_line* to *end_line*, counted from 1.

        Raises:
            ValueError: The path leads out of the project, or is no file of text.
        """
        file = self._inside(path)
        if not file.is_file():
            msg = f"{path} is no file"
            raise ValueError(msg)
        with file.open("rb") as stream:
            content = stream.read(_MAX_GREP_BYTES)
        if b"\0" in content[:8192]:
            msg = f"{path} is no text"
            raise ValueError(msg)
        text = content.decode("utf-8", "replace")
        if start_line is not None or end_line is not None:
            text = "\n".join(text.splitlines()[max(1, start_line or 1) - 1 : end_line])
        if len(text) <= MAX_CHARS:
            return text
        return text[:MAX_CHARS] + f"\n... ({len(text) - MAX_CHARS} more characters; ask for a range of lines)"

    def file_writer(self, path: str, content: str) -> str:
        """Write a file, with the folders above it, and return what was done.

        Raises:
            ValueError: The path leads out of the project.
        """
        file = self._inside(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
        return f"wrote {len(content.splitlines())} lines to {self._name(file)}"

    def _inside(self, path: str) -> Path:
        try:
            resolved = (self.root / path).resolve()
        except (OSError, ValueError, RuntimeError):
            resolved = None
        if resolved is None or not resolved.is_relative_to(self.root):
            msg = f"{path!r} is outside the project; paths are relative to its folder"
            raise ValueError(msg)
        return resolved

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _files(self, start: Path) -> Iterator[str]:
        for path, folders, files in os.walk(start):
            folders[:] = sorted(name for name in folders if not _is_left_out(name))
            for name in sorted(files):
                yield self._name(Path(path, name))

    def _hits(self, name: str, expression: re.Pattern[str]) -> Iterator[str]:
        file = self.root / name
        try:
            if not file.resolve().is_relative_to(self.root) or file.stat().st_size > _MAX_GREP_BYTES:
                return
            content = file.read_bytes()
        except OSError:
            return
        if b"\0" in content[:8192]:
            return
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            if expression.search(line):
                yield f"{name}:{number}: {line.strip()[:_MAX_LINE]}"


def _is_left_out(name: str) -> bool:
    """Tell whether a folder is left out of lists and searches."""
    return name in _LEFT_OUT or (name.startswith(".") and name not in _HIDDEN_KEPT)


def _listed(lines: Iterator[str]) -> str:
    """Return the first lines, and say when there are more."""
    found: list[str] = []
    for line in lines:
        if len(found) == MAX_RESULTS:
            found.append(f"... (only the first {MAX_RESULTS}; ask for less)")
            break
        found.append(line)
    return "\n".join(found) or "nothing was found"
