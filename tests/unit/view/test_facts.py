"""The facts of a span, dialect by dialect, and on garbage."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.types.query import SpanFacts
from agentlightning.view.dialects import COUNT_FIELDS, INNER_FIELDS, KIND_VALUES, TABLE, markdown
from agentlightning.view.facts import facts, provider_name, sources

OI = {"openinference.span.kind": "LLM", "llm.model_name": "gpt-4o", "llm.system": "openai"}

garbage: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**300, max_value=10**320),
    st.floats(),
    st.text(st.characters()),
    st.sampled_from(
        ["LLM", "chat", '{"type": "reward", "value": 1}', '{"type":"reward","value":"x"}', "{" * 999, "[" * 4000]
    ),
    st.binary(),
    st.lists(st.integers()),
    st.dictionaries(st.text(), st.integers()),
)
names = st.sampled_from([source.attribute for source in TABLE] + ["reward", "app.key"])


@given(
    st.dictionaries(names, garbage),
    st.sampled_from(["agentlightning.reward", "chat", ""]),
    st.sampled_from(["", "agentops"]),
)
def test_facts_never_raise(attributes: dict[str, Any], name: str, scope: str) -> None:
    """Whatever the attributes hold, facts come back, and every number in them is one that a total can bear."""
    found = facts(name, attributes, scope=scope)
    for count in (found.fresh_tokens, found.cache_read_tokens, found.cache_write_tokens, found.output_tokens):
        assert count is None or 0 <= count <= 2 * 10**12
    for number in (found.reported_cost, found.reward):
        assert number is None or math.isfinite(number)
    if found.reasoning_tokens and found.output_tokens is not None and not found.inconsistent:
        assert found.reasoning_tokens <= found.output_tokens
    sources(name, attributes)


@given(
    prompt=st.integers(0, 10**6),
    output=st.integers(0, 10**6),
    read=st.integers(0, 10**6),
    write=st.integers(0, 10**6),
)
def test_classes_add_up_to_the_reported_prompt(prompt: int, output: int, read: int, write: int) -> None:
    """Where the prompt includes the cache, the three classes add up to it, or the span is marked."""
    found = facts(
        "chat",
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.usage.input_tokens": prompt,
            "gen_ai.usage.output_tokens": output,
            "gen_ai.usage.cache_read.input_tokens": read,
            "gen_ai.usage.cache_write.input_tokens": write,
        },
    )
    classes = (found.fresh_tokens, found.cache_read_tokens, found.cache_write_tokens)
    total = sum(count or 0 for count in classes)
    assert total == prompt or (found.inconsistent and found.fresh_tokens == 0)
    assert found.reported_input_tokens == prompt


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"openinference.span.kind": "LLM"}, "llm"),
        ({"openinference.span.kind": "agent"}, "agent"),
        ({"openinference.span.kind": "UNKNOWN"}, "span"),
        ({"openinference.span.kind": "CHAIN", "gen_ai.operation.name": "chat"}, "chain"),
        ({"gen_ai.operation.name": "invoke_agent"}, "agent"),
        ({"gen_ai.operation.name": "execute_tool"}, "tool"),
        ({"gen_ai.operation.name": "embeddings"}, "embedding"),
        ({"gen_ai.operation.name": "dance"}, "span"),
        ({"traceloop.span.kind": "workflow"}, "chain"),
        ({"agentops.span.kind": "session"}, "chain"),
        ({"gen_ai.request.type": "chat", "agentops.span.kind": "agent"}, "agent"),
        ({"llm.request.type": "completion"}, "llm"),
        ({"gen_ai.request.model": "gpt-4o", "gen_ai.usage.prompt_tokens": 1}, "llm"),
        ({"gen_ai.request.model": "gpt-4o", "gen_ai.agent.name": "a"}, "span"),
        ({}, "span"),
    ],
)
def test_kind_of_every_dialect(attributes: dict[str, Any], kind: str) -> None:
    """Each dialect's word for what a span does becomes one of ours; an unknown word is no word."""
    assert facts("x", attributes).kind == kind


def test_all_kinds_are_the_documented_ones() -> None:
    """No table invents a kind that SpanFacts does not document."""
    assert SpanFacts.__doc__ is not None
    documented = {"llm", "agent", "tool", "chain", "retriever", "reranker", "embedding"}
    documented |= {"guardrail", "evaluator", "prompt", "span"}
    assert {kind for values in KIND_VALUES.values() for kind in values.values()} <= documented


@pytest.mark.parametrize(
    ("name", "attributes", "kind", "reward"),
    [
        ("agentlightning.reward", {"reward": 0.5}, "reward", 0.5),
        ("agentlightning.reward", {"reward": float("nan")}, "reward", None),
        ("agentlightning.reward", {"reward": 10**400}, "reward", None),
        ("agentlightning.reward", {"reward": 0.5, "gen_ai.agent.name": "a"}, "reward", 0.5),
        ("agentlightning.annotation", {"agentlightning.reward.0.value": -1.5}, "reward", -1.5),
        ("f.task", {"agentops.task.output": '{"type": "reward", "value": 0.75}'}, "reward", 0.75),
        ("f.task", {"agentops.entity.output": '{"type":"reward","value":null}'}, "reward", None),
        ("f.task", {"agentops.entity.output": '{"type":"penalty","value":1,"of":"reward"}'}, "span", None),
        ("f.task", {"agentops.entity.output": 'a "reward"'}, "span", None),
        ("x", {"reward": 1.0}, "span", None),
        ("agentlightning.message", {"message": "m"}, "message", None),
        ("agentlightning.object", {}, "object", None),
        ("agentlightning.exception", {}, "exception", None),
    ],
)
def test_emitted_spans(name: str, attributes: dict[str, Any], kind: str, reward: float | None) -> None:
    """What the emitters write, and AgentOps' form of a reward, are told from everything else."""
    found = facts(name, attributes)
    assert (found.kind, found.reward) == (kind, reward)


def test_cached_tokens_are_taken_out_of_an_inclusive_prompt() -> None:
    """OpenTelemetry and OpenInference count the cache within the prompt."""
    found = facts(
        "x",
        OI
        | {
            "llm.token_count.prompt": 50,
            "llm.token_count.completion": 12,
            "llm.token_count.total": 62,
            "llm.token_count.prompt_details.cache_read": 20,
            "llm.token_count.prompt_details.cache_write": 5,
            "llm.token_count.completion_details.reasoning": 4,
        },
    )
    assert (found.fresh_tokens, found.cache_read_tokens, found.cache_write_tokens) == (25, 20, 5)
    assert (found.output_tokens, found.reasoning_tokens, found.inconsistent) == (12, 4, False)


@pytest.mark.parametrize(
    ("scope", "usage", "fresh", "inconsistent"),
    [
        # AgentOps passes Anthropic's raw usage on: the prompt is without the cache.
        ("anthropic", (30, 12, 20, 5, 42), 30, False),
        ("agentops.instrumentation.providers.anthropic", (30, 12, 20, 5, None), 30, False),
        # The total tells.
        ("", (30, 12, 20, 5, 67), 30, False),
        # Less than the cache cannot include it.
        ("", (3, 12, 20, 5, None), 3, False),
        # OpenLLMetry adds the cache.
        ("opentelemetry.instrumentation.anthropic", (55, 12, 20, 5, 67), 30, False),
        # A total that is no sum of anything.
        ("", (55, 12, 20, 5, 99), 30, True),
    ],
)
def test_anthropic_usage(
    scope: str, usage: tuple[int, int, int, int, int | None], fresh: int, inconsistent: bool
) -> None:
    """Anthropic's usage comes with and without the cache in the prompt; who wrote it, or the total, decides."""
    prompt, output, read, write, total = usage
    attributes: dict[str, Any] = {
        "gen_ai.system": "Anthropic",
        "gen_ai.request.type": "chat",
        "gen_ai.usage.prompt_tokens": prompt,
        "gen_ai.usage.completion_tokens": output,
        "gen_ai.usage.cache_read_input_tokens": read,
        "gen_ai.usage.cache_creation_input_tokens": write,
    }
    if total is not None:
        attributes["gen_ai.usage.total_tokens"] = total
    found = facts("anthropic.chat", attributes, scope=scope)
    assert (found.fresh_tokens, found.inconsistent) == (fresh, inconsistent)


def test_more_cache_than_prompt_is_clamped_and_marked() -> None:
    """Elsewhere a cache above the prompt is an error: never a negative count, and never silently."""
    found = facts("x", OI | {"llm.token_count.prompt": 3, "llm.token_count.prompt_details.cache_read": 20})
    assert (found.fresh_tokens, found.cache_read_tokens, found.inconsistent) == (0, 20, True)


@pytest.mark.parametrize(
    ("total", "output", "reasoning", "inconsistent"), [(100, 50, 40, False), (60, 10, 10, True), (None, 10, 10, True)]
)
def test_reasoning_beside_the_output(total: int | None, output: int, reasoning: int, inconsistent: bool) -> None:
    """Thoughts that the total counts beside the answer are added to the output; others cannot exceed it."""
    attributes: dict[str, Any] = OI | {
        "llm.token_count.prompt": 50,
        "llm.token_count.completion": 10,
        "llm.token_count.completion_details.reasoning": 40,
    }
    if total is not None:
        attributes["llm.token_count.total"] = total
    found = facts("x", attributes)
    assert (found.output_tokens, found.reasoning_tokens, found.inconsistent) == (output, reasoning, inconsistent)


def test_agents_carry_no_tokens_that_count() -> None:
    """The sum that an agent span reports is kept for people, and is in no class."""
    found = facts(
        "run", {"openinference.span.kind": "AGENT", "llm.token_count.prompt": 50, "llm.token_count.total": 62}
    )
    assert (found.fresh_tokens, found.output_tokens) == (None, None)
    assert (found.reported_input_tokens, found.reported_total_tokens) == (50, 62)


@pytest.mark.parametrize("value", [-1, True, "12", 1.5, float("nan"), 10**13, None, [1], b"1"])
def test_a_count_that_is_none_is_ignored(value: object) -> None:
    """Text, booleans, fractions, negative and impossible numbers count as absent, and the next source is asked."""
    attributes = OI | {"gen_ai.usage.input_tokens": value, "llm.token_count.prompt": 7}
    assert facts("x", attributes).fresh_tokens == 7


def test_whole_doubles_are_counts() -> None:
    """Other languages write counts as doubles."""
    assert facts("x", OI | {"llm.token_count.prompt": 7.0}).fresh_tokens == 7


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("OpenAI", "openai"),
        ("azure.ai.openai", "azure"),
        ("az.ai.inference", "azure"),
        ("@anthropic-ai/claude-agent-sdk", "anthropic"),
        ("@ai-sdk/openai", "openai"),
        ("openai.responses", "openai"),
        ("aws.bedrock", "aws"),
        ("gcp.vertex_ai", "google"),
        ("mistral_ai", "mistral"),
        ("x_ai", "x-ai"),
        ("LangChain", None),
        ("My Gateway", "my-gateway"),
        ("", None),
    ],
)
def test_provider_names(name: str, provider: str | None) -> None:
    """Every spelling of a provider becomes one name; a framework is none; an unknown one stays itself."""
    assert provider_name(name) == provider


def test_a_framework_does_not_hide_the_provider() -> None:
    """Where the first attribute names a framework, the next one is asked."""
    assert facts("x", {"gen_ai.provider.name": "langchain", "gen_ai.system": "openai"}).provider == "openai"


@pytest.mark.parametrize(
    ("attributes", "cost"),
    [
        ({"operation.cost": 0.5}, 0.5),
        ({"gen_ai.usage.cost": 0}, 0.0),
        ({"mlflow.llm.cost": '{"input_cost": 0.1, "output_cost": 0.2, "total_cost": 0.3}'}, 0.3),
        ({"mlflow.llm.cost": "{"}, None),
        ({"llm.cost.prompt": 0.25, "llm.cost.completion": 0.5}, 0.75),
        ({"llm.cost.prompt": 0.25}, None),
        ({"gen_ai.usage.cost.amount": 3.0, "gen_ai.usage.cost.currency": "EUR"}, None),
        ({"gen_ai.usage.cost.amount": 3.0, "gen_ai.usage.cost.currency": "USD"}, 3.0),
        ({"operation.cost": -1.0}, None),
        ({"operation.cost": True}, None),
    ],
)
def test_reported_cost(attributes: dict[str, Any], cost: float | None) -> None:
    """The cost that others computed is read in US dollars, and never guessed."""
    assert facts("x", attributes).reported_cost == cost


def test_sources_say_who_filled_a_field() -> None:
    """A reader can ask which attribute of which dialect a fact came from."""
    found = sources("x", OI | {"gen_ai.response.model": "gpt-4o-2024", "gen_ai.usage.input_tokens": "many"})
    assert (found["model"].attribute, found["kind"].dialects) == (
        "gen_ai.response.model",
        "openinference, agentlightning",
    )
    assert "input_total" not in found


def test_response_before_request() -> None:
    """The model that answered is what was billed."""
    assert facts("x", {"gen_ai.request.model": "a", "gen_ai.response.model": "b"}).model == "b"


def test_entity_names_follow_the_kind() -> None:
    """The one name that OpenLLMetry and AgentOps give a span is an agent's or a tool's, by its kind."""
    assert facts("x", {"traceloop.span.kind": "agent", "traceloop.entity.name": "n"}).agent_name == "n"
    assert facts("x", {"agentops.span.kind": "tool", "operation.name": "n"}).tool_name == "n"
    assert facts("x", {"agentops.span.kind": "task", "operation.name": "n"}).tool_name is None


def test_names_are_bounded() -> None:
    """A megabyte where a name belongs does not travel with every row."""
    assert len(facts("x", {"tool.name": "n" * 10**6}).tool_name or "") == 1000


def test_documentation_holds_the_table() -> None:
    """docs/dialects.md shows exactly the table that the code uses."""
    page = Path(__file__).parents[3] / "docs" / "dialects.md"
    assert markdown().strip() in page.read_text()


def test_the_table_is_sound() -> None:
    """Every attribute feeds one field, and every field is a fact or explained."""
    attributes = [source.attribute for source in TABLE]
    assert len(attributes) == len(set(attributes))
    assert {source.field for source in TABLE} <= set(SpanFacts.__struct_fields__) | set(INNER_FIELDS)
    assert set(COUNT_FIELDS) <= set(INNER_FIELDS)


def test_the_worker_loads_nothing_heavy() -> None:
    """Finding facts needs msgspec and the standard library only."""
    heavy = "('genai_prices', 'pydantic', 'opentelemetry')"
    code = f"import sys, agentlightning.view.facts; print([name for name in {heavy} if name in sys.modules])"
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
