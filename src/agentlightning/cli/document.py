"""What the commands print with ``--json``; ``docs/json.md`` says what each field means.

Every document has a ``version``; a field never changes its meaning within one, new fields may come. The text is ASCII
and valid JSON, whatever a span holds: NaN and infinities are the strings ``NaN``, ``Infinity`` and ``-Infinity``, bytes
an object with ``base64``, lone surrogates are escaped twice. Money is a string, because it is exact.
"""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, cast

import msgspec

from agentlightning.types.record import JsonObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from decimal import Decimal

    from agentlightning.types.core import Attempt, Rollout
    from agentlightning.types.query import SpanFacts, SpanRow
    from agentlightning.types.tracer import Span
    from agentlightning.view.cost import Price
    from agentlightning.view.messages import Message
    from agentlightning.view.tree import Node, Totals

VERSION = 1
"""Version of all documents."""

_DEEPEST = 200
"""Levels of an attribute that are kept; what lies deeper is its ``repr``."""

Document = JsonObject


def dumps(value: object) -> str:
    """Return *value* as JSON text on one line."""
    return json.dumps(_plain(value, 0), allow_nan=False, separators=(", ", ": "))


def amount(value: Decimal) -> str:
    """Return an amount with all its digits, and no zeros behind them."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def stream(head: Document, name: str, items: Iterable[object], tail: Document | None = None) -> Iterator[str]:
    """Yield the lines of one document: *head*, then the list *name* of *items*, one on a line, then *tail*."""
    yield dumps(head)[:-1] + f', "{name}": ['
    before = None
    for item in items:
        if before is not None:
            yield before + ","
        before = dumps(item)
    if before is not None:
        yield before
    yield "]" + (", " + dumps(tail)[1:] if tail else "}")


def _plain(value: object, depth: int) -> object:
    """Return *value* in types that JSON holds exactly."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
    if isinstance(value, (bytes, bytearray)):
        return {"base64": base64.b64encode(value).decode()}
    if depth < _DEEPEST:
        if isinstance(value, dict):
            items = cast("dict[object, object]", value).items()
            return {str(_plain(str(key), 0)): _plain(item, depth + 1) for key, item in items}
        if isinstance(value, (list, tuple)):
            return [_plain(item, depth + 1) for item in cast("list[object]", value)]
    return _plain(repr(value)[:1000], 0)


def rollout_object(rollout: Rollout, attempt: Attempt | None, status: str) -> Document:
    """Return a rollout with its latest attempt."""
    end = rollout.end_time
    return {
        "rollout_id": rollout.rollout_id,
        "status": status,
        "input": rollout.input,
        "mode": rollout.mode,
        "start_time": rollout.start_time,
        "end_time": end,
        "duration_s": None if end is None else end - rollout.start_time,
        "metadata": rollout.metadata or {},
        "attempt": None
        if attempt is None
        else {
            "attempt_id": attempt.attempt_id,
            "number": attempt.sequence_id,
            "status": attempt.status,
            "start_time": attempt.start_time,
            "end_time": attempt.end_time,
            "worker_id": attempt.worker_id,
            "metadata": {key: value for key, value in (attempt.metadata or {}).items() if key != "totals"},
        },
    }


def totals_object(totals: Totals) -> Document:
    """Return sums over spans."""
    found: Document = msgspec.structs.asdict(totals)
    cost = found.pop("cost")
    found["input_tokens"], found["total_tokens"] = totals.input_tokens, totals.total_tokens
    found["cost_usd"] = amount(cost) if totals.cost_known else None
    found["reported_cost_usd"] = found.pop("reported_cost")
    for name in ("sampled_calls", "unseen_calls", "unseen_tokens", "unseen_cost"):
        del found[name]
    if totals.sampled_calls:
        found["estimate"] = {
            "sampled_calls": totals.sampled_calls,
            "calls": totals.estimated_calls,
            "tokens": totals.estimated_tokens,
            "cost_usd": amount(totals.estimated_cost) if totals.cost_known else None,
        }
    return found


def node_object(node: Node) -> Document:
    """Return a span in its tree; empty for the virtual root."""
    if node.row is None:
        return {}
    found = span_object(node.row, node.state, node.price if node.counted else None)
    return found | {"depth": node.depth, "counted": node.counted, "totals": totals_object(node.totals)}


def span_object(row: SpanRow, state: str, price: Price | None) -> Document:
    """Return a span without what it carries."""
    facts = row.facts
    return {
        "trace_id": row.trace_id,
        "span_id": row.span_id,
        "parent_id": row.parent_id,
        "rollout_id": row.rollout_id,
        "attempt_id": row.attempt_id,
        "sequence_id": row.sequence_id,
        "name": row.name,
        "kind": facts.kind,
        "state": state,
        "status": row.status_code,
        "error": (row.status_description or "") if row.status_code == "ERROR" else None,
        "start_time_ns": row.start_ns,
        "end_time_ns": row.end_ns,
        "duration_s": None if row.end_ns is None else (row.end_ns - row.start_ns) / 1e9,
        "process": row.process,
        "model": facts.model,
        "provider": facts.provider,
        "agent": facts.agent_name,
        "tool": facts.tool_name,
        "reward": facts.reward,
        "response_id": facts.response_id,
        "tokens": _tokens(facts),
        "reported": {
            "input_tokens": facts.reported_input_tokens,
            "output_tokens": facts.reported_output_tokens,
            "total_tokens": facts.reported_total_tokens,
            "cost_usd": facts.reported_cost,
        },
        "inconsistent": facts.inconsistent,
        "detail": facts.detail,
        "redacted": facts.redacted.split(", ") if facts.redacted else [],
        "integrity": facts.integrity.split(", ") if facts.integrity else [],
        "cost": None if price is None else price_object(price),
    }


def _tokens(facts: SpanFacts) -> Document | None:
    counts = {
        "fresh": facts.fresh_tokens,
        "cache_read": facts.cache_read_tokens,
        "cache_write": facts.cache_write_tokens,
        "output": facts.output_tokens,
        "reasoning": facts.reasoning_tokens,
    }
    return None if all(value is None for value in counts.values()) else counts


def price_object(price: Price) -> Document:
    """Return what one call cost and how that is known."""
    return {
        "usd": None if price.usd is None else amount(price.usd),
        "reason": price.reason,
        "source": price.source,
        "version": price.version,
        "provider": price.provider,
        "model": price.model,
        "note": price.note,
        "suspicious": price.suspicious,
        "amounts": [
            {
                "class": line.token_class,
                "quantity": line.quantity,
                "usd_per_million": amount(line.usd_per_million),
                "usd": amount(line.usd),
            }
            for line in price.amounts
        ],
    }


def message_object(message: Message) -> Document:
    """Return one message of a conversation."""
    return {
        "role": message.role,
        "name": message.name,
        "finish_reason": message.finish_reason,
        "parts": [msgspec.to_builtins(part) for part in message.parts],
    }


def stored_object(span: Span) -> Document:
    """Return a span as it is stored, with all that it carries."""
    return {
        "version": VERSION,
        "rollout_id": span.rollout_id,
        "attempt_id": span.attempt_id,
        "sequence_id": span.sequence_id,
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "name": span.name,
        "span_kind": span.kind,
        "status": {"code": span.status.status_code, "description": span.status.description},
        "start_time_ns": span.start_time_ns,
        "end_time_ns": span.end_time_ns,
        "attributes": span.attributes,
        "events": [
            {"name": event.name, "time_ns": event.timestamp_ns, "attributes": event.attributes} for event in span.events
        ],
        "links": [
            {
                "trace_id": link.context.trace_id,
                "span_id": link.context.span_id,
                "attributes": link.attributes or {},
            }
            for link in span.links
        ],
        "resource": {"attributes": span.resource.attributes, "schema_url": span.resource.schema_url},
        "scope": {"name": span.scope_name, "version": span.scope_version},
        "process": span.process,
    }
