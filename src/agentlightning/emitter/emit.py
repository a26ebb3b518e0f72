"""``emit_event``: a typed event as a span, with a receipt."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agentlightning import semconv
from agentlightning._internal.guard import guard
from agentlightning.emitter.attribute import event_attributes
from agentlightning.emitter.event import CustomEvent, event_factory
from agentlightning.emitter.target import link_to
from agentlightning.emitter.utils import emit_span, is_enabled
from agentlightning.pipeline.receipt import DROPPED, Outcome, Receipt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning.emitter.event import EventLike
    from agentlightning.emitter.target import SpanTarget
    from agentlightning.emitter.utils import EmittedValue

log = logging.getLogger(__name__)

_GUARD = guard("emitter.event")
_DISABLED, _INVALID, _FAILED = Outcome(DROPPED, "disabled"), Outcome(DROPPED, "invalid"), Outcome(DROPPED, "failed")


def emit_event(
    event: EventLike | str,
    data: Mapping[str, object] | None = None,
    *,
    keep: bool | None = None,
    target: SpanTarget | None = None,
) -> Receipt:
    """Record *event* as a span under the current one, and return a receipt of it.

    Args:
        event: An event, any object that has what an event has, or the name of a registered type.
        data: What the event is made of; only where *event* is a name.
        keep: False leaves it out (counted ``filtered``), True keeps it whatever the sample rate is; None for what the
            event says. Rewards and exceptions are always kept.
        target: The span that the event is about, which may have ended; None for the current one.

    An event that does not validate, of a type that is not registered, or about no span is not recorded: it is logged,
    counted ``rejected``, and its receipt says ``invalid``. Never raises. Thread-safe; works without any tracer.
    """
    receipt = Receipt()
    with _GUARD:
        if is_enabled():
            _emit(event, data, {} if keep is None else {semconv.KEEP: keep}, target, receipt)
        else:
            receipt.settle(_DISABLED)
        return receipt
    receipt.settle(_FAILED)
    return receipt


def _emit(
    event: EventLike | str,
    data: Mapping[str, object] | None,
    marks: dict[str, EmittedValue],
    target: SpanTarget | None,
    receipt: Receipt,
) -> None:
    try:
        made = _made(event, data)
        valid = made.validate()
        if not isinstance(made, CustomEvent):  # an object of the program's that has what an event has
            made = CustomEvent(made.event_type, made.attributes)
            valid = valid and made.validate()
        link, more = (None, None) if target is None else link_to(target)
    except Exception as error:  # noqa: BLE001 - the program's code: a property, a validate; what is no event at all
        _reject(receipt, type(error).__name__, event)
        return
    if not valid:
        _reject(receipt, "not valid", event)
        return
    attributes = made.span_attributes()
    if attributes is None:
        attributes = _custom_attributes(made)
    if made.keep is not None:
        attributes[semconv.KEEP] = made.keep
    if marks or more:
        attributes.update({**marks, **(more or {})})
    emit_span(made.span_name(), attributes, made.span_status(), link, receipt)


def _made(event: EventLike | str, data: Mapping[str, object] | None) -> EventLike:
    """Return the event that is meant.

    Raises:
        ValueError: There is none, or *data* come with an event that has its own.
    """
    if isinstance(event, str):
        return event_factory.create_event(event, data)
    if data is not None:
        msg = "data go with the name of a type, not with an event"
        raise ValueError(msg)
    return event


def _custom_attributes(event: CustomEvent) -> dict[str, EmittedValue]:
    attributes = event_attributes(event.attributes)
    attributes[semconv.EVENT_TYPE] = event.event_type
    if event.version != 1:
        attributes[semconv.EVENT_VERSION] = event.version
    return attributes


def _reject(receipt: Receipt, problem: str, event: object) -> None:
    """Count an event that is not recorded as produced and rejected, and say so without its content."""
    from agentlightning.pipeline.process import get_pipeline  # noqa: PLC0415 - loads OpenTelemetry

    receipt.settle(_INVALID)
    get_pipeline().queue.refuse("rejected")
    name = type(event).__qualname__ if not isinstance(event, str) else "of an unknown type"
    if isinstance(event, str) and event in event_factory.get_supported_types():
        name = event
    log.error("an event %s was not recorded: %s", name, problem)
