"""Programs that trace themselves, in processes of their own, and what is in their store afterwards."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agentlightning.pipeline.ledger import Account, read_accounts

_PREFIX = """
import os, sys, threading, time
from agentlightning.pipeline.process import account, flush, get_pipeline
from agentlightning.tracer.provider import get_tracer
tracer = get_tracer()
def emit(count, **attributes):
    for number in range(count):
        tracer.start_span("work", attributes={"number": number, **attributes}).end()
"""


class Programs:
    """Starts traced programs on one store."""

    def __init__(self, folder: Path) -> None:
        """Use ``x.db`` in *folder*."""
        self.folder = folder
        self.store = folder / "x.db"
        self.environment = {**os.environ, "AGL_STORE": str(self.store)}

    def start(self, code: str, **variables: str) -> subprocess.Popen[str]:
        """Start *code*, with ``emit(count)`` at hand, and return the process."""
        return subprocess.Popen(
            [sys.executable, "-c", _PREFIX + code],
            env={**self.environment, **variables},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str, *, status: int = 0, **variables: str) -> str:
        """Run *code* to its end and return what it printed; its exit status must be *status*."""
        process = self.start(code, **variables)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == status, errors
        assert not errors
        return output

    def agl(self, *arguments: str) -> str:
        """Run ``agl`` and return what it wrote to stderr."""
        done = subprocess.run(
            [sys.executable, "-m", "agentlightning.cli", *arguments],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stderr

    def stored(self) -> int:
        """Return how many ended spans the store holds."""
        connection = sqlite3.connect(self.store)
        try:
            return connection.execute("SELECT count(*) FROM spans WHERE end_ns IS NOT NULL").fetchone()[0]
        finally:
            connection.close()

    def order(self) -> list[int]:
        """Return the attribute ``number`` of all spans in the order in which they were written."""
        connection = sqlite3.connect(self.store)
        query = "SELECT json_extract(attributes, '$.number') FROM spans ORDER BY rowid"
        try:
            return [row[0] for row in connection.execute(query)]
        finally:
            connection.close()

    def segments(self) -> list[Path]:
        """Return what lies in the spill beside the store."""
        folder = Path(f"{self.store}.spill")
        return sorted(path for path in folder.glob("*-*")) if folder.exists() else []

    def account(self) -> Account:
        """Return the sum of the ledgers of the processes outside ``agl run``."""
        return read_accounts(Path(f"{self.store}.ledger") / "direct")[0]


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    """Programs with a store of their own."""
    return Programs(tmp_path)
