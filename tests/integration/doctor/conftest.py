"""``agl doctor`` in this process, and programs that make the troubles that it has to find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from agentlightning import settings
from agentlightning.cli.main import group

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = {"AgentOps", "Other packages"}
"""Sections whose rows other parts make: their remedies are in their texts."""


@dataclass
class Row:
    """A row as ``agl doctor --json`` prints it."""

    level: str
    what: str
    found: str
    remedy: str


class Doctor:
    """Runs the command."""

    def __call__(self, *arguments: str) -> dict[str, Row]:
        """Return the rows by what they looked at; the worst one where several did."""
        settings.forget()
        answer = CliRunner().invoke(group, ["doctor", "--json", *arguments], standalone_mode=False)
        document = json.loads(answer.stdout)
        found: dict[str, Row] = {}
        order = ["ok", "note", "warn", "fail"]
        for section in document["sections"]:
            for each in section["rows"]:
                row = Row(**each)
                assert row.level in {"ok", "note"} or row.remedy or section["title"] in PACKAGES, row
                if row.what not in found or order.index(row.level) > order.index(found[row.what].level):
                    found[row.what] = row
        failed = any(row.level == "fail" for row in found.values())
        assert (answer.return_value, document["is_well"]) == (int(failed), not failed)
        return found


@pytest.fixture
def doctor() -> Doctor:
    """Give ``agl doctor``."""
    return Doctor()


class Programs:
    """Runs Python programs that use the package, with the test's store."""

    def __init__(self, folder: Path) -> None:
        """Run them in *folder*."""
        self._folder = folder

    def start(self, code: str, **variables: str) -> subprocess.Popen[str]:
        """Start a program with pipes."""
        return subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **variables}, cwd=self._folder, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, code: str, *, killed: bool = False, **variables: str) -> str:
        """Run a program to its end and return what it printed."""
        with self.start(code, **variables) as process:
            out, errors = process.communicate(timeout=60)
        assert (process.returncode < 0) is killed, errors
        assert killed or process.returncode == 0, errors
        return out


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    """Give what runs programs."""
    return Programs(tmp_path)
