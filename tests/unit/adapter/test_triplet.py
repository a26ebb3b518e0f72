"""Triplets: which calls, whose reward, which tokens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.adapter import (
    LlmProxyTraceToTriplet,
    RewardMatchPolicy,
    TracerTraceToTriplet,
    TraceTree,
    Transition,
)
from agentlightning.semconv import LOGPROBS, PROMPT_TOKEN_IDS, RESPONSE_TOKEN_IDS, TARGET
from agentlightning.types import Span


def span(number: int, parent: int | None = None, at: tuple[float, float] = (0, 1), **given: Any) -> Span:
    """Return a span with the id *number*, from ``at[0]`` to ``at[1]`` seconds."""
    attributes = given.pop("attributes", {})
    values: dict[str, Any] = {
        "rollout_id": "ro",
        "attempt_id": "at",
        "sequence_id": number,
        "name": f"span {number}",
        "trace_id": "1" * 32,
        "span_id": f"{number:016x}",
        "parent_id": None if parent is None else f"{parent:016x}",
        "start_time": 1000.0 + at[0],
        "end_time": 1000.0 + at[1],
    }
    return Span.from_attributes(attributes=attributes, **(values | given))


def call(number: int, parent: int | None = None, at: tuple[float, float] = (0, 1), **given: Any) -> Span:
    """Return a model call that answers with the ids ``[number]``."""
    attributes: dict[str, Any] = {
        "openinference.span.kind": "LLM",
        PROMPT_TOKEN_IDS: [1, 2, 3],
        RESPONSE_TOKEN_IDS: [number],
        LOGPROBS: [-0.5],
        "gen_ai.response.id": f"answer-{number}",
    }
    given["attributes"] = attributes | given.get("attributes", {})
    return span(number, parent, at, **given)


def agent(number: int, name: str, parent: int | None, at: tuple[float, float]) -> Span:
    """Return the span of an agent."""
    return span(number, parent, at, attributes={"openinference.span.kind": "AGENT", "agent.name": name})


def reward(number: int, value: float, parent: int | None = None, at: float = 1, **given: Any) -> Span:
    """Return a reward that came *at* so many seconds."""
    return span(number, parent, (at, at), name="agentlightning.reward", attributes={"reward": value}, **given)


def answers(triplets: Any) -> list[tuple[int, float | None]]:
    """Return the answered id and the reward of each triplet."""
    return [(item.response["token_ids"][0], item.reward) for item in triplets]


def test_a_call_has_its_tokens_and_where_it_came_from() -> None:
    """The ids and log-probabilities are those of the span, and the triplet says which span it is."""
    (made,) = TracerTraceToTriplet().adapt([agent(1, "solver", None, (0, 5)), call(2, 1)])
    assert made.prompt == {"token_ids": [1, 2, 3]}
    assert made.response == {"token_ids": [2], "logprobs": [-0.5]}
    assert made.reward is None
    assert made.metadata["response_id"] == "answer-2"
    assert made.metadata["agent_name"] == "solver"
    assert made.metadata["span_id"] == f"{2:016x}"


def test_no_spans_give_no_triplets() -> None:
    """A rollout that recorded nothing is no error."""
    assert TracerTraceToTriplet().adapt([]) == []
    assert LlmProxyTraceToTriplet().adapt([]) == []


def test_a_reward_belongs_to_the_last_call_that_had_ended() -> None:
    """One reward each: 0.5 came after call 2, 1.0 after call 4; call 3 gets none."""
    spans = [span(1, None, (0, 9)), call(2, 1, (0, 1)), reward(5, 0.5, 1, 1.5), call(3, 1, (2, 3)),
             call(4, 1, (3, 4)), reward(6, 1.0, 1, 5)]  # fmt: skip
    assert answers(TracerTraceToTriplet().adapt(spans[::-1])) == [(2, 0.5), (3, None), (4, 1.0)]


def test_a_reward_during_a_call_is_about_an_earlier_one() -> None:
    """What came before the answer cannot be about the answer."""
    spans = [span(1, None, (0, 9)), call(2, 1, (0, 1)), call(3, 1, (2, 6)), reward(4, 0.5, 1, 4)]
    assert answers(TracerTraceToTriplet().adapt(spans)) == [(2, 0.5), (3, None)]


def test_a_second_reward_of_a_call_changes_nothing() -> None:
    """The first reward after a call is the call's; a later one is not given to an earlier call."""
    spans = [span(1, None, (0, 9)), call(2, 1, (0, 1)), call(3, 1, (1, 2)), reward(4, 0.5, 1, 3), reward(5, 0.9, 1, 4)]
    assert answers(TracerTraceToTriplet().adapt(spans)) == [(2, None), (3, 0.5)]


@pytest.mark.parametrize("policy", list(RewardMatchPolicy))
def test_a_reward_that_names_its_call_is_that_calls(policy: RewardMatchPolicy) -> None:
    """A late reward with a target goes to the call that it is about, and to no other, under each policy."""
    late = span(5, 2, (8, 8), name="agentlightning.reward", attributes={"reward": 0.25, TARGET: f"{2:016x}"})
    spans = [span(1, None, (0, 9)), call(2, 1, (0, 1)), call(3, 1, (2, 3)), late, reward(6, 1.0, 1, 8.5)]
    assert answers(TracerTraceToTriplet(reward_match=policy).adapt(spans)) == [(2, 0.25), (3, 1.0)]
    assert answers(TracerTraceToTriplet(reward_match=policy).adapt(spans[:-1])) == [(2, 0.25), (3, None)]
    late.attributes[TARGET] = f"{1:016x}"  # about the agent as a whole: matched like any other
    late.parent_id = f"{1:016x}"
    assert answers(TracerTraceToTriplet(reward_match=policy).adapt(spans[:-1])) == [(2, None), (3, 0.25)]


def test_rewards_among_siblings_stay_in_the_family() -> None:
    """With ``first_sibling`` a reward beside two agents is not given to what the agents called."""
    spans = [span(1, None, (0, 9)), agent(2, "a", 1, (0, 3)), call(3, 2, (0, 1)), reward(4, 0.3, 2, 2),
             agent(5, "b", 1, (3, 6)), call(6, 5, (4, 5)), reward(7, 0.9, 1, 7)]  # fmt: skip
    sibling = TracerTraceToTriplet(reward_match=RewardMatchPolicy.FIRST_SIBLING).adapt(spans)
    assert answers(sibling) == [(3, 0.3), (6, None)]
    assert answers(TracerTraceToTriplet().adapt(spans)) == [(3, 0.3), (6, 0.9)]
    with pytest.raises(ValueError, match="nearest"):
        TracerTraceToTriplet(reward_match="nearest")  # type: ignore[arg-type]


def test_a_reward_of_equal_time_is_ordered_by_hand_over() -> None:
    """A clock that stood still does not decide: the counter of the hand-over does."""
    first, second = reward(4, 0.1, 1, 2), reward(5, 0.9, 1, 2)
    first.counter, second.counter = 9, 8
    made = TracerTraceToTriplet().adapt([span(1, None, (0, 9)), call(2, 1, (0, 1)), first, second])
    assert answers(made) == [(2, 0.9)]


def test_what_a_judge_calls_is_left_out() -> None:
    """A call inside a reward is no action of the agent, unless it is asked for."""
    judged = span(3, 1, (2, 4), name="agentlightning.reward", attributes={"reward": 1.0})
    spans = [span(1, None, (0, 9)), call(2, 1, (0, 1)), judged, call(4, 3, (2, 3))]
    assert answers(TracerTraceToTriplet().adapt(spans)) == [(2, 1.0)]
    assert len(TracerTraceToTriplet(exclude_llm_call_in_reward=False).adapt(spans)) == 2


def test_a_call_that_two_libraries_recorded_counts_once() -> None:
    """The innermost span is the call."""
    spans = [call(1, None, (0, 5), attributes={"gen_ai.response.id": "x"}),
             call(2, 1, (1, 4), attributes={"gen_ai.response.id": "x"})]  # fmt: skip
    assert answers(TracerTraceToTriplet().adapt(spans)) == [(2, None)]
    assert len(TraceTree.from_spans(spans).to_trajectory(dedup_llm_call=False)) == 2


def test_of_one_answer_in_two_places_the_one_with_tokens_is_kept() -> None:
    """Two traces of one call: what lacks the tokens is the copy."""
    poor = call(2, None, (0, 5), attributes={"gen_ai.response.id": "x", PROMPT_TOKEN_IDS: [], RESPONSE_TOKEN_IDS: []})
    poor.attributes.pop(LOGPROBS)
    poor.attributes.pop(PROMPT_TOKEN_IDS)
    poor.attributes.pop(RESPONSE_TOKEN_IDS)
    rich = call(3, None, (6, 7), trace_id="2" * 32, attributes={"gen_ai.response.id": "x"})
    assert answers(TracerTraceToTriplet().adapt([poor, rich])) == [(3, None)]


def test_calls_of_one_agent() -> None:
    """``agent_match`` takes the calls below the agents in whose name it is found, with that name."""
    spans = [agent(1, "planner", None, (0, 9)), call(2, 1, (0, 1)), agent(3, "coder", 1, (2, 8)), call(4, 3, (3, 4))]
    made = TracerTraceToTriplet(agent_match="^cod").adapt(spans)
    assert [(item.response["token_ids"], item.metadata["agent_name"]) for item in made] == [([4], "coder")]
    assert len(TracerTraceToTriplet(agent_match="plan").adapt(spans)) == 2, "what is below a match matches"
    assert TracerTraceToTriplet(agent_match="nobody").adapt(spans) == []


def test_another_pattern_is_searched_in_the_names_of_spans() -> None:
    """Whoever names a span decides himself what a call is."""
    spans = [span(1, None, (0, 9)), call(2, 1), span(3, 1, (2, 3), name="my.call")]
    made = TracerTraceToTriplet(llm_call_match=r"my\.call").adapt(spans)
    assert [item.metadata["span_id"] for item in made] == [f"{3:016x}"]
    assert made[0].response == {"token_ids": []}
    assert TracerTraceToTriplet(llm_call_match=r"my\.call", _skip_empty_token_spans=True).adapt(spans) == []


def test_a_call_beside_its_agent_is_put_below_it() -> None:
    """A call without a parent belongs to the agent that ran meanwhile."""
    spans = [agent(1, "solver", None, (0, 5)), call(2, None, (1, 2), trace_id="2" * 32), call(3, None, (6, 7))]
    made = TracerTraceToTriplet(agent_match="solver").adapt(spans)
    assert answers(made) == [(2, None)]
    assert TracerTraceToTriplet(agent_match="solver", repair_hierarchy=False).adapt(spans) == []


def test_a_call_that_two_agents_may_have_made_stays() -> None:
    """Where agents ran side by side, nobody is given a call by guess."""
    spans = [agent(1, "a", None, (0, 5)), agent(2, "b", None, (0.5, 6)), call(3, None, (1, 2))]
    (made,) = TracerTraceToTriplet().adapt(spans)
    assert made.metadata["agent_name"] == "*"
    nested = [agent(1, "a", None, (0, 5)), agent(2, "b", 1, (0.5, 4)), call(3, None, (1, 2))]
    (made,) = TracerTraceToTriplet().adapt(nested)
    assert made.metadata["agent_name"] == "b"


def test_a_span_with_a_parent_is_not_moved() -> None:
    """An agent below the only root stays there, whatever ran meanwhile."""
    spans = [span(1, None, (0, 9)), span(2, 1, (0, 8)), agent(3, "a", 1, (1, 2))]
    tree = TraceTree.from_spans(spans)
    tree.repair_hierarchy()
    assert tree.names_tuple() == ("span 1", [("span 2", []), ("span 3", [])])


def test_the_last_triplet_takes_a_final_reward() -> None:
    """A final reward stands in for what the spans say."""
    tree = TraceTree.from_spans([span(1, None, (0, 9)), call(2, 1, (0, 1)), call(3, 1, (1, 2)), reward(4, 0.1, 1, 3)])
    assert answers(tree.to_trajectory(final_reward=0.75)) == [(2, None), (3, 0.75)]


def test_spans_of_the_sdk_are_taken_as_they_are() -> None:
    """What a tracer holds in memory gives the triplets that the store would."""
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

    tracer = TracerProvider().get_tracer("test")
    made: list[ReadableSpan] = []
    with tracer.start_as_current_span("run") as root:
        with tracer.start_as_current_span("call", attributes=call(7).attributes) as inner:
            made.append(inner)  # type: ignore[arg-type]
        made.append(root)  # type: ignore[arg-type]
    (item,) = TracerTraceToTriplet().adapt(made)
    assert item.response["token_ids"] == [7]


def test_a_proxy_knows_no_tree_and_goes_by_numbers() -> None:
    """Calls with tokens in the order of their numbers; a reward is the last call's."""
    bare = span(3, None, attributes={"openinference.span.kind": "LLM"})
    spans = [reward(5, 0.5), call(2), call(1), bare, call(4, attributes={"gen_ai.response.id": "answer-2"})]
    assert answers(LlmProxyTraceToTriplet().adapt(spans)) == [(1, None), (2, 0.5)]


def test_a_transition_is_a_step_of_a_decision_process() -> None:
    """The model of the API sheet holds ids, reward and names."""
    step = Transition(state=[1], action=[2], response_id=None, agent_name="a", reward=1)
    assert step.model_dump() == {"state": [1], "action": [2], "response_id": None, "agent_name": "a", "reward": 1.0}


def test_a_chain_of_spans_of_any_depth() -> None:
    """Twenty thousand spans below each other are read, written as JSON and named."""
    count = 20_000
    spans = [span(number, number - 1 if number > 1 else None, (0, 9)) for number in range(1, count)]
    tree = TraceTree.from_spans([*spans, call(count, count - 1)])
    assert len(tree.traverse()) == count
    assert answers(tree.to_trajectory()) == [(count, None)]
    node: Any = tree.to_json()
    depth = 1
    while node["children"]:
        (node,) = node["children"]
        depth += 1
    assert depth == count


@given(st.lists(st.tuples(st.integers(0, 12), st.floats(0, 5), st.floats(0, 5), st.sampled_from("cra")), max_size=12))
def test_any_tree_gives_each_call_once(raw: list[tuple[int, float, float, str]]) -> None:
    """Missing parents, cycles and equal times: no call is lost or doubled by repair."""
    spans: list[Span] = []
    for number, (parent, start, length, kind) in enumerate(raw, 1):
        at = (start, start + length)
        if kind == "c":
            spans.append(call(number, parent or None, at))
        elif kind == "r":
            spans.append(reward(number, 0.5, parent or None, start))
        else:
            spans.append(agent(number, "a", parent or None, at))
    if not spans:
        return
    tree = TraceTree.from_spans(spans)
    before = sorted(node.id for node in tree.traverse())
    tree.repair_hierarchy()
    assert sorted(node.id for node in tree.traverse()) == before
    made = tree.to_trajectory(exclude_llm_call_in_reward=False, dedup_llm_call=False)
    assert sorted(item.response["token_ids"][0] for item in made) == sorted(
        n for n, (_, _, _, kind) in enumerate(raw, 1) if kind == "c"
    )


def test_a_tree_is_drawn(tmp_path: Any) -> None:
    """``visualize`` leaves a PNG; a filter keeps what matches and what is above it."""
    spans = [agent(1, "solver", None, (0, 5)), call(2, 1), span(3, 1, (2, 3), name="tool")]
    adapter = TracerTraceToTriplet()
    tree = adapter.visualize(spans, str(tmp_path / "all"))
    assert tree.find_id(f"{3:016x}") is not None
    assert tree.find_id("missing") is None
    adapter.visualize(spans, str(tmp_path / "some"), "tool")
    sizes = [(tmp_path / name).read_bytes() for name in ("all.png", "some.png")]
    assert all(content.startswith(b"\x89PNG") for content in sizes)
    assert sizes[0] != sizes[1]


def test_a_tree_of_nothing_is_an_error() -> None:
    """There is no root without a span."""
    with pytest.raises(ValueError, match="no spans"):
        TraceTree.from_spans([])
