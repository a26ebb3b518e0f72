"""A store for the pipeline that keeps every batch in memory and fails or waits when it is told to."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from agentlightning.errors import StoreUnavailableError
from agentlightning.types.record import WriteResult

if TYPE_CHECKING:
    from agentlightning.types.record import SpanRecord, WriteBatch


class RecordingStore:
    """Take batches the way a store does, and show them.

    Thread-safe; it is a ``SpanWriter`` of ``agentlightning.types.protocol``. As in every store, an ended span that
    arrives a second time is counted as a duplicate, and of a batch that failed nothing is kept.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        failures: int = 0,
        error: Exception | None = None,
        gate: threading.Event | None = None,
        write_timeout_s: float = 30.0,
    ) -> None:
        """Make an empty store.

        Args:
            url: Where another process could open it, which is nowhere by default.
            failures: The first so many calls fail; -1 for all.
            error: What they raise, ``StoreUnavailableError`` by default.
            gate: Each call waits until it is set, to hold the pipeline at a known point.
            write_timeout_s: A call that waits longer for its gate fails.
        """
        self.url = url
        self.failures_left = failures
        self.close_count = 0
        self._error = error or StoreUnavailableError("the recording store was told to fail")
        self._gate = gate
        self._write_timeout_s = write_timeout_s
        self._changed = threading.Condition()
        self._batches: list[WriteBatch] = []
        self._ended: set[tuple[str, str]] = set()
        self._calls = 0

    def write_batch(self, batch: WriteBatch) -> WriteResult:
        """Keep *batch*.

        Raises:
            StoreUnavailableError: Or whatever error was asked for: nothing of the batch was kept.
        """
        with self._changed:
            self._calls += 1
            self._changed.notify_all()
        if self._gate is not None and not self._gate.wait(self._write_timeout_s):
            msg = "the gate of the recording store stayed closed"
            raise StoreUnavailableError(msg)
        with self._changed:
            if self.failures_left:
                self.failures_left -= 1
                raise self._error
            self._batches.append(batch)
            result = self._count(batch)
            self._changed.notify_all()
            return result

    def _count(self, batch: WriteBatch) -> WriteResult:
        ended = [(span.trace_id, span.span_id) for span in batch.spans if span.end_ns is not None]
        new = set(ended) - self._ended
        self._ended |= new
        return WriteResult(stored=len(new), duplicate=len(ended) - len(new))

    def after_fork(self) -> None:
        """Take new locks: the parent's may be held by a thread that the child does not have."""
        self._changed = threading.Condition()

    def close(self) -> None:
        """Count the call; what was recorded stays readable."""
        with self._changed:
            self.close_count += 1

    @property
    def calls(self) -> int:
        """How often ``write_batch`` was called, failures and calls that still wait included."""
        with self._changed:
            return self._calls

    @property
    def batches(self) -> list[WriteBatch]:
        """Every batch that was kept, in order."""
        with self._changed:
            return list(self._batches)

    @property
    def spans(self) -> list[SpanRecord]:
        """Every span record of every batch in order of arrival, open notes and duplicates included."""
        return [span for batch in self.batches for span in batch.spans]

    def wait_for_spans(self, count: int, timeout_s: float = 5.0) -> bool:
        """Wait until *count* different spans have ended in this store; False after *timeout_s* seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._ended) >= count, timeout_s)

    def wait_for_calls(self, count: int, timeout_s: float = 5.0) -> bool:
        """Wait until ``write_batch`` was called *count* times; False after *timeout_s* seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._calls >= count, timeout_s)
