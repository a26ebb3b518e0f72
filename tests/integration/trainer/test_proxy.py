"""Adapter and model proxy of a trainer."""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning import (
    LLM,
    PromptTemplate,
    ProxyLLM,
    TracerTraceToTriplet,
    TraceToMessages,
    Trainer,
    algo,
    rollout,
)
from agentlightning.server.proxy import LLMProxy
from agentlightning.testing import ModelServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agentlightning import LightningStore, LitAgent, NamedResources
    from agentlightning.types.protocol import ModelProxy


AGENT = """
import httpx
from agentlightning import rollout

@rollout
def asking(task, llm):
    # A client that nobody traces.
    body = {"model": llm.model, "messages": [{"role": "user", "content": task}]}
    answer = httpx.post(f"{llm.endpoint}/chat/completions", json=body, timeout=10)
    return 1.0 if answer.json()["choices"][0]["message"]["content"] == task else 0.0
"""


@rollout
def idle(task: str, llm: LLM) -> float:
    """Do nothing."""
    return 0.0


@pytest.fixture
def asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LitAgent[str]:
    """Give an agent in a module that worker processes can import."""
    (tmp_path / "asking_agent.py").write_text(AGENT)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "asking_agent", raising=False)
    return importlib.import_module("asking_agent").asking


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """Give a model that says what it is told."""
    with ModelServer(lambda request: request.last_text) as server:
        yield server


def calls(store: LightningStore) -> dict[str, list[Any]]:
    """Return, for each task, the conversations that were recorded in its rollout."""

    async def read() -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for one in await store.query_rollouts():
            spans = await store.query_spans(one.rollout_id, "latest")
            found[one.input] = [call["messages"] for call in TraceToMessages().adapt(spans)]
        return found

    return asyncio.run(read())


@pytest.mark.parametrize("strategy", ["shm", "cs"])
def test_the_proxy_serves_while_the_trainer_runs(
    server: ModelServer, asking: LitAgent[str], strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer gives its store to the proxy, starts it, injects its model with the ids of attempts, and stops it."""
    monkeypatch.delenv("AGL_STORE")
    made = {"type": "agentlightning.server.proxy.LLMProxy", "backends": {"endpoint": server.url, "model": "m"}}
    trainer = Trainer(llm_proxy=made, n_runners=2, strategy=strategy)
    proxy = trainer.llm_proxy
    assert isinstance(proxy, LLMProxy)
    assert (proxy.store is trainer.store, proxy.is_running()) == (True, False)
    trainer.dev(asking, ["one", "two"])
    assert not proxy.is_running()
    said = {
        task: [{"role": "user", "content": task}, {"role": "assistant", "content": task}] for task in ("one", "two")
    }
    assert calls(trainer.store) == {task: [messages] for task, messages in said.items()}


def test_a_running_proxy_and_a_given_model_are_left_alone(server: ModelServer) -> None:
    """A proxy that runs already is not stopped; a model among the resources is not replaced."""
    seen: list[Any] = []

    @algo
    def look(initial_resources: Any, llm_proxy: ModelProxy) -> None:
        seen.append((initial_resources, llm_proxy.is_running()))

    prompt, model = PromptTemplate(template="", engine="jinja"), LLM(endpoint=server.url, model="m")
    trainer = Trainer(algorithm=look)
    with LLMProxy(server.url, store=trainer.store) as proxy:
        trainer.llm_proxy = proxy
        given: list[NamedResources | None] = [{"own": model}, {"llm": prompt}, None]
        for resources in given:
            trainer.initial_resources = resources
            trainer.fit(idle)
        assert proxy.is_running()
        own = proxy.as_resource()
    assert isinstance(own, ProxyLLM)
    expected = [{"own": model}, {"llm": prompt, "llm_proxy": own}, {"llm": own}]
    assert seen == [(resources, True) for resources in expected]


def test_the_proxy_stops_when_the_algorithm_fails(server: ModelServer) -> None:
    """After an error of the algorithm the proxy that the trainer started is stopped."""

    @algo
    def fail() -> None:
        raise LookupError("no")

    def make(store: LightningStore) -> LLMProxy:
        return LLMProxy(server.url, store=store)

    trainer = Trainer(algorithm=fail, llm_proxy=make)
    with pytest.raises(LookupError):
        trainer.fit(idle)
    assert trainer.llm_proxy is not None
    assert not trainer.llm_proxy.is_running()


def test_parts_that_are_none_are_refused() -> None:
    """What is no adapter or proxy is refused before anything runs, by a message that names the argument."""
    with pytest.raises(TypeError, match="adapter="):
        Trainer(adapter=3)  # type: ignore[arg-type] - on purpose
    with pytest.raises(TypeError, match="llm_proxy="):
        Trainer(llm_proxy=object)  # type: ignore[arg-type] - on purpose


def test_the_adapter_is_triplets_by_default() -> None:
    """Without one of its own an algorithm gets ``TracerTraceToTriplet``."""
    seen: list[Any] = []

    @algo
    def look(adapter: Any) -> None:
        seen.append(adapter)

    trainer = Trainer(algorithm=look)
    trainer.fit(idle)
    assert isinstance(trainer.adapter, TracerTraceToTriplet)
    assert seen == [trainer.adapter]
    Trainer(algorithm=look, adapter="agentlightning.TraceToMessages").fit(idle)
    assert isinstance(seen[1], TraceToMessages)
