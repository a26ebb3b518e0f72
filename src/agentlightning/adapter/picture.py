"""A trace tree drawn over time, as a picture."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlightning.errors import MissingExtraError

if TYPE_CHECKING:
    from agentlightning.adapter.tree import TraceTree

MAX_LINES = 500
"""More spans than this make no picture that anybody can read; the rest is left out, and the title says so."""

_COLOURS = {"llm": "tab:blue", "tool": "tab:green", "agent": "tab:orange", "reward": "tab:red"}


def draw(tree: TraceTree, filename: str, interested_span_match: str | None) -> None:
    """Draw *tree* into ``FILENAME.png``: a line for each span, its bar from start to end.

    Raises:
        MissingExtraError: The extra ``plot`` is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("plot", "drawing a trace") from error  # noqa: EM101 - the extra's name
    lines = _lines(tree, interested_span_match)
    shown = lines[:MAX_LINES]
    figure: Any = Figure(figsize=(12, max(2.0, 0.25 * len(shown) + 1)), layout="constrained")  # matplotlib has no types
    axes = figure.add_subplot()
    for place, (depth, node) in enumerate(shown):
        start = (node.start_ns - tree.start_ns) / 1e9
        width = ((node.end_ns or node.start_ns) - node.start_ns) / 1e9
        axes.barh(place, max(width, 1e-6), left=start, color=_COLOURS.get(node.facts.kind, "tab:gray"))
        axes.plot([start], [place], marker="|", color="black")
        axes.text(start, place, f" {'  ' * depth}{node.span.name}"[:80], va="center", fontsize=7)
    axes.set_yticks([])
    axes.invert_yaxis()
    axes.set_xlabel("seconds from the start")
    left_out = f" ({len(lines) - len(shown)} more spans)" if len(lines) > len(shown) else ""
    axes.set_title(f"{tree.span.name}{left_out}", fontsize=9)
    figure.savefig(Path(f"{filename}.png"), dpi=120)


def _lines(tree: TraceTree, pattern: str | None) -> list[tuple[int, TraceTree]]:
    """Return the nodes to draw with their depths, parents first."""
    nodes: list[tuple[int, TraceTree]] = []
    stack = [(0, tree)]
    while stack:
        depth, node = stack.pop()
        nodes.append((depth, node))
        stack.extend((depth + 1, child) for child in reversed(node.children))
    if pattern is None:
        return nodes
    kept: set[int] = set()
    for _, node in reversed(nodes):
        if re.search(pattern, node.span.name) or any(id(child) in kept for child in node.children):
            kept.add(id(node))
    return [(depth, node) for depth, node in nodes if id(node) in kept]
