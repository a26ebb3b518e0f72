"""``agl show``: one rollout as a tree."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click

from agentlightning._internal.ids import is_process_gone
from agentlightning.cli.ls import STATUS_COLOURS, status_of, what_ran
from agentlightning.cli.options import store_options
from agentlightning.cli.terminal import draws_lines, fit, safe, show, style, width
from agentlightning.cli.text import count, dollars, duration, money, plural
from agentlightning.store.url import open_store
from agentlightning.view.cost import price
from agentlightning.view.tree import build

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import Attempt, Rollout
    from agentlightning.view.tree import Node, RolloutView, Totals

KIND_COLOURS = {
    "llm": "magenta", "agent": "blue", "tool": "yellow", "chain": "cyan", "retriever": "cyan", "embedding": "magenta",
    "reward": "green", "exception": "red",
}  # fmt: skip

_KIND, _TIME, _TOKENS, _COST = 10, 9, 10, 11
_DEEPEST = 40
"""Levels that are drawn; deeper ones keep this indent and say their depth."""


@click.command()
@click.argument("rollout", default="latest")
@store_options
def command(*, rollout: str, store: str | None, project: str | None) -> None:
    """Show ROLLOUT as a tree: an id, the beginning of one, or 'latest'."""
    opened = open_store(store, project, create=False)
    found = asyncio.run(_load(opened, rollout))
    opened.close()
    show(_lines(*found))


async def _load(store: LightningStore, text: str) -> tuple[Rollout, Attempt | None, RolloutView, list[Rollout]]:
    rollout_id = await store.find_rollout_id(text)
    rollout = await store.get_rollout_by_id(rollout_id)
    if rollout is None:  # deleted since it was found
        return await _load(store, rollout_id)
    rows = await store.query_span_rows(rollout_id, "latest", include_open=True)
    view = build(rows, is_gone=is_process_gone, price=price)
    return rollout, await store.get_latest_attempt(rollout_id), view, await store.query_child_rollouts(rollout_id)


def _lines(rollout: Rollout, attempt: Attempt | None, view: RolloutView, inside: list[Rollout]) -> Iterator[str]:
    yield from _header(rollout, attempt, view)
    yield ""
    if view.totals.spans:
        name_columns = max(20, width() - _KIND - _TIME - _TOKENS - _COST - 4)
        titles = fit("KIND", _KIND) + " " + fit("NAME", name_columns)
        yield style(f"{titles} {'TIME':>{_TIME}} {'TOKENS':>{_TOKENS}} {'COST':>{_COST}}", bold=True)
        yield from _tree(view, name_columns)
    else:
        yield "No span was recorded: the program made no call that agl knows, or was not reached ('agl doctor')."
    if inside:
        yield ""
        yield style("Rollouts inside this one:", bold=True)
        yield from (f"  {child.rollout_id}  {child.status}  {what_ran(child)}" for child in inside)


def _header(rollout: Rollout, attempt: Attempt | None, view: RolloutView) -> Iterator[str]:
    status = status_of(rollout, attempt)
    shown_status = style(status, fg=STATUS_COLOURS.get(status, "yellow"))
    yield f"{style(rollout.rollout_id, bold=True)}  {shown_status}  {what_ran(rollout)}"
    figures = [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(rollout.start_time))]
    if rollout.end_time:
        figures.append(duration(int((rollout.end_time - rollout.start_time) * 1e9)))
    totals = view.totals
    figures += [plural(totals.spans, "span"), plural(totals.llm_calls, "LLM call"), _tokens(totals), dollars(totals)]
    figures.append(plural(totals.errors, "error"))
    metadata = (attempt.metadata or {}) if attempt else {}
    if "signal" in metadata:
        figures.append(f"ended by signal {metadata['signal']}")
    elif metadata.get("exit_code"):
        figures.append(f"exit code {metadata['exit_code']}")
    lost: dict[str, int] = metadata.get("ledger", {}).get("lost", {})
    if lost:
        figures.append("lost: " + ", ".join(f"{count(number)} {reason}" for reason, number in sorted(lost.items())))
    yield " · ".join(figures)


def _tokens(totals: Totals) -> str:
    text = plural(totals.total_tokens, "token")
    if not totals.total_tokens:
        return text
    parts = [f"{count(totals.input_tokens)} in", f"{count(totals.output_tokens)} out"]
    if totals.cache_read_tokens:
        parts.append(f"{count(totals.cache_read_tokens)} cached")
    return f"{text} ({', '.join(parts)})"


def _tree(view: RolloutView, name_columns: int) -> Iterator[str]:
    lines = draws_lines()
    branch, last, pipe = ("├─ ", "└─ ", "│  ") if lines else ("|- ", "`- ", "|  ")
    # For each level whether more siblings follow; nodes come parents first, so the list is right at every node.
    more: list[bool] = []
    final = {id(node.children[-1]) for node in (view.root, *view.walk()) if node.children}
    for node in view.walk():
        is_last = id(node) in final
        del more[node.depth - 1 :]
        indent = "".join(pipe if following else "   " for following in more[1:_DEEPEST])
        stem = indent + ((last if is_last else branch) if node.depth > 1 else "")
        if node.depth > _DEEPEST:
            stem += f"({node.depth}) "
        more.append(not is_last)
        yield from _node(node, stem, name_columns)


def _node(node: Node, stem: str, name_columns: int) -> Iterator[str]:
    row = node.row
    if row is None:
        return
    facts = row.facts
    name = safe(row.name)
    detail = facts.model if facts.kind in ("llm", "embedding") else facts.tool_name or facts.agent_name
    if detail and detail not in name:
        name += f" {safe(detail)}"
    if facts.reward is not None:
        name += f" {facts.reward:g}"
    if row.status_code == "ERROR":
        mark = "✗" if draws_lines() else "ERROR"
        first_line = (row.status_description or "error").strip().partition("\n")[0]
        name += f" {mark} {safe(first_line)}"
    if node.state != "ended":
        name += f" ({node.state})"
    elapsed = duration(row.end_ns - row.start_ns) if row.end_ns is not None else ""
    tokens = count(node.totals.total_tokens) if node.totals.total_tokens else ""
    cost = _cost(node)
    kind = style(fit(facts.kind, _KIND), fg=KIND_COLOURS.get(facts.kind, "white"))
    text = fit(stem + name, name_columns)
    if row.status_code == "ERROR":
        text = style(text, fg="red")
    elif node.state != "ended":
        text = style(text, fg="yellow")
    yield f"{kind} {text} {elapsed:>{_TIME}} {tokens:>{_TOKENS}} {cost:>{_COST}}".rstrip()


def _cost(node: Node) -> str:
    totals = node.totals
    if totals.cost_known:
        return money(totals.cost) + ("+?" if totals.cost_unknown else "")
    return "unknown" if totals.cost_unknown else ""
