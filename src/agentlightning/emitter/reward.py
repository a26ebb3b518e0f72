"""Rewards as spans, written and read.

A reward is a span ``agentlightning.reward`` with the attribute ``reward``, or, as the AgentOps SDK writes it, any
span whose attribute ``agentops.task.output`` or ``agentops.entity.output`` is the JSON text of a ``RewardSpanData``.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar, cast

from agentlightning import semconv
from agentlightning._internal.failing import ask
from agentlightning._internal.guard import guard
from agentlightning.emitter.agentops_reward import call_async, call_sync, sdk_operation
from agentlightning.emitter.attribute import event_attributes
from agentlightning.emitter.event import CustomEvent, event_factory
from agentlightning.emitter.target import link_to
from agentlightning.emitter.utils import CurrentSpan, EmittedValue, emit_span, is_enabled, note_error, start_span
from agentlightning.semconv import SpanNames

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from types import TracebackType

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Link, Span
    from typing_extensions import Self

    from agentlightning.emitter.target import SpanTarget
    from agentlightning.types.tracer import SpanLike

_NAME = SpanNames.REWARD.value

log = logging.getLogger(__name__)

FnType = TypeVar("FnType", bound="Callable[..., object]")

_AGENTOPS_KEYS = ("agentops.task.output", "agentops.entity.output")


class RewardSpanData(TypedDict):
    """A reward as the AgentOps SDK puts it into the output of a span."""

    type: Literal["reward"]
    value: float | None


def emit_reward(
    reward: float | Mapping[str, float],
    *,
    primary_key: str | None = None,
    attributes: Mapping[str, object] | None = None,
    target: SpanTarget | None = None,
) -> ReadableSpan:
    """Record *reward* as a span ``agentlightning.reward`` under the current span, and return that span.

    Any number will do (a bool, a numpy scalar, a tensor without dimensions); it is stored as a float. Infinities are
    numbers; NaN is none, because one NaN spoils a whole training batch. Where nothing is recorded, the span that is
    returned exists only for the caller. Thread-safe; works without any tracer.

    Args:
        reward: A number, or several by name.
        primary_key: Which of several is the reward for whoever wants one number; needed when there are several.
        attributes: What else there is to say, such as who judged.
        target: The span that is judged, which may have ended long ago: the reward links to it, lies under it and
            belongs to its rollout. None: the current span.

    Raises:
        ValueError: *reward* is not a number or has no such primary key, or *target* is no recorded span.
    """
    if type(reward) is float and primary_key is attributes is target is None and not math.isnan(reward):
        return emit_span(_NAME, {semconv.REWARD: reward}) or _unrecorded({semconv.REWARD: reward})
    values = _values(reward, primary_key)
    made = dict(values)
    link = None
    if attributes is not None or target is not None:
        link = _describe_more(made, attributes, target)
    return emit_span(_NAME, made, None, link) or _unrecorded(values)


def _values(reward: object, primary_key: str | None) -> dict[str, EmittedValue]:
    """Return the attributes of one reward or of several.

    Raises:
        ValueError: As ``emit_reward``.
    """
    value = _number(reward)
    if value is not None and primary_key is None:
        return {semconv.REWARD: value}
    if value is not None or not isinstance(reward, Mapping):
        msg = (
            f"a reward is a number, not {_describe(reward)}" if value is None else "a single reward has no primary_key"
        )
        raise ValueError(msg)
    try:
        named = [(key, _number(item)) for key, item in cast("Mapping[object, object]", reward).items()]
    except Exception as error:
        msg = f"the rewards cannot be read: {type(error).__name__}"
        raise ValueError(msg) from error
    if primary_key is None and len(named) == 1:
        primary_key = cast("str", named[0][0])
    named.sort(key=lambda item: item[0] != primary_key)
    if not named or named[0][0] != primary_key:
        msg = "several rewards need a primary_key that is one of their names"
        raise ValueError(msg)
    result: dict[str, EmittedValue] = {}
    for place, (name, number) in enumerate(named):
        if number is None or not isinstance(name, str):
            msg = f"the reward {str(name)[:50]!r} is not a number with a name"
            raise ValueError(msg)
        result[f"{semconv.REWARD_PREFIX}{place}.name"] = name
        result[f"{semconv.REWARD_PREFIX}{place}.value"] = number
    result[semconv.REWARD] = result[f"{semconv.REWARD_PREFIX}0.value"]
    return result


def _describe_more(
    made: dict[str, EmittedValue], attributes: Mapping[str, object] | None, target: SpanTarget | None
) -> Link | None:
    """Add *attributes*, which never replace the reward itself, and where *target* belongs; return the link to it."""
    link = None
    if target is not None and is_enabled():
        link, where = link_to(target)
        made.update(where)
    with guard("emitter.reward"):
        more = event_attributes(attributes) if attributes else {}
        made.update({key: value for key, value in more.items() if key not in made})
    return link


def reward(fn: FnType) -> FnType:
    """Decorate a function, plain or async, that computes a reward: its result is recorded, and returned as it is.

    The span ``agentlightning.reward`` is open while the function runs, so that what a judge calls lies under it and
    is told apart from what the agent calls. The result may be a number or a ``RewardSpanData``; anything else gives
    no reward and, once for each function, a warning in the log. Raises nothing of its own.

    Where the client of the AgentOps SDK is initialised the span is the SDK's, of its operation decorator.
    """
    warned: list[bool] = []

    def read(result: object) -> float | None:
        """Return the reward in *result*; None where there is none, which is said once for each function."""
        with guard("emitter.reward"):
            value = _result_value(result)
            if value is None and not warned:
                warned.append(True)
                log.warning("%s returned %s, which is no reward", _name(fn), _describe(result))
            return value
        return None

    def note(span: _OpenReward, result: object) -> None:
        """Write the reward in *result* on its span, if there is one."""
        value = read(result)
        if value is not None:
            span.set(value)

    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None)):  # noqa: B004
        call = cast("Callable[..., Awaitable[object]]", fn)

        @functools.wraps(fn)
        async def run_async(*args: object, **kwargs: object) -> object:
            """Await the function with a reward span around it; its result and errors are its own."""
            operation = sdk_operation()
            if operation is not None:
                return await call_async(operation, lambda: call(*args, **kwargs), read)
            with _OpenReward() as span:
                result = await call(*args, **kwargs)
                note(span, result)
                return result

        return cast("FnType", run_async)

    @functools.wraps(fn)
    def run(*args: object, **kwargs: object) -> object:
        """Call the function with a reward span around it; its result and errors are its own."""
        operation = sdk_operation()
        if operation is not None:
            return call_sync(operation, lambda: fn(*args, **kwargs), read)
        with _OpenReward() as span:
            result = fn(*args, **kwargs)
            note(span, result)
            return result

    return cast("FnType", run)


class _OpenReward:
    """A reward span around a function of the user's; errors of telemetry stay inside, the user's pass."""

    def __init__(self) -> None:
        self._span: Span | None = None
        self._block = CurrentSpan(None)

    def __enter__(self) -> Self:
        with guard("emitter.reward"):
            if is_enabled():
                self._span = start_span(_NAME)
                self._block = CurrentSpan(self._span)
        self._block.__enter__()
        return self

    def set(self, value: float) -> None:
        """Write the reward on the span; nothing happens without a span."""
        if self._span is not None:
            self._span.set_attribute(semconv.REWARD, value)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self._block.__exit__(exc_type, exc, traceback)
        if self._span is None:
            return
        if isinstance(exc, Exception):
            with guard("emitter.reward"):
                note_error(self._span, exc)
        with guard("emitter.reward"):
            self._span.end()


def get_reward_value(span: SpanLike, name: str | None = None) -> float | None:
    """Return the reward that *span* holds, or None; never raises for what an attribute holds.

    Args:
        span: Any span; of several named rewards the primary one is its reward.
        name: Return the reward of this name instead.
    """
    attributes = span.attributes
    if not attributes:
        return None
    if name is not None:
        return get_reward_values(span).get(name)
    for key in _AGENTOPS_KEYS:
        value = _agentops_value(attributes.get(key))
        if value is not None:
            return value
    if span.name == SpanNames.REWARD.value:
        value = _number(attributes.get(semconv.REWARD))
        if value is not None:
            return value
    return _number(attributes.get(f"{semconv.REWARD_PREFIX}0.value"))


def get_reward_values(span: SpanLike) -> dict[str, float]:
    """Return the named rewards that *span* holds, the primary one first; empty for a single reward without a name."""
    attributes = span.attributes or {}
    found: dict[str, float] = {}
    for place in range(len(attributes)):
        name = attributes.get(f"{semconv.REWARD_PREFIX}{place}.name")
        value = _number(attributes.get(f"{semconv.REWARD_PREFIX}{place}.value"))
        if not isinstance(name, str):
            break
        if value is not None:
            found[name] = value
    return found


def get_target(span: SpanLike) -> tuple[str, str] | None:
    """Return trace and span id, in hexadecimal, of the span that *span* is about; None where it is about none."""
    span_id = (span.attributes or {}).get(semconv.TARGET)
    if not isinstance(span_id, str):
        return None
    for link in span.links or ():
        context = link.context
        trace_id, linked = context.trace_id, context.span_id
        pair = (
            f"{trace_id:032x}" if isinstance(trace_id, int) else trace_id,
            f"{linked:016x}" if isinstance(linked, int) else linked,
        )
        if pair[1] == span_id:
            return pair
    return None


def is_reward_span(span: SpanLike) -> bool:
    """Tell whether *span* holds a reward."""
    return get_reward_value(span) is not None


def find_reward_spans(spans: Sequence[SpanLike]) -> list[SpanLike]:
    """Return those of *spans* that hold a reward, in their order."""
    return [span for span in spans if is_reward_span(span)]


def find_final_reward(spans: Sequence[SpanLike]) -> float | None:
    """Return the last reward among *spans*, or None when there is none."""
    values: Iterable[float | None] = map(get_reward_value, reversed(spans))
    return next((value for value in values if value is not None), None)


def _agentops_value(output: object) -> float | None:
    # Outputs may be long; a reward always has this word.
    if not isinstance(output, str) or '"reward"' not in output:
        return None
    try:
        data: object = json.loads(output)
    except (ValueError, RecursionError):
        return None
    return _data_value(data)


def _data_value(data: object) -> float | None:
    if not isinstance(data, dict):
        return None
    fields = cast("Mapping[str, object]", data)
    return _number(fields.get("value")) if fields.get("type") == "reward" else None


def _result_value(result: object) -> float | None:
    return _number(result) if hasattr(type(result), "__float__") else _data_value(result)


def _number(value: object) -> float | None:
    """Return *value* as a float, or None where it is no single number."""
    if not hasattr(type(value), "__float__"):
        return None
    number = ask(lambda: _single(value), lambda _: None)  # an int beyond every float is none either
    return None if number is None or math.isnan(number) else number


def _single(value: object) -> float | None:
    if getattr(value, "shape", ()):
        return None  # an array, even of one element: numpy warns before it makes that a number
    return float(cast("float", value))


def _describe(value: object) -> str:
    return "NaN" if isinstance(value, float) and math.isnan(value) else type(value).__qualname__


def _name(fn: object) -> str:
    return str(getattr(fn, "__qualname__", type(fn).__qualname__))


def _unrecorded(attributes: dict[str, EmittedValue]) -> ReadableSpan:
    """Return a reward span that only the caller ever sees."""
    from opentelemetry import trace  # noqa: PLC0415 - importing the emitters loads no OpenTelemetry
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415

    from agentlightning._internal.clock import now_ns  # noqa: PLC0415
    from agentlightning._internal.ids import new_span_id, new_trace_id  # noqa: PLC0415

    parent = trace.get_current_span().get_span_context()
    now = now_ns()
    return ReadableSpan(
        SpanNames.REWARD.value,
        context=trace.SpanContext(parent.trace_id or new_trace_id(), new_span_id(), is_remote=False),
        parent=parent if parent.is_valid else None,
        resource=Resource.get_empty(),
        attributes=attributes,
        start_time=now,
        end_time=now,
    )


class RewardEvent(CustomEvent):
    """A reward as an event, or several by name."""

    event_type = "reward"
    emit_reward = staticmethod(emit_reward)
    get_reward_value = staticmethod(get_reward_value)
    find_reward_spans = staticmethod(find_reward_spans)

    def __init__(self, reward: float | Mapping[str, float], *, primary_key: str | None = None) -> None:
        """Make it of *reward*, which is what ``emit_reward`` takes.

        Raises:
            ValueError: *reward* is not a number, or has no such primary key.
        """
        super().__init__(attributes=_values(reward, primary_key))

    @property
    def reward(self) -> float:
        """The reward; of several the primary one."""
        return self.attributes[semconv.REWARD]

    @property
    def data(self) -> RewardSpanData:
        """The reward as the AgentOps SDK writes it."""
        return {"type": "reward", "value": self.reward}

    def validate(self) -> bool:
        """Tell whether the reward is a number."""
        return _number(self.attributes.get(semconv.REWARD)) is not None

    def span_name(self) -> str:
        """Return ``agentlightning.reward``."""
        return _NAME

    def span_attributes(self) -> dict[str, EmittedValue]:
        """Return the reward, and the named ones."""
        return dict(self.attributes)


def _make(data: dict[str, object]) -> RewardEvent:
    reward, primary_key = cast("float", data[semconv.REWARD]), cast("str | None", data.pop("primary_key", None))
    event = RewardEvent(reward, primary_key=primary_key)
    event.attributes.update({key: value for key, value in data.items() if key != semconv.REWARD})
    return event


event_factory.add_builtin("reward", _make)
