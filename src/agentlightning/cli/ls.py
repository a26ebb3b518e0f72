"""``agl ls``: the rollouts that were recorded, newest first."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click

from agentlightning.cli.figures import totals_of
from agentlightning.cli.options import store_options
from agentlightning.cli.terminal import fit, safe, show, style, width
from agentlightning.cli.text import count, dollars, duration
from agentlightning.store.url import open_store

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import Attempt, Rollout
    from agentlightning.view.tree import Totals

STATUS_COLOURS = {"succeeded": "green", "failed": "red", "running": "cyan", "cancelled": "yellow"}

_COLUMNS = (("ROLLOUT", 20), ("STARTED", 16), ("STATUS", 11), ("TIME", 8), ("SPANS", 7), ("CALLS", 6), ("TOKENS", 10),
            ("COST", 12), ("ERRORS", 6))  # fmt: skip
_RIGHT = frozenset({"TIME", "SPANS", "CALLS", "TOKENS", "COST", "ERRORS"})


@click.command()
@store_options
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many.")
@click.option("--all", "everything", is_flag=True, help="Rollouts inside other rollouts too.")
def command(*, store: str | None, project: str | None, limit: int, everything: bool) -> None:
    """List recorded rollouts, newest first."""
    opened = open_store(store, project, create=False)
    lines = asyncio.run(_lines(opened, limit, everything=everything))
    opened.close()
    show(lines)


async def _lines(store: LightningStore, limit: int, *, everything: bool) -> list[str]:
    rollouts = await store.query_newest_rollouts(limit + 1, children=everything)
    if not rollouts:
        return [f"No rollout in project {store.project!r} yet. Record one: agl run python my_agent.py"]
    lines = [style(_row([name for name, _ in _COLUMNS], "WHAT"), bold=True)]
    for rollout in rollouts[:limit]:
        attempt = await store.get_latest_attempt(rollout.rollout_id)
        lines.append(_line(rollout, attempt, await totals_of(store, rollout.rollout_id, attempt)))
    if len(rollouts) > limit:
        lines.append(style(f"More: agl ls -n {limit * 5}", dim=True))
    return lines


def _line(rollout: Rollout, attempt: Attempt | None, totals: Totals) -> str:
    end = rollout.end_time or (time.time() if rollout.status == "running" else None)
    cells = [
        rollout.rollout_id,
        time.strftime("%m-%d %H:%M:%S", time.localtime(rollout.start_time)),
        status_of(rollout, attempt),
        duration(int((end - rollout.start_time) * 1e9)) if end else "",
        count(totals.spans),
        count(totals.llm_calls),
        count(totals.total_tokens),
        dollars(totals, short=True),
        count(totals.errors),
    ]
    return _row(cells, what_ran(rollout))


def _row(cells: list[str], what: str) -> str:
    parts: list[str] = []
    for cell, (name, columns) in zip(cells, _COLUMNS, strict=True):
        text = fit(cell.rjust(columns) if name in _RIGHT else cell, columns)
        parts.append(style(text, fg=STATUS_COLOURS[cell]) if cell in STATUS_COLOURS else text)
    used = sum(columns + 1 for _, columns in _COLUMNS)
    return (" ".join(parts) + " " + fit(what, max(10, width() - used))).rstrip()


def status_of(rollout: Rollout, attempt: Attempt | None) -> str:
    """Return the status to show: a running rollout whose processes are gone was interrupted."""
    if rollout.status == "running" and attempt is not None:
        from agentlightning._internal.ids import is_process_gone  # noqa: PLC0415 - for running rollouts only

        process = (attempt.metadata or {}).get("process")
        if isinstance(process, str) and is_process_gone(process):
            return "interrupted"
    return rollout.status


def what_ran(rollout: Rollout) -> str:
    """Return the input of a rollout on one line."""
    if rollout.input is None:
        return ""
    return safe(rollout.input if isinstance(rollout.input, str) else repr(rollout.input))
