"""``agl ls``: the rollouts that were recorded, newest first."""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache
from typing import TYPE_CHECKING

import click

from agentlightning.cli.figures import totals_of
from agentlightning.cli.options import store_options
from agentlightning.cli.terminal import fit, safe, show, style, width
from agentlightning.cli.text import count, dollars, duration, money
from agentlightning.store.url import open_store
from agentlightning.view.tree import Totals

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import Attempt, Rollout

STATUS_COLOURS = {"succeeded": "green", "failed": "red", "running": "cyan", "cancelled": "yellow"}

_COLUMNS = (("ROLLOUT", 20), ("STARTED", 16), ("STATUS", 11), ("TIME", 8), ("SPANS", 7), ("CALLS", 6), ("TOKENS", 10),
            ("COST", 12), ("ERRORS", 6))  # fmt: skip
_DROPPED = ("TOKENS", "CALLS", "SPANS", "STARTED", "TIME", "ERRORS", "COST")
"""What a narrow terminal has no room for, the least missed first."""
_WHAT = 18
"""Columns that WHAT needs."""
_RIGHT = frozenset({"TIME", "SPANS", "CALLS", "TOKENS", "COST", "ERRORS"})


@click.command()
@store_options
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many.")
@click.option("--all", "everything", is_flag=True, help="Rollouts inside other rollouts too.")
@click.option("--json", "as_json", is_flag=True, help="A JSON document; docs/json.md says what is in it.")
@click.option("--no-pager", is_flag=True, help="Never start a pager.")
def command(
    *, store: str | None, project: str | None, limit: int, everything: bool, as_json: bool, no_pager: bool
) -> None:
    """List recorded rollouts, newest first."""
    opened = open_store(store, project, create=False)
    try:
        lines = asyncio.run((_json if as_json else _lines)(opened, limit, everything=everything))
    finally:
        opened.close()
    show(lines, pager=not (no_pager or as_json))


async def _json(store: LightningStore, limit: int, *, everything: bool) -> list[str]:
    from agentlightning.cli import document  # noqa: PLC0415 - for machines only

    found: list[document.Document] = []
    for rollout in await store.query_newest_rollouts(limit, children=everything):
        attempt = await store.get_latest_attempt(rollout.rollout_id)
        totals = await totals_of(store, rollout.rollout_id, attempt)
        shown = document.rollout_object(rollout, attempt, status_of(rollout, attempt))
        found.append(shown | {"totals": document.totals_object(totals)})
    return list(document.stream({"version": document.VERSION, "type": "rollouts"}, "rollouts", found))


async def _lines(store: LightningStore, limit: int, *, everything: bool) -> list[str]:
    rollouts = await store.query_newest_rollouts(limit + 1, children=everything)
    if not rollouts:
        return [f"No rollout in project {store.project!r} yet. Record one: agl run python my_agent.py"]
    lines = [style(_row([name for name, _ in _COLUMNS], "WHAT"), bold=True)]
    whole = Totals()
    for rollout in rollouts[:limit]:
        attempt = await store.get_latest_attempt(rollout.rollout_id)
        totals = await totals_of(store, rollout.rollout_id, attempt)
        whole.add(totals)
        lines.append(_line(rollout, attempt, totals))
    if whole.sampled_calls:
        lines.append(_estimate(whole))
    if len(rollouts) > limit:
        lines.append(style(f"More: agl ls -n {limit * 5}", dim=True))
    return lines


def _estimate(whole: Totals) -> str:
    """Say what the listed rollouts stand for, where their spans were sampled: the lines show what was recorded."""
    cost = f", {money(whole.estimated_cost)}" if whole.cost_known else ""
    return (
        f"Sampled: in all about {count(round(whole.estimated_calls))} calls, "
        f"{count(round(whole.estimated_tokens))} tokens{cost} (estimate: each call weighs 1 / its probability)"
    )


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
    shown = _shown(width())
    for cell, (name, columns) in zip(cells, _COLUMNS, strict=True):
        if name not in shown:
            continue
        text = fit(cell.rjust(columns) if name in _RIGHT else cell, columns)
        parts.append(style(text, fg=STATUS_COLOURS[cell]) if cell in STATUS_COLOURS else text)
    used = sum(columns + 1 for name, columns in _COLUMNS if name in shown)
    return (" ".join(parts) + " " + fit(what, max(4, width() - used))).rstrip()


@lru_cache(maxsize=1)
def _shown(columns: int) -> frozenset[str]:
    """Return the names of the columns that there is room for."""
    names = dict(_COLUMNS)
    for name in _DROPPED:
        if sum(names.values()) + len(names) + _WHAT <= columns:
            break
        del names[name]
    return frozenset(names)


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
