"""How much memory tracing adds to a program that makes spans as fast as it can.

A program makes spans of 1 KB in a tight loop, in 1 and in 4 threads, for some seconds: once with its store, once with a
store that is blocked by a transaction of somebody else's all the time. Its highest resident size is compared with that
of the same program which has loaded the same modules and traces nothing.

Usage: python benchmarks/memory.py [--seconds 5]
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning.cli.bench.machine import described
from agentlightning.cli.bench.memory import run

if TYPE_CHECKING:
    from collections.abc import Generator

BAR_MB = 50.0


@contextmanager
def blocked(folder: Path) -> Generator[None, None, None]:
    """Keep a transaction open on the store that lets nobody else write."""
    from agentlightning.store.url import open_writer  # noqa: PLC0415 - makes the file

    open_writer(str(folder / "bench.db")).close()
    connection = sqlite3.connect(folder / "bench.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.rollback()
        connection.close()


def compare(store: str, threads: int, seconds: float) -> dict[str, float]:
    """Return the figures of a traced program, with what it needs more than one that traces nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare = run(folder, "bare", threads, 0.2)
        with blocked(folder) if store == "blocked" else nullcontext():
            traced = run(folder, "traced", threads, seconds)
    return {**traced, "added_mb": round(traced["peak_mb"] - bare["peak_mb"], 1)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    seconds: float = parser.parse_args().seconds
    print(described())
    results: dict[str, dict[str, float]] = {}
    for threads in (1, 4):
        for store in ("normal", "blocked"):
            figures = compare(store, threads, seconds)
            results[f"{threads} threads, {store} store"] = figures
            print(
                f"{threads} threads, {store:8} store: {figures['added_mb']:6.1f} MB added (bar {BAR_MB:g}); {figures}"
            )
    print(json.dumps(results))
    if any(result["added_mb"] > BAR_MB for result in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
