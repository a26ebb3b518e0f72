"""When a span passed each stage of the pipeline, kept on the span itself while the log is at DEBUG.

``agl doctor --follow`` shows it. At any other level nothing is noted, and a stage costs one check for a whole batch.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentlightning import semconv, settings
from agentlightning.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentlightning.types.record import SpanRecord

QUEUED, TAKEN, PREPARED, SPILLED, DELIVERED = range(5)
"""Places in ``semconv.STAGES``: the place in the queue's order, then nanoseconds since 1970, 0 for a stage that was not
passed. Taken by the worker; converted, redacted and limited; brought to the disk; given to the store."""


def is_noted() -> bool:
    """Tell whether times are noted: ``AGL_LOG_LEVEL`` is DEBUG. Never raises: spans are on their way here."""
    try:
        return settings.get(settings.LOG_LEVEL) == "DEBUG"
    except SettingError:
        return False


def now_ns() -> int:
    """Return the time in nanoseconds since 1970 where times are noted, else 0."""
    return time.time_ns() if is_noted() else 0


def begin(record: SpanRecord, counter: int, taken_ns: int) -> None:
    """Note on a span that was just prepared when that was, and when it was taken from the queue.

    Nothing is noted with *taken_ns* 0, and on an open note (*counter* 0).
    """
    if taken_ns and counter:
        record.attributes[semconv.STAGES] = [counter, taken_ns, time.time_ns(), 0, 0]


def note(spans: Iterable[SpanRecord], stage: int) -> None:
    """Note that *spans* are about to pass *stage*; only those that ``begin`` has seen."""
    if not is_noted():
        return
    now = time.time_ns()
    for span in spans:
        times = span.attributes.get(semconv.STAGES)
        if isinstance(times, list):
            times[stage] = now
