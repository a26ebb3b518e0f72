"""The small parts of the AgentOps server: tokens, ids, tags, the rotated log."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.server.agentops.log import KEPT_FILES, RotatingFile
from agentlightning.server.agentops.session import log_record, tags_of, trace_id_of
from agentlightning.server.agentops.signer import Claims, Signer, read_key

if TYPE_CHECKING:
    from pathlib import Path

KEY = b"k" * 32


def test_a_token_says_what_was_signed() -> None:
    """What was signed is read again with the same key, and by nobody with another one."""
    token = Signer(KEY).sign(Claims("red", "entry"))
    assert Signer(KEY).check(token) == Claims("red", "entry")
    assert Signer(b"x" * 32).check(token) is None


@given(st.text(), st.integers(0, 200))
def test_a_changed_token_is_refused(text: str, place: int) -> None:
    """Whatever is put into a token or in its place, it is refused and nothing is raised."""
    token = Signer(KEY).sign(Claims("red", ""))
    changed = token[:place] + text + token[place + 1 :]
    assert changed == token or Signer(KEY).check(changed) is None
    assert Signer(KEY).check(text) is None


def test_a_token_chooses_no_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that says it needs no signature is refused, and one that is over too."""
    token = Signer(KEY).sign(Claims("red", ""))
    head = base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).rstrip(b"=").decode()
    _, payload, _ = token.split(".")
    assert Signer(KEY).check(f"{head}.{payload}.") is None
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert Signer(KEY).check(token) is None


def test_the_key_is_made_once(tmp_path: Path) -> None:
    """Processes that start at once agree on one key, which only the user can read."""
    path = tmp_path / "state" / "signing.key"
    code = """
import sys
from pathlib import Path
from agentlightning.server.agentops.signer import read_key
print(read_key(Path(sys.argv[1])).hex())
"""
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    keys = {child.communicate(timeout=60)[0].strip() for child in children}
    assert keys == {read_key(path).hex()}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["signing.key"]


@given(st.integers(1, 2**128 - 1))
def test_a_trace_id_is_read_in_both_forms(number: int) -> None:
    """The decimal form of a log and the hexadecimal form of everything else mean the same trace."""
    assert trace_id_of(str(number), decimal=True) == f"{number:032x}"
    assert trace_id_of(f"{number:032x}") == f"{number:032x}"


@given(st.text())
def test_no_text_is_taken_for_a_trace_id_by_mistake(text: str) -> None:
    """Whatever is sent instead of a trace id gives None or an id, and raises nothing."""
    found = trace_id_of(text)
    assert found is None or len(found) == 32


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        (["a", "b"], ["a", "b"]),
        ('["a", "b"]', ["a", "b"]),
        ("a, b", ["a", "b"]),
        ('{"k": "v"}', ["k=v"]),
        (7, ["7"]),
        (None, []),
        ("", []),
    ],
)
def test_tags(value: object, tags: list[str]) -> None:
    """Tags are read from a list, its JSON, an object and plain names."""
    assert tags_of({"agentops.tags": value}) == tags


def test_a_log_has_the_time_of_its_first_line() -> None:
    """A log that arrives before its spans does not end before it begins; a time that cannot be is not taken."""
    now = time.time_ns()
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now / 1e9 - 60))
    assert 59e9 < now - log_record("0" * 31 + "1", f"{stamp},000 - INFO - x", now, None).start_ns < 62e9
    for stamp in ("2999-01-01 00:00:00", "1980-01-01 00:00:00", "9999-99-99 99:99:99", "x"):
        line = f"{stamp},000 - INFO - x"
        assert log_record("0" * 31 + "1", line, now, None).start_ns == now


WRITER = """
import logging, sys
from pathlib import Path
from agentlightning.server.agentops.log import RotatingFile
log = logging.getLogger("test")
log.setLevel(logging.INFO)
log.propagate = False
log.addHandler(RotatingFile(Path(sys.argv[1]), 4000))
for number in range(100):
    log.info("%s %03d", sys.argv[2], number)
"""


def test_several_processes_rotate_one_log(tmp_path: Path) -> None:
    """Lines of two processes are whole and in order, files stay near their size and few, nobody else can read them."""
    path = tmp_path / "x.log"
    children = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "ab"]
    assert [child.wait(60) for child in children] == [0, 0]
    files = sorted(tmp_path.glob("x.log*"))
    names = {file.name for file in files}
    assert {"x.log", "x.log.1"} <= names
    assert len(names - {"x.log.lock"}) <= KEPT_FILES + 1
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert all(file.stat().st_size < 4200 for file in files)
    text = "".join(file.read_text() for file in sorted(files, reverse=True) if file.name not in {"x.log.lock", "x.log"})
    text += path.read_text()
    for name in "ab":
        numbers = [int(line.split()[-1]) for line in text.splitlines() if f" {name} " in line]
        assert numbers == sorted(numbers)
        assert numbers[-1] == 99


def test_a_record_is_one_line(tmp_path: Path) -> None:
    """Control characters, and a traceback, do not make a second line."""
    handler = RotatingFile(tmp_path / "x.log", 10**6)
    record = logging.LogRecord("n", logging.INFO, "f", 1, "a\nb\r\x1b[31m \u2028c", None, None)
    handler.emit(record)
    handler.close()
    text = (tmp_path / "x.log").read_text()
    assert len(text.splitlines()) == 1
    assert "a\\nb\\r\\x1b[31m" in text


def test_a_link_in_the_way_is_refused(tmp_path: Path) -> None:
    """A log is never written through a link that somebody put in its place."""
    (tmp_path / "x.log").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="x"):
        RotatingFile(tmp_path / "x.log", 10**6)
    assert not (tmp_path / "victim").exists()
