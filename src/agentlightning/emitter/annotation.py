"""What is said about another span, also long after that one has ended."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agentlightning._internal.guard import guard
from agentlightning.emitter.attribute import event_attributes
from agentlightning.emitter.target import link_to
from agentlightning.emitter.utils import emit_span, is_enabled
from agentlightning.semconv import SpanNames

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.trace import ReadableSpan

    from agentlightning.emitter.target import SpanTarget

_NAME = SpanNames.ANNOTATION.value

log = logging.getLogger(__name__)


def emit_annotation(attributes: Mapping[str, object], *, target: SpanTarget | None = None) -> ReadableSpan | None:
    """Record *attributes* as a span ``agentlightning.annotation`` about *target*, and return that span.

    Args:
        attributes: Text, numbers, truth values and lists of these as they are; other values as JSON text.
        target: The span that is meant, which may have ended: a span of OpenTelemetry, its context, a span of a store,
            or a receipt. The annotation links to it, lies under it, and belongs to its rollout. None: the current span.

    Returns None where nothing is recorded. What is no mapping, or no span, is logged and skipped. Never raises.
    Thread-safe.
    """
    with guard("emitter.annotation"):
        if not is_enabled():
            return None
        try:
            link, more = (None, {}) if target is None else link_to(target)
            made = event_attributes(dict(attributes))
        except (TypeError, ValueError, AttributeError) as error:
            log.error("emit_annotation: %s; nothing was recorded", error)  # noqa: TRY400 - the program's mistake
            return None
        return emit_span(_NAME, {**made, **more}, None, link)
    return None
