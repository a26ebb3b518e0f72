"""Where a span belongs that lost its parent: under the innermost span that lasted while it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentlightning.adapter.tree import TraceTree


def homes(root: TraceTree, movable: list[TraceTree]) -> list[tuple[TraceTree, TraceTree]]:
    """Return those of *movable* that some other span contains in time, each with the innermost such span."""
    wanted = {id(node) for node in movable}
    parents = {id(child): node for node in root.traverse() for child in node.children}
    found: list[tuple[TraceTree, TraceTree]] = []
    running: list[TraceTree] = []  # spans that may contain the next one: started before, not yet over
    for node in sorted(root.traverse()[1:], key=lambda node: (node.start_ns, -(node.end_ns or node.start_ns))):
        running = [other for other in running if (other.end_ns or 0) >= node.start_ns]
        if id(node) in wanted:
            around = [other for other in running if (other.end_ns or 0) >= (node.end_ns or node.start_ns)]
            home = _innermost(around, parents, not_below=node)
            if home is not None:
                parents[id(node)] = home
                found.append((node, home))
        if node.end_ns is not None and node.end_ns > node.start_ns:
            running.append(node)
    return found


def _innermost(around: list[TraceTree], parents: dict[int, TraceTree], *, not_below: TraceTree) -> TraceTree | None:
    """Return the span below all others of *around*, where each is above or below each other one; else None.

    None also for a span *not_below*: clocks of several processes may let a span seem to contain what it is part of.
    """
    if not around:
        return None
    lowest = around[-1]  # it started last
    line = {id(lowest)}
    walker = parents.get(id(lowest))
    while walker is not None:
        line.add(id(walker))
        walker = parents.get(id(walker))
    return lowest if {id(node) for node in around} <= line and id(not_below) not in line else None
