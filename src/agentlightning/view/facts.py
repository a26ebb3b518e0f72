"""Find the facts of a span in its attributes, whatever dialect wrote them.

Runs in the worker thread of the traced program for every span, so it is pure, needs the standard library and msgspec
only, never raises for what an attribute holds, and looks only at names that ``view.dialects`` lists.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, cast

import msgspec

from agentlightning import semconv
from agentlightning.semconv import INCLUSION, INTEGRITY, REDACTED_RULES, REWARD, REWARD_PREFIX, SpanNames
from agentlightning.types.query import SpanFacts
from agentlightning.view.dialects import KIND_VALUES, MAX_COUNT, MONEY_FIELDS, PROVIDERS, TABLE, TEXT_FIELDS, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_NAME_CHARS = 1000
"""A name of a model, agent or tool is cut to this many characters."""

MAX_DETAIL_CHARS = 200
"""Length of ``SpanFacts.detail``."""

_MAX_DETAIL_PARTS = 20
_MAX_SMALL_JSON_CHARS = 4096  # JSON that holds one reward or one cost; longer text is somebody's output
_EMITTED_KINDS: dict[str, str] = {
    SpanNames.REWARD.value: "reward",
    SpanNames.MESSAGE.value: "message",
    SpanNames.OBJECT.value: "object",
    SpanNames.EXCEPTION.value: "exception",
    SpanNames.ANNOTATION.value: "annotation",
}
_DETAILED = frozenset({SpanNames.REWARD.value, SpanNames.ANNOTATION.value})
"""Names of spans whose content is short enough to be a fact."""
_COUNTING_KINDS = ("llm", "embedding")
# The raw usage of these providers leaves the cache out of the prompt tokens; everyone else's includes it.
_ADDITIVE_PROVIDERS = ("anthropic", "aws")
_JSON_ERRORS = (msgspec.MsgspecError, UnicodeError, RecursionError)  # of any text, lone surrogates and deep nests
_LAST = len(TABLE)
_RESPONSE_ID = re.compile(r'\s*\{\s*"id"\s*:\s*"([^"\\]{1,200})"')


class _RewardJson(msgspec.Struct):
    type: str
    value: object = None


class _MlflowCost(msgspec.Struct):
    total_cost: float


class _Found:
    """Usable values by field, each from the best source that had one."""

    __slots__ = ("counts", "money", "texts")

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.money: dict[str, float] = {}


class _Slot(NamedTuple):
    rank: int
    field: str
    read: Callable[[_Found, _Slot, object], bool]
    source: Source


def facts(name: str, attributes: Mapping[str, object], *, scope: str = "") -> SpanFacts:
    """Return the facts of a span called *name* that the instrumentation *scope* wrote with *attributes*.

    A value of the wrong type, a negative, non-finite or impossibly large number counts as absent. Only spans of kind
    ``llm`` and ``embedding`` carry tokens by class; others keep what they reported in the ``reported_`` fields.
    Thread-safe, does not change *attributes*, raises nothing for any attribute.
    """
    result = _facts(name, attributes, scope)
    if INCLUSION in attributes:
        inclusion = _number(attributes[INCLUSION])
        result.inclusion = inclusion if inclusion is not None and 0 < inclusion < 1 else None
    if INTEGRITY in attributes:
        result.integrity = _joined(attributes[INTEGRITY])
    if REDACTED_RULES in attributes:
        result.redacted = _joined(attributes[REDACTED_RULES])
    if name in _DETAILED:
        result.detail = _detail(name, attributes)
    return result


def _joined(broken: object) -> str | None:
    names = cast("list[object]", broken) if isinstance(broken, (list, tuple)) else []
    return ", ".join(str(name) for name in names)[:MAX_NAME_CHARS] or None


def _detail(name: str, attributes: Mapping[str, object]) -> str | None:
    """Return what an annotation says, or the names and values of several rewards, in one short line."""
    if name == SpanNames.REWARD.value:
        pairs: list[tuple[object, object]] = []
        while (key := f"{REWARD_PREFIX}{len(pairs)}.name") in attributes and len(pairs) < _MAX_DETAIL_PARTS:
            pairs.append((attributes[key], attributes.get(f"{REWARD_PREFIX}{len(pairs)}.value")))
        pairs = [(label, f"{value:g}" if isinstance(value, float) else value) for label, value in pairs]
    else:
        ours = (semconv.TARGET, semconv.EVENT_JSON, INTEGRITY, INCLUSION)
        pairs = [(key, value) for key, value in islice(attributes.items(), _MAX_DETAIL_PARTS) if key not in ours]
    text = ", ".join(f"{str(label)[:MAX_DETAIL_CHARS]} {str(value)[:MAX_DETAIL_CHARS]}" for label, value in pairs)
    return text[:MAX_DETAIL_CHARS] or None


def _facts(name: str, attributes: Mapping[str, object], scope: str) -> SpanFacts:
    known = _SLOTS.keys() & attributes.keys()
    emitted = _EMITTED_KINDS.get(name)
    if not known:
        if emitted is None:
            return SpanFacts()
        reward = _number(attributes.get(REWARD)) if emitted == "reward" else None
        return SpanFacts(kind=emitted, reward=reward)
    found, _ = _collect(known, attributes)
    result = _texts(emitted, found)
    if result.kind == "reward":
        result.reward = _first(_number(attributes.get(REWARD)) if emitted else None, found.money.get("reward_value"))
    result.reported_cost = _cost(found)
    if found.counts:
        _tokens(result, found.counts, scope)
    return result


def sources(name: str, attributes: Mapping[str, object]) -> dict[str, Source]:
    """Return for each field of the table the source that filled it on this span; for people who ask why.

    Fields are those of ``view.dialects``: a count that no class uses, such as a total, is listed as well.
    """
    if name in _EMITTED_KINDS and not _SLOTS.keys() & attributes.keys():
        return {}
    best = _collect(_SLOTS.keys() & attributes.keys(), attributes)[1]
    return {field: TABLE[rank] for field, rank in best.items()}


def provider_name(name: str) -> str | None:
    """Return the one name that the view uses for a provider, or None for a name that says nothing about the provider.

    ``@anthropic-ai/claude-agent-sdk`` is ``anthropic``, ``azure.ai.openai`` is ``azure``; an unknown name is returned
    in lower case.
    """
    return _provider(name[:MAX_NAME_CHARS])


@lru_cache(maxsize=512)
def _provider(name: str) -> str | None:
    plain = re.sub(r"[\s_./]+", "-", name.strip().lower().lstrip("@")).strip("-")
    if plain in PROVIDERS:
        return PROVIDERS[plain]
    # npm packages and endpoint names: "@ai-sdk/openai", "openai.responses", "@anthropic-ai/claude-agent-sdk".
    words = plain.removeprefix("ai-sdk-").split("-")
    for length in range(len(words), 0, -1):
        start = "-".join(words[:length])
        if start in PROVIDERS:
            return PROVIDERS[start]
    return plain or None


def _collect(known: set[str], attributes: Mapping[str, object]) -> tuple[_Found, dict[str, int]]:
    """Return the usable values, and for each field the place in the table of the source that it is from."""
    found = _Found()
    best: dict[str, int] = {}
    for key in known:
        slot = _SLOTS[key]
        rank, field, read, _ = slot
        if rank < best.get(field, _LAST) and read(found, slot, attributes[key]):
            best[field] = rank
    return found, best


def _texts(emitted: str | None, found: _Found) -> SpanFacts:
    texts = found.texts
    if emitted == "annotation" and "reward_value" in found.money:
        emitted = "reward"  # the later 0.x line annotates with a reward
    agent, tool, entity = texts.get("agent_name"), texts.get("tool_name"), texts.get("entity_name")
    kind = emitted or ("reward" if "reward_json" in texts or "reward_value" in found.money else texts.get("kind"))
    if kind is None:
        kind = _guess(texts, agent, tool)
    if entity is not None:
        if kind == "agent":
            agent = agent or entity
        elif kind == "tool":
            tool = tool or entity
    response_id = texts.get("response_id")
    if response_id is None and kind == "llm":
        response_id = texts.get("output_json")
    return SpanFacts(
        kind=kind,
        model=texts.get("model"),
        provider=texts.get("provider"),
        agent_name=agent,
        tool_name=tool,
        response_id=response_id,
    )


def _guess(texts: dict[str, str], agent: str | None, tool: str | None) -> str:
    """Name the kind of a span that says nothing about it: a model that is no agent's or tool's was called."""
    if "model" in texts and agent is None and tool is None:
        return "llm"
    return "event" if "event_type" in texts else "span"


def _cost(found: _Found) -> float | None:
    money = found.money
    if not money or found.texts.get("cost_currency", "USD") != "USD":
        return None
    total = money.get("cost")
    if total is None and "cost_input" in money and "cost_output" in money:
        total = money["cost_input"] + money["cost_output"]
    return total


def _tokens(result: SpanFacts, counts: dict[str, int], scope: str) -> None:
    """Turn the reported counts into disjoint classes, by the convention of who wrote them."""
    prompt, output, total = counts.get("input_total"), counts.get("output"), counts.get("total")
    result.reported_input_tokens, result.reported_output_tokens, result.reported_total_tokens = prompt, output, total
    if result.kind not in _COUNTING_KINDS:
        return
    read, write = counts.get("cache_read"), counts.get("cache_write")
    cached = (read or 0) + (write or 0)
    reasoning = counts.get("reasoning")
    result.cache_read_tokens, result.cache_write_tokens, result.reasoning_tokens = read, write, reasoning
    result.inconsistent = _total_is_no_sum(counts, cached)
    if prompt is not None:
        additive = cached > 0 and _excludes_cache(result.provider, counts, cached, scope)
        result.fresh_tokens = prompt if additive else prompt - cached
        if result.fresh_tokens < 0:
            result.fresh_tokens = 0
            result.inconsistent = True
    if output is not None and reasoning:
        # Gemini's raw usage, for one, counts the thoughts beside the answer.
        if prompt is not None and total == prompt + output + reasoning:
            output += reasoning
        elif reasoning > output:
            result.reasoning_tokens = output
            result.inconsistent = True
    result.output_tokens = output


def _excludes_cache(provider: str | None, counts: dict[str, int], cached: int, scope: str) -> bool:
    """Whether the reported prompt tokens are without those of the cache."""
    prompt, total = counts["input_total"], counts.get("total")
    if total is not None and total == prompt + counts.get("output", 0) + cached:
        return True
    if provider not in _ADDITIVE_PROVIDERS:
        return False
    # AgentOps passes the raw usage on; the others add the cache, so less than the cache can only be raw.
    return cached > prompt or scope == "anthropic" or scope.startswith("agentops")


def _total_is_no_sum(counts: dict[str, int], cached: int) -> bool:
    total, prompt, output = counts.get("total"), counts.get("input_total"), counts.get("output")
    if total is None or prompt is None or output is None:
        return False
    return total - prompt - output not in (0, cached, counts.get("reasoning", 0))


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _number(value: object) -> float | None:
    """Return *value* as a finite float, or None."""
    if isinstance(value, (int, float)):
        try:
            number = float(value)
        except OverflowError:
            return None
        if math.isfinite(number):
            return number
    return None


def _read_text(found: _Found, slot: _Slot, value: object) -> bool:
    if type(value) is str and value:
        found.texts[slot.field] = value if len(value) <= MAX_NAME_CHARS else value[:MAX_NAME_CHARS]
        return True
    return False


def _read_kind(found: _Found, slot: _Slot, value: object) -> bool:
    kind = KIND_VALUES[slot.source.attribute].get(value[:40].lower()) if type(value) is str else None
    if kind is None:
        return False
    found.texts["kind"] = kind
    return True


def _read_provider(found: _Found, _slot: _Slot, value: object) -> bool:
    provider = provider_name(value) if type(value) is str else None
    if provider is None:
        return False
    found.texts["provider"] = provider
    return True


def _read_count(found: _Found, slot: _Slot, value: object) -> bool:
    # OTLP writers of other languages send counts as doubles.
    if type(value) is float and value.is_integer() and abs(value) <= MAX_COUNT:
        value = int(value)
    if type(value) is int and 0 <= value <= MAX_COUNT:
        found.counts[slot.field] = value
        return True
    return False


def _read_money(found: _Found, slot: _Slot, value: object) -> bool:
    if type(value) is str and 0 < len(value) <= _MAX_SMALL_JSON_CHARS and value[0] == "{":
        try:
            value = msgspec.json.decode(value, type=_MlflowCost).total_cost
        except _JSON_ERRORS:
            return False
    number = None if type(value) is bool else _number(value)
    if number is None or (number < 0 and slot.field != "reward_value"):
        return False
    found.money[slot.field] = number
    return True


def _read_reward_json(found: _Found, slot: _Slot, value: object) -> bool:
    if type(value) is not str or len(value) > _MAX_SMALL_JSON_CHARS or '"reward"' not in value:
        return False
    try:
        decoded = msgspec.json.decode(value, type=_RewardJson)
    except _JSON_ERRORS:
        return False
    if decoded.type != "reward":
        return False
    found.texts[slot.field] = "reward"
    number = _number(decoded.value)
    if number is not None:
        found.money["reward_value"] = number
    return True


def _read_output_json(found: _Found, slot: _Slot, value: object) -> bool:
    match = _RESPONSE_ID.match(value) if type(value) is str else None
    if match is None:
        return False
    found.texts[slot.field] = match[1]
    return True


def _slots() -> dict[str, _Slot]:
    readers: dict[str, Callable[[_Found, _Slot, object], bool]] = {
        "kind": _read_kind,
        "provider": _read_provider,
        "output_json": _read_output_json,
        "reward_json": _read_reward_json,
    }
    readers |= {field: _read_text for field in (*TEXT_FIELDS, "cost_currency") if field not in readers}
    readers |= dict.fromkeys(MONEY_FIELDS, _read_money)
    return {
        source.attribute: _Slot(rank, source.field, readers.get(source.field, _read_count), source)
        for rank, source in enumerate(TABLE)
    }


_SLOTS = _slots()
