"""How far a trainer is, as a line on stderr."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentlightning.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Generator

    from agentlightning.store.base import LightningStore

_LOOK_S = 0.5


@contextmanager
def progress_bar(store: LightningStore, *, shown: bool | None = None) -> Generator[None]:
    """Show how many rollouts of *store* are finished while the block runs.

    Args:
        store: Asked twice a second.
        shown: None: when stderr is a terminal.
    """
    if not (sys.stderr.isatty() if shown is None else shown):
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_show, args=(store, stop), name="agentlightning-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(2 * _LOOK_S)


def _show(store: LightningStore, stop: threading.Event) -> None:
    from rich.console import Console  # noqa: PLC0415 - only where it is shown
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("rollouts", total=None)
        while True:
            is_last = stop.is_set()
            done, total, failed = _count(store)
            text = f"rollouts ({failed} failed)" if failed else "rollouts"
            bar.update(task, completed=done, total=total or None, description=text)
            if is_last:
                return
            stop.wait(_LOOK_S)


def _count(store: LightningStore) -> tuple[int, int, int]:
    """Return how many rollouts are finished, how many there are, and how many failed."""
    try:
        statuses = asyncio.run(store.statistics()).statuses
    except StoreError:
        return 0, 0, 0  # it is busy or away; the next look will tell
    done = sum(statuses.get(status, 0) for status in ("succeeded", "failed", "cancelled"))
    return done, sum(statuses.values()), statuses.get("failed", 0)
