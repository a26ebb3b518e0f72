"""Totals of a rollout by model, and in one value: what the last line of ``agl run`` and each line of ``agl ls`` say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agentlightning.view.tree import Totals, build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agentlightning.types.query import SpanRow
    from agentlightning.view.tree import Node, Pricer, RolloutView

ModelKey = tuple[str, str]
"""Provider and model as the spans name them; empty where unknown."""


class Summary(msgspec.Struct, frozen=True):
    """Sums over the spans of one attempt, whole and by model."""

    totals: Totals
    by_model: dict[ModelKey, Totals]
    """Counted calls only, so that ``spans`` is the number of calls; ordered by cost, then by tokens, highest first."""
    reasons: dict[str, int]
    """Why costs are unknown, and for how many calls."""


def summary(rows: Sequence[SpanRow], *, price: Pricer | None = None) -> Summary:
    """Return the sums over *rows*, the spans of one attempt; *price* as in ``view.tree.build``."""
    return summarise(build(rows, price=price))


def summarise(view: RolloutView) -> Summary:
    """Return the sums over a tree that was built before."""
    reasons: dict[str, int] = {}
    for node in view.walk():
        if node.price is not None and node.price.usd is None:
            reasons[node.price.reason] = reasons.get(node.price.reason, 0) + 1
    return Summary(view.totals, by_model(view.walk()), reasons)


def by_model(nodes: Iterable[Node]) -> dict[ModelKey, Totals]:
    """Return the totals of the counted calls among *nodes* for each provider and model, the dearest first."""
    return group(nodes, lambda row: (row.facts.provider or "", row.facts.model or ""))


def group(nodes: Iterable[Node], key: Callable[[SpanRow], ModelKey]) -> dict[ModelKey, Totals]:
    """Return the totals of the counted calls among *nodes* for each value of *key*, the dearest first."""
    groups: dict[ModelKey, Totals] = {}
    for node in nodes:
        if node.counted and node.row is not None:
            groups.setdefault(key(node.row), Totals()).add(node.own)
    ordered = sorted(groups.items(), key=lambda item: (-item[1].cost, -item[1].total_tokens, item[0]))
    return dict(ordered)
