"""Direct calls of agents: what they leave in the default store."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning import LLM, OtelTracer, Span, emit_message, open_store, rollout

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning.types.core import Rollout

MODEL = LLM(endpoint="http://127.0.0.1:1/v1", model="m")


@pytest.fixture
def own_process(tmp_path: Any) -> Callable[[str], list[dict[str, Any]]]:
    """Return a function that runs a program in a process of its own and reads what it left in its default store."""

    def run(code: str) -> list[dict[str, Any]]:
        import subprocess
        import sys

        script, store = tmp_path / "program.py", tmp_path / "program.db"
        script.write_text(PRELUDE + code)
        environment = {**os.environ, "AGL_STORE": str(store)}
        answer = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60, env=environment
        )
        assert answer.returncode == 0, answer.stderr
        return asyncio.run(_read(str(store)))

    return run


PRELUDE = """
import asyncio, logging, os, threading
from agentlightning import *
from agentlightning.testing import ModelServer
model = LLM(endpoint="http://127.0.0.1:1/v1", model="m")
"""


async def _read(path: str) -> list[dict[str, Any]]:
    store = open_store(path)
    try:
        return [await _describe(store, found) for found in await store.query_rollouts()]
    finally:
        store.close()


async def _describe(store: Any, found: Rollout) -> dict[str, Any]:
    spans: list[Span] = await store.query_spans(found.rollout_id)
    return {
        "input": found.input, "status": found.status, "metadata": found.metadata,
        "attempts": [attempt.status for attempt in await store.query_attempts(found.rollout_id)],
        "spans": [(span.name, dict(span.attributes)) for span in spans], "full": spans,
    }  # fmt: skip


def test_a_direct_call_is_a_rollout(own_process: Callable[[str], list[dict[str, Any]]]) -> None:
    """Each call outside any rollout is one in the default store, with its task, model calls, reward and status."""
    found = own_process("""
with ModelServer(["4", "4"]) as server:
    llm = LLM(endpoint=server.url, model="m")
    @llm_rollout
    def my_agent(task, llm):
        answer = llm.generate(task["question"])
        return 1 if answer == "4" else 0
    @llm_rollout
    async def async_agent(task, llm):
        response = await llm.generate_async(task)
        return response
    assert my_agent({"question": "2 + 2", "api_key": "sk-0123456789abcdef"}, llm) == 1
    assert asyncio.run(async_agent("2 + 2", llm=llm)) == "4"
""")
    first, second = found
    assert first["input"]["question"] == "2 + 2"
    assert "0123456789" not in json.dumps(first["input"])
    assert (first["status"], first["attempts"]) == ("succeeded", ["succeeded"])
    assert first["metadata"] == {"agent": "my_agent"}
    assert [name for name, _ in first["spans"]] == ["ChatCompletion", "agentlightning.reward"]
    assert first["spans"][1][1]["reward"] == 1.0
    assert second["input"] == "2 + 2"
    assert [name for name, _ in second["spans"]] == ["ChatCompletion", "agentlightning.object"]
    assert second["spans"][1][1] | {"object": '"4"', "agentlightning.output": True} == second["spans"][1][1]


def test_inside_a_rollout_a_call_is_a_span(own_process: Callable[[str], list[dict[str, Any]]]) -> None:
    """An agent that calls another leaves one rollout, with the inner call as an agent span around what it does."""
    (found,) = own_process("""
@rollout
def inner(task, llm):
    emit_message("deep")
    return task + "!"
@rollout
async def middle(task, llm):
    return inner(task, llm)
@rollout
def outer(task, llm):
    return asyncio.run(middle(task, llm))
assert outer("go", model) == "go!"
""")
    spans = {span.name: span for span in found["full"]}
    assert spans["agentlightning.message"].parent_id == spans["inner"].span_id
    assert spans["inner"].parent_id == spans["middle"].span_id
    assert spans["inner"].attributes["openinference.span.kind"] == "AGENT"
    assert (spans["inner"].attributes["input.value"], spans["inner"].attributes["output.value"]) == ("go", "go!")


def test_failures_are_recorded_and_pass(own_process: Callable[[str], list[dict[str, Any]]]) -> None:
    """A call that raises is a failed rollout with the exception as a span, also one level down."""
    first, second = own_process("""
error = RuntimeError("broken")
@rollout
def inner(task, llm):
    raise error
@rollout
def outer(task, llm):
    inner(task, llm)
for agent in inner, outer:
    try:
        agent("x", model)
    except RuntimeError as caught:
        assert caught is error
    else:
        raise SystemExit("no error")
""")
    assert [found["status"] for found in (first, second)] == ["failed", "failed"]
    (name, attributes) = first["spans"][-1]
    assert (name, attributes["exception.message"]) == ("agentlightning.exception", "broken")
    assert [span.status.status_code for span in second["full"] if span.name == "inner"] == ["ERROR"]


@pytest.mark.parametrize(
    ("value", "reward", "output"),
    [
        ("None", None, None), ("0.5", 0.5, None), ("3", 3.0, None), ("True", 1.0, None),
        ("'text'", None, '"text"'), ("[1, 2]", None, "[1, 2]"), ("{'a': {1}}", None, '{"a": [1]}'),
        ("float('nan')", None, '"NaN"'), ("[]", None, "[]"),
    ],
)  # fmt: skip
async def test_return_values(value: str, reward: float | None, output: str | None, tmp_path: Any) -> None:
    """None is nothing, numbers are the reward, anything else is the output of the rollout."""
    from agentlightning.litagent.result import record_result

    store = open_store(str(tmp_path / "own.db"))
    attempted = await store.start_rollout("x")
    ids = attempted.rollout_id, attempted.attempt.attempt_id
    async with OtelTracer().trace_context(store=store, rollout_id=ids[0], attempt_id=ids[1]):
        record_result(eval(value), agent="a", rollout_id=ids[0], attempt_id=ids[1], writer=store)
    spans = await store.query_spans(ids[0])
    rewards = [span.attributes["reward"] for span in spans if "reward" in span.attributes]
    outputs = [span.attributes["object"] for span in spans if span.attributes.get("agentlightning.output") is True]
    assert (rewards, outputs) == ([] if reward is None else [reward], [] if output is None else [output])
    store.close()


async def test_spans_are_stored_as_they_are(tmp_path: Any) -> None:
    """A list of spans is stored under the attempt, whatever kind they are; a mixed one names what is wrong."""
    from agentlightning.litagent.result import MixedResultError, record_result

    store = open_store(str(tmp_path / "own.db"))
    attempted = await store.start_rollout("x")
    ids = attempted.rollout_id, attempted.attempt.attempt_id
    made = Span.from_attributes(attributes={"k": 1, "api_key": "sk-0123456789abcdef"}, name="made")
    other = open_store(str(tmp_path / "other.db"))
    with OtelTracer().trace_context("elsewhere", store=other) as elsewhere:
        emit_message("from elsewhere")
    (foreign,) = elsewhere.spans()
    bare = type(foreign)(name="bare", context=foreign.get_span_context(), attributes={"a": 2}, start_time=1, end_time=2)
    async with OtelTracer().trace_context(store=store, rollout_id=ids[0], attempt_id=ids[1]):
        for spans in ([made], [bare]):
            record_result(spans, agent="a", rollout_id=ids[0], attempt_id=ids[1], writer=store)
        with pytest.raises(
            MixedResultError, match=r"my_agent returned a list that mixes 1 spans .* element 1 is float"
        ):
            record_result([made, 0.5], agent="my_agent", rollout_id=ids[0], attempt_id=ids[1], writer=store)
    stored = {span.name: span for span in await store.query_spans(ids[0])}
    assert stored.keys() == {"made", "bare"}
    assert stored["made"].attributes["k"] == 1
    assert "0123456789" not in str(stored["made"].attributes)
    store.close()
    other.close()


def test_a_mixed_list_is_the_callers_own_in_a_direct_call(caplog: pytest.LogCaptureFixture) -> None:
    """A direct call returns even a mixed list untouched, and says in the log what was not recorded."""
    mixed = [Span.from_attributes(attributes={}), 1]

    @rollout
    def agent(task: str, llm: LLM) -> object:
        return mixed

    with caplog.at_level(logging.ERROR, "agentlightning"):
        assert agent("x", MODEL) is mixed
    assert "agent returned a list that mixes" in caplog.text


def test_disabled_capture_runs_the_function_alone(own_process: Callable[[str], list[dict[str, Any]]]) -> None:
    """With ``AGL_ENABLED=0`` a call starts no thread and writes nothing."""
    assert (
        own_process("""
os.environ["AGL_ENABLED"] = "0"
@rollout
def agent(task, llm):
    return threading.active_count()
assert agent("x", model) == 1
""")
        == []
    )


def test_calls_from_threads_and_tasks_stay_apart(own_process: Callable[[str], list[dict[str, Any]]]) -> None:
    """Many direct calls at once, in threads and tasks, each have exactly their own spans."""
    found = own_process("""
@llm_rollout
def agent(task, llm):
    emit_message(task)
    return llm.generate(task)
@llm_rollout
async def agent_async(task, llm):
    emit_message(task)
    return await llm.generate_async(task)
with ModelServer() as server:
    llm = LLM(endpoint=server.url, model="m")
    threads = [threading.Thread(target=agent, args=(f"t{index}", llm)) for index in range(8)]
    for thread in threads:
        thread.start()
    async def run_all():
        return await asyncio.gather(*(agent_async(f"a{index}", llm) for index in range(8)))
    assert asyncio.run(run_all()) == [f"a{index}" for index in range(8)]
    for thread in threads:
        thread.join()
""")
    assert sorted(one["input"] for one in found) == sorted(f"{kind}{index}" for kind in "at" for index in range(8))
    for one in found:
        assert [attributes.get("message") for _, attributes in one["spans"]] == [one["input"], None, None]
        assert [name for name, _ in one["spans"]][1:] == ["ChatCompletion", "agentlightning.object"]


def test_the_injected_rollout_is_the_one_that_is_stored(
    own_process: Callable[[str], list[dict[str, Any]]], tmp_path: Any
) -> None:
    """A direct call that leaves out ``rollout`` gets the one under which its spans are found, nested calls too."""
    own_process("""
@rollout
def inner(task, llm, rollout):
    return rollout.id

@rollout
def outer(task, llm, rollout):
    assert inner(task, llm) == rollout.id == rollout.rollout_id
    return rollout.id

open(os.environ["AGL_STORE"] + ".id", "w").write(outer("t", model))
""")
    store = open_store(str(tmp_path / "program.db"))
    (found,) = asyncio.run(store.query_rollouts())
    store.close()
    assert (tmp_path / "program.db.id").read_text() == found.rollout_id
