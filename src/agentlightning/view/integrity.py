"""Business rules of a span: what its format allows and its meaning does not. Pure; raises nothing for any attribute.

A span that breaks one is stored as it came, with the names of the rules in ``agentlightning.integrity``, and counted:
what is wrong is visible, and nothing that happened is lost. Formats are checked elsewhere, where records come from
outside (``problem``): what breaks those is refused.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

from agentlightning import semconv
from agentlightning.view.dialects import COUNT_FIELDS, TABLE

if TYPE_CHECKING:
    from agentlightning.types.record import AttributeMap, SpanRecord

RULES: Final = {
    "end_before_start": "it ends before it starts",
    "no_start": "its start is not after 1970",
    "bad_id": "its trace or span id is no hexadecimal number of 32 or 16 digits, or is zero",
    "bad_parent": "its parent is no span id",
    "own_parent": "it is its own parent",
    "negative_count": "it counts less than no tokens",
    "bad_cost": "its cost is negative or no finite number",
    "bad_reward": "its reward is no finite number",
}
"""Every rule, and what is said about a span that breaks it."""

MAX_NS: Final = 2**63 - 1
"""Times beyond it do not fit into a store; 2262."""

_TRACE_ID, _SPAN_ID = re.compile(r"(?!0{32})[0-9a-f]{32}\Z"), re.compile(r"(?!0{16})[0-9a-f]{16}\Z")
_COUNTS = frozenset(source.attribute for source in TABLE if source.field in COUNT_FIELDS)
_COSTS = frozenset(source.attribute for source in TABLE if source.field in {"cost", "cost_input", "cost_output"})
_NUMBERS = _COUNTS | _COSTS
_FIRST_REWARD = f"{semconv.REWARD_PREFIX}0.value"
_KINDS = frozenset({"INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"})
_CODES = frozenset({"UNSET", "OK", "ERROR"})
_MAX_ID_CHARS = 512


def flag(record: SpanRecord) -> bool:
    """Note on *record* which rules it breaks, and tell whether it breaks any; what was noted before is replaced."""
    broken = breaches(record)
    if broken:
        record.attributes[semconv.INTEGRITY] = broken
    else:
        record.attributes.pop(semconv.INTEGRITY, None)
    return bool(broken)


def breaches(record: SpanRecord) -> list[str]:
    """Return the names of the rules that *record* breaks, in the order of ``RULES``."""
    found: list[str] = []
    start_ns, end_ns = record.start_ns, record.end_ns
    if end_ns is not None and end_ns < start_ns:
        found.append("end_before_start")
    if start_ns <= 0:
        found.append("no_start")
    if not _TRACE_ID.match(record.trace_id) or not _SPAN_ID.match(record.span_id):
        found.append("bad_id")
    parent_id = record.parent_id
    if parent_id is not None:
        if not _SPAN_ID.match(parent_id):
            found.append("bad_parent")
        elif parent_id == record.span_id:
            found.append("own_parent")
    attributes = record.attributes
    if not _NUMBERS.isdisjoint(attributes):
        found.extend(_bad_numbers(attributes, [key for key in attributes if key in _NUMBERS]))
    if semconv.REWARD in attributes or _FIRST_REWARD in attributes:
        found.extend(_bad_rewards(record))
    return found


def _bad_numbers(attributes: AttributeMap, keys: list[str]) -> list[str]:
    found: set[str] = set()
    for key in keys:
        value = attributes[key]
        if not _is_number(value):
            continue
        if key in _COSTS:
            if value < 0 or not _is_finite(value):
                found.add("bad_cost")
        elif value < 0:
            found.add("negative_count")
    return sorted(found, reverse=True)


def _bad_rewards(record: SpanRecord) -> list[str]:
    attributes = record.attributes
    rewards = [
        value for key, value in attributes.items() if key.startswith(semconv.REWARD_PREFIX) and key.endswith(".value")
    ]
    if record.name == semconv.SpanNames.REWARD.value:
        rewards.append(attributes.get(semconv.REWARD))
    return ["bad_reward"] if any(_is_number(value) and not _is_finite(value) for value in rewards) else []


def _is_number(value: object) -> bool:
    return type(value) is int or type(value) is float


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def problem(record: SpanRecord) -> str | None:
    """Return why *record*, which came from outside, cannot be stored; None for one that can.

    It is what OpenTelemetry's data model demands of a span: ids of the right length that are not zero, times within 64
    bit, a kind and a status that exist, links with ids, attributes with names.
    """
    if not _TRACE_ID.match(record.trace_id):
        return "a trace id is not 32 hexadecimal digits, or zero"
    if not _SPAN_ID.match(record.span_id):
        return "a span id is not 16 hexadecimal digits, or zero"
    if record.parent_id is not None and not _SPAN_ID.match(record.parent_id):
        return "a parent span id is not 16 hexadecimal digits, or zero"
    last_ns = max(record.start_ns, record.end_ns or 0)
    if last_ns > MAX_NS or (record.events and max(event.time_ns for event in record.events) > MAX_NS):
        return "a time is beyond the year 2262"
    if record.kind not in _KINDS or record.status_code not in _CODES:
        return "a kind or a status is none of OpenTelemetry's"
    if len(record.rollout_id) > _MAX_ID_CHARS or len(record.attempt_id) > _MAX_ID_CHARS:
        return f"a rollout or attempt id is longer than {_MAX_ID_CHARS} characters"
    links = record.links
    if links and any(not _TRACE_ID.match(link.trace_id) or not _SPAN_ID.match(link.span_id) for link in links):
        return "a link has no valid ids"
    if "" in record.attributes:
        return "an attribute has no name"
    return None
