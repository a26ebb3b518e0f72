"""What a session suggests to do better: rules over its records, each with what it was seen by."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ai_agents.telemetry.pricing import cost_of
from ai_agents.telemetry.types import TaskStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai_agents.telemetry.types import AgentExecution, LLMCall, TelemetrySession, ToolExecution

_SLOW_SHARE = 0.3
_SLOW_S = 1.0
_CACHE_PROMPT_TOKENS = 1_024
"""Prompts shorter than this are not cached by any provider we know."""

_CACHE_CALLS = 3
_SHORT_ANSWER_TOKENS = 100
_CHEAPER_FACTOR = 3.0
_SMALLER = {
    "gpt-4o": "gpt-4o-mini",
    "gpt-4": "gpt-4o-mini",
    "gpt-4.1": "gpt-4.1-mini",
    "gpt-5": "gpt-5-mini",
    "o1": "o4-mini",
    "o3": "o4-mini",
}
"""Models with a smaller one of the same family, looked at where the session used no cheaper one."""


@dataclass(frozen=True)
class Advice:
    """One suggestion."""

    rule: str
    """``slow_tool``, ``repeated_call``, ``cache_miss``, ``retries`` or ``cheaper_model``."""
    text: str
    """What to do."""
    evidence: str
    """What was seen, in figures."""


def give_advice(session: TelemetrySession) -> list[Advice]:
    """Return what the rules say about *session*, the weightiest kind first."""
    agents = [agent for task in session.tasks for agent in task.agents]
    tools = [tool for task in session.tasks for tool in task.tools]
    tools += [tool for agent in agents for tool in agent.tools_used if not tool.is_final_answer]
    calls = [call for task in session.tasks for call in task.llm_calls]
    calls += [call for agent in agents for call in agent.llm_calls]
    return [
        *_slow_tool(session, tools),
        *_repeated(tools),
        *_retries(tools, calls),
        *_cache_misses(agents),
        *_cheaper_model(agents, calls),
    ]


def _slow_tool(session: TelemetrySession, tools: list[ToolExecution]) -> Iterator[Advice]:
    spent: defaultdict[str, float] = defaultdict(float)
    for tool in tools:
        spent[tool.tool_name] += tool.duration or 0.0
    if not spent or not session.total_duration:
        return
    name, seconds = max(spent.items(), key=lambda item: item[1])
    share = seconds / session.total_duration
    if seconds >= _SLOW_S and share >= _SLOW_SHARE:
        uses = sum(tool.tool_name == name for tool in tools)
        text = f"Make {name} faster, give it less to do, or run it beside the model."
        yield Advice(
            "slow_tool", text, f"{seconds:.1f} s in {uses} uses, {share:.0%} of {session.total_duration:.1f} s"
        )


def _repeated(tools: list[ToolExecution]) -> Iterator[Advice]:
    same: defaultdict[tuple[str, str], list[ToolExecution]] = defaultdict(list)
    for tool in tools:
        if tool.arguments_key and tool.status is TaskStatus.COMPLETED:
            same[tool.tool_name, tool.arguments_key].append(tool)
    for (name, _), uses in sorted(same.items()):
        if len(uses) > 1:
            wasted = sum(tool.duration or 0.0 for tool in uses[1:])
            text = f"Keep the result of {name}, or tell the agent what it has found already."
            yield Advice("repeated_call", text, f"{len(uses)} times with the same arguments; {wasted:.2f} s repeated")


def _retries(tools: list[ToolExecution], calls: list[LLMCall]) -> Iterator[Advice]:
    failed: defaultdict[str, int] = defaultdict(int)
    for tool in tools:
        failed[f"tool {tool.tool_name}"] += tool.status is TaskStatus.FAILED
    for call in calls:
        failed[f"model {call.model}"] += call.failed
    for name, number in sorted(failed.items()):
        if number > 1:
            text = f"Look at why {name} fails: each failure costs another step of the agent."
            yield Advice("retries", text, f"{number} failures")


def _cache_misses(agents: list[AgentExecution]) -> Iterator[Advice]:
    for agent in agents:
        long = [call for call in agent.llm_calls if call.prompt_tokens >= _CACHE_PROMPT_TOKENS]
        prompt, cached = sum(call.prompt_tokens for call in long), sum(call.cached_tokens for call in long)
        if len(long) >= _CACHE_CALLS and cached < 0.1 * prompt:
            text = (
                f"Keep the beginning of the prompts of {agent.agent_name} the same from call to call, and turn on "
                "prompt caching where the provider asks for it."
            )
            evidence = f"{len(long)} calls with {prompt:,} prompt tokens, {cached:,} of them from the cache"
            yield Advice("cache_miss", text, evidence)


def _cheaper_model(agents: list[AgentExecution], calls: list[LLMCall]) -> Iterator[Advice]:
    """Suggest a cheaper model where answers are short; the cost is worked out for the same tokens."""
    used = {call.model for call in calls}
    for agent in agents:
        by_model: defaultdict[str, list[LLMCall]] = defaultdict(list)
        for call in agent.llm_calls:
            by_model[call.model].append(call)
        for model, own in by_model.items():
            answered = sum(call.completion_tokens for call in own) / len(own)
            paid = _cost(own, model)
            if len(own) < _CACHE_CALLS or answered > _SHORT_ANSWER_TOKENS or not paid:
                continue
            others = {*used, _SMALLER.get(model, model)} - {model}
            offers = sorted((cost, other) for other in others if (cost := _cost(own, other)))
            if offers and offers[0][0] * _CHEAPER_FACTOR <= paid:
                cost, best = offers[0]
                evidence = f"{len(own)} calls, {answered:.0f} tokens of answer each: ${paid:.4f}, there ${cost:.4f}"
                yield Advice("cheaper_model", f"Try {best} instead of {model} for {agent.agent_name}.", evidence)


def _cost(calls: list[LLMCall], model: str) -> float | None:
    costs = [cost_of(replace(call, model=model, facts=None)) for call in calls]
    return None if None in costs else sum(cost for cost in costs if cost is not None)
