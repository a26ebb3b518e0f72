"""One contract for every framework. ``docs/frameworks.md`` is made of the results: a column for each test here."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning import instrumentation
from agentlightning.testing import AgentRule, ModelServer, Reply
from agentlightning.view.tokens import token_ids

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [  # what the frameworks warn of is theirs
    pytest.mark.filterwarnings(f"ignore::{name}")
    for name in ("DeprecationWarning", "PendingDeprecationWarning", "UserWarning", "ResourceWarning")
]

ADAPTERS = {"plain_openai", "litellm"}
"""Libraries without agents: the program calls model and tools itself, so a call is all that there is to record."""


def shapes(recorded: Any) -> list[Any]:
    """Return depth, kind and status of every span."""
    return [(node.depth, node.row.facts.kind, node.row.status_code) for node in recorded.nodes]


def refuse(_request: object) -> Reply:
    """Answer that there is no such model."""
    return Reply("no such model", status=400)


def test_tree(example: Any) -> None:
    """The calls lie below the agent that made them, each below no other agent's span, and nothing lies beside."""
    recorded = example.record(lambda: example.module.ask(example.module.QUESTION))
    assert recorded.view.totals.llm_calls == 2
    assert recorded.view.totals.errors == 0
    ids = {node.row.span_id for node in recorded.nodes}
    assert all(node.row.parent_id is None or node.row.parent_id in ids for node in recorded.nodes)
    if example.name in ADAPTERS:
        return
    tops = [node for node in recorded.view.root.children if node.totals.llm_calls]
    assert len(tops) == 1
    assert tops[0].row.facts.kind in ("agent", "chain")
    assert all(node.depth > 1 for node in recorded.nodes if node.counted)


def test_tokens(example: Any) -> None:
    """Every call counts once, with the tokens that the server reported, however many libraries recorded it."""
    recorded = example.record(lambda: example.module.ask(example.module.QUESTION))
    assert len(example.server.requests) == recorded.view.totals.llm_calls == 2
    assert recorded.view.totals.calls_without_usage == 0
    assert recorded.view.totals.input_tokens > 0
    assert recorded.view.totals.output_tokens > 0
    assert recorded.view.totals.inconsistent == 0


def test_cost(example: Any) -> None:
    """The cost of every call is known."""
    recorded = example.record(lambda: example.module.ask(example.module.QUESTION))
    assert recorded.view.totals.cost_known == 2
    assert recorded.view.totals.cost > 0


def test_tool_calls(example: Any) -> None:
    """The tool that the framework ran is a span below the agent, with what it was given; else it is in the messages."""
    recorded = example.record(lambda: example.module.ask(example.module.QUESTION))
    if example.name in ADAPTERS:
        assert any("get_price" in str(call.attributes) for call in recorded.calls())
        pytest.skip("the program runs its tools itself: they are in the messages, and no spans")
    tools = [node for node in recorded.nodes if node.row.facts.kind == "tool"]
    assert any("get_price" in (node.row.facts.tool_name or node.row.name) for node in tools)
    assert all(node.depth > 1 for node in tools)


def test_streaming(example: Any) -> None:
    """A run that is streamed gives the same text, and is recorded with the same calls and tokens."""
    said: list[str] = []
    recorded = example.record(lambda: said.append(example.module.ask(example.module.QUESTION, stream=True)))
    assert "3.2" in said[0]
    assert recorded.view.totals.llm_calls == 2
    assert recorded.view.totals.calls_without_usage == 0
    assert recorded.view.totals.output_tokens > 0


def test_errors(make: Callable[..., Any]) -> None:
    """A refused call reaches the program as its error, and is one failed call in the tree."""
    example = make(refuse)
    recorded = example.record(lambda: example.module.ask(example.module.QUESTION), fails=True)
    assert recorded.view.totals.llm_calls == recorded.view.totals.failed_calls == 1
    assert recorded.view.totals.total_tokens == 0


def test_token_ids(make: Callable[..., Any]) -> None:
    """Token ids that the server sends are on the calls that count."""
    example = make(token_ids="vllm-old", OPENAI_AGENTS_API="chat_completions")
    recorded = example.record(lambda: example.module.ask(example.module.QUESTION))
    found = [token_ids(call.attributes) for call in recorded.calls()]
    assert len(found) == 2
    assert all(found)


def test_threads(example: Any) -> None:
    """The spans of runs side by side, in threads, are each with their own run, in the same tree as of one alone."""
    alone = example.record(lambda: example.module.ask(example.module.QUESTION))
    gate = threading.Barrier(4)
    results: dict[str, Any] = {}

    def run(mark: str) -> None:
        gate.wait(10)
        with example.tracer.trace_context(name=mark, store=example.store):
            example.module.ask(f"{example.module.QUESTION} <{mark}>")

    threads = [threading.Thread(target=run, args=(f"run-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for rollout in asyncio.run(example.store.query_rollouts()):
        results[str(rollout.input)] = example.read(rollout.rollout_id)
    for number in range(4):
        recorded = results[f"run-{number}"]
        assert sorted(shapes(recorded)) == sorted(shapes(alone))
        text = str([call.attributes for call in recorded.calls()])
        assert f"<run-{number}>" in text
        assert not any(f"<run-{other}>" in text for other in range(4) if other != number)


def test_tasks(example: Any) -> None:
    """The same for tasks of one event loop, where the framework has coroutines."""
    if not hasattr(example.module, "ask_async"):
        pytest.skip("the example has no coroutine")

    async def run(mark: str) -> None:
        async with example.tracer.trace_context(name=mark, store=example.store):
            await example.module.ask_async(f"{example.module.QUESTION} <{mark}>")

    async def all_of_them() -> None:
        await run("alone")
        await asyncio.gather(*(asyncio.create_task(run(f"run-{number}")) for number in range(4)))

    asyncio.run(all_of_them())
    found = asyncio.run(example.store.query_rollouts())
    assert len(found) == 5
    (alone,) = [example.read(rollout.rollout_id) for rollout in found if rollout.input == "alone"]
    for rollout in found:
        recorded = example.read(rollout.rollout_id)
        assert sorted(shapes(recorded)) == sorted(shapes(alone))
        others = {f"<run-{other}>" for other in range(4)} - {f"<{rollout.input}>"}
        assert not any(other in str([call.attributes for call in recorded.calls()]) for other in others)


def test_wrap(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """``wrap`` makes an agent of the framework one that is called with a task, and each call is one rollout."""
    if not hasattr(example.module, "make_agent"):
        pytest.skip("the library has no agents, or test_wrap of smolagents holds it")
    agentlightning = importlib.import_module("agentlightning")

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            if example.name == "openai_agents":
                agent = example.module.make_agent(await stack.enter_async_context(example.module.AsyncOpenAI()))
            elif example.name == "autogen":
                client = example.module.make_client(stream=False)
                stack.push_async_callback(client.close)
                agent = example.module.make_agent(client)
            else:
                agent = example.module.make_agent()
            wrapped = agentlightning.wrap(agent)
            assert wrapped.__name__ == "shop"
            for _ in range(2):
                async with example.tracer.trace_context(store=example.store):
                    output = wrapped(example.module.QUESTION)
                    output = await output if wrapped.is_async() else output
                    assert "3.2" in str(output)

    asyncio.run(run())
    for rollout in asyncio.run(example.store.query_rollouts()):
        assert example.read(rollout.rollout_id).view.totals.llm_calls == 2


def test_resource(make: Callable[..., Any]) -> None:
    """The ``LLM`` of a rollout is the model of a wrapped agent, where the framework lets it be replaced."""
    example = make(refuse)
    if example.name != "openai_agents":
        pytest.skip("the agent has its model inside, or test_wrap of smolagents holds it")
    agentlightning = importlib.import_module("agentlightning")

    async def run(url: str) -> str:
        async with example.module.AsyncOpenAI() as client:
            wrapped = agentlightning.wrap(example.module.make_agent(client))
            llm = agentlightning.LLM(endpoint=url, model="trained", sampling_parameters={"temperature": 0.5})
            return str(await wrapped(example.module.QUESTION, llm=llm))

    with ModelServer(AgentRule()) as server:
        assert "3.2" in asyncio.run(run(server.url))
        bodies: list[Any] = [request.body for request in server.requests]
        assert [(body["model"], body["temperature"]) for body in bodies] == [("trained", 0.5), ("trained", 0.5)]
    assert not example.server.requests


def test_uninstrument(example: Any) -> None:
    """After ``uninstrument_all`` the framework is and works as before, and nothing of ours records it."""
    assert example.record(lambda: example.module.ask(example.module.QUESTION)).view.totals.llm_calls == 2
    assert example.attributes() != example.before
    instrumentation.uninstrument_all()
    assert example.attributes() == example.before
    before = len(example.server.requests)
    with example.tracer.trace_context(store=example.store):
        assert "3.2" in example.module.ask(example.module.QUESTION)
    assert len(example.server.requests) == before + 2
    newest = max(asyncio.run(example.store.query_rollouts()), key=lambda rollout: rollout.start_time)
    # AutoGen has spans of its own, with which we have nothing to do.
    ours = ("openinference", "agentlightning")
    recorded = example.read(newest.rollout_id)
    assert not [span.name for span in recorded.spans if (span.scope_name or "").startswith(ours)]
    assert recorded.view.totals.llm_calls == 0
