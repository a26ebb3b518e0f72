"""Which spans are kept: by trace id, by rules for single spans, and by marks on a span.

Decisions follow OpenTelemetry's consistent probability sampling: the last 56 bits of a trace id are its random number,
a trace is kept when that number is not below a threshold, and the threshold of the trace travels in ``tracestate``
(``ot=th:...``) to children in this and in other processes. So a lower rate keeps a part of what a higher one keeps, and
everybody decides the same. https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/

Decided on the thread of the program, so this is all plain arithmetic. Thread-safe.
"""

from __future__ import annotations

import math
import re
from fnmatch import translate
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.trace import SpanContext, TraceState

from agentlightning import semconv, settings
from agentlightning._internal.guard import failures
from agentlightning.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning._internal.context import RunningRollout

ALWAYS = frozenset({semconv.SpanNames.REWARD.value, semconv.SpanNames.EXCEPTION.value})
"""Names of spans that are never sampled away and are the last to be dropped."""

_RANGE = 1 << 56
_NEVER = _RANGE - 1
"""Threshold of the rate 0; the specification has no larger one."""
_LOWEST_FACTOR = 1 / 64


class Verdict(NamedTuple):
    """What becomes of a span that starts."""

    lost: str
    """Empty for a span that is kept, else the reason for the ledger: ``sampled`` or ``filtered``."""
    probability: float
    """With which a span like this one is kept."""
    state: TraceState | None
    """For its children."""


class Rule(NamedTuple):
    """What holds for spans of some name and with some attributes."""

    name: re.Pattern[str] | None
    attributes: tuple[tuple[str, re.Pattern[str]], ...]
    rate: float

    def matches(self, name: str, attributes: Mapping[str, object] | None) -> bool:
        """Tell whether a span called *name* is meant."""
        if self.name is not None and not self.name.match(name):
            return False
        found = attributes or {}
        return all(key in found and pattern.match(str(found[key])) for key, pattern in self.attributes)


class TailRules(NamedTuple):
    """What makes the whole of a trace worth keeping."""

    errors: bool
    rewards: bool
    slow_ns: float
    cost_usd: float


class Policy:
    """The settings of sampling, in the form that is fast to apply; never changes."""

    def __init__(self, rate: float, rules: tuple[Rule, ...], tail: TailRules | None) -> None:
        """Sample at *rate*, single spans by *rules*; *tail* for what waits until its trace has ended."""
        self.rate = rate
        self.rules = rules
        self.tail = tail
        self.is_plain = rate >= 1 and not rules and not _lowering.is_on
        """Every span is kept unless it is marked, or its trace was decided elsewhere."""
        self.late_rules = any(rule.attributes for rule in rules)
        """A rule looks at attributes, which a span may get after its start."""

    def decide(
        self,
        name: str,
        attributes: Mapping[str, object] | None,
        trace_id: int,
        parent: SpanContext,
        rollout: RunningRollout | None,
        *,
        stateful: bool = True,
    ) -> Verdict:
        """Say what becomes of a span that starts under *parent*, which may be invalid, in *rollout*.

        *stateful*: local parents carry the decision of their trace, or were kept for sure.
        """
        state = parent.trace_state
        threshold = threshold_of(state) if parent.is_valid else None
        if threshold is None and stateful and parent.is_valid and not parent.is_remote:
            threshold = 0
        if threshold is None:
            rate = self.rate if rollout is None or rollout.sample_rate is None else rollout.sample_rate
            if rollout is None or rollout.sample_rate is None:
                rate *= _lowering.factor
            is_first = not parent.is_valid or parent.is_remote
            rule = self._rule(name, attributes)
            if rule is not None and is_first:
                rate = rule.rate
            threshold = threshold_for(rate)
            if threshold:
                state = _with_threshold(state, threshold)
        else:
            rule = self._rule(name, attributes)
        if name in ALWAYS:
            return Verdict("", 1.0, state)
        mark = attributes.get(semconv.KEEP) if attributes else None
        if mark is not None:
            return Verdict("" if mark else "filtered", 1.0, state)
        if rule is not None:
            if not rule.rate:
                return Verdict("filtered", 0.0, state)
            threshold = threshold_for(rule.rate)
        lost = "" if trace_id % _RANGE >= threshold else "sampled"
        return Verdict(lost, probability_of(threshold), state)

    def refused(self, name: str, attributes: Mapping[str, object], trace_id: int) -> tuple[str, float]:
        """Look again at a span that has ended: the reason why a rule for attributes refuses it, or empty; and its rate.

        For attributes that it got after its start.
        """
        if name in ALWAYS or attributes.get(semconv.KEEP) is not None:
            return "", 1.0
        rule = self._rule(name, attributes)
        if rule is None or not rule.attributes:
            return "", 1.0
        if not rule.rate:
            return "filtered", 0.0
        return ("" if trace_id % _RANGE >= threshold_for(rule.rate) else "sampled"), rule.rate

    def _rule(self, name: str, attributes: Mapping[str, object] | None) -> Rule | None:
        return next((rule for rule in self.rules if rule.matches(name, attributes)), None)


class _Lowering:
    """How far the rate is lowered while processors are short; only where that was asked for."""

    def __init__(self) -> None:
        self.factor = 1.0

    @property
    def is_on(self) -> bool:
        """Whether fewer spans than usual are kept."""
        return self.factor < 1.0


_lowering = _Lowering()


class _Quick:
    """What the thread of the program looks at for every span: whether there is anything to look at more closely."""

    __slots__ = ("changes", "is_limited", "is_plain")

    def __init__(self) -> None:
        self.changes = 0
        self.forget()
        settings.on_change(self.forget)

    def forget(self) -> None:
        """A setting may have changed: nothing is known."""
        self.changes += 1
        self.is_plain = False
        self.is_limited = True

    def look(self) -> Policy:
        """Return the policy that holds now, and remember whether it has anything to decide."""
        found = policy()
        self.is_plain = found.is_plain
        self.is_limited = settings.get(settings.RATE_LIMIT) > 0
        if policy() is not found:  # it changed meanwhile
            self.forget()
        return found


quick = _Quick()
"""Of this process."""


def lower(*, busy: bool) -> float:
    """Halve the rate of what is no rollout of a trainer, or double it again up to what is set; return the factor."""
    factor = max(_LOWEST_FACTOR, _lowering.factor / 2) if busy else min(1.0, _lowering.factor * 2)
    if factor != _lowering.factor:
        _lowering.factor = factor
        settings.renew()
    return factor


def lowered() -> float:
    """Return the factor by which ``sample_rate`` is lowered now, 1.0 for not at all."""
    return _lowering.factor


def policy() -> Policy:
    """Return the policy that holds now; never raises: where the settings hold nonsense, everything is kept."""
    return settings.derive("sampling", _make)


def _make() -> Policy:
    try:
        return _from_settings()
    except SettingError as error:
        failures.note("sampling", error)
        return Policy(1.0, (), None)


def _from_settings() -> Policy:
    tail = TailRules(
        settings.get(settings.TAIL_ERRORS),
        settings.get(settings.TAIL_REWARDS),
        settings.get(settings.TAIL_SLOW_S) * 1e9,
        settings.get(settings.TAIL_COST_USD),
    )
    rules = parse_rules(settings.get(settings.SAMPLE_RULES))
    return Policy(settings.get(settings.SAMPLE_RATE), rules, tail if any(tail) else None)


def rate_of_rollout(*, given: bool) -> float:
    """Return the rate of a rollout that begins now, which later changes do not touch.

    *given*: somebody else made it, a trainer for example; lowering the rate on its own does not touch it.
    """
    return policy().rate * (1.0 if given else _lowering.factor)


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Read rules such as ``name*=0.1; heartbeat=drop; plan @tool.name:search*=keep``.

    Raises:
        SettingError: A rule without a rate from 0 to 1, ``keep`` or ``drop``; the message names it.
    """
    return tuple(_parse_rule(part.strip()) for part in re.split(r"[;\n]", text) if part.strip())


def _parse_rule(text: str) -> Rule:
    what, _, rate_text = text.rpartition("=")
    words = {"keep": 1.0, "drop": 0.0}
    try:
        rate = words[rate_text.strip()] if rate_text.strip() in words else float(rate_text)
    except ValueError:
        rate = math.nan
    if not (what.strip() and 0 <= rate <= 1):
        msg = f"AGL_SAMPLE_RULES has {text!r}; write NAME=RATE, NAME=keep, NAME=drop or @ATTRIBUTE:VALUE=RATE"
        raise SettingError(msg)
    name: re.Pattern[str] | None = None
    attributes: list[tuple[str, re.Pattern[str]]] = []
    for part in what.split():
        key, _, value = part.removeprefix("@").partition(":")
        if part.startswith("@"):
            attributes.append((key, re.compile(translate(value or "*"))))
        else:
            name = re.compile(translate(part))
    return Rule(name, tuple(attributes), rate)


@lru_cache(maxsize=256)
def threshold_for(rate: float) -> int:
    """Return the smallest random number of a trace that is kept at *rate*."""
    return min(_NEVER, round((1 - rate) * _RANGE))


@lru_cache(maxsize=256)
def probability_of(threshold: int) -> float:
    """Return the rate that *threshold* stands for; 0.1 comes back as 0.1."""
    return float(f"{1 - threshold / _RANGE:.12g}") or 1 / _RANGE


def threshold_of(state: TraceState) -> int | None:
    """Return the threshold of the trace that *state* belongs to, None where nobody sampled it."""
    return _read(state["ot"]) if state and "ot" in state else None


@lru_cache(maxsize=256)
def _read(member: str) -> int | None:
    match = re.search(r"(?:^|;)th:([0-9a-f]{1,14})(?:;|$)", member)
    return int(match[1].ljust(14, "0"), 16) if match else None


def _with_threshold(state: TraceState, threshold: int) -> TraceState:
    if not state:
        return _fresh_state(threshold)
    kept = [part for part in (state.get("ot") or "").split(";") if part and not part.startswith("th:")]
    member = ";".join([_member(threshold), *kept])
    return state.update("ot", member) if "ot" in state else state.add("ot", member)


@lru_cache(maxsize=256)
def _fresh_state(threshold: int) -> TraceState:
    return TraceState([("ot", _member(threshold))])


def _member(threshold: int) -> str:
    return "th:" + (f"{threshold:014x}".rstrip("0") or "0")
