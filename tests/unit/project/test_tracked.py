"""What must not be in the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# Written in parts, so that this file does not find itself.
MACHINE_PATHS = [re.compile(rf"(?<![\w.])/{top}/\w") for top in ("work", "root", "Users", "home/(?!user)")]
INDEX_HOSTS = {"pypi.org", "files.pythonhosted.org"}
CREDENTIALS = [
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE" + r" KEY-----\n"),
    re.compile(r"\bghp_" + r"[A-Za-z0-9]{36}\b"),
    re.compile(r"\bAKIA" + r"[0-9A-Z]{16}\b"),
]
LARGEST_BYTES = 2_000_000


def tracked() -> list[Path]:
    """Return the files that git tracks and that are in the working tree."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in names.split("\0") if name and (path := ROOT / name).is_file()]


def texts() -> dict[str, str]:
    """Return the text of every tracked text file but the lock file."""
    found: dict[str, str] = {}
    for path in tracked():
        raw = path.read_bytes()
        if b"\0" not in raw and path.name != "uv.lock":
            found[path.relative_to(ROOT).as_posix()] = raw.decode("utf-8")
    return found


def hits(patterns: list[re.Pattern[str]]) -> list[str]:
    """Return ``path: match`` of every match in a tracked text."""
    return [f"{path}: {match[0]}" for path, text in texts().items() for p in patterns for match in p.finditer(text)]


def test_no_path_of_a_machine() -> None:
    """No file names a folder that exists on one machine only."""
    assert hits(MACHINE_PATHS) == []


def test_no_credential() -> None:
    """No file holds a key in the shape of a real one."""
    assert hits(CREDENTIALS) == []


def test_lock_names_the_public_index_only() -> None:
    """The lock file can be used by everybody: it names no host but those of the default index."""
    lock = (ROOT / "uv.lock").read_text(encoding="utf-8")
    hosts = set(re.findall(r"https?://([^/\s\"]+)", lock))
    assert hosts == INDEX_HOSTS
    assert "file://" not in lock
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert not re.search(r"^\[\[?tool\.uv\.index|^index-url|find-links", project, re.MULTILINE)


def test_no_large_file() -> None:
    """Nothing is tracked that makes every clone slow."""
    assert {path.name: path.stat().st_size for path in tracked() if path.stat().st_size > LARGEST_BYTES} == {}


def test_nothing_ignored_is_tracked() -> None:
    """What `.gitignore` leaves out was not added by force."""
    assert tracked()
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == ""
