"""The tree of a rollout and its totals."""

from __future__ import annotations

import gc
import time
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.types.query import SpanFacts, SpanRow
from agentlightning.view.cost import Price
from agentlightning.view.summary import summary
from agentlightning.view.tree import Node, RolloutView, Totals, build

LLM: dict[str, Any] = {"kind": "llm", "model": "m", "provider": "p", "fresh_tokens": 10, "output_tokens": 5}


def row(number: int, parent: int | None = None, facts: dict[str, Any] | None = None, **changes: Any) -> SpanRow:
    """Return span *number* of trace ``t`` that starts at *number*."""
    values: dict[str, Any] = {
        "trace_id": "t",
        "span_id": str(number),
        "parent_id": None if parent is None else str(parent),
        "rollout_id": "r",
        "attempt_id": "a",
        "sequence_id": number + 1,
        "name": f"span {number}",
        "start_ns": number,
        "end_ns": number + 1000,
        "status_code": "UNSET",
        "status_description": None,
        "process": "host/1/1",
        "facts": SpanFacts(**(facts or {})),
    }
    return SpanRow(**(values | changes))


def ids(nodes: Any) -> list[str]:
    """Return the span ids of *nodes*."""
    return [node.row.span_id for node in nodes]


def node_of(view: RolloutView, span_id: str) -> Node:
    """Return the node of a span."""
    return next(node for node in view.walk() if node.row is not None and node.row.span_id == span_id)


def test_children_are_ordered_by_start_then_sequence() -> None:
    """The order of arrival does not matter."""
    rows = [row(3, 0, start_ns=5), row(2, 0, start_ns=5), row(1, 0, start_ns=9), row(0)]
    view = build(rows)
    assert ids(view.root.children) == ["0"]
    assert ids(view.root.children[0].children) == ["2", "3", "1"]
    assert [node.depth for node in view.walk()] == [1, 2, 2, 2]


def test_the_root_spans_all_traces() -> None:
    """Roots of several traces, and spans whose parent is missing or in another trace, hang under the virtual root."""
    view = build([row(0), row(1, 0, trace_id="u"), row(2, 99)])
    assert ids(view.root.children) == ["0", "1", "2"]
    assert view.root.row is None
    assert view.totals.spans == 3


@pytest.mark.parametrize("parents", [[0], [1, 0], [1, 2, 0], [1, 2, 0, 2, 3]])
def test_cycles_lose_nothing(parents: list[int]) -> None:
    """Spans that are each other's ancestors, or their own, are drawn once; the earliest becomes a root."""
    view = build([row(number, parent) for number, parent in enumerate(parents)])
    assert sorted(ids(view.walk())) == sorted(str(number) for number in range(len(parents)))
    assert ids(view.root.children) == ["0"]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 12),
            st.one_of(st.none(), st.integers(0, 14)),
            st.sampled_from(["span", "llm", "embedding", "agent"]),
            st.integers(0, 5),
            st.sampled_from(["OK", "ERROR"]),
        ),
        max_size=25,
    )
)
def test_every_span_is_in_the_tree_once(spans: list[tuple[int, int | None, str, int, str]]) -> None:
    """For any parents, doubled ids and cycles: each row has one node, and totals are the sums of their parts."""
    rows = [
        row(number, parent, {"kind": kind, "fresh_tokens": number}, start_ns=start, status_code=status)
        for number, parent, kind, start, status in spans
    ]
    view = build(rows, price=lambda facts, _at: Price(usd=Decimal(facts.fresh_tokens or 0).scaleb(-30)))
    nodes = list(view.walk())
    assert sorted(id(node.row) for node in nodes) == sorted(id(item) for item in rows)
    assert view.totals.spans == len(rows)
    assert view.totals.errors == sum(item.status_code == "ERROR" for item in rows)
    for node in [view.root, *nodes]:
        parts = [node.own, *(child.totals for child in node.children)]
        assert sum((part.spans for part in parts), 0) == node.totals.spans
        assert sum((part.cost for part in parts), Decimal(0)) == node.totals.cost
        for child in node.children:
            assert child.depth == node.depth + 1
    counted = [node for node in nodes if node.counted]
    assert view.totals.fresh_tokens == sum(node.row.facts.fresh_tokens or 0 for node in counted if node.row)
    assert view.totals.llm_calls + view.totals.embedding_calls == len(counted)
    assert view.totals.cost_known == len(counted)
    for node in nodes:
        assert node.row is not None
        below = [child.row.facts.kind for child in _below(node) if child.row]
        is_leaf = node.row.facts.kind in ("llm", "embedding") and node.row.facts.kind not in below
        assert node.counted == is_leaf


def _below(node: Node) -> list[Node]:
    found = list(node.children)
    for child in found:
        found.extend(child.children)
    return found


def test_a_call_recorded_by_two_libraries_counts_once() -> None:
    """Of LLM spans above each other, at any depth, the lowest counts."""
    view = build([row(0, None, {"kind": "agent"}), row(1, 0, LLM), row(2, 1), row(3, 2, LLM), row(4, 0, LLM)])
    assert [node.counted for node in view.walk()] == [False, False, False, True, True]
    assert (view.totals.llm_calls, view.totals.total_tokens) == (2, 30)


def test_an_embedding_below_a_call_counts_beside_it() -> None:
    """Only calls of the same kind hide each other."""
    view = build([row(0, None, LLM), row(1, 0, {"kind": "embedding", "fresh_tokens": 3})])
    assert (view.totals.llm_calls, view.totals.embedding_calls, view.totals.fresh_tokens) == (1, 1, 13)


def test_twins_beside_each_other_count_once() -> None:
    """Two spans of one call that are siblings are one call: same response id, different names, one inside the other."""
    twin = LLM | {"response_id": "x"}
    outer = row(0, None, twin, name="anthropic.chat", end_ns=100)
    inner = row(1, None, twin, name="anthropic.messages.create", trace_id="u", end_ns=50)
    view = build([outer, inner])
    assert [node.counted for node in view.walk()] == [False, True]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "span 0"},
        {"end_ns": 2000},
        {"end_ns": None},
        {"facts": SpanFacts(**LLM, response_id="y")},
        {"facts": SpanFacts(**LLM)},
    ],
)
def test_what_is_not_surely_one_call_is_two(changes: dict[str, Any]) -> None:
    """The same name, an overlap only, an open span or another response id: both count."""
    second: dict[str, Any] = {"facts": SpanFacts(**LLM, response_id="x"), "end_ns": 500}
    view = build([row(0, None, LLM | {"response_id": "x"}), msgspec.structs.replace(row(1), **(second | changes))])
    assert view.totals.llm_calls == 2


def test_a_failed_call_is_a_call() -> None:
    """A call with an error counts as a call, as a failed one, and as an error."""
    view = build([row(0, None, LLM | {"fresh_tokens": None, "output_tokens": None}, status_code="ERROR")])
    totals = view.totals
    assert (totals.llm_calls, totals.failed_calls, totals.errors, totals.calls_without_usage) == (1, 1, 1, 1)


def test_open_spans_of_a_dead_process_are_interrupted() -> None:
    """Whether a process is gone is asked once for each; the spans of a living one are open."""
    asked: list[str] = []

    def is_gone(process: str) -> bool:
        asked.append(process)
        return process == "dead"

    rows = [row(0, end_ns=None, process="dead"), row(1, end_ns=None, process="dead")]
    rows += [row(2, end_ns=None, process="alive"), row(3)]
    view = build(rows, is_gone=is_gone)
    assert [node.state for node in view.walk()] == ["interrupted", "interrupted", "open", "ended"]
    assert view.root.state == "open"
    assert sorted(asked) == ["alive", "dead"]


def test_without_a_pricer_no_cost_is_claimed() -> None:
    """Cost that nobody asked for is neither known nor unknown."""
    totals = build([row(0, None, LLM)]).totals
    assert (totals.cost, totals.cost_known, totals.cost_unknown) == (0, 0, 0)


def test_nothing_is_a_tree_too() -> None:
    """A rollout without spans has a root and zero totals."""
    view = build([])
    assert (list(view.walk()), view.totals) == ([], Totals())


@given(st.lists(st.tuples(st.integers(0, 10**6), st.decimals(0, 10**9, places=12)), max_size=8))
def test_totals_add_exactly(parts: list[tuple[int, Decimal]]) -> None:
    """Adding totals loses no digit of the cost and no token, in any grouping."""
    totals = [Totals(spans=1, llm_calls=1, fresh_tokens=tokens, cost=cost, cost_known=1) for tokens, cost in parts]
    left, right = sum(totals, Totals()), sum(reversed(totals), Totals())
    assert left == right
    assert left.cost == sum((cost for _, cost in parts), Decimal(0))
    assert left.input_tokens == sum(tokens for tokens, _ in parts)


def test_summary_by_model() -> None:
    """The summary holds the totals by provider and model, the dearest first, and why costs are unknown."""
    rows = [row(0), row(1, 0, LLM), row(2, 0, LLM | {"model": "big"}), row(3, 0, LLM | {"model": None})]

    def price(facts: SpanFacts, _at_ns: int) -> Price:
        if facts.model is None:
            return Price(reason="the model is unknown")
        return Price(usd=Decimal(2 if facts.model == "big" else 1))

    found = summary(rows, price=price)
    assert list(found.by_model) == [("p", "big"), ("p", "m"), ("p", "")]
    assert (found.totals.cost, found.totals.cost_known, found.totals.cost_unknown) == (3, 2, 1)
    assert found.reasons == {"the model is unknown": 1}
    assert sum(found.by_model.values(), Totals()).total_tokens == found.totals.total_tokens


def test_a_chain_of_100000_spans() -> None:
    """Depth has no limit, neither when the tree is made nor when it is thrown away."""
    view = build([row(number, number - 1 if number else None) for number in range(100_000)])
    assert max(node.depth for node in view.walk()) == 100_000
    del view
    gc.collect()


def test_30000_rows_are_quick() -> None:
    """A tree of 30,000 spans with 10,000 calls takes under 0.3 s of processor time; the bound is for slower ones."""
    rows = [row(n, n * 7 // 9 if n else None, LLM if n % 3 == 0 else None) for n in range(30_000)]
    best = 9.0
    for _ in range(3):
        start = time.thread_time()
        view = build(rows)
        best = min(best, time.thread_time() - start)
        assert view.totals.spans == 30_000
    print(f"30,000 rows: {best:.3f} s")
    assert best < 1.0
