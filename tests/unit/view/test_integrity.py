"""Business rules flag what cannot be true, and the format check refuses what is no span."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning import semconv
from agentlightning.types.record import EventRecord, LinkRecord, ResourceRecord, SpanRecord
from agentlightning.view.facts import facts
from agentlightning.view.integrity import MAX_NS, RULES, breaches, flag, problem

TRACE, SPAN = f"{1:032x}", f"{2:016x}"
NAN, INF = float("nan"), float("inf")


def record(**fields: Any) -> SpanRecord:
    """Return a good span; *fields* replace the defaults."""
    defaults: dict[str, Any] = {
        "rollout_id": "ro-1", "attempt_id": "at-1", "counter": 1, "trace_id": TRACE, "span_id": SPAN, "name": "work",
        "start_ns": 1_000, "end_ns": 2_000, "attributes": {}, "resource": ResourceRecord({}),
    }  # fmt: skip
    return SpanRecord(**{**defaults, **fields})


@pytest.mark.parametrize(
    ("fields", "broken"),
    [
        ({}, []),
        ({"end_ns": None}, []),
        ({"end_ns": 1_000}, []),
        ({"end_ns": 999}, ["end_before_start"]),
        ({"start_ns": 0}, ["no_start"]),
        ({"trace_id": "0" * 32}, ["bad_id"]),
        ({"trace_id": "A" * 32}, ["bad_id"]),
        ({"span_id": "12"}, ["bad_id"]),
        ({"parent_id": "0" * 16}, ["bad_parent"]),
        ({"parent_id": ""}, ["bad_parent"]),
        ({"parent_id": SPAN}, ["own_parent"]),
        ({"parent_id": f"{3:016x}"}, []),
        ({"attributes": {"gen_ai.usage.input_tokens": -1}}, ["negative_count"]),
        ({"attributes": {"llm.token_count.total": -0.5, "llm.cost.total": -1.0}}, ["negative_count", "bad_cost"]),
        ({"attributes": {"llm.cost.total": INF}}, ["bad_cost"]),
        ({"attributes": {"gen_ai.usage.input_tokens": 0, "llm.cost.total": 0.0}}, []),
        ({"attributes": {"gen_ai.usage.input_tokens": "-1"}}, []),
        ({"attributes": {"reward": NAN}}, []),
        ({"attributes": {"reward": NAN}, "name": "agentlightning.reward"}, ["bad_reward"]),
        ({"attributes": {"agentlightning.reward.0.value": 1.0, "agentlightning.reward.1.value": -INF}}, ["bad_reward"]),
        ({"attributes": {"reward": 10**400}, "name": "agentlightning.reward"}, ["bad_reward"]),
        (
            {"start_ns": -5, "end_ns": -9, "span_id": "x", "parent_id": "x"},
            ["end_before_start", "no_start", "bad_id", "bad_parent"],
        ),
    ],
)  # fmt: skip
def test_each_rule(fields: dict[str, Any], broken: list[str]) -> None:
    """Exactly the rules that a span breaks are noted on it, and its facts name them."""
    span = record(**fields)
    assert breaches(span) == broken
    assert flag(span) is bool(broken)
    assert span.attributes.get(semconv.INTEGRITY, []) == broken
    assert facts(span.name, span.attributes).integrity == (", ".join(broken) or None)


def test_every_rule_has_a_case() -> None:
    """No rule exists that the table above does not break."""
    cases = test_each_rule.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {name for _, broken in cases for name in broken} == set(RULES)


def test_a_mark_from_outside_is_not_believed() -> None:
    """A span that claims to break rules and breaks none loses the mark; flagging twice changes nothing."""
    span = record(attributes={semconv.INTEGRITY: ["bad_id"]})
    assert not flag(span)
    assert span.attributes == {}
    bad = record(end_ns=1)
    assert [flag(bad), flag(bad)] == [True, True]
    assert bad.attributes == {semconv.INTEGRITY: ["end_before_start"]}


_ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
_NAMES = st.sampled_from(
    ["reward", "agentlightning.reward.0.value", "llm.cost.total", "gen_ai.usage.input_tokens", "x", semconv.INTEGRITY]
)


@given(
    st.dictionaries(_NAMES, _ANY), st.integers(), st.integers() | st.none(), st.text(max_size=40), st.text() | st.none()
)
def test_rules_never_raise(
    attributes: dict[str, Any], start_ns: int, end_ns: int | None, span_id: str, parent_id: str | None
) -> None:
    """Whatever a record holds, rules and format check give an answer that is one of theirs."""
    span = record(
        name="agentlightning.reward", attributes=attributes, start_ns=start_ns, end_ns=end_ns, span_id=span_id,
        parent_id=parent_id,
    )  # fmt: skip
    assert set(breaches(span)) <= set(RULES)
    assert isinstance(problem(span), (str, type(None)))
    flag(span)
    facts(span.name, span.attributes)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, None),
        ({"end_ns": None, "parent_id": f"{3:016x}", "events": [EventRecord("e", 5)]}, None),
        ({"trace_id": "0" * 32}, "trace id"),
        ({"trace_id": "xyz"}, "trace id"),
        ({"span_id": SPAN + "0"}, "span id"),
        ({"parent_id": "../../x"}, "parent span id"),
        ({"start_ns": MAX_NS + 1}, "2262"),
        ({"events": [EventRecord("e", MAX_NS + 1)]}, "2262"),
        ({"kind": "SPAN_KIND_CLIENT"}, "kind"),
        ({"status_code": "Ok"}, "status"),
        ({"rollout_id": "x" * 513}, "rollout"),
        ({"links": [LinkRecord(TRACE, "0" * 16)]}, "link"),
        ({"attributes": {"": 1}}, "no name"),
        ({"end_ns": 1, "attributes": {"gen_ai.usage.input_tokens": -5}}, None),
    ],
)
def test_what_is_no_span_is_refused(fields: dict[str, Any], reason: str | None) -> None:
    """What OpenTelemetry's data model forbids is refused with the reason; what only cannot be true is not."""
    found = problem(record(**fields))
    assert (found is None) is (reason is None)
    assert (reason or "") in (found or "")
