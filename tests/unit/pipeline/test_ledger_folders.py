"""Folders in which runs keep their counters: gone when nobody needs them, and not before."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from agentlightning.pipeline.ledger import Ledger, own_folder, read_accounts, sweep

if TYPE_CHECKING:
    from pathlib import Path

# A run whose child counts and is killed with it: what both leave behind.
_RUN = """
import os, sys
from pathlib import Path
from agentlightning.pipeline.ledger import Ledger, own_folder
folder = Path(sys.argv[1])
own_folder(folder)
if sys.argv[2]:
    ledger = Ledger(folder)
    for name in sys.argv[2].split(","):
        ledger.count(name)
os.kill(os.getpid(), 9)
"""


def killed_run(folder: Path, counters: str) -> None:
    """Leave the folder of a run that was killed with these counters, 1 each."""
    subprocess.run([sys.executable, "-c", _RUN, str(folder), counters], check=False)


@pytest.mark.parametrize(
    ("counters", "stays"),
    [
        ("", False),
        ("produced,stored", False),
        ("produced", True),
        ("produced,queue_full", True),
        ("produced,spilled", True),
    ],
)
def test_a_killed_run_is_swept_when_nothing_is_left_to_tell(tmp_path: Path, counters: str, stays: bool) -> None:
    """The folder of a dead run goes, unless spans were lost, which can be asked for, or wait to be replayed."""
    folder = tmp_path / "at-1"
    killed_run(folder, counters)
    sweep(tmp_path)
    assert folder.exists() == stays
    assert (read_accounts(folder)[0].total_lost > 0) == (counters in {"produced", "produced,queue_full"})


def test_losses_are_forgotten_after_a_month(tmp_path: Path) -> None:
    """What was lost by a run whose children outlived it is kept for 30 days."""
    folder = tmp_path / "at-1"
    killed_run(folder, "produced")
    for days, stays in ((29, True), (31, False)):
        then = time.time() - days * 86_400
        os.utime(folder, (then, then))
        sweep(tmp_path)
        assert folder.exists() == stays


def test_what_is_alive_stays(tmp_path: Path) -> None:
    """The folder of a run that goes on, of a dead run with a living child, and of processes without a run stay."""
    own_folder(tmp_path / "at-running")
    killed_run(tmp_path / "at-child", "produced,stored")
    ledger = Ledger(tmp_path / "at-child")  # this process is the child that outlives its run
    killed_run(tmp_path / "direct", "produced,stored")
    (tmp_path / "at-unnamed").mkdir()
    (tmp_path / "file").write_text("")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "at-child",
        "at-running",
        "at-unnamed",
        "direct",
        "file",
    ]
    ledger.remove()
    sweep(tmp_path)
    assert not (tmp_path / "at-child").exists()
    sweep(tmp_path / "missing")
