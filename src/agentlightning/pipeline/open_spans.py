"""Spans that have started and not ended: noted once each, so that a killed program shows where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class OpenSpans:
    """The spans that started since the last tick. One dict operation at start and one at end; atomic under the GIL."""

    def __init__(self) -> None:
        """Begin with none."""
        self.recent: dict[int, ReadableSpan] = {}
        """By span id. The processor itself puts a span in and takes it out: a call would cost more than that."""

    def __bool__(self) -> bool:
        """Tell whether a span started since the last tick."""
        return bool(self.recent)

    def take(self) -> list[ReadableSpan]:
        """Return the spans that are open now and were not returned before; for the worker."""
        if not self.recent:
            return []
        recent, self.recent = self.recent, {}
        # A thread may still hold the old dict for one operation: a span that is missed here was never promised.
        return [span for span in list(recent.values()) if span.end_time is None]
