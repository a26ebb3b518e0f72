"""agl cost: bills that add up and say what is not known."""

from __future__ import annotations

import asyncio
import json
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.store import SqliteLightningStore
from agentlightning.types.record import ResourceRecord, RolloutStart, SpanRecord, WriteBatch
from agentlightning.view.bill import bills, merged
from agentlightning.view.cost import price, total
from agentlightning.view.tree import build

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.cli.conftest import Agl, Writer

    from agentlightning.view.tree import Node

MODELS = ["gpt-4o", "gpt-4o-mini", "o3-mini", "claude-sonnet-4-5", "no-such-model"]


def test_a_bill_explains_itself(agl: Agl, writer: Writer) -> None:
    """Every group has its arithmetic, what is unknown its reason, and the provider's figure stands beside."""
    agent = writer.span("a", "run", {"openinference.span.kind": "AGENT", "agent.name": "scout"})
    outer = writer.call("a", parent_id=agent.span_id, more={"llm.cost.total": 9.0})
    inner = writer.call("a", parent_id=outer.span_id, more={"llm.cost.total": 0.25})
    strange = writer.call("a", model="no-such-model")
    writer.write(agent, outer, inner, strange)
    out = agl("cost", "--by", "agent", "--explain")
    assert "openai/gpt-4o fresh: 1,000 * $2.5 per 1M tokens = $0.0025  (genai-prices" in out
    assert "sum: $0.0035" in out
    assert "unknown: 1 call of openai/no-such-model: no price for the model no-such-model" in out
    assert "reported by providers or libraries: $0.2500 for 1 call" in out
    assert "scout" in out
    assert "(no agent)" in out


def test_the_same_total_however_it_is_grouped(agl: Agl, writer: Writer) -> None:
    """By model, rollout, day and agent, each group adds up to the one total, to the last digit."""
    for number, model in enumerate([*MODELS, *MODELS]):
        writer.write(writer.call(f"r{number % 3}", model=model, start_ns=10**18 + number * 10**14))
    totals: set[str] = set()
    for by in ("model", "rollout", "day", "agent"):
        found = json.loads(agl("cost", "--by", by, "--json"))
        assert total(Decimal(group["usd"] or 0) for group in found["groups"]) == Decimal(found["total"]["usd"])
        assert total(Decimal(line["usd"]) for line in found["total"]["lines"]) == Decimal(found["total"]["usd"])
        assert sum(group["calls"] for group in found["groups"]) == 10
        totals.add(str(Decimal(found["total"]["usd"]).normalize()))
    assert len(totals) == 1


def test_named_rollouts_bring_those_inside_them(agl: Agl, writer: Writer) -> None:
    """The bill of a rollout has the rollouts that ran inside it; others and earlier ones are left out."""
    writer.write(writer.call("parent"))
    writer.write(writer.call("child"), metadata={"parent_rollout_id": "ro-parent"})
    writer.write(writer.call("other"))
    assert json.loads(agl("cost", "parent", "--json"))["total"]["calls"] == 2
    assert json.loads(agl("cost", "parent", "child", "--json"))["total"]["calls"] == 2
    assert json.loads(agl("cost", "--json"))["total"]["calls"] == 3
    assert json.loads(agl("cost", "--since", "2099-01-01", "--json"))["total"]["calls"] == 0


def test_another_table_is_compared(agl: Agl, writer: Writer, tmp_path: Path) -> None:
    """--reprice shows the old sum, the new one and the change, and what the new table does not know."""
    writer.write(writer.call("a"), writer.call("a", model="gpt-4o-mini"))
    table = tmp_path / "prices.json"
    table.write_text('{"name": "contract", "models": {"gpt-4o": {"input": 5, "output": 20}}}')
    out = agl("cost", "--reprice", str(table))
    assert "$0.0070" in out
    assert "+$0.0035 100.0%" in out
    assert "new: unknown: 1 call of openai/gpt-4o-mini: contract has no price" in out
    found = json.loads(agl("cost", "--reprice", str(table), "--json"))
    assert (found["total"]["usd"], found["new_total"]["usd"]) == ("0.00371", "0.007")


COUNTS = st.none() | st.integers(0, 10**9)
CALLS = st.lists(
    st.tuples(st.sampled_from(MODELS), COUNTS, COUNTS, COUNTS, st.integers(0, 3), st.booleans()), min_size=1, max_size=8
)


def attributes_of(call: tuple[Any, ...]) -> dict[str, Any]:
    """Return the attributes of a call; counts of None are not reported."""
    model, sent, answered, cached, _, _ = call
    counts = {"prompt": sent, "completion": answered, "prompt_details.cache_read": cached}
    named = {f"llm.token_count.{name}": number for name, number in counts.items() if number is not None}
    return {"openinference.span.kind": "LLM", "llm.model_name": model, "llm.provider": "openai", **named}


@settings(max_examples=40)
@given(CALLS)
def test_totals_are_the_sum_of_their_parts(calls: list[tuple[Any, ...]]) -> None:
    """Through a real store: lines, calls, groups and the tree have one sum, to the last digit, and no call is lost."""
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteLightningStore(Path(folder) / "s.db")
        spans = [
            SpanRecord(
                rollout_id="ro-p", attempt_id="at-p", counter=place + 1, trace_id="b" * 32,
                span_id=f"{place + 1:016x}", name="call", start_ns=10**18 + place, end_ns=10**18 + place + 5,
                parent_id=f"{place:016x}" if call[5] and place else None,
                attributes=attributes_of(call), resource=ResourceRecord({}), process="p/1/1",
            )
            for place, call in enumerate(calls)
        ]  # fmt: skip
        start = RolloutStart(rollout_id="ro-p", attempt_id="at-p", project="default", start_ns=1)
        store.write_batch(WriteBatch(starts=[start], spans=spans))
        rows = asyncio.run(store.query_span_rows("ro-p"))
        store.close()
    view = build(rows, price=price)
    parts = [node.price.usd for node in view.walk() if node.price is not None and node.price.usd is not None]
    groups: list[Callable[[Node], str]] = [
        lambda node: node.row.span_id if node.row else "",
        lambda node: (node.row.facts.model or "") if node.row else "",
        lambda node: str(node.depth % 2),
    ]
    for key in groups:
        found = bills(view.walk(), key)
        whole = merged(found.values())
        assert whole.usd == total(bill.usd for bill in found.values()) == total(parts) == view.totals.cost
        assert whole.usd == total(line.usd for line in whole.lines.values())
        assert all(line.usd == line.quantity * item.usd_per_million / 10**6 for item, line in whole.lines.items())
        assert whole.calls == whole.priced + sum(whole.unknown.values()) == view.totals.llm_calls
