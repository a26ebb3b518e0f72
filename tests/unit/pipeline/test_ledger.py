"""The ledger adds up at every moment, survives its process, and reads nothing that is none of ours."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.pipeline.ledger import (
    REASONS,
    Account,
    Ledger,
    ledger_folder,
    read_accounts,
    remove_folder,
    settle_file,
)

_PROGRAM = """
import os, sys
from pathlib import Path
from agentlightning.pipeline.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
ledger.produced[0] = 10
ledger.count("stored", 4)
ledger.count("sampled", 1)
ledger.count("spilled", 3)
os.kill(os.getpid(), 9)
"""


def killed(folder: Path) -> Path:
    """Return the ledger of a process that produced 10, stored 4, sampled 1, spilled 3, and was killed."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    (path,) = folder.glob("*.ledger")
    return path


def test_what_waited_in_memory_was_killed(tmp_path: Path) -> None:
    """After SIGKILL the counters are there; what was on the disk waits, the rest was killed."""
    killed(tmp_path)
    account, alive = read_accounts(tmp_path)
    assert account == Account(10, 4, 0, 3, {"sampled": 1, "killed": 2}, 3)
    assert alive == 0


def test_a_replay_settles_what_was_spilled_and_never_more(tmp_path: Path) -> None:
    """Counted twice, as after a replay that was killed, it is still counted once."""
    path = killed(tmp_path)
    settle_file(path, "stored", 2)
    assert read_accounts(tmp_path)[0] == Account(10, 6, 0, 1, {"sampled": 1, "killed": 2}, 1)
    for _ in range(3):
        settle_file(path, "duplicate", 2)
    assert read_accounts(tmp_path)[0] == Account(10, 6, 1, 0, {"sampled": 1, "killed": 2}, 0)


def test_a_settled_ledger_outside_of_agl_run_is_deleted(tmp_path: Path) -> None:
    """A dead process of which nothing waits and nothing is lost leaves no file; one with a loss keeps its account."""
    folder = tmp_path / "direct"
    path = killed(folder)
    settle_file(path, "stored", 3)
    assert path.exists()  # two spans were killed
    clean = Ledger(folder)
    assert clean.path is not None
    content = clean.path.read_bytes()
    clean.produced[0] = 1
    clean.count("spilled")
    settle_file(clean.path, "stored", 1)
    assert clean.path.exists()  # its process, this one, is alive
    clean.remove()
    dead = folder / "1-dead.ledger"
    dead.write_bytes(path.read_bytes()[:256] + content[256:])
    settle_file(dead, "stored", 0)
    assert not dead.exists()


@given(st.lists(st.tuples(st.sampled_from(["stored", "duplicate", *REASONS]), st.integers(0, 50)), max_size=30))
def test_it_adds_up_whatever_is_counted(steps: list[tuple[str, int]]) -> None:
    """Produced = stored + duplicate + waiting + lost after every step, and sums of accounts add up too."""
    ledger, total = Ledger(None), 0
    for name, number in steps:
        total += number
        ledger.produced[0] = total
        ledger.count(name, number)
        account = ledger.account()
        assert account.produced == account.stored + account.duplicate + account.waiting + account.total_lost
    both = ledger.account() + Account(3, 1, 1, 1, {"killed": 0, "sampled": 0}, 1)
    assert both.produced == both.stored + both.duplicate + both.waiting + both.total_lost


@pytest.mark.parametrize("content", [b"", b"x", b"AGLLEDG3", os.urandom(400), b"AGLLEDG2" + bytes(400)])
def test_garbage_is_left_out_and_left_alone(tmp_path: Path, content: bytes) -> None:
    """A file that is none of ours changes no account and is not changed."""
    path = tmp_path / "1-x.ledger"
    path.write_bytes(content)
    assert read_accounts(tmp_path) == (Account(), 0)
    settle_file(path, "stored", 1)
    settle_file(tmp_path / "absent.ledger", "stored", 1)
    assert path.read_bytes() == content


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A symbolic link in place of a ledger is not written through."""
    path = killed(tmp_path / "a")
    link = tmp_path / "link.ledger"
    link.symlink_to(path)
    before = path.read_bytes()
    settle_file(link, "stored", 3)
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_costs_the_file_only(tmp_path: Path) -> None:
    """Counting goes on in memory where no file can be made."""
    (tmp_path / "file").write_text("in the way")
    ledger = Ledger(tmp_path / "file" / "folder")
    ledger.count("stored", 2)
    assert ledger.path is None
    assert ledger.account().stored == 2


def test_files_are_private(tmp_path: Path) -> None:
    """Folders are 0700 and the file is 0600, also under umask 000."""
    before = os.umask(0)
    try:
        ledger = Ledger(tmp_path / "x.db.ledger" / "at-1")
    finally:
        os.umask(before)
    assert ledger.path is not None
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(ledger.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(ledger.path.parent.parent.stat().st_mode) == 0o700
    ledger.remove()
    assert ledger.path is None
    remove_folder(tmp_path / "x.db.ledger")
    assert not (tmp_path / "x.db.ledger").exists()


def test_only_files_have_a_place_for_counters() -> None:
    """A SQLite store's counters lie beside it, one folder for each attempt; other stores have none."""
    assert ledger_folder("sqlite:////a/x.db", "at-1") == Path("/a/x.db.ledger/at-1")
    assert ledger_folder("sqlite:////a/x.db", None) == Path("/a/x.db.ledger/direct")
    assert ledger_folder("https://host", "at-1") is None
