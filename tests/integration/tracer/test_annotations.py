"""What is said about another span lies at that span, in its rollout, however late it comes and whoever says it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from opentelemetry.sdk.trace import TracerProvider

from agentlightning import OtelTracer, configure, flush, open_store
from agentlightning.cli.main import group
from agentlightning.emitter import (
    MessageEvent,
    emit_annotation,
    emit_event,
    emit_message,
    emit_reward,
    find_final_reward,
    find_reward_spans,
    get_reward_value,
    get_reward_values,
    get_target,
    get_tracer,
)

if TYPE_CHECKING:
    from agentlightning.types import Span

pytestmark = pytest.mark.usefixtures("own_pipeline")


WAYS = ["readable", "open span", "context", "stored span", "receipt"]


def spans_of(rollout: str) -> dict[str, Span]:
    """Return the spans of a rollout by name."""

    async def read() -> list[Span]:
        store = open_store()
        found = await store.query_spans(rollout)
        store.close()
        return list(found)

    return {span.name: span for span in asyncio.run(read())}


def newest() -> str:
    """Return the id of the rollout that began last."""

    async def read() -> str:
        store = open_store()
        (found,) = await store.query_newest_rollouts(limit=1)
        store.close()
        return found.rollout_id

    return asyncio.run(read())


def target(way: str, call: Any, rollout: str) -> Any:
    """Return the span of an ended call in one of the forms that a target may have."""
    if way == "context":
        return call.get_span_context()
    if way == "stored span":
        return spans_of(rollout)["call"]
    return call


@pytest.mark.parametrize("way", WAYS)
def test_a_late_reward_goes_to_the_rollout_of_its_call(way: str) -> None:
    """A reward for a call of a rollout that has ended is stored in that rollout, under the call, with a link to it."""
    with OtelTracer().trace_context("first"):
        call = emit_event(MessageEvent("call")) if way == "receipt" else get_tracer().start_span("call")
        if way != "receipt":
            call.end()  # type: ignore[union-attr]
    rollout = newest()
    with OtelTracer().trace_context("second"):
        late = emit_reward(0.5, target=target(way, call, rollout))
        emit_message("elsewhere")
    flush()
    found = spans_of(rollout)
    stored = found.get("agentlightning.reward")
    assert (stored is None) is (way == "context")  # a context alone says the trace and not the rollout
    if stored is not None:
        about = found["agentlightning.message" if way == "receipt" else "call"]
        assert (stored.trace_id, stored.parent_id) == (about.trace_id, about.span_id)
        assert get_target(stored) == get_target(late) == (about.trace_id, about.span_id)
        assert [link.context.span_id for link in stored.links] == [about.span_id]
    assert "agentlightning.message" in spans_of(newest())


@pytest.mark.parametrize("sampled", [True, False])
def test_both_ways_place_an_annotation_alike(monkeypatch: pytest.MonkeyPatch, *, sampled: bool) -> None:
    """The SDK's way, which a joined provider and sampling take, puts an annotation where the fast way does."""
    with OtelTracer().trace_context("first"):
        call = get_tracer().start_span("call")
        call.end()
    rollout = newest()
    if not sampled:
        configure(sample_rate=0.0)

    def slow_way(*_: object) -> None:
        return None

    monkeypatch.setattr("agentlightning.tracer.provider.emit", slow_way)
    with OtelTracer().trace_context("second"):
        emit_reward({"a": 1.0, "b": 0.5}, primary_key="b", attributes={"judge": ["x", 1]}, target=call)
        emit_annotation({"ok": True}, target=call)
    flush()
    found = spans_of(rollout)
    reward = found["agentlightning.reward"]
    assert reward.parent_id == found["call"].span_id
    assert (get_reward_value(reward), get_reward_values(reward)) == (0.5, {"b": 0.5, "a": 1.0})
    assert (reward.attributes["judge"], reward.rollout_id) == ('["x", 1]', rollout)
    assert "agentlightning.annotation" in found  # also at the rate 0: the trace that it is about was kept


def test_several_rewards_have_one_that_counts() -> None:
    """Named rewards are read as the primary one by everything that wants one number, and by name by who asks."""
    with OtelTracer().trace_context("x") as seen:
        emit_reward(0.1)
        emit_reward({"accuracy": 1, "style": 0.25}, primary_key="style")
    spans = seen.spans()
    assert find_final_reward(spans) == 0.25
    assert len(find_reward_spans(spans)) == 2
    assert get_reward_value(spans[1], "accuracy") == 1.0
    assert get_reward_value(spans[1], "none") is None
    assert get_reward_values(spans[0]) == {}
    assert get_target(spans[0]) is None


@pytest.mark.parametrize(
    ("given", "primary_key"),
    [
        ({}, None), ({}, "a"), ({"a": 1, "b": 2}, None), ({"a": 1}, "b"), ({"a": "x"}, "a"), ({"a": float("nan")}, "a"),
        ({1: 2}, None), (1.0, "a"), ([1.0], None), ({"a": 1, 2: 3}, "a"),
    ],
)  # fmt: skip
def test_rewards_that_are_none_are_an_error(given: Any, primary_key: str | None) -> None:
    """What has no primary reward, or a value that is no number, is refused as a single reward is."""
    with pytest.raises(ValueError, match="reward"):
        emit_reward(given, primary_key=primary_key)


def test_one_named_reward_is_its_own_primary() -> None:
    """A single reward with a name needs no primary key."""
    assert get_reward_values(emit_reward({"accuracy": True})) == {"accuracy": 1.0}


def test_what_is_no_span_is_no_target(caplog: pytest.LogCaptureFixture) -> None:
    """A reward about no span is an error, an annotation about none is logged and skipped."""
    for wrong in (5, "x", object(), emit_event(MessageEvent("x"), keep=False)):
        with pytest.raises(ValueError, match="a target is a span"):
            emit_reward(1.0, target=wrong)  # type: ignore[arg-type]
        assert emit_annotation({"a": 1}, target=wrong) is None  # type: ignore[arg-type]
    assert len(caplog.records) == 4
    assert emit_annotation(5) is None  # type: ignore[arg-type]


def test_the_terminal_shows_them_at_their_span() -> None:
    """``agl show`` draws a late reward and an annotation under the span that they are about, with what they say."""
    with OtelTracer().trace_context("x"):
        first, second = (get_tracer().start_span(name) for name in ("first call", "second call"))
        first.end()
        second.end()
        emit_annotation({"reviewed_by": "anna"}, target=first)
        emit_reward({"accuracy": 1.0, "style": 0.4}, primary_key="accuracy", target=first)
        odd = get_tracer().start_span("odd", start_time=5_000)
        odd.end(end_time=4_000)
    flush()
    told = CliRunner().invoke(group, ["show", "--no-pager"], env={"COLUMNS": "160"}).output
    shown = [line for line in told.splitlines() if "agentlightning." in line or " call" in line]
    first_line, annotation, late, second_line = shown[-4:]
    assert (" first call" in first_line, " second call" in second_line) == (True, True)
    assert "─ agentlightning.annotation (reviewed_by anna)" in annotation
    assert "─ agentlightning.reward 1 (accuracy 1, style 0.4)" in late
    assert "⚠ end_before_start" in told
    assert "1 span breaking a rule" in told
    doctor = CliRunner().invoke(group, ["doctor"]).output
    assert "1 it ends before it starts" in doctor


def test_joined_providers_keep_links() -> None:
    """In a provider of the program's an annotation has its link too."""
    provider = TracerProvider(shutdown_on_exit=False)
    call = provider.get_tracer("x").start_span("call")
    call.end()
    late = emit_reward(1.0, target=call)
    context = call.get_span_context()
    assert get_target(late) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")
