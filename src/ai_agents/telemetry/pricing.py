"""What the calls of a session cost, by the price table of ``agentlightning.view``; what is unknown stays None.

Looked up when a session is read or written, never while it is recorded.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from agentlightning.types.query import SpanFacts
from ai_agents.telemetry.loose import aware
from ai_agents.telemetry.types import LLMCall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai_agents.telemetry.types import TaskExecution, ToolExecution

_NS = 1_000_000_000
_DAY_S = 86_400


def fill_costs(tasks: list[TaskExecution]) -> None:
    """Set the cost of every call of *tasks* that has none and whose price is known."""
    for call in _calls(tasks):
        fill_cost(call)


def fill_cost(record: LLMCall | ToolExecution) -> None:
    """Set the cost of a call that has none and whose price is known."""
    if isinstance(record, LLMCall) and record.cost_estimate is None:
        record.cost_estimate = cost_of(record)


def cost_of(call: LLMCall) -> float | None:
    """Return what *call* cost in USD, or None where its price or its tokens are unknown."""
    facts = call.facts
    if call.usage_missing or (facts is None and not call.total_tokens):
        return None
    if facts is None:
        numbers = (max(0, call.prompt_tokens - call.cached_tokens), call.cached_tokens, 0, call.completion_tokens, 0)
        return _price("llm", call.model, None, numbers, _day(call))
    numbers = (
        facts.fresh_tokens or 0,
        facts.cache_read_tokens or 0,
        facts.cache_write_tokens or 0,
        facts.output_tokens or 0,
        facts.reasoning_tokens or 0,
    )
    return _price(facts.kind, facts.model or "", facts.provider, numbers, _day(call))


@functools.lru_cache(maxsize=4096)
def _price(kind: str, model: str, provider: str | None, tokens: tuple[int, ...], day: int) -> float | None:
    from agentlightning.view.cost import price  # noqa: PLC0415 - decimal arithmetic and tables: readers only

    fresh, read, write, output, reasoning = tokens
    found = price(
        SpanFacts(
            kind=kind,
            model=model,
            provider=provider,
            fresh_tokens=fresh,
            cache_read_tokens=read,
            cache_write_tokens=write,
            output_tokens=output,
            reasoning_tokens=reasoning,
        ),
        day * _DAY_S * _NS,
    )
    return None if found.usd is None else float(found.usd)


def _day(call: LLMCall) -> int:
    return int(aware(call.timestamp).timestamp()) // _DAY_S


def _calls(tasks: list[TaskExecution]) -> Iterator[LLMCall]:
    for task in tasks:
        yield from task.llm_calls
        for agent in task.agents:
            yield from agent.llm_calls
