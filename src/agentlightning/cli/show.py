"""``agl show``: one rollout as a tree, as conversations, as JSON, or as it is stored."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

import click

from agentlightning._internal.ids import is_process_gone
from agentlightning.cli.agentops_log import log_lines
from agentlightning.cli.ls import STATUS_COLOURS, status_of, what_ran
from agentlightning.cli.options import store_options
from agentlightning.cli.outline import errors, outline
from agentlightning.cli.terminal import safe, show, style
from agentlightning.cli.text import count, dollars, duration, plural
from agentlightning.errors import UnknownIdError
from agentlightning.store.url import open_store
from agentlightning.view.cost import price
from agentlightning.view.tree import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import Attempt, Rollout
    from agentlightning.types.tracer import Span
    from agentlightning.view.tree import RolloutView, Totals

_STEP = 256
"""Spans that are read at once."""
_MODES = ("chat", "tokens", "raw", "span")


class _Found(NamedTuple):
    """What was read of a rollout."""

    rollout: Rollout
    attempt: Attempt | None
    view: RolloutView
    inside: list[Rollout]


@click.command()
@click.argument("rollout", default="latest")
@store_options
@click.option("--chat", is_flag=True, help="The conversations: what each LLM call was sent anew, and what it answered.")
@click.option("--tokens", is_flag=True, help="Token ids of each LLM call, and whether each turn goes on with them.")
@click.option("--raw", is_flag=True, help="The spans as they are stored, one JSON object on a line.")
@click.option("--span", metavar="ID", help="One span in full: its id or the beginning of it.")
@click.option("--json", "as_json", is_flag=True, help="A JSON document; docs/json.md says what is in it.")
@click.option("--open", "only_open", is_flag=True, help="Unfinished spans and what is above them; with --raw: too.")
@click.option("--full", is_flag=True, help="With --chat: fold nothing.")
@click.option("--no-pager", is_flag=True, help="Never start a pager.")
def command(  # noqa: PLR0913 - one for each option
    *,
    rollout: str,
    store: str | None,
    project: str | None,
    as_json: bool,
    only_open: bool,
    full: bool,
    no_pager: bool,
    **mode: bool | str | None,
) -> None:
    """Show ROLLOUT, an id, the beginning of one, or 'latest', as a tree.

    \b
    A rollout that 'agl run' recorded has all processes of the program. Times are
    wall-clock; tokens and cost of a span are those of the calls below it.
    """  # noqa: D301 - click's mark for lines that stay as they are
    chosen = [name for name in _MODES if mode[name]]
    if len(chosen) > 1:
        msg = f"--{chosen[0]} and --{chosen[1]} exclude each other."
        raise click.UsageError(msg)
    kind = chosen[0] if chosen else "tree"
    if full and kind != "chat":
        msg = "--full belongs to --chat."
        raise click.UsageError(msg)
    if only_open and (kind not in ("tree", "raw") or (kind == "tree" and as_json)):
        msg = "--open belongs to the tree and to --raw; --json has unfinished spans in any case."
        raise click.UsageError(msg)
    opened = open_store(store, project, create=False)
    try:
        found = asyncio.run(_load(opened, rollout))
        if kind == "span":
            show(_one_span(opened, found, str(mode["span"]), as_json=as_json), pager=not no_pager)
        elif kind == "raw":
            show(_raw(opened, found, with_open=only_open), pager=not no_pager)
        elif as_json:
            show(_json(opened, found, kind), pager=False)
        else:
            show(_text(opened, found, kind, only_open=only_open, full=full), pager=not no_pager)
    finally:
        opened.close()


async def _load(store: LightningStore, text: str) -> _Found:
    rollout_id = await store.find_rollout_id(text)
    rollout = await store.get_rollout_by_id(rollout_id)
    if rollout is None:  # deleted since it was found
        return await _load(store, rollout_id)
    attempt = await store.get_latest_attempt(rollout_id)
    rows = await store.query_span_rows(rollout_id, attempt.attempt_id if attempt else None, include_open=True)
    view = build(rows, is_gone=is_process_gone, price=price)
    return _Found(rollout, attempt, view, await store.query_child_rollouts(rollout_id))


def _text(store: LightningStore, found: _Found, kind: str, *, only_open: bool, full: bool) -> Iterator[str]:
    yield from _header(found)
    if kind == "chat":
        from agentlightning.cli.chat import chat  # noqa: PLC0415 - only the view that is asked for

        yield from chat(found.view, _fetch(store), full=full)
        return
    yield ""
    if kind == "tokens":
        from agentlightning.cli.token_check import checked_calls, token_lines  # noqa: PLC0415 - see above

        yield from token_lines(checked_calls(found.view, _fetch(store)))
        return
    if not found.view.totals.spans and found.inside:
        yield "All that was recorded is in the rollouts inside this one."
    elif not found.view.totals.spans:
        yield "No span was recorded: the program made no call that agl knows, or was not reached ('agl doctor')."
    elif only_open and all(node.state == "ended" for node in found.view.walk()):
        yield "Every span has ended."
    else:
        yield from outline(found.view, only_open=only_open)
        yield from log_lines(found.view, _fetch(store))
    if found.inside:
        yield ""
        yield style("Rollouts inside this one:", bold=True)
        yield from (f"  {child.rollout_id}  {child.status}  {what_ran(child)}" for child in found.inside)


def _fetch(store: LightningStore) -> Callable[[list[tuple[str, str]]], list[Span]]:
    def fetch(keys: list[tuple[str, str]]) -> list[Span]:
        """Return the spans with these trace and span ids in full."""
        return asyncio.run(store.query_spans_by_key(keys))

    return fetch


def _header(found: _Found) -> Iterator[str]:
    rollout, attempt, view, _ = found
    status = status_of(rollout, attempt)
    shown_status = style(status, fg=STATUS_COLOURS.get(status, "yellow"))
    yield f"{style(rollout.rollout_id, bold=True)}  {shown_status}  {what_ran(rollout)}"
    figures = [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(rollout.start_time))]
    if rollout.end_time:
        figures.append(duration(int((rollout.end_time - rollout.start_time) * 1e9)))
    totals = view.totals
    figures += [plural(totals.spans, "span"), plural(totals.llm_calls, "LLM call"), _tokens(totals), dollars(totals)]
    figures.append(plural(totals.errors, "error"))
    figures += _further(view, attempt)
    yield " · ".join(figures)
    yield from errors(view)


def _further(view: RolloutView, attempt: Attempt | None) -> Iterator[str]:
    """Yield what the header says only where there is something to say."""
    unfinished: dict[str, int] = {}
    rewards: list[float] = []
    flagged = 0
    processes: set[str] = set()
    for node in view.walk():
        if node.row is None:
            continue
        processes.add(node.row.process)
        if node.state != "ended":
            unfinished[node.state] = unfinished.get(node.state, 0) + 1
        flagged += node.row.facts.integrity is not None
        if node.row.facts.reward is not None:
            rewards.append(node.row.facts.reward)
    yield from (f"{count(number)} {state}" for state, number in sorted(unfinished.items()))
    if rewards:
        yield f"reward {rewards[-1]:g}" + (f" (last of {count(len(rewards))})" if len(rewards) > 1 else "")
    if flagged:
        yield f"{plural(flagged, 'span')} breaking a rule"
    if len(processes) > 1:
        yield plural(len(processes), "process", "processes")
    if attempt is not None and attempt.sequence_id > 1:
        yield f"attempt {attempt.sequence_id}"
    metadata = (attempt.metadata or {}) if attempt else {}
    if "signal" in metadata:
        yield f"ended by signal {metadata['signal']}"
    elif metadata.get("exit_code"):
        yield f"exit code {metadata['exit_code']}"
    lost: dict[str, int] = metadata.get("ledger", {}).get("lost", {})
    if lost:
        yield "lost: " + ", ".join(f"{count(number)} {reason}" for reason, number in sorted(lost.items()))


def _tokens(totals: Totals) -> str:
    text = plural(totals.total_tokens, "token")
    if not totals.total_tokens:
        return text
    parts = [f"{count(totals.input_tokens)} in", f"{count(totals.output_tokens)} out"]
    if totals.cache_read_tokens:
        parts.append(f"{count(totals.cache_read_tokens)} cached")
    return f"{text} ({', '.join(parts)})"


def _json(store: LightningStore, found: _Found, kind: str) -> Iterator[str]:
    from agentlightning.cli import document  # noqa: PLC0415 - for machines only

    head: document.Document = {
        "version": document.VERSION,
        "type": "rollout" if kind == "tree" else kind,
        "rollout": document.rollout_object(found.rollout, found.attempt, status_of(found.rollout, found.attempt)),
        "totals": document.totals_object(found.view.totals),
    }
    items: Iterable[object]
    if kind == "chat":
        from agentlightning.cli.chat import call_object, calls_with_turns  # noqa: PLC0415 - see above

        items = (call_object(call) for call in calls_with_turns(found.view, _fetch(store)))
        yield from document.stream(head, "calls", items)
    elif kind == "tokens":
        from agentlightning.cli.token_check import checked_calls, token_object  # noqa: PLC0415 - see above

        calls = checked_calls(found.view, _fetch(store))
        items = (token_object(number, call) for number, call in enumerate(calls, 1))
        yield from document.stream(head, "calls", items)
    else:
        head["rollouts"] = [
            {"rollout_id": child.rollout_id, "status": child.status, "input": child.input} for child in found.inside
        ]
        yield from document.stream(head, "spans", (document.node_object(node) for node in found.view.walk()))


def _raw(store: LightningStore, found: _Found, *, with_open: bool) -> Iterator[str]:
    """Yield stored spans in their order, read a few at a time."""
    from agentlightning.cli import document  # noqa: PLC0415 - for machines only

    rows = [node.row for node in found.view.walk() if node.row and (with_open or node.row.end_ns is not None)]
    rows.sort(key=lambda row: (row.sequence_id or 2**63, row.start_ns))
    fetch = _fetch(store)
    for start in range(0, len(rows), _STEP):
        for span in fetch([(row.trace_id, row.span_id) for row in rows[start : start + _STEP]]):
            yield document.dumps(document.stored_object(span))


def _one_span(store: LightningStore, found: _Found, text: str, *, as_json: bool) -> Iterator[str]:
    nodes = [node for node in found.view.walk() if node.row and node.row.span_id.startswith(text.lower())]
    if len(nodes) != 1 or nodes[0].row is None:
        what = f"several spans begin with {text!r}; give more of the id" if nodes else f"there is no span {text!r}"
        msg = f"rollout {found.rollout.rollout_id}: {what}"
        raise UnknownIdError(msg)
    row = nodes[0].row
    span = _fetch(store)([(row.trace_id, row.span_id)])[0]
    from agentlightning.cli import document  # noqa: PLC0415 - see above

    if as_json:
        yield document.dumps(
            {"version": document.VERSION, "type": "span"}
            | document.node_object(nodes[0])
            | {"stored": document.stored_object(span)}
        )
        return
    from agentlightning.cli.span import span_lines  # noqa: PLC0415 - only the view that is asked for

    yield from span_lines(nodes[0], span, safe(found.rollout.rollout_id))
