"""The page on events: its samples run, and its tables are what the code knows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from agentlightning.pipeline.ledger import REASONS
from agentlightning.view.integrity import RULES

PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_every_sample_runs(tmp_path: Path) -> None:
    """Each Python block of the page is a program that runs by itself, prints nothing, and whose assertions hold."""
    blocks = BLOCK.findall(PAGE)
    assert len(blocks) >= 6
    program = tmp_path / "samples.py"
    program.write_text("".join(f"exec({block!r}, {{'__name__': 'sample{n}'}})\n" for n, block in enumerate(blocks)))
    done = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_rules_are_those_of_the_code() -> None:
    """The table of integrity rules has each rule of the code and no other."""
    table = PAGE[PAGE.index("## Integrity") :]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(RULES)


def test_reasons_are_those_of_the_ledger() -> None:
    """Every reason that the ledger counts is explained for receipts."""
    section = PAGE[PAGE.index("## Receipts") : PAGE.index("## Types of your own")]
    assert {name for name in REASONS if f"`{name}`" in section} == set(REASONS)
