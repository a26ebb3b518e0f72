"""``agl cost``: a bill that explains itself."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import click

from agentlightning.cli import document
from agentlightning.cli.choice import named_rollouts, since_option
from agentlightning.cli.options import store_options
from agentlightning.cli.terminal import fit, safe, show, style, width
from agentlightning.cli.text import count, money, plural
from agentlightning.store.url import open_store
from agentlightning.types.query import RolloutFilter
from agentlightning.view.bill import Bill, bills, merged
from agentlightning.view.cost import total
from agentlightning.view.prices import JsonPrices
from agentlightning.view.tree import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentlightning.store.base import LightningStore
    from agentlightning.types.query import SpanRow
    from agentlightning.view.tree import Node, RolloutView

GROUPS = ("model", "rollout", "day", "agent")

_NO_AGENT = "(no agent)"


class _Table(NamedTuple):
    """Bills by name, and by the same names those of another price table."""

    by: str
    old: dict[str, Bill]
    new: dict[str, Bill] | None
    rollouts: int


@click.command()
@click.argument("rollouts", nargs=-1, metavar="[ROLLOUT]...")
@store_options
@click.option("--by", type=click.Choice(GROUPS), default="model", show_default=True, help="What gets a line.")
@since_option
@click.option("--explain", is_flag=True, help="Print the arithmetic: tokens of each class times their price.")
@click.option("--reprice", metavar="FILE", help="Compute with the price table in a JSON file too, and compare.")
@click.option("--json", "as_json", is_flag=True, help="A JSON document; docs/json.md says what is in it.")
def command(  # noqa: PLR0913 - one for each option
    *,
    rollouts: tuple[str, ...],
    store: str | None,
    project: str | None,
    by: str,
    since: float | None,
    explain: bool,
    reprice: str | None,
    as_json: bool,
) -> None:
    """Explain what ROLLOUTs cost, with the rollouts inside them; without any, all of the project.

    \b
    All attempts count: what failed was paid for too. A call that several libraries
    recorded counts once. Days are those of the local time zone.
    """  # noqa: D301 - click's mark for lines that stay as they are
    if rollouts and since is not None:
        msg = "--since chooses among all rollouts; leave it out when you name them."
        raise click.UsageError(msg)
    table = JsonPrices(reprice) if reprice else None
    opened = open_store(store, project, create=False)
    try:
        found = asyncio.run(_bill(opened, rollouts, since, by, table))
    finally:
        opened.close()
    show(_json(found) if as_json else _text(found, explain=explain), pager=not as_json)


async def _bill(
    store: LightningStore, named: tuple[str, ...], since: float | None, by: str, table: JsonPrices | None
) -> _Table:
    ids = await _chosen(store, named, since)
    old: dict[str, Bill] = {}
    new: dict[str, Bill] = {}
    for rollout_id in ids:
        for rows in _attempts(await store.query_span_rows(rollout_id)):
            view = build(rows)
            key = _key(by, view)
            bills(view.walk(), key, into=old)
            if table is not None:
                bills(view.walk(), key, table, into=new)
    return _Table(by, old, new if table else None, len(ids))


async def _chosen(store: LightningStore, named: tuple[str, ...], since: float | None) -> list[str]:
    """Return the ids of the rollouts to bill, each once."""
    if named:
        return [rollout_id async for rollout_id in named_rollouts(store, named)]
    found = await store.query_rollouts(where=RolloutFilter(start_after=since, newest_first=True))
    return [rollout.rollout_id for rollout in found]


def _attempts(rows: list[SpanRow]) -> list[list[SpanRow]]:
    attempts: dict[str, list[SpanRow]] = {}
    for row in rows:
        attempts.setdefault(row.attempt_id, []).append(row)
    return list(attempts.values())


def _key(by: str, view: RolloutView) -> Callable[[Node], str]:
    if by == "agent":
        names = _agents(view)
        return lambda node: names.get(id(node), _NO_AGENT)

    def key(node: Node) -> str:
        """Return the group of *node*; empty for a node without a span."""
        row = node.row
        if row is None:
            return ""
        if by == "rollout":
            return row.rollout_id
        if by == "day":
            return time.strftime("%Y-%m-%d", time.localtime(row.start_ns / 1e9))
        return "/".join(part for part in (row.facts.provider, row.facts.model) if part) or "(unknown model)"

    return key


def _agents(view: RolloutView) -> dict[int, str]:
    """Return by ``id()`` of a node the name of the agent that it is or that is above it."""
    names: dict[int, str] = {}
    for node in view.walk():
        if node.row and node.row.facts.kind == "agent":
            names[id(node)] = node.row.facts.agent_name or node.row.name
        if id(node) in names:
            for child in node.children:
                names[id(child)] = names[id(node)]
    return names


def _ordered(table: _Table) -> list[str]:
    if table.by == "day":
        return sorted(table.old)
    if table.by == "rollout":
        return list(table.old)
    return sorted(table.old, key=lambda name: (-table.old[name].usd, -sum(table.old[name].tokens.values()), name))


_FIGURES = (("CALLS", 7), ("FRESH", 12), ("CACHE READ", 12), ("CACHE WRITE", 12), ("OUTPUT", 11), ("COST", 14))
_NARROW = (("CALLS", 6), ("COST", 13))
_WIDE = 96
"""From so many columns on there is room for the classes of tokens."""
_COMPARED = (("NEW", 14), ("CHANGE", 15))


def _text(table: _Table, *, explain: bool) -> Iterator[str]:
    if not table.old:
        yield "No LLM call was recorded in " + (plural(table.rollouts, "rollout") if table.rollouts else "any rollout")
        return
    compared = _COMPARED if table.new is not None else ()
    columns = (_FIGURES if width() >= _WIDE + sum(size for _, size in compared) else _NARROW) + compared
    name_columns = max(14, min(44, width() - sum(size + 1 for _, size in columns)))
    header = [fit(table.by.upper(), name_columns), *(f"{title:>{size}}" for title, size in columns)]
    yield style(" ".join(header), bold=True)
    for name in _ordered(table):
        new = table.new.get(name) if table.new is not None else None
        yield _row(fit(safe(name), name_columns), table.old[name], new, columns)
        if explain:
            yield from _arithmetic(table.old[name])
            if new is not None:
                yield "    by the other table:"
                yield from _arithmetic(new)
    whole = merged(table.old.values())
    new_whole = merged(table.new.values()) if table.new is not None else None
    yield style(_row(fit("TOTAL", name_columns), whole, new_whole, columns), bold=True)
    yield from _remarks(whole, "")
    if new_whole is not None:
        yield from _remarks(new_whole, "new: ")


def _row(name: str, bill: Bill, new: Bill | None, columns: tuple[tuple[str, int], ...]) -> str:
    cells = {
        "CALLS": _about(bill, bill.estimated_calls),
        "FRESH": _about(bill, bill.estimated_tokens("fresh")),
        "CACHE READ": _about(bill, bill.estimated_tokens("cache_read")),
        "CACHE WRITE": _about(bill, bill.estimated_tokens("cache_write")),
        "OUTPUT": _about(bill, bill.estimated_tokens("output")),
        "COST": _amount(bill),
    }
    if new is not None:
        cells |= {"NEW": _amount(new), "CHANGE": _change(bill, new)}
    return " ".join([name, *(f"{cells.get(title, ''):>{size}}" for title, size in columns)])


def _about(bill: Bill, number: float) -> str:
    """Return a number, marked as an estimate where calls were sampled."""
    return ("~" if bill.sampled else "") + count(round(number))


def _amount(bill: Bill) -> str:
    if not bill.priced:
        return "unknown"
    return ("~" if bill.sampled else "") + money(bill.estimated_usd) + ("+?" if bill.unknown else "")


def _change(old: Bill, new: Bill) -> str:
    if not old.priced or not new.priced:
        return "unknown"
    delta = total([new.usd, old.usd.copy_negate()])
    sign = "-" if delta < 0 else "+"
    share = f" {abs(delta) / old.usd * 100:.1f}%" if old.usd else ""
    return f"{sign}{money(abs(delta))}{share}" if delta else "same"


def _arithmetic(bill: Bill) -> Iterator[str]:
    for item, line in bill.ordered():
        is_call = item.token_class == "request"  # noqa: S105 - a class of what is billed
        per = "call" if is_call else "1M tokens"
        rate = document.amount(item.usd_per_million.scaleb(-6) if is_call else item.usd_per_million)
        what = safe(f"{item.provider}/{item.model} {item.token_class}")
        source = safe(f"{item.source} {item.version}").strip()
        yield f"    {what}: {count(line.quantity)} * ${rate} per {per} = ${document.amount(line.usd)}  ({source})"
    yield f"    sum: ${document.amount(bill.usd)}"


def _remarks(bill: Bill, mark: str) -> Iterator[str]:
    sources = sorted({safe(f"{item.source} {item.version}").strip() for item in bill.lines})
    yield ""
    exactly = f"exactly ${document.amount(bill.usd)} for {plural(bill.priced, 'call')}"
    yield f"{mark}prices: {', '.join(sources) or 'none'} · {exactly}"
    if bill.sampled:
        yield (
            f"{mark}estimate: {count(bill.sampled)} of {plural(bill.calls, 'recorded call')} were sampled and stand "
            f"for {count(round(bill.sampled + bill.unseen_calls))}; figures with ~ weigh each by 1 / its probability"
        )
    for (provider, model, reason), number in sorted(bill.unknown.items(), key=lambda entry: -entry[1]):
        name = safe("/".join(part for part in (provider, model) if part) or "no model")
        yield style(f"{mark}unknown: {plural(number, 'call')} of {name}: {safe(reason)}", fg="yellow")
    for note, number in sorted(bill.notes.items()):
        yield f"{mark}{plural(number, 'call')}: {safe(note)}"
    if bill.reported_calls and not mark:
        calls = plural(bill.reported_calls, "call")
        yield f"reported by providers or libraries: {money(Decimal(bill.reported_usd))} for {calls}"
    if bill.suspicious:
        yield style(
            f"{mark}{plural(bill.suspicious, 'call')} cost more than $1 a token: a price or a count is wrong", fg="red"
        )


def _json(table: _Table) -> Iterator[str]:
    names = _ordered(table)
    whole = merged(table.old.values())
    head: document.Document = {
        "version": document.VERSION,
        "type": "cost",
        "by": table.by,
        "rollouts": table.rollouts,
        "total": _bill_object(whole),
    }
    if table.new is not None:
        head["new_total"] = _bill_object(merged(table.new.values()))
    groups: list[document.Document] = []
    for name in names:
        group: document.Document = {"name": name, **_bill_object(table.old[name])}
        if table.new is not None:
            group["new"] = _bill_object(table.new[name])
        groups.append(group)
    yield from document.stream(head, "groups", groups)


def _estimate_object(bill: Bill) -> document.Document | None:
    """Return what all calls come to where some were sampled; None where every call was recorded."""
    if not bill.sampled:
        return None
    return {
        "sampled_calls": bill.sampled,
        "calls": bill.estimated_calls,
        "usd": document.amount(bill.estimated_usd) if bill.priced else None,
        "tokens": {name: bill.estimated_tokens(name) for name in bill.tokens},
    }


def _bill_object(bill: Bill) -> document.Document:
    return {
        "calls": bill.calls,
        "priced_calls": bill.priced,
        "usd": document.amount(bill.usd) if bill.priced else None,
        "tokens": bill.tokens,
        "lines": [
            {
                "provider": item.provider,
                "model": item.model,
                "class": item.token_class,
                "quantity": line.quantity,
                "usd_per_million": document.amount(item.usd_per_million),
                "usd": document.amount(line.usd),
                "source": item.source,
                "source_version": item.version,
            }
            for item, line in bill.ordered()
        ],
        "unknown": [reason._asdict() | {"calls": number} for reason, number in bill.unknown.items()],
        "notes": [{"note": note, "calls": number} for note, number in bill.notes.items()],
        "reported_usd": bill.reported_usd if bill.reported_calls else None,
        "reported_calls": bill.reported_calls,
        "suspicious_calls": bill.suspicious,
        "estimate": _estimate_object(bill),
    }
