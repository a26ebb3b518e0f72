"""A rollout as a tree: one line for each span, as wide as the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agentlightning.cli.terminal import draws_lines, fit, safe, style, width
from agentlightning.cli.text import count, duration, money

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agentlightning.types.query import SpanRow
    from agentlightning.view.tree import Node, RolloutView

KIND_COLOURS = {
    "llm": "magenta", "agent": "blue", "tool": "yellow", "chain": "cyan", "retriever": "cyan", "embedding": "magenta",
    "reward": "green", "exception": "red",
}  # fmt: skip

_DEEPEST = 40
"""Levels that are drawn; deeper ones keep this indent and say their depth."""
_ERRORS = 3
"""Errors that are named above the tree."""


class _Layout(NamedTuple):
    """Columns of a line; 0 for what there is no room for."""

    kind: int
    name: int
    time: int
    tokens: int
    cost: int


def _layout(columns: int) -> _Layout:
    """Return what fits: first the cost goes, then the tokens, then the kind."""
    for kind, time, tokens, cost in ((10, 9, 10, 11), (10, 8, 10, 0), (10, 8, 0, 0), (0, 8, 0, 0)):
        name = columns - sum(part + 1 for part in (kind, time, tokens, cost) if part)
        if name >= 30:  # noqa: PLR2004 - cells that a name needs
            break
    return _Layout(kind, max(10, name), time, tokens, cost)


def outline(view: RolloutView, *, only_open: bool = False) -> Iterator[str]:
    """Yield the lines of the tree as they are asked for; *only_open*: unfinished spans and those above them."""
    layout = _layout(width())
    yield style(
        _line(layout, "KIND", "NAME", ("TIME", "TOKENS", "COST"), header=True),
        bold=True,
    )
    nodes = view.walk()
    if only_open:
        nodes = iter(_with_unfinished(view))
    more_processes = len({node.row.process for node in view.walk() if node.row}) > 1
    by_process = _process_marks(view) if more_processes else {}
    for node, stem in _stems(view, nodes, complete=not only_open):
        yield _node(node, stem, layout, by_process.get(id(node), ""))


def errors(view: RolloutView) -> Iterator[str]:
    """Yield a line for each of the first errors, where they began: what failed only because of them is left out."""
    found = 0
    for node in view.walk():
        row = node.row
        if row is None or row.status_code != "ERROR" or any(child.totals.errors for child in node.children):
            continue
        found += 1
        if found <= _ERRORS:
            what = row.facts.tool_name or row.facts.model or row.facts.agent_name
            named = f"{row.facts.kind} {row.name}" + (f" {what}" if what and what not in row.name else "")
            yield style(fit(f"✗ {safe(named)}: {error_of(row)}", width()).rstrip(), fg="red")
    if found > _ERRORS:
        yield style(f"✗ and {count(found - _ERRORS)} more", fg="red")


def error_of(row: SpanRow) -> str:
    """Return the first line of the message of a span that failed."""
    return safe((row.status_description or "error").strip().partition("\n")[0])


def _with_unfinished(view: RolloutView) -> list[Node]:
    """Return the unfinished spans and those above them, in the order of the tree."""
    wanted: set[int] = set()
    path: list[Node] = []
    found: list[Node] = []
    for node in view.walk():
        del path[node.depth - 1 :]
        path.append(node)
        if node.state != "ended":
            for above in path:
                if id(above) not in wanted:
                    wanted.add(id(above))
                    found.append(above)
    return found


def _process_marks(view: RolloutView) -> dict[int, str]:
    """Return a mark for each span that another process made than the span above it."""
    marks: dict[int, str] = {}
    for parent in (view.root, *view.walk()):
        for child in parent.children:
            if child.row and (parent.row is None or child.row.process != parent.row.process):
                parts = child.row.process.split("/")
                if len(parts) > 1:
                    marks[id(child)] = f" [pid {parts[1]}]"
    return marks


def _stems(view: RolloutView, nodes: Iterable[Node], *, complete: bool) -> Iterator[tuple[Node, str]]:
    """Yield nodes with the lines that lead to them."""
    branch, last, pipe = ("├─ ", "└─ ", "│  ") if draws_lines() else ("|- ", "`- ", "|  ")
    # For each level whether more siblings follow; nodes come parents first, so the list is right at every node.
    more: list[bool] = []
    final = {id(node.children[-1]) for node in (view.root, *view.walk()) if node.children} if complete else set[int]()
    for node in nodes:
        is_last = id(node) in final
        del more[node.depth - 1 :]
        if complete:
            indent = "".join(pipe if following else "   " for following in more[1:_DEEPEST])
            stem = indent + ((last if is_last else branch) if node.depth > 1 else "")
        else:
            stem = "   " * min(node.depth - 1, _DEEPEST)
        if node.depth > _DEEPEST:
            stem += f"({node.depth}) "
        more.append(not is_last)
        yield node, stem


def _node(node: Node, stem: str, layout: _Layout, mark: str) -> str:
    row = node.row
    if row is None:
        return ""
    name = _name(node, row, mark)
    elapsed = duration(row.end_ns - row.start_ns) if row.end_ns is not None else ""
    tokens = count(node.totals.total_tokens) if node.totals.total_tokens else ""
    colour = "red" if row.status_code == "ERROR" else "yellow" if node.state != "ended" else ""
    return _line(layout, row.facts.kind, stem + name, (elapsed, tokens, _cost(node)), colour=colour)


def _name(node: Node, row: SpanRow, mark: str) -> str:
    facts = row.facts
    name = safe(row.name)
    detail = facts.model if facts.kind in ("llm", "embedding") else facts.tool_name or facts.agent_name
    if detail and detail not in name:
        name += f" {safe(detail)}"
    if facts.reward is not None:
        name += f" {facts.reward:g}"
    if facts.detail:
        name += f" ({safe(facts.detail)})"
    if facts.integrity:
        name += f" ⚠ {safe(facts.integrity)}"
    if facts.redacted:
        name += f" [redacted {safe(facts.redacted)}]"
    if node.state != "ended":
        name += f" ({node.state})"
    name += mark
    if row.status_code == "ERROR":
        name += f" ✗ {error_of(row)}"
    return name


def _line(
    layout: _Layout, kind: str, name: str, figures: tuple[str, str, str], *, header: bool = False, colour: str = ""
) -> str:
    parts: list[str] = []
    if layout.kind:
        shown = fit(kind, layout.kind)
        parts.append(shown if header else style(shown, fg=KIND_COLOURS.get(kind, "white")))
    text = fit(name, layout.name)
    parts.append(style(text, fg=colour) if colour else text)
    for figure, columns in zip(figures, (layout.time, layout.tokens, layout.cost), strict=True):
        if columns:
            parts.append(f"{figure:>{columns}}")
    return " ".join(parts).rstrip()


def _cost(node: Node) -> str:
    totals = node.totals
    if totals.cost_known:
        return money(totals.cost) + ("+?" if totals.cost_unknown else "")
    return "unknown" if totals.cost_unknown else ""
