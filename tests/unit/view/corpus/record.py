"""Re-make the corpus: run each real library against a scripted model on loopback and keep what its spans hold.

``python tests/unit/view/corpus/record.py [NAME...]`` makes an environment for each recording with ``uv`` (network to
the package index) under ``--environments`` and writes ``NAME.json`` here. With ``--inside NAME`` it is the part that
runs in that environment. The model is a stub, so no recording holds anything private.
"""

# Each function uses a library that only its own environment has.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_stub import model_stub

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
MODEL = "gpt-4o-mini"
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SYSTEM = {"role": "system", "content": "Be brief."}
ASSISTANT_CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "call_0", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    ],
}
CONVERSATION = [
    SYSTEM,
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Weather here?"},
            {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
        ],
    },
    ASSISTANT_CALL,
    {"role": "tool", "tool_call_id": "call_0", "content": "21 C"},
]


def memory(*, attach: bool = True) -> Any:
    """Return an exporter that keeps spans, behind a provider that is set globally when *attach*."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    if attach:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
    return exporter


def openai_calls(base: str, *, responses: bool = True, ids: bool = True) -> None:
    """Make one call of each form: tools, a conversation with an image, a stream, n = 2, responses, embeddings."""
    from openai import OpenAI

    client: Any = OpenAI(base_url=base + "/v1", api_key="none")
    with client:
        user = {"role": "user", "content": "Weather in Paris?"}
        client.chat.completions.create(model=MODEL, messages=[SYSTEM, user], tools=[TOOL], temperature=0.5)
        client.chat.completions.create(model=MODEL, messages=CONVERSATION, tools=[TOOL])
        extra = {"return_token_ids": True} if ids else None
        stream = client.chat.completions.create(
            model=MODEL, messages=[user], stream=True, stream_options={"include_usage": True}, extra_body=extra
        )
        list(stream)
        client.chat.completions.create(model=MODEL, messages=[user], n=2, logprobs=True, extra_body=extra)
        if responses:
            tool = {"type": "function", **TOOL["function"]}
            client.responses.create(model=MODEL, input="Weather in Paris?", instructions="Be brief.", tools=[tool])
        client.embeddings.create(model="text-embedding-3-small", input="Paris")


def instrumented(path: str) -> Callable[[], None]:
    """Return a function that switches on the instrumentor ``module:Class``."""

    def switch_on() -> None:
        module, _, name = path.partition(":")
        getattr(import_module(module), name)().instrument()

    return switch_on


def openinference_openai(base: str) -> Any:
    """OpenInference on the openai client."""
    exporter = memory()
    instrumented("openinference.instrumentation.openai:OpenAIInstrumentor")()
    openai_calls(base)
    return exporter


def openllmetry_openai(base: str) -> Any:
    """OpenLLMetry on the openai client."""
    exporter = memory()
    instrumented("opentelemetry.instrumentation.openai:OpenAIInstrumentor")()
    openai_calls(base)
    return exporter


def otel_openai_v2(base: str) -> Any:
    """OpenTelemetry's own instrumentor on the openai client, with the content opted in."""
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "gen_ai_latest_experimental"
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "SPAN_ONLY"
    exporter = memory()
    instrumented("opentelemetry.instrumentation.openai_v2:OpenAIInstrumentor")()
    openai_calls(base, responses=False)
    return exporter


def agentops_openai(base: str) -> Any:
    """AgentOps with its decorators around an openai client; the reward is in the form of its task output."""
    os.environ |= {
        "AGENTOPS_API_ENDPOINT": base,
        "AGENTOPS_EXPORTER_ENDPOINT": base + "/v1/traces",
        "AGENTOPS_LOGGING_TO_FILE": "false",
        "TRACELOOP_METRICS_ENABLED": "false",  # 0.4.13 would send them to the service
    }
    import agentops
    from agentops.client.api.versions.v3 import V3Client
    from agentops.sdk import core
    from agentops.sdk.decorators import agent, operation, task, tool
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    if not asyncio.iscoroutinefunction(V3Client.fetch_auth_token):  # below 0.4.19 ``init`` waits for it
        V3Client.fetch_auth_token = lambda _self, _key: {"token": "t", "project_id": "p", "project_prem_status": "pro"}
    agentops.init(api_key="00000000-0000-0000-0000-000000000000", endpoint=base, auto_start_session=False)
    exporter = memory(attach=False)
    tracer = core.tracer if hasattr(core, "tracer") else core.TracingCore.get_instance()
    provider = tracer.provider if hasattr(tracer, "provider") else tracer._provider
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    @tool(cost=0.01)
    def get_weather(city: str) -> str:
        return f"21 C in {city}"

    @operation
    def reward() -> dict[str, Any]:
        return {"type": "reward", "value": 0.75}

    @agent
    class Forecaster:
        @task
        def answer(self) -> str:
            openai_calls(base)
            return get_weather("Paris")

    Forecaster().answer()
    reward()
    return exporter


def openinference_smolagents(base: str) -> Any:
    """OpenInference on a ToolCallingAgent of smolagents."""
    exporter = memory()
    instrumented("openinference.instrumentation.smolagents:SmolagentsInstrumentor")()
    from smolagents import OpenAIModel, ToolCallingAgent, tool

    @tool
    def get_weather(city: str) -> str:
        """Weather of a city.

        Args:
            city: Its name.
        """
        return f"21 C in {city}"

    model = OpenAIModel(MODEL, api_base=base + "/v1", api_key="none")
    ToolCallingAgent([get_weather], model, max_steps=2, verbosity_level=0).run("Weather in Paris?")
    return exporter


def openinference_langchain(base: str) -> Any:
    """OpenInference on an agent of LangChain."""
    exporter = memory()
    instrumented("openinference.instrumentation.langchain:LangChainInstrumentor")()
    from langchain.agents import create_agent
    from langchain_openai import ChatOpenAI

    def get_weather(city: str) -> str:
        """Weather of a city."""
        return f"21 C in {city}"

    model = ChatOpenAI(model=MODEL, base_url=base + "/v1", api_key="none")
    create_agent(model, [get_weather]).invoke({"messages": [{"role": "user", "content": "Weather in Paris?"}]})
    return exporter


def openinference_openai_agents(base: str) -> Any:
    """OpenInference on the OpenAI Agents SDK and, below it, on the openai client: each call has two LLM spans."""
    os.environ |= {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": base + "/v1", "OPENAI_AGENTS_DISABLE_TRACING": "0"}
    exporter = memory()
    instrumented("openinference.instrumentation.openai_agents:OpenAIAgentsInstrumentor")()
    instrumented("openinference.instrumentation.openai:OpenAIInstrumentor")()
    import agents

    @agents.function_tool
    def get_weather(city: str) -> str:
        """Weather of a city."""
        return f"21 C in {city}"

    agents.set_default_openai_api("chat_completions")
    asyncio.run(agents.Runner.run(agents.Agent("Forecaster", tools=[get_weather], model=MODEL), "Weather in Paris?"))
    return exporter


def openinference_litellm(base: str) -> Any:
    """OpenInference on LiteLLM."""
    exporter = memory()
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    instrumented("openinference.instrumentation.litellm:LiteLLMInstrumentor")()
    for messages in ([SYSTEM, {"role": "user", "content": "Weather in Paris?"}], CONVERSATION):
        litellm.completion(f"openai/{MODEL}", messages, tools=[TOOL], api_base=base + "/v1", api_key="none")
    return exporter


def anthropic_calls(base: str) -> None:
    """Make one call with a tool and one with its result."""
    from anthropic import Anthropic

    tool = {"name": "get_weather", "description": "Weather of a city.", "input_schema": TOOL["function"]["parameters"]}
    user = {"role": "user", "content": "Weather in Paris?"}
    call = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "21 C"}
    turns = [user, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    with Anthropic(base_url=base, api_key="none") as client:
        for messages in ([user], turns):
            client.messages.create(
                model="claude-sonnet-4-5", max_tokens=100, system="Be brief.", messages=messages, tools=[tool]
            )


def openinference_anthropic(base: str) -> Any:
    """OpenInference on the anthropic client."""
    exporter = memory()
    instrumented("openinference.instrumentation.anthropic:AnthropicInstrumentor")()
    anthropic_calls(base)
    return exporter


def openllmetry_anthropic(base: str) -> Any:
    """OpenLLMetry on the anthropic client."""
    exporter = memory()
    instrumented("opentelemetry.instrumentation.anthropic:AnthropicInstrumentor")()
    anthropic_calls(base)
    return exporter


def pydantic_ai(base: str) -> Any:
    """The instrumentation inside Pydantic AI, which is what Logfire shows."""
    exporter = memory()
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    Agent.instrument_all()
    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=base + "/v1", api_key="none"))
    agent = Agent(model, instructions="Be brief.", name="forecaster")

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Weather of a city."""
        return f"21 C in {city}"

    agent.run_sync("Weather in Paris?")
    return exporter


_OPENAI = ("openai>=3,<4", "opentelemetry-sdk")
RECORDINGS: dict[str, tuple[Callable[[str], Any], tuple[str, ...]]] = {
    "openinference_openai": (openinference_openai, ("openinference-instrumentation-openai", *_OPENAI)),
    "openllmetry_openai": (openllmetry_openai, ("opentelemetry-instrumentation-openai", *_OPENAI)),
    "otel_openai_v2": (
        otel_openai_v2,
        ("opentelemetry-instrumentation-openai-v2", "opentelemetry-util-genai==0.4b0", "httpx", *_OPENAI),
    ),
    "agentops_openai": (agentops_openai, ("agentops==0.4.21", "openai>=3,<4", "opentelemetry-sdk<1.45")),
    "agentops_openai_0_4_13": (agentops_openai, ("agentops==0.4.13", "openai>=3,<4", "opentelemetry-sdk<1.45")),
    "agentops_openai_0_4_16": (agentops_openai, ("agentops==0.4.16", "openai>=3,<4", "opentelemetry-sdk<1.45")),
    "agentops_openai_0_4_18": (agentops_openai, ("agentops==0.4.18", "openai>=3,<4", "opentelemetry-sdk<1.45")),
    "openinference_smolagents": (
        openinference_smolagents,
        ("openinference-instrumentation-smolagents", "smolagents[openai]", *_OPENAI),
    ),
    "openinference_langchain": (
        openinference_langchain,
        ("openinference-instrumentation-langchain", "langchain<=1.4.7", "langchain-openai<=1.7.3", *_OPENAI),
    ),
    "openinference_openai_agents": (
        openinference_openai_agents,
        (
            "openinference-instrumentation-openai-agents",
            "openinference-instrumentation-openai",
            "openai-agents",
            *_OPENAI,
        ),
    ),
    "openinference_litellm": (
        openinference_litellm,
        ("openinference-instrumentation-litellm", "litellm<=1.106.2", "mcp", "opentelemetry-sdk"),
    ),
    "openinference_anthropic": (
        openinference_anthropic,
        ("openinference-instrumentation-anthropic", "anthropic", "opentelemetry-sdk"),
    ),
    "openllmetry_anthropic": (
        openllmetry_anthropic,
        ("opentelemetry-instrumentation-anthropic", "anthropic", "opentelemetry-sdk"),
    ),
    "pydantic_ai": (pydantic_ai, ("pydantic-ai-slim[openai]", "opentelemetry-sdk")),
}
"""Function that records, and what its environment holds."""


def inside(name: str) -> None:
    """Record *name* in this interpreter and write its file."""
    record, requirements = RECORDINGS[name]
    with model_stub() as base:
        spans = record(base).get_finished_spans()
    spans = sorted(spans, key=lambda span: span.start_time)
    numbers = {span.context.span_id: number for number, span in enumerate(spans, 1)}
    packages = sorted(
        {requirement.split("[")[0].split("<")[0].split(">")[0].split("=")[0] for requirement in requirements}
    )
    rows = [
        {
            "number": numbers[span.context.span_id],
            "parent": numbers.get(span.parent.span_id) if span.parent else None,
            "name": span.name,
            "scope": span.instrumentation_scope.name,
            "start_ns": span.start_time,
            "end_ns": span.end_time,
            "status": span.status.status_code.name,
            "attributes": dict(sorted((span.attributes or {}).items())),
        }
        for span in spans
    ]
    versions = {package: metadata.version(package) for package in packages}
    text = json.dumps({"recorded_with": versions, "spans": rows}, indent=1, default=list)
    (HERE / f"{name}.json").write_text(text.replace(base.rpartition(":")[2], "8000") + "\n")


def main() -> None:
    """Record what the command line names, or everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*RECORDINGS, []], help="recordings to make; none: all")
    parser.add_argument("--environments", type=Path, default=Path("/tmp/agl-corpus"), help="where to make them")
    parser.add_argument("--uv", default="uv", help="the program uv")
    parser.add_argument("--inside", choices=RECORDINGS, help="record in this interpreter")
    options = parser.parse_args()
    if options.inside:
        inside(options.inside)
        return
    for name in options.names or RECORDINGS:
        place = options.environments / name
        python = place / "bin" / "python"
        if not python.exists():
            subprocess.run([options.uv, "venv", "-q", "-p", "3.11", place], check=True)
            subprocess.run([options.uv, "pip", "install", "-q", "-p", python, *RECORDINGS[name][1]], check=True)
        print(f"recording {name}")
        subprocess.run([python, __file__, "--inside", name], check=True, cwd=place)


if __name__ == "__main__":
    sys.exit(main())
