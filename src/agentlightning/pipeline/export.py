"""Delivery of records to stores: one call per batch and store, one retry policy."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING

from agentlightning import settings
from agentlightning._internal.guard import failures
from agentlightning.errors import StoreError, StoreFullError, StoreUnavailableError
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning.pipeline.ledger import Ledger
    from agentlightning.types.protocol import SpanWriter

log = logging.getLogger("agentlightning.pipeline")

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_MOST_WAITING_SPANS = 3_000
"""Spans that wait here for a store to come back; what is more is lost, counted by the store's reason."""


class Exporter:
    """Hands batches to the writers of their attempts, in order; keeps what a writer cannot take now."""

    def __init__(self, route: Callable[[str], SpanWriter], ledger: Ledger) -> None:
        """Use the writer that *route* returns for an attempt id, and count in *ledger*."""
        self._route = route
        self._ledger = ledger
        self._backlog: deque[tuple[SpanWriter | None, WriteBatch]] = deque()
        self._pause_s = _FIRST_PAUSE_S
        self._not_before = 0.0

    def waiting(self) -> int:
        """Return how many batches a store could not take yet."""
        return len(self._backlog)

    def deliver(self, batch: WriteBatch, *, patient: bool = True) -> None:
        """Deliver what is left over, then *batch*.

        Args:
            batch: New records, in the order of hand-over; may be empty.
            patient: False to try a store again even if its pause is not over: somebody waits for a flush.
        """
        for attempts in self._by_writer(batch):
            self._backlog.append(attempts)
        if patient and time.monotonic() < self._not_before:
            self._shed()
            return
        while self._backlog:
            writer, waiting = self._backlog[0]
            if not self._write(writer, waiting):
                self._shed()
                return
            self._backlog.popleft()

    def give_up(self) -> None:
        """Count everything that still waits as lost; for the end of the process."""
        while self._backlog:
            _, batch = self._backlog.popleft()
            self._lose(batch, "store_error")

    def _by_writer(self, batch: WriteBatch) -> list[tuple[SpanWriter | None, WriteBatch]]:
        parts: dict[int, tuple[SpanWriter | None, WriteBatch]] = {}
        for name in ("starts", "spans", "ends"):
            for record in getattr(batch, name):
                writer = self._writer_of(record.attempt_id)
                part = parts.get(id(writer))
                if part is None:
                    part = parts[id(writer)] = (writer, WriteBatch(project=settings.get(settings.PROJECT)))
                getattr(part[1], name).append(record)
        return list(parts.values())

    def _writer_of(self, attempt_id: str) -> SpanWriter | None:
        """Return the writer of an attempt; None when its store cannot be opened, which is tried again."""
        try:
            return self._route(attempt_id)
        except StoreError as error:
            failures.note("store", error)
            return None

    def _write(self, writer: SpanWriter | None, batch: WriteBatch) -> bool:
        """Write *batch*; return False when it has to wait."""
        try:
            if writer is None:
                attempt = next(record.attempt_id for part in (batch.starts, batch.spans, batch.ends) for record in part)
                writer = self._route(attempt)
            result = writer.write_batch(batch)
        except StoreUnavailableError as error:
            failures.note("store", error)
            self._not_before = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            self._reason = "disk_full" if isinstance(error, StoreFullError) else "store_error"
            return False
        except Exception as error:  # noqa: BLE001 - a store of the user's may raise anything; the batch is counted as lost
            failures.note("store", error)
            self._lose(batch, "store_error")
            return True
        self._pause_s, self._not_before = _FIRST_PAUSE_S, 0.0
        self._ledger.count("stored", result.stored)
        self._ledger.count("duplicate", result.duplicate)
        return True

    _reason = "store_error"

    def _shed(self) -> None:
        """Lose the oldest batches beyond the bound; rollouts and their ends are kept, they cost nothing."""
        waiting = sum(len(batch.spans) for _, batch in self._backlog)
        for _, batch in self._backlog:
            if waiting <= _MOST_WAITING_SPANS:
                return
            waiting -= len(batch.spans)
            self._lose(batch, self._reason)
            batch.spans.clear()

    def _lose(self, batch: WriteBatch, reason: str) -> None:
        ended = sum(span.end_ns is not None for span in batch.spans)
        if ended:
            self._ledger.count(reason, ended)
            log.warning("%d spans are lost: %s", ended, reason)
