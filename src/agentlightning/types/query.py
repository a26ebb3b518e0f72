"""What stores return to readers that need the shape of a rollout and not its payload.

The structs hold no containers, so the garbage collector need not look at them (``gc=False``): that halves the time to
read a rollout of 30,000 spans.
"""

from __future__ import annotations

import msgspec


class SpanFacts(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The few facts of a span that trees, totals and bills need; ``view.facts`` finds them in any dialect.

    A token count is None where the provider reported none. The four classes are disjoint:
    prompt tokens = ``fresh + cache_read + cache_write``; ``reasoning_tokens`` is the part of ``output_tokens`` that
    the model spent on thinking, and is contained in it.
    """

    kind: str = "span"
    """``llm agent tool chain retriever reranker embedding guardrail evaluator prompt`` of OpenInference in lower
    case, ``reward message object exception`` for what the emitters write, else ``span``."""
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
