"""What an adapter is: a pure reading of spans as something else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan  # noqa: F401 - named in a base class

    from agentlightning.types.tracer import Span  # noqa: F401 - named in a base class

T_from = TypeVar("T_from")
T_to = TypeVar("T_to")


class Adapter(Generic[T_from, T_to]):
    """Turns one kind of data into another. Keeps no state between calls, so one may serve many threads."""

    def adapt(self, source: T_from) -> T_to:
        """Return *source* in the other form; *source* stays as it is."""
        raise NotImplementedError


class OtelTraceAdapter(Adapter["list[ReadableSpan]", T_to], Generic[T_to]):
    """Reads spans of the OpenTelemetry SDK."""


class TraceAdapter(Adapter["list[Span]", T_to], Generic[T_to]):
    """Reads the spans of one attempt, as ``query_spans`` returns them."""
