"""A store that fails while the program runs, or cannot be used at all, never changes the program."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from conftest import End, Lab

AGL = str(Path(sys.executable).with_name("agl"))
SPANS = 600
# Emits, waits until the test has done its worst, emits again.
PROGRAM = f"""
import sys, time
for number in range({SPANS // 2}): emit("early")
time.sleep(0.3)
print("ready", flush=True)
sys.stdin.readline()
for number in range({SPANS // 2}): emit("late")
print("done")
sys.exit(5)
"""


@contextlib.contextmanager
def locked(store: Path) -> Generator[None, None, None]:
    """Hold the store's write lock, as another process may."""
    connection = sqlite3.connect(store, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
    finally:
        connection.close()


def run_with(lab: Lab, harm: str) -> tuple[End, float]:
    """Run the program, do *harm* (shell, $S is the store) in the middle, and return its end and how long that took."""
    with lab.start([AGL, "run", sys.executable, lab.script(PROGRAM)], env=lab.environment) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == b"ready\n"
        subprocess.run(["sh", "-c", harm], env={**lab.environment, "S": str(lab.store)}, check=True)
        started = time.monotonic()
        out, err = process.communicate(b"go\n", timeout=60)
    return type(lab.run(["true"]))(process.returncode, out, err), time.monotonic() - started


def figure(end: End, words: str) -> int:
    """Return the number that agl's lines say before *words*, 0 when they do not."""
    found = re.search(rf"(\d[\d,]*) {words}", end.stderr.decode())
    return int(found[1].replace(",", "")) if found else 0


HARM = {
    "deleted": 'rm -f "$S" "$S-wal" "$S-shm"',
    "replaced by garbage": 'head -c 100000 /dev/urandom > "$S"; rm -f "$S-wal" "$S-shm"',
    "overwritten in its middle": 'head -c 30000 /dev/urandom | dd of="$S" bs=1 seek=8192 conv=notrunc 2>/dev/null',
    "truncated": ': > "$S"',
    "folder moved away": 'mv "$(dirname $S)" "$(dirname $S).moved"',
}


@pytest.mark.parametrize("harm", HARM)
def test_store_that_is_harmed_meanwhile(lab: Lab, harm: str, load: float) -> None:
    """Whatever happens to the file while the program runs, it ends as alone, and agl says what became of the spans."""
    end, seconds = run_with(lab, HARM[harm])
    assert end.code == 5
    assert end.stdout == b"done\n"
    assert seconds < 10 + 4 * load
    lines = end.stderr.decode().splitlines()
    assert all(line.startswith("agl: ") for line in lines), lines
    assert lines


def test_store_that_is_locked_for_long(lab: Lab, load: float) -> None:
    """While another process keeps the store locked the program ends at most some seconds later, and says so."""
    script = lab.script(PROGRAM)
    with lab.start([AGL, "run", sys.executable, script], env=lab.environment) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        with locked(lab.store):
            started = time.monotonic()
            out, err = process.communicate(b"go\n", timeout=60)
            seconds = time.monotonic() - started
    assert (process.returncode, out) == (5, b"done\n")
    assert seconds < 5 + 2 * load, seconds
    assert b"did not answer" in err
    # What could not be written is on the disk beside the store, and the next command takes it in.
    rollout_id = lab.rollouts()[0].rollout_id
    assert lab.traced("true").code == 0
    assert len(lab.spans(rollout_id)) == SPANS
    assert {rollout.rollout_id: rollout.status for rollout in lab.rollouts()}[rollout_id] == "failed"


@pytest.mark.parametrize("spill", ["", "0"])
def test_full_disk(lab: Lab, spill: str) -> None:
    """When the disk is full the program ends as alone; every span is stored, spilled elsewhere or counted as lost."""
    folder = lab.folder / "small"
    folder.mkdir()
    if lab.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]).code:
        pytest.skip("mounting a small disk needs root")
    try:
        script = lab.script(
            "import sys\nfor number in range(900):\n"
            "    with tracer.start_as_current_span('big', attributes={'text': 'x' * 5000, 'n': number}): pass\n"
            "print('done')\nsys.exit(5)\n"
        )
        lab.environment.update(AGL_STORE=str(folder / "store.db"), AGL_SPILL_BYTES=spill)
        end = lab.traced(sys.executable, script)
        assert (end.code, end.stdout) == (5, b"done\n")
        stored, lost, later = (figure(end, words) for words in ("spans,", "lost", "spans could not be stored yet"))
        assert stored + lost + later == 900, end.stderr
        assert figure(end, "disk_full" if spill else "spans could not") > 0, end.stderr
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def digest(path: Path) -> str:
    """Return a hash of a file's content."""
    return hashlib.blake2b(path.read_bytes()).hexdigest()


def newer(path: Path) -> None:
    """Make a store of a newer release."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 0x41474C31")
    connection.execute("PRAGMA user_version = 9999")
    connection.execute("CREATE TABLE x (y)")
    connection.close()


def foreign(path: Path) -> None:
    """Make a database of another program."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE customers (name)")
    connection.commit()
    connection.close()


def fill(path: Path, name: str) -> None:
    """Make what is no store of this release."""
    if name == "newer":
        newer(path)
    elif name == "foreign":
        foreign(path)
    else:
        path.write_bytes({"corrupt": b"SQLite format 3\0", "text": b"hello\n" * 99}.get(name, b"") + os.urandom(9000))


@pytest.mark.parametrize("name", ["corrupt", "garbage", "text", "newer", "foreign"])
def test_bad_store_is_refused_untouched(lab: Lab, name: str) -> None:
    """A file that is no store of this release is refused with one clear line and code 2, and not changed by a byte."""
    store = lab.folder / "bad.db"
    fill(store, name)
    before = digest(store)
    for command in (["run", sys.executable, "-c", "print('ran')"], ["ls"], ["show", "latest"]):
        end = lab.run([AGL, command[0], "--store", str(store), *command[1:]])
        assert end.code == 2, (command, end)
        assert end.stdout == b""
        assert end.stderr.count(b"\n") == 1, end.stderr
        assert str(store) in end.last_line
        assert digest(store) == before
    end = lab.run([AGL, "run", "--best-effort", "--store", str(store), sys.executable, "-c", "print('ran')"])
    assert (end.code, end.stdout) == (0, b"ran\n")
    assert end.last_line.startswith("agl: not recorded: ")
    assert digest(store) == before
    assert sorted(path.name for path in lab.folder.iterdir()) == ["bad.db"]


BAD_CALLS = {
    "missing script": (["run", "no.py"], "there is no script 'no.py'"),
    "missing script of python": (["run", sys.executable, "no.py"], "there is no script 'no.py'"),
    "missing command": (["run", "no-such-command"], "there is no command 'no-such-command'"),
    "nothing to run": (["run"], "nothing to run"),
    "folder": (["run", "/tmp"], "/tmp"),
    "unknown option": (["run", "--stroe", "x", "python"], "--stroe"),
    "store in a file": (["run", "--store", "/dev/null/x.db", "true"], "/dev/null/x.db"),
    "store that is a folder": (["run", "--store", "/tmp", "true"], "/tmp"),
    "unknown scheme": (["run", "--store", "foo://x", "true"], "foo://"),
    "unknown id": (["show", "ro-nothing"], "ro-nothing"),
    "unknown command": (["shwo"], "shwo"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_call_is_one_clear_line(lab: Lab, name: str) -> None:
    """Whatever is wrong in a call is said in words with code 2, without a traceback, before anything is started."""
    arguments, said = BAD_CALLS[name]
    assert lab.traced("true").code == 0  # so that there is a store
    end = lab.run([AGL, *arguments])
    text = end.stderr.decode()
    assert end.code == 2, end
    assert said in text
    assert "Traceback" not in text
    assert end.stdout == b""


def test_bad_setting_is_refused_before_the_program_starts(lab: Lab) -> None:
    """An AGL_* variable that holds nonsense is named in one line, with what it may hold."""
    for name, value in (("AGL_QUEUE_BYTES", "many"), ("AGL_ENABLED", "perhaps"), ("AGL_LOG_LEVEL", "LOUD")):
        end = lab.run([AGL, "run", "sh", "-c", "echo ran"], env={**lab.environment, name: value})
        assert end.code == 2, end
        assert end.stdout == b""
        assert end.stderr.count(b"\n") == 1, end.stderr
        assert name in end.last_line
        assert value in end.last_line
