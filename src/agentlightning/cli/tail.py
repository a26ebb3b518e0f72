"""``agl tail``: spans as they start and end, from every process that writes the store."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

import click

from agentlightning._internal.ids import is_process_gone
from agentlightning.cli import document
from agentlightning.cli.ls import STATUS_COLOURS, what_ran
from agentlightning.cli.options import store_options
from agentlightning.cli.outline import KIND_COLOURS, error_of
from agentlightning.cli.terminal import fit, safe, style, width, write
from agentlightning.cli.text import count, duration, money
from agentlightning.store.lifecycle import FINISHED
from agentlightning.store.url import canonical_url, default_store_url, open_store, sqlite_path
from agentlightning.types.change import BEGINNING
from agentlightning.types.core import Rollout
from agentlightning.view.cost import price
from agentlightning.view.tree import COUNTED_KINDS

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore
    from agentlightning.types.change import ChangeCursor, Changes
    from agentlightning.types.query import SpanRow

KINDS = ("llm", "agent", "tool", "chain", "retriever", "reranker", "embedding", "guardrail", "evaluator", "prompt",
         "reward", "message", "object", "exception", "span")  # fmt: skip

_WAIT_S = 0.2
_GONE_S = 1.0
"""Time between two looks for processes that have ended with open spans, and longest wait for something to happen."""
_COLLECT_S, _MANY = 0.03, 1000
"""Where others write all the time, what they wrote within this time is read at once; many spans: there are more."""
_MAX_DEPTHS = 100_000
_DEEPEST = 12
_ID = 12


class _Filter(NamedTuple):
    """What is printed."""

    rollout_id: str | None
    kinds: tuple[str, ...]
    only_errors: bool
    as_json: bool


@click.command()
@store_options
@click.option("--rollout", metavar="ID", help="This rollout only, and end when it has ended: an id, or 'latest'.")
@click.option("--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="Spans of this kind only; repeatable.")
@click.option("--error", "only_errors", is_flag=True, help="Spans that failed only.")
@click.option("--all", "everything", is_flag=True, help="Begin with all that is stored.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on a line; docs/json.md says what is in it.")
def command(  # noqa: PLR0913 - one for each option
    *,
    store: str | None,
    project: str | None,
    rollout: str | None,
    kinds: tuple[str, ...],
    only_errors: bool,
    everything: bool,
    as_json: bool,
) -> None:
    """Print spans as they start and end, until Ctrl+C; waits for a store that is not there yet."""
    waited = _wait_for_file(store)
    opened = open_store(store, project, create=False)
    begin = BEGINNING if everything or waited else None
    try:
        asyncio.run(_follow(opened, rollout, _Filter(None, kinds, only_errors, as_json), begin))
    finally:
        opened.close()


def _wait_for_file(store: str | None) -> bool:
    """Wait until the file of the store is there; tell whether it was missing."""
    url = canonical_url(store) if store else default_store_url()
    if not url.startswith("sqlite:"):
        return False
    path = sqlite_path(url)
    if path.exists() and path.stat().st_size:
        return False
    click.echo(f"agl: waiting for the store {path}", err=True)
    while not path.exists() or not path.stat().st_size:
        time.sleep(_WAIT_S)
    return True


async def _follow(store: LightningStore, rollout: str | None, wanted: _Filter, cursor: ChangeCursor | None) -> None:
    if rollout is not None:
        wanted = wanted._replace(rollout_id=await store.find_rollout_id(rollout))
        found = await store.get_rollout_by_id(wanted.rollout_id or "")
        if found is not None and found.status in FINISHED:
            cursor = BEGINNING  # it has ended: what there is, and no more
    printer = _Printer(wanted)
    looked_s = time.monotonic()
    while True:
        # An answer without spans says that there is no more for now: the last ones of a rollout that is over came.
        changes = await store.query_changes(cursor, wait_s=0.0 if printer.over else _GONE_S)
        cursor = changes.cursor
        printer.print(changes)
        if printer.over and not changes.spans:
            return
        if time.monotonic() - looked_s > _GONE_S:
            looked_s = time.monotonic()
            printer.print_interrupted()
        if changes.spans and len(changes.spans) < _MANY:
            await asyncio.sleep(_COLLECT_S)


class _Printer:
    """Prints changes in the order in which they happened, and remembers what is open."""

    def __init__(self, wanted: _Filter) -> None:
        self._wanted = wanted
        self._depths: dict[tuple[str, str], int] = {}
        self._open: dict[tuple[str, str], SpanRow] = {}
        self._known: set[str] = set()
        # Spans with a call below them that has ended: it is the one that counts.
        self._outer: set[tuple[str, str]] = set()
        self.over = False
        """The one rollout that was asked for has ended."""

    def print(self, changes: Changes) -> None:
        """Print what happened since the last call."""
        happened: list[tuple[float, int, SpanRow | Rollout, str]] = []
        for rollout in changes.rollouts:
            happened.extend(self._of_rollout(rollout))
        for row in changes.spans:
            ended = row.end_ns is not None
            happened.append(
                (row.end_ns if row.end_ns is not None else row.start_ns, 1, row, "end" if ended else "start")
            )
        # Parents first for the depths; of ended ones the inner first, which the second round sees to.
        for row in sorted(changes.spans, key=lambda row: row.start_ns):
            self._note(row)
        for row in sorted(changes.spans, key=lambda row: -row.start_ns):
            self._note_call(row)
        happened.sort(key=lambda item: item[:2])
        for _, _, what, event in happened:
            if isinstance(what, Rollout):
                self._print_rollout(what, event)
            else:
                self._print_span(what, event)

    def _of_rollout(self, rollout: Rollout) -> list[tuple[float, int, SpanRow | Rollout, str]]:
        if self._wanted.rollout_id not in (None, rollout.rollout_id):
            return []
        found: list[tuple[float, int, SpanRow | Rollout, str]] = []
        if rollout.rollout_id not in self._known:
            self._known.add(rollout.rollout_id)
            # A float of seconds is exact to 240 ns only: the start comes before that of its spans, the end after.
            found.append((rollout.start_time * 1e9 - 1000, 0, rollout, "start"))
        if rollout.status in FINISHED:
            self._known.discard(rollout.rollout_id)
            found.append(((rollout.end_time or rollout.start_time) * 1e9 + 1000, 2, rollout, "end"))
            self.over = self.over or self._wanted.rollout_id is not None
        return found

    def _note(self, row: SpanRow) -> None:
        key = row.trace_id, row.span_id
        if len(self._depths) > _MAX_DEPTHS:
            self._depths.clear()
        above = self._depths.get((row.trace_id, row.parent_id or ""))
        self._depths[key] = 0 if row.parent_id is None else 1 if above is None else above + 1
        if row.end_ns is None:
            self._open[key] = row
            return
        self._open.pop(key, None)

    def _note_call(self, row: SpanRow) -> None:
        key = row.trace_id, row.span_id
        if (
            row.end_ns is not None
            and row.parent_id is not None
            and (row.facts.kind in COUNTED_KINDS or key in self._outer)
        ):
            self._outer.add((row.trace_id, row.parent_id))
        if len(self._outer) > _MAX_DEPTHS:
            self._outer.clear()

    def print_interrupted(self) -> None:
        """Print the open spans of processes that have ended."""
        gone = {process: is_process_gone(process) for process in {row.process for row in self._open.values()}}
        for key, row in list(self._open.items()):
            if gone[row.process]:
                del self._open[key]
                self._print_span(row, "interrupted")

    def _print_rollout(self, rollout: Rollout, event: str) -> None:
        if self._wanted.as_json:
            found = document.rollout_object(rollout, None, rollout.status)
            del found["attempt"]
            write(document.dumps({"version": document.VERSION, "event": f"rollout_{event}"} | found))
            return
        end = rollout.end_time or rollout.start_time
        at = _clock(rollout.start_time if event == "start" else end)
        what = what_ran(rollout) if event == "start" else duration(int((end - rollout.start_time) * 1e9))
        status = "started" if event == "start" else rollout.status
        line = f"{at}  {rollout.rollout_id}  "
        text = fit(f"{status}  {what}", max(20, width() - len(line))).rstrip()
        write(line + style(text, fg=STATUS_COLOURS.get(rollout.status, "white"), bold=True))

    def _print_span(self, row: SpanRow, event: str) -> None:
        wanted = self._wanted
        if (
            wanted.rollout_id not in (None, row.rollout_id)
            or (wanted.kinds and row.facts.kind not in wanted.kinds)
            or (wanted.only_errors and row.status_code != "ERROR")
        ):
            return
        inner = event == "end" and row.facts.kind in COUNTED_KINDS and (row.trace_id, row.span_id) not in self._outer
        cost = price(row.facts, row.start_ns) if inner else None
        if wanted.as_json:
            state = {"start": "open", "end": "ended"}.get(event, event)
            head = {"version": document.VERSION, "event": f"span_{event}"}
            write(document.dumps(head | document.span_object(row, state, cost)))
            return
        figures: list[str] = []
        if row.end_ns is not None:
            figures.append(duration(row.end_ns - row.start_ns))
        facts = row.facts
        if inner and (facts.fresh_tokens is not None or facts.output_tokens is not None):
            sent = (facts.fresh_tokens or 0) + (facts.cache_read_tokens or 0) + (facts.cache_write_tokens or 0)
            figures.append(f"{count(sent)} in, {count(facts.output_tokens or 0)} out")
        if cost is not None and cost.usd is not None:
            figures.append(money(cost.usd))
        write(self._line(row, event, "  ".join(figures)))

    def _line(self, row: SpanRow, event: str, figures: str) -> str:
        failed = row.status_code == "ERROR"
        at = _clock((row.end_ns if row.end_ns is not None else row.start_ns) / 1e9)
        word = {"interrupted": "broken"}.get(event, "ERROR" if failed else event)
        facts = row.facts
        depth = min(self._depths.get((row.trace_id, row.span_id), 0), _DEEPEST)
        name = "  " * depth + safe(row.name)
        detail = facts.model if facts.kind in COUNTED_KINDS else facts.tool_name or facts.agent_name
        if detail and detail not in row.name:
            name += f" {safe(detail)}"
        if facts.reward is not None:
            name += f" {facts.reward:g}"
        name += (f" ({safe(facts.detail)})" if facts.detail else "") + (" ⚠" if facts.integrity else "")
        if failed:
            name += f" ✗ {error_of(row)}"
        head = f"{at}  {row.rollout_id[:_ID]:<{_ID}}  "
        kind = fit(facts.kind, 9)
        room = width() - len(head) - len(kind) - 9
        name = fit(name, max(20, room - len(figures) - 2)) + "  " + figures if figures else fit(name, max(20, room))
        colour = "red" if failed else "yellow" if event == "interrupted" else ""
        shown = f"{word:<6}"
        shown = style(shown, fg=colour) if colour else style(shown, dim=True) if event == "start" else shown
        name = name.rstrip()
        return f"{head}{shown}  {style(kind, fg=KIND_COLOURS.get(facts.kind, 'white'))} " + (
            style(name, fg=colour) if colour else style(name, dim=True) if event == "start" else name
        )


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{int(seconds % 1 * 1000):03d}"
