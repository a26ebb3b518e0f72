"""The reward decorator, and reading rewards back."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from agentlightning.emitter import emit_reward, find_final_reward, find_reward_spans, get_reward_value, is_reward_span
from agentlightning.emitter import reward as reward_of
from agentlightning.types import Span

if TYPE_CHECKING:
    from tests.unit.emitter.conftest import Recorded


def test_result_of_a_function_is_its_reward(recorded: Recorded) -> None:
    """A decorated function keeps name, arguments and result, and its result is recorded."""

    @reward_of
    def judge(answer: str, *, bonus: float = 0.0) -> float:
        """Say how good it is."""
        return len(answer) + bonus

    assert judge("abc", bonus=0.5) == 3.5
    assert (judge.__name__, judge.__doc__) == ("judge", "Say how good it is.")
    assert recorded.attribute("reward") == 3.5


def test_result_of_a_coroutine_is_its_reward(recorded: Recorded) -> None:
    """A decorated coroutine function stays one, and concurrent calls are told apart."""

    @reward_of
    async def judge(value: float) -> float:
        await asyncio.sleep(0)
        return value

    async def both() -> tuple[float, float]:
        first, second = await asyncio.gather(judge(1.0), judge(2.0))
        return first, second

    assert inspect.iscoroutinefunction(judge)
    assert asyncio.run(both()) == (1.0, 2.0)
    assert sorted(filter(None, map(get_reward_value, recorded.spans))) == [1.0, 2.0]
    assert {span.parent for span in recorded.spans} == {None}


class _AsyncJudge:
    async def __call__(self) -> float:
        return 4.0


def test_objects_that_are_called_like_functions_can_be_decorated(recorded: Recorded) -> None:
    """A partial and an object with an async ``__call__`` work like the functions that they stand for."""
    assert reward_of(partial(float, 3))() == 3.0
    assert asyncio.run(reward_of(_AsyncJudge())()) == 4.0
    assert [get_reward_value(span) for span in recorded.spans] == [3.0, 4.0]


def test_what_a_judge_does_lies_under_its_reward(recorded: Recorded) -> None:
    """Spans that the function makes are children of the reward span, and the context is as before afterwards."""

    @reward_of
    def judge() -> float:
        with recorded.tracer.start_as_current_span("call"):
            return 1.0

    with recorded.tracer.start_as_current_span("agent") as agent:
        judge()
        assert trace.get_current_span() is agent
    call, judged, outer = recorded.spans
    assert call.parent == judged.context
    assert judged.parent == outer.context


@pytest.mark.parametrize("result", [None, "good", math.nan, [1.0], {"type": "reward", "value": None}, {"value": 1.0}])
def test_result_that_is_no_number_gives_no_reward(
    result: Any, recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    """Anything else is returned as it is, is no reward, and is said once for each function."""
    judge = reward_of(lambda: result)
    assert judge() is result
    assert judge() is result
    assert find_final_reward(recorded.spans) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("result", [True, 1, np.float32(1), {"type": "reward", "value": 1}])
def test_other_forms_of_a_number_are_rewards(result: Any, recorded: Recorded) -> None:
    """Bools, whole numbers, numpy scalars and AgentOps' form are recorded as float."""
    reward_of(lambda: result)()
    assert recorded.attribute("reward") == 1.0


def test_an_exception_of_the_function_passes_unchanged(recorded: Recorded) -> None:
    """The function's own exception reaches the caller, and the span says that it failed."""

    @reward_of
    def judge() -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        judge()
    assert recorded.only.status.status_code is StatusCode.ERROR
    assert get_reward_value(recorded.only) is None
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.usefixtures("no_tracer")
def test_decorated_functions_work_without_a_tracer() -> None:
    """Without a tracer the decorator only calls the function."""
    assert reward_of(lambda: 1.0)() == 1.0


def _span(**attributes: Any) -> Span:
    return Span.from_attributes(attributes=attributes, name="operation.task")


def _agentops(key: str, output: object) -> Span:
    return Span.from_attributes(attributes={key: json.dumps(output)}, name="operation.task")


@pytest.mark.parametrize("key", ["agentops.task.output", "agentops.entity.output"])
def test_rewards_of_agentops_are_read(key: str) -> None:
    """A span that AgentOps wrote holds its reward as JSON in its output."""
    assert get_reward_value(_agentops(key, {"type": "reward", "value": 0.5})) == 0.5
    assert get_reward_value(_agentops(key, {"type": "reward", "value": True})) == 1.0


@pytest.mark.parametrize(
    "span",
    [
        _span(reward=1.0),
        _span(**{"agentops.task.output": '{"type": "reward", "value'}),
        _span(**{"agentops.task.output": "[" * 100_000 + '"reward"'}),
        _agentops("agentops.task.output", {"type": "reward", "value": None}),
        _agentops("agentops.task.output", {"type": "reward", "value": math.nan}),
        _agentops("agentops.task.output", {"type": "other", "value": 1.0}),
        _agentops("agentops.task.output", ["reward", 1.0]),
        Span.from_attributes(attributes={"reward": "high"}, name="agentlightning.reward"),
        Span.from_attributes(attributes={}, name="agentlightning.reward"),
        ReadableSpan("agentlightning.reward"),
    ],
)
def test_what_only_looks_like_a_reward_is_none(span: Span | ReadableSpan) -> None:
    """Other names, broken JSON, other types and missing values hold no reward."""
    assert get_reward_value(span) is None
    assert not is_reward_span(span)


def test_rewards_are_found_in_spans_of_both_kinds(recorded: Recorded) -> None:
    """Spans of the SDK and of a store may be mixed; the last reward is the final one, also when it is 0."""
    stored = Span.from_attributes(attributes={"reward": 0}, name="agentlightning.reward")
    spans = [emit_reward(2.0), _span(a=1), stored, _span(b=1)]
    assert recorded.spans
    assert find_reward_spans(spans) == [spans[0], stored]
    assert find_final_reward(spans) == 0.0
    assert find_final_reward([]) is None
