"""The one line that ``agl run`` prints at the end."""

from __future__ import annotations

import asyncio
import shlex
from typing import TYPE_CHECKING

from agentlightning.cli.figures import to_metadata
from agentlightning.cli.text import count, dollars, plural
from agentlightning.errors import StoreError
from agentlightning.pipeline.ledger import Account, read_accounts, remove_folder, sweep
from agentlightning.pipeline.replay import replay_store
from agentlightning.store.url import open_store
from agentlightning.view.cost import price
from agentlightning.view.summary import Summary, summary

if TYPE_CHECKING:
    from pathlib import Path

    from agentlightning.store.base import LightningStore

_REPLAY_S = 5.0
"""Longest time that the end of the command works on what the store could not take before."""


def report(url: str | None, rollout_id: str, folder: Path | None, *, named: str | None) -> str:
    """Return the last line of ``agl run``: what was recorded, what was lost and why, how to see it.

    Args:
        url: Store of the rollout.
        rollout_id: The rollout.
        folder: Where its processes keep their counters; deleted once they are in the store.
        named: ``--store`` as the user gave it, repeated in the command that shows the trace.
    """
    replay_store(url, timeout_s=_REPLAY_S)
    account, alive = read_accounts(folder) if folder else (Account(), 0)
    try:
        store = open_store(url)
        found = asyncio.run(_settle(store, rollout_id, account, keep=alive > 0))
        store.close()
    except StoreError as error:
        return f"agl: the rollout cannot be read back: {error}"
    lines = [f"agl: {_figures(found, account)} · {_show_command(rollout_id, named)}"]
    if alive:
        lines.append(f"agl: {plural(alive, 'process', 'processes')} of this run still work and go on recording")
    if account.spilled:
        lines.append(f"agl: {plural(account.spilled, 'span')} could not be stored yet and will be by the next run")
    lines.extend(_unreached(folder, account))
    if folder is not None and not alive and not account.waiting:
        remove_folder(folder)
    if folder is not None:
        sweep(folder.parent)
    return "\n".join(lines)


async def _settle(store: LightningStore, rollout_id: str, account: Account, *, keep: bool) -> Summary:
    """Note the counters with the attempt and return the sums over its spans."""
    rows = await store.query_span_rows(rollout_id, "latest", include_open=True)
    attempt = await store.get_latest_attempt(rollout_id)
    found = summary(rows, price=price)
    if attempt is not None and not keep:
        ledger = {"produced": account.produced, "stored": account.stored, "lost": account.lost}
        noted = {**(attempt.metadata or {}), "ledger": ledger, "totals": to_metadata(found.totals)}
        await store.update_attempt(rollout_id, "latest", metadata=noted)
    return found


def _figures(found: Summary, account: Account) -> str:
    totals = found.totals
    lost = f"{count(account.total_lost)} lost"
    if account.total_lost:
        lost += " (" + ", ".join(f"{count(number)} {reason}" for reason, number in sorted(account.lost.items())) + ")"
    return ", ".join(
        (
            plural(totals.spans, "span"),
            plural(totals.llm_calls, "LLM call"),
            plural(totals.total_tokens, "token"),
            dollars(totals),
            plural(totals.errors, "error"),
            lost,
        )
    )


def _show_command(rollout_id: str, named: str | None) -> str:
    return f"agl show {rollout_id}" + (f" --store {shlex.quote(named)}" if named else "")


def _unreached(folder: Path | None, account: Account) -> list[str]:
    """Say which interpreters could not be traced, or that none was reached at all."""
    if folder is None or not folder.is_dir():
        return []
    interpreters = sorted({path.read_text("utf-8", "replace") for path in folder.glob("untraced-*")})
    lines = [
        f"agl: not traced: {name} has no agentlightning; "
        f"install it there: {shlex.quote(name)} -m pip install agentlightning"
        for name in interpreters
    ]
    if not lines and not account.produced and not (folder / "reached").exists():
        lines.append(
            "agl: not traced: no Python process was reached (python -I, -E and -S and other languages are not)"
        )
    return lines
