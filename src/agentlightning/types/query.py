"""What stores return to readers that need the shape of a rollout and not its payload.

The structs hold no containers, so the garbage collector need not look at them (``gc=False``): that halves the time to
read a rollout of 30,000 spans.
"""

from __future__ import annotations

from typing import Any

import msgspec


class SpanFacts(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The few facts of a span that trees, totals and bills need; ``view.facts`` finds them in any dialect.

    A token count is None where the provider reported none. The four classes are disjoint:
    prompt tokens = ``fresh + cache_read + cache_write``; ``reasoning_tokens`` is the part of ``output_tokens`` that
    the model spent on thinking, and is contained in it.
    """

    kind: str = "span"
    """``llm agent tool chain retriever reranker embedding guardrail evaluator prompt`` of OpenInference in lower
    case, ``reward message object exception annotation event`` for what the emitters write, else ``span``."""
    model: str | None = None
    """The model that answered, else the one that was asked for."""
    provider: str | None = None
    fresh_tokens: int | None = None
    """Prompt tokens that were neither read from nor written to a cache."""
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    """All output tokens, reasoning included."""
    reasoning_tokens: int | None = None
    reported_cost: float | None = None
    """Cost in USD as the instrumentor or the provider reported it."""
    agent_name: str | None = None
    tool_name: str | None = None
    response_id: str | None = None
    reward: float | None = None
    reported_input_tokens: int | None = None
    """Prompt tokens as the instrumentor reported them, on a span of any kind; whether they include the cache depends
    on who wrote them. Never added up: agents and chains report the sum of the calls below them."""
    reported_output_tokens: int | None = None
    reported_total_tokens: int | None = None
    inclusion: float | None = None
    """With which probability the span was kept, where it was sampled: sums over spans weigh it by the inverse."""
    detail: str | None = None
    """What an annotation says, or several rewards by name, in at most 200 characters."""
    integrity: str | None = None
    """Rules that the span breaks, separated by ``", "``; ``view.integrity`` says which there are."""
    redacted: str | None = None
    """How many credentials were replaced in the span by which rule, ``rule:count``, separated by ``", "``."""
    inconsistent: bool = False
    """The reported counts contradict each other (a part above its whole, a total that is no sum); what was taken is
    clamped to what is possible."""


class SpanRow(msgspec.Struct, kw_only=True, gc=False):
    """One span of a rollout without its attributes, events and links."""

    trace_id: str
    span_id: str
    parent_id: str | None
    rollout_id: str
    attempt_id: str
    sequence_id: int
    """Place in the rollout, from 1; 0 for a span that is still open."""
    name: str
    start_ns: int
    end_ns: int | None
    status_code: str
    status_description: str | None
    process: str
    facts: SpanFacts


class RolloutFilter(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Which rollouts a query returns, and which part of them; every field narrows, None does not."""

    modes: list[str] | None = None
    start_after: float | None = None
    """Only rollouts that started at this time (seconds since the epoch) or later."""
    start_before: float | None = None
    """Only rollouts that started before this time."""
    metadata: dict[str, Any] | None = None
    """Top-level keys of the metadata with the value that each must have: text, number, boolean or None."""
    text: str | None = None
    """Text that input or metadata, as JSON, contain; upper and lower case of ASCII letters are the same."""
    limit: int | None = None
    """At most so many; None for all."""
    offset: int = 0
    """So many of the matching ones are skipped."""
    newest_first: bool = False


class StoreStatistics(msgspec.Struct, kw_only=True, frozen=True):
    """What a store holds."""

    rollouts: int
    """Rollouts of all projects."""
    attempts: int
    spans: int
    """Ended and open spans of all projects."""
    resources: int
    queued: int
    """Rollouts of the handle's project that wait to be claimed."""
    statuses: dict[str, int]
    """How many rollouts of the handle's project have each status."""
    size_bytes: int
    """Size of the data, on disk or in memory."""
    evicted_rollouts: int = 0
    """Rollouts that a bounded store has thrown away to make room, since it was opened."""
    evicted_spans: int = 0
