"""Spans that have started and not ended: noted once each, so that a killed program shows where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class OpenSpans:
    """The spans that started since the last tick. One dict operation at start and one at end; atomic under the GIL."""

    def __init__(self) -> None:
        """Begin with none."""
        self._recent: dict[int, ReadableSpan] = {}

    def started(self, span_id: int, span: ReadableSpan) -> None:
        """Note that a span started; on the user's thread."""
        self._recent[span_id] = span

    def ended(self, span_id: int) -> None:
        """Forget a span that ended; on the user's thread."""
        self._recent.pop(span_id, None)

    def __bool__(self) -> bool:
        """Tell whether a span started since the last tick."""
        return bool(self._recent)

    def take(self) -> list[ReadableSpan]:
        """Return the spans that are open now and were not returned before; for the worker."""
        if not self._recent:
            return []
        recent, self._recent = self._recent, {}
        # A thread may still hold the old dict for one operation: a span that is missed here was never promised.
        return [span for span in list(recent.values()) if span.end_time is None]
