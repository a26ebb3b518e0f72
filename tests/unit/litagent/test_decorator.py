"""Decorated functions stay what they are, and wrong ones are refused with a message that helps."""

from __future__ import annotations

import asyncio
import inspect
import keyword
import pickle
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning import (
    LLM,
    FunctionalLitAgent,
    LitAgent,
    PromptTemplate,
    ProxyLLM,
    llm_rollout,
    prompt_rollout,
    rollout,
)
from agentlightning import settings as agl_settings
from agentlightning.types.core import Attempt, AttemptedRollout, Rollout

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = LLM(endpoint="http://127.0.0.1:1/v1", model="m")
TEMPLATE = PromptTemplate(template="{q}", engine="f-string")
PROXY = ProxyLLM(endpoint="http://127.0.0.1:1/v1", model="m")
ROLLOUT = Rollout(rollout_id="ro-1", input=None, start_time=0.0)
ATTEMPTED = AttemptedRollout(
    rollout_id="ro-1", input=None, start_time=0.0,
    attempt=Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=0.0),
)  # fmt: skip
RESOURCES: dict[str, Any] = {"prompt": TEMPLATE, "main": MODEL}


@llm_rollout
def echo(task: Any, llm: LLM) -> Any:
    """Return the task."""
    return (task, llm)


def test_every_row_of_the_table_is_injected() -> None:
    """``rollout`` finds out what a function wants and hands it over: model or template, and the rollout on request."""

    def with_llm(task: str, llm: LLM) -> object:
        return task, llm

    def with_llm_and_rollout(task: str, llm: LLM, rollout: Rollout) -> object:
        return task, llm, rollout.id

    def with_template(task: str, prompt_template: PromptTemplate) -> object:
        return task, prompt_template

    def with_template_and_rollout(task: str, prompt_template: PromptTemplate, rollout: Rollout) -> object:
        return task, prompt_template, rollout.rollout_id

    functions: list[Callable[..., object]] = [
        with_llm, with_llm_and_rollout, with_template, with_template_and_rollout,
    ]  # fmt: skip
    results = [rollout(function).rollout("t", RESOURCES, ROLLOUT) for function in functions]
    assert results == [("t", MODEL), ("t", MODEL, "ro-1"), ("t", TEMPLATE), ("t", TEMPLATE, "ro-1")]


async def test_async_functions_are_awaited() -> None:
    """An async function makes an async agent, which refuses the other call with the name of the right one."""

    @rollout
    async def agent(task: str, llm: LLM) -> str:
        return task + llm.model

    assert agent.is_async()
    assert await agent.rollout_async("t", RESOURCES, ROLLOUT) == "tm"
    with pytest.raises(RuntimeError, match="agent is async; await rollout_async"):
        agent.rollout("t", RESOURCES, ROLLOUT)
    with pytest.raises(RuntimeError, match="echo is not async; call rollout"):
        await echo.rollout_async("t", RESOURCES, ROLLOUT)


def no_parameter() -> None:
    """Take nothing."""


def only_task(task: Any) -> None:
    """Take no resource."""


def wrong_order(llm: Any, task: Any) -> None:
    """Take the task second."""


def both(task: Any, llm: Any, prompt_template: Any) -> None:
    """Take both resources."""


def extra(task: Any, llm: Any, extra: Any) -> None:
    """Take what nobody has."""


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (no_parameter, ["neither 'llm' nor 'prompt_template'"]),
        (only_task, ["neither", "(task, llm), (task, llm, rollout)"]),
        (wrong_order, ["first parameter", "'task'", "(task, llm)"]),
        (both, ["both"]),
        (extra, ["'extra'", "default"]),
    ],
)
def test_other_signatures_are_not_implemented(function: Callable[..., object], words: list[str]) -> None:
    """``rollout`` refuses other parameters at once, naming function, parameter and what to write instead."""
    with pytest.raises(NotImplementedError) as caught:
        rollout(function)
    assert function.__name__ + "(" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_the_other_decorators_name_what_is_missing() -> None:
    """``llm_rollout`` and ``prompt_rollout`` raise ValueError with the parameter that is missing."""

    def agent(task: str) -> str:
        return task

    with pytest.raises(ValueError, match=r"agent\(task\) has no parameter 'llm'; declare it as agent\(task, llm\)"):
        llm_rollout(agent)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no parameter 'prompt_template'"):
        prompt_rollout(agent)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a function or another callable, not int"):
        rollout(5)  # type: ignore[arg-type]


def test_missing_and_ambiguous_resources_are_reported() -> None:
    """A resource that is not there is an error that names agent, parameter and what is there; several warn."""
    with pytest.raises(ValueError, match=r"echo wants .* 'llm', and there is no LLM .*: 'prompt' \(PromptTemplate\)"):
        echo.rollout("t", {"prompt": TEMPLATE}, ROLLOUT)
    with pytest.warns(UserWarning, match="echo gets the resource 'main' as 'llm'; there are others.*: 'other'"):
        assert echo.rollout("t", {"main": MODEL, "other": PROXY}, ROLLOUT) == ("t", MODEL)


def test_a_proxy_is_made_specific_to_the_attempt() -> None:
    """A ``ProxyLLM`` arrives as a plain model whose endpoint names the attempt, unless that is not wanted."""
    _, llm = echo.rollout("t", {"main": PROXY}, ATTEMPTED)
    assert type(llm) is LLM
    assert llm.endpoint == "http://127.0.0.1:1/rollout/ro-1/attempt/at-1/v1"
    with pytest.raises(ValueError, match=r"strip_proxy=False"):
        echo.rollout("t", {"main": PROXY}, ROLLOUT)

    @llm_rollout(strip_proxy=False)
    def kept(task: str, llm: LLM) -> object:
        return (task, llm)

    assert kept.rollout("t", {"main": PROXY}, ROLLOUT) == ("t", PROXY)


def test_the_agent_looks_like_the_function() -> None:
    """Signature, name, docstring and annotations of the function are those of the agent, which is a ``LitAgent``."""

    def agent(task: str, llm: LLM, *, loud: bool = False) -> str:
        """Do it."""
        return f"{task}{llm}{loud}"

    decorated = rollout(agent)
    assert isinstance(decorated, FunctionalLitAgent)
    assert isinstance(decorated, LitAgent)
    assert inspect.signature(decorated) == inspect.signature(agent)
    assert (vars(decorated)["__name__"], decorated.__doc__, decorated.__module__) == ("agent", "Do it.", __name__)
    assert vars(decorated)["__wrapped__"] is agent


names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(
    lambda name: not keyword.iskeyword(name) and name not in {"task", "llm", "prompt_template", "rollout"}
)


@given(
    name=names,
    resource=st.sampled_from(["llm", "prompt_template"]),
    wants_rollout=st.booleans(),
    is_async=st.booleans(),
    extras=st.lists(names, unique=True, max_size=3),
    keyword_only=st.booleans(),
    doc=st.none() | st.text(),
)
def test_any_function_of_the_table_keeps_its_looks(
    name: str,
    resource: str,
    *,
    wants_rollout: bool,
    is_async: bool,
    extras: list[str],
    keyword_only: bool,
    doc: str | None,
) -> None:
    """Whatever a function is called, documented, and has further parameters: decorated, it looks the same."""
    parameters = [
        "task",
        resource,
        *(["rollout"] if wants_rollout else []),
        *(["*"] if keyword_only and extras else []),
    ]
    parameters += [f"{extra}: int = {index}" for index, extra in enumerate(extras)]
    scope: dict[str, Any] = {}
    exec(f"{'async ' if is_async else ''}def {name}({', '.join(parameters)}) -> float: return 1.0", scope)
    function = scope[name]
    function.__doc__ = doc
    agent = rollout(function)
    assert inspect.signature(agent) == inspect.signature(function)
    assert (vars(agent)["__name__"], agent.__doc__, agent.is_async()) == (name, doc, is_async)
    assert vars(agent)["__annotations__"] == function.__annotations__


def test_the_signature_is_analysed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither calls nor rollouts look at the signature again."""

    def fail(*_: object) -> None:
        raise AssertionError

    def first(task: Any, llm: Any) -> Any:
        return task

    agent = rollout(first)
    monkeypatch.setattr(inspect, "signature", fail)
    for _ in range(3):
        assert agent.rollout(1, RESOURCES, ROLLOUT) == 1


def test_a_decorated_call_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """With tracing off a decorator adds at most 15 us to a call."""
    monkeypatch.setitem(vars(agl_settings)["_values"].used, "AGL_ENABLED", False)

    def bare(task: object, llm: object) -> None: ...

    agent = rollout(bare)

    def cost(function: Callable[..., object]) -> float:
        begun = time.thread_time()
        for _ in range(2_000):
            function(1, 2)
        return 1e6 * (time.thread_time() - begun) / 2_000

    assert min(cost(agent) - cost(bare) for _ in range(7)) <= 15


def test_agents_can_be_pickled() -> None:
    """An agent of a module is the same object after pickling in one process, which is what processes need."""
    assert pickle.loads(pickle.dumps(echo)) is echo


class Odd:
    """A result that equals nothing, not even itself."""

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 0


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(Odd),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=5,
)
errors = st.sampled_from(
    [ValueError("x"), KeyError(), KeyboardInterrupt(), SystemExit(3), StopIteration(1), Exception()]
)


@pytest.mark.parametrize("enabled", ["0", "1"])
@settings(max_examples=40)
@given(value=values, error=st.none() | errors, task=values)
def test_results_and_exceptions_are_the_functions_own(
    enabled: str, value: object, error: BaseException | None, task: object
) -> None:
    """A direct call gives the very object that the function returned or raised, traced or not, plain or async."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(agl_settings)["_values"].used, "AGL_ENABLED", enabled == "1")
        seen: list[object] = []

        def work(task: object, llm: object) -> object:
            seen.append(task)
            if error is not None:
                raise error
            return value

        async def work_async(task: object, llm: object) -> object:
            return work(task, llm)

        for agent, run in ((rollout(work), _plain), (rollout(work_async), _awaited)):
            outcome = run(agent, task)
            if error is None:
                assert outcome is value
            elif isinstance(error, StopIteration) and run is _awaited:
                assert isinstance(outcome, RuntimeError)  # what Python makes of it in every coroutine
            else:
                assert outcome is error
        assert all(item is task for item in seen)
        assert len(seen) == 2


def _plain(agent: Any, task: object) -> object:
    try:
        return agent(task, MODEL)
    except BaseException as caught:
        return caught


def _awaited(agent: Any, task: object) -> object:
    async def run() -> object:
        try:
            return await agent(task, llm=MODEL)
        except BaseException as caught:
            return caught

    return asyncio.run(run())


def test_an_agent_without_a_method_says_so() -> None:
    """A ``LitAgent`` that overrides nothing raises NotImplementedError naming its class and the two methods."""

    class Empty(LitAgent[str]):
        pass

    class Wrong(LitAgent[str]):
        async def rollout(self, task: Any, resources: Any, rollout: Any) -> Any:  # type: ignore[override]
            return None

    for agent, words in ((Empty(), r"Empty has to define rollout\(\)"), (Wrong(), "Wrong.rollout is async; name it")):
        with pytest.raises(NotImplementedError, match=re.escape(words) if "(" not in words else words):
            asyncio.run(agent.rollout_async("t", {}, ROLLOUT))
    with pytest.raises(RuntimeError, match="has no trainer; call"):
        _ = Empty().trainer
    with pytest.raises(RuntimeError, match="has no runner; run it"):
        _ = Empty().runner


@pytest.mark.parametrize("enabled", ["0", "1"])
def test_a_direct_call_gets_the_rollout_that_it_is(enabled: str) -> None:
    """A ``rollout`` that a function wants and a call leaves out is injected, traced or not; one that is given stays."""

    @rollout
    def plain(task: str, llm: object, rollout: Any) -> list[Any]:
        return [task, llm, rollout]

    @rollout
    async def by_name(task: str, llm: object, *, rollout: Any) -> list[Any]:
        await asyncio.sleep(0)
        return [task, llm, rollout]

    @rollout
    def optional(task: str, llm: object, rollout: Any = None) -> list[Any]:
        return [task, llm, rollout]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(agl_settings)["_values"].used, "AGL_ENABLED", enabled == "1")
        for result in (plain("t", 1), plain(task="t", llm=1), asyncio.run(by_name("t", 1))):
            assert result[:2] == ["t", 1]
            assert result[2].id == result[2].rollout_id == result[2].attempt.rollout_id
            assert result[2].input == "t"
        for outcome in (plain("t", 1, 2), plain("t", 1, rollout=2), asyncio.run(by_name("t", 1, rollout=2))):
            assert outcome == ["t", 1, 2]
        assert optional("t", 1) == ["t", 1, None]
        with pytest.raises(TypeError, match="llm"):
            plain("t")
