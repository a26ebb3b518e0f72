"""The examples of ``examples/frameworks``, run in this process against the test model server, and read by the view."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from agentlightning import OtelTracer
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.testing import AgentRule, ModelServer
from agentlightning.view.cost import price
from agentlightning.view.tree import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentlightning.types.tracer import Span
    from agentlightning.view.tree import Node, RolloutView

EXAMPLES = Path(__file__).parents[3] / "examples" / "frameworks"

NEEDS = {
    "plain_openai": ("openai",),
    "smolagents": ("smolagents",),
    "langchain": ("langchain.agents", "langchain_openai", "openinference.instrumentation.langchain"),
    "openai_agents": ("agents.tracing", "openinference.instrumentation.openai_agents"),
    "autogen": ("autogen_agentchat", "autogen_ext.models", "openinference.instrumentation.autogen_agentchat"),
    "litellm": ("litellm", "openinference.instrumentation.litellm"),
}
"""For each example the modules without which it is skipped."""

PATCHED = {
    "plain_openai": ("openai:OpenAI.request", "openai:AsyncOpenAI.request"),
    "smolagents": ("smolagents:MultiStepAgent.run", "smolagents:Tool.__call__"),
    "langchain": ("langchain_core.callbacks.base:BaseCallbackManager.__init__",),
    "openai_agents": (),
    "autogen": (
        "autogen_agentchat.agents:AssistantAgent.on_messages_stream",
        "autogen_ext.models.openai:BaseOpenAIChatCompletionClient.create",
    ),
    "litellm": ("litellm:completion", "litellm:acompletion"),
}
"""What is replaced while a framework is instrumented; of the Agents SDK it is the list of its processors."""


def attributes_of(name: str) -> list[object]:
    """Return what a framework has where ``PATCHED`` says."""
    found: list[object] = []
    for place in PATCHED[name]:
        module, _, path = place.partition(":")
        value: Any = importlib.import_module(module)
        for part in path.split("."):
            value = getattr(value, part)
        kind: type[object] = type(cast("object", value))
        found.append((kind, id(value)))  # wrappers of wrapt are equal to what they wrap
    if name == "openai_agents":
        provider: Any = importlib.import_module("agents.tracing").get_trace_provider()
        processors: list[object] = list(provider._multi_processor._processors)
        found.append([id(processor) for processor in processors])
    return found


@dataclass(frozen=True)
class Recorded:
    """What one rollout came to."""

    view: RolloutView
    spans: list[Span]

    @property
    def nodes(self) -> list[Node]:
        """All spans in the tree."""
        return list(self.view.walk())

    def kinds(self) -> list[tuple[int, str]]:
        """Return depth and kind of each span."""
        return [(node.depth, node.row.facts.kind) for node in self.nodes if node.row]

    def calls(self) -> list[Span]:
        """Return the spans of the counted calls."""
        keys = [(node.row.trace_id, node.row.span_id) for node in self.nodes if node.row and node.counted]
        found = {(span.trace_id, span.span_id): span for span in self.spans}
        return [found[key] for key in keys]


class Framework:
    """One example, its server and its store."""

    def __init__(self, name: str, module: Any, server: ModelServer) -> None:
        self.name = name
        self.module = module
        self.server = server
        self.store = InMemoryLightningStore()
        self.before: list[object] = []
        self.tracer = OtelTracer()

    def attributes(self) -> list[object]:
        """Return what of the framework is replaced while it is instrumented."""
        return attributes_of(self.name)

    def record(self, run: Callable[[], object], *, fails: bool = False) -> Recorded:
        """Call *run* in a rollout and return what was recorded."""
        before = asyncio.run(self.store.query_rollouts())
        if fails:
            with pytest.raises(Exception, match=r".*"), self.tracer.trace_context(store=self.store):
                run()
        else:
            with self.tracer.trace_context(store=self.store):
                run()
        known = {rollout.rollout_id for rollout in before}
        (new,) = [r.rollout_id for r in asyncio.run(self.store.query_rollouts()) if r.rollout_id not in known]
        return self.read(new)

    def read(self, rollout_id: str) -> Recorded:
        """Return what is stored of a rollout."""
        rows = asyncio.run(self.store.query_span_rows(rollout_id))
        return Recorded(build(rows, price=price), list(asyncio.run(self.store.query_spans(rollout_id))))


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}_agent.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=sorted(NEEDS))
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Framework]]:
    """Start a server that answers by the given rule, and load the example of each framework."""
    name = str(request.param)
    for module in NEEDS[name]:
        if importlib.util.find_spec(module.partition(".")[0]) is None or importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    started: list[ModelServer] = []

    def start(rule: Any = None, token_ids: Any = None, **variables: str) -> Framework:
        server = ModelServer(rule or AgentRule(), token_ids=token_ids).start()
        started.append(server)
        for key, value in {**server.environment, **variables, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}.items():
            monkeypatch.setenv(key, value)
        if name == "openai_agents":
            _upload_nothing()
        before = attributes_of(name)
        OtelTracer().init()
        framework = Framework(name, _load(name), server)
        framework.before = before
        return framework

    yield start
    for server in started:
        server.close()


def _upload_nothing() -> None:
    """Take the processor of the Agents SDK away that sends every run to OpenAI."""
    agents: Any = importlib.import_module("agents")
    agents.set_trace_processors([])


@pytest.fixture
def example(make: Callable[..., Framework]) -> Framework:
    """Each example, with a server that drives its agent to the end."""
    return make()
