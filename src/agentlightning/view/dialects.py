"""Which attribute of which dialect feeds which fact of a span: the one table that code and documentation share.

Dialects: ``otel`` (OpenTelemetry GenAI, current names), ``otel-old`` (its earlier names), ``openinference``,
``openllmetry`` (Traceloop), ``agentops`` (0.4), ``logfire``, ``mlflow``, ``agentlightning``.
Standard library only; everything here is constant.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_COUNT = 10**12
"""A token count above this is no count but an error of who wrote it, and is ignored."""


class Source(NamedTuple):
    """One attribute that feeds one field; within a field the first source with a usable value wins."""

    field: str
    """Name of the fact; the fields are those of ``SpanFacts`` and the few inner ones of ``INNER_FIELDS``."""
    attribute: str
    dialects: str
    """Names of the dialects that write it, separated by ``", "``."""


TEXT_FIELDS = (
    "kind", "model", "provider", "agent_name", "tool_name", "response_id", "entity_name", "output_json", "event_type",
)  # fmt: skip
COUNT_FIELDS = ("input_total", "cache_read", "cache_write", "output", "reasoning", "total")
MONEY_FIELDS = ("cost", "cost_input", "cost_output", "reward_value")
OTHER_FIELDS = ("reward_json", "cost_currency")

INNER_FIELDS = {
    "input_total": "prompt tokens as reported: `reported_input_tokens`, and `fresh_tokens` after the cache classes",
    "cache_read": "`cache_read_tokens`",
    "cache_write": "`cache_write_tokens`",
    "output": "`reported_output_tokens` and `output_tokens`",
    "reasoning": "`reasoning_tokens`",
    "total": "`reported_total_tokens`",
    "cost": "`reported_cost`",
    "cost_input": "`reported_cost`, its part for the prompt, where there is no total",
    "cost_output": "`reported_cost`, its part for the answer, where there is no total",
    "cost_currency": "another currency than USD: `reported_cost` stays None",
    "reward_value": "`reward`",
    "reward_json": '`reward` and kind `reward`, where the text is `{"type": "reward", "value": x}`',
    "entity_name": "`agent_name` or `tool_name`, by the kind of the span",
    "event_type": "kind `event`, on a span that says nothing else about its kind",
    "output_json": '`response_id`, where the text begins as `{"id": ...`, on kind `llm` only',
}
"""What a field that is no field of ``SpanFacts`` becomes."""

TABLE: tuple[Source, ...] = (
    Source("kind", "openinference.span.kind", "openinference, agentlightning"),
    Source("kind", "gen_ai.operation.name", "otel, openllmetry"),
    Source("kind", "agentops.span.kind", "agentops"),
    Source("kind", "traceloop.span.kind", "openllmetry"),
    Source("kind", "gen_ai.request.type", "agentops"),
    Source("kind", "llm.request.type", "openllmetry"),
    Source("model", "gen_ai.response.model", "otel, openllmetry, agentops"),
    Source("model", "llm.response.model_name", "openinference"),
    Source("model", "llm.model_name", "openinference"),
    Source("model", "embedding.model_name", "openinference"),
    Source("model", "reranker.model_name", "openinference"),
    Source("model", "decision.response.model_name", "openinference"),
    Source("model", "decision.model_name", "openinference"),
    Source("model", "gen_ai.request.model", "otel, openllmetry, agentops"),
    Source("model", "llm.request.model_name", "openinference"),
    Source("model", "llm.response.model", "openllmetry"),
    Source("model", "llm.request.model", "openllmetry"),
    Source("provider", "gen_ai.provider.name", "otel, openllmetry"),
    Source("provider", "llm.provider", "openinference"),
    Source("provider", "gen_ai.system", "otel-old, openllmetry, agentops"),
    Source("provider", "llm.system", "openinference"),
    Source("provider", "decision.provider", "openinference"),
    Source("provider", "llm.vendor", "openllmetry"),
    Source("input_total", "gen_ai.usage.input_tokens", "otel, openllmetry, logfire"),
    Source("input_total", "llm.token_count.prompt", "openinference"),
    Source("input_total", "decision.token_count.input", "openinference"),
    Source("input_total", "gen_ai.usage.prompt_tokens", "otel-old, openllmetry, agentops"),
    Source("input_total", "llm.usage.prompt_tokens", "openllmetry"),
    Source("output", "gen_ai.usage.output_tokens", "otel, openllmetry, logfire"),
    Source("output", "llm.token_count.completion", "openinference"),
    Source("output", "decision.token_count.output", "openinference"),
    Source("output", "gen_ai.usage.completion_tokens", "otel-old, openllmetry, agentops"),
    Source("output", "llm.usage.completion_tokens", "openllmetry"),
    Source("total", "llm.token_count.total", "openinference"),
    Source("total", "gen_ai.usage.total_tokens", "openllmetry, agentops"),
    Source("total", "llm.usage.total_tokens", "openllmetry"),
    Source("cache_read", "gen_ai.usage.cache_read.input_tokens", "otel, openllmetry"),
    Source("cache_read", "llm.token_count.prompt_details.cache_read", "openinference"),
    Source("cache_read", "llm.token_count.prompt_details.cache_input", "openinference"),
    Source("cache_read", "gen_ai.usage.cache_read_input_tokens", "openllmetry, agentops"),
    Source("cache_read", "gen_ai.usage.details.cache_read_tokens", "logfire"),
    Source("cache_write", "gen_ai.usage.cache_write.input_tokens", "otel"),
    Source("cache_write", "gen_ai.usage.cache_creation.input_tokens", "otel-old, openllmetry"),
    Source("cache_write", "llm.token_count.prompt_details.cache_write", "openinference"),
    Source("cache_write", "gen_ai.usage.cache_creation_input_tokens", "openllmetry, agentops"),
    Source("cache_write", "gen_ai.usage.details.cache_write_tokens", "logfire"),
    Source("reasoning", "gen_ai.usage.reasoning.output_tokens", "otel"),
    Source("reasoning", "llm.token_count.completion_details.reasoning", "openinference"),
    Source("reasoning", "gen_ai.usage.reasoning_tokens", "openllmetry, agentops"),
    Source("reasoning", "llm.usage.reasoning_tokens", "openllmetry"),
    Source("reasoning", "gen_ai.usage.details.reasoning_tokens", "logfire"),
    Source("cost", "gen_ai.usage.cost.amount", "otel"),
    Source("cost", "llm.cost.total", "openinference"),
    Source("cost", "gen_ai.usage.cost", "openllmetry"),
    Source("cost", "gen_ai.usage.total_cost", "agentops"),
    Source("cost", "operation.cost", "logfire"),
    Source("cost", "mlflow.llm.cost", "mlflow"),
    Source("cost_input", "llm.cost.prompt", "openinference"),
    Source("cost_output", "llm.cost.completion", "openinference"),
    Source("cost_currency", "gen_ai.usage.cost.currency", "otel"),
    Source("agent_name", "gen_ai.agent.name", "otel, openllmetry"),
    Source("agent_name", "agent.name", "openinference, agentops"),
    Source("tool_name", "gen_ai.tool.name", "otel, openllmetry"),
    Source("tool_name", "tool.name", "openinference, agentops"),
    Source("entity_name", "traceloop.entity.name", "openllmetry"),
    Source("entity_name", "operation.name", "agentops"),
    Source("response_id", "gen_ai.response.id", "otel, openllmetry, agentops"),
    Source("response_id", "llm.response.id", "openllmetry"),
    Source("output_json", "output.value", "openinference"),
    Source("event_type", "agentlightning.event.type", "agentlightning"),
    Source("reward_value", "agentlightning.reward.0.value", "agentlightning"),
    Source("reward_value", "rl.reward.0.value", "agentlightning"),
    Source("reward_json", "agentops.task.output", "agentops"),
    Source("reward_json", "agentops.entity.output", "agentops"),
)
"""All sources, in order of precedence within a field: explicit names before older ones, response before request."""

_OTEL_OPERATIONS = {
    "chat": "llm",
    "generate_content": "llm",
    "text_completion": "llm",
    "completion": "llm",
    "response": "llm",
    "responses": "llm",
    "embeddings": "embedding",
    "embedding": "embedding",
    "retrieval": "retriever",
    "rerank": "reranker",
    "execute_tool": "tool",
    "create_agent": "agent",
    "invoke_agent": "agent",
    "invoke_workflow": "chain",
    "plan": "chain",
}
_OPENINFERENCE_KINDS = {
    "llm": "llm",
    "agent": "agent",
    "tool": "tool",
    "chain": "chain",
    "retriever": "retriever",
    "reranker": "reranker",
    "embedding": "embedding",
    "guardrail": "guardrail",
    "evaluator": "evaluator",
    "prompt": "prompt",
    "decision": "llm",
}
_AGENTOPS_KINDS = {
    "session": "chain",
    "agent": "agent",
    "team": "agent",
    "task": "chain",
    "operation": "chain",
    "workflow": "chain",
    "chain": "chain",
    "tool": "tool",
    "llm": "llm",
    "text": "llm",
    "guardrail": "guardrail",
    "http": "span",
    "unknown": "span",
}
_REQUEST_TYPES = {"chat": "llm", "completion": "llm", "embedding": "embedding", "rerank": "reranker"}

KIND_VALUES: dict[str, dict[str, str]] = {
    "openinference.span.kind": _OPENINFERENCE_KINDS,
    "gen_ai.operation.name": _OTEL_OPERATIONS,
    "agentops.span.kind": _AGENTOPS_KINDS,
    "traceloop.span.kind": {"workflow": "chain", "task": "chain", "agent": "agent", "tool": "tool"},
    "gen_ai.request.type": _REQUEST_TYPES,
    "llm.request.type": _REQUEST_TYPES,
}
"""For each attribute that names a kind: its values in lower case, and the kind that each means."""

PROVIDERS: dict[str, str | None] = {
    "openai": "openai",
    "anthropic": "anthropic",
    "anthropic-ai": "anthropic",
    "claude": "anthropic",
    "azure": "azure",
    "azure-openai": "azure",
    "azure-ai-openai": "azure",
    "azure-ai-inference": "azure",
    "az-ai-openai": "azure",
    "az-ai-inference": "azure",
    "aws": "aws",
    "aws-bedrock": "aws",
    "bedrock": "aws",
    "amazon-bedrock": "aws",
    "google": "google",
    "gemini": "google",
    "gcp-gemini": "google",
    "gcp-vertex-ai": "google",
    "gcp-gen-ai": "google",
    "google-generative-ai": "google",
    "google-genai": "google",
    "google-vertex": "google",
    "vertex-ai": "google",
    "vertexai": "google",
    "mistral": "mistral",
    "mistralai": "mistral",
    "mistral-ai": "mistral",
    "x-ai": "x-ai",
    "xai": "x-ai",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "groq": "groq",
    "perplexity": "perplexity",
    "perplexity-ai": "perplexity",
    "fireworks": "fireworks",
    "fireworks-ai": "fireworks",
    "together": "together",
    "together-ai": "together",
    "togetherai": "together",
    "moonshot": "moonshotai",
    "moonshotai": "moonshotai",
    "openrouter": "openrouter",
    "cerebras": "cerebras",
    "ibm-watsonx-ai": "watsonx",
    "watsonx": "watsonx",
    "ollama": "ollama",
    "vllm": "vllm",
    "hosted-vllm": "vllm",
    "sglang": "sglang",
    # Frameworks that some instrumentors write where the provider belongs: they say nothing about who sends the bill.
    "langchain": None,
    "langgraph": None,
    "litellm": None,
    "llamaindex": None,
    "crewai": None,
    "smolagents": None,
    "openai-agents": None,
    "autogen": None,
    "openai-compatible": None,
    "vercel": None,
    "ai-sdk": None,
    "unknown": None,
}
"""Provider names in lower case with ``-`` for ``_ . /`` and space, and the one name that the view uses for each."""


def markdown() -> str:
    """Return the table as the Markdown that ``docs/dialects.md`` holds, one section for each field."""
    lines: list[str] = []
    for field in dict.fromkeys(source.field for source in TABLE):
        lines += [f"### {field}", "", f"Becomes {INNER_FIELDS.get(field, f'`{field}`')}.", ""]
        lines += ["| Order | Attribute | Dialects |", "| --- | --- | --- |"]
        sources = [source for source in TABLE if source.field == field]
        lines += [f"| {rank} | `{source.attribute}` | {source.dialects} |" for rank, source in enumerate(sources, 1)]
        lines.append("")
    return "\n".join(lines)
