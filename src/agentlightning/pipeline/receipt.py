"""What became of one span, for whoever asks: stored, spilled to the disk, or dropped and why.

Only spans that somebody holds a receipt of are looked up, in a table of weak references: a receipt that is thrown away
leaves the table at once, and while the table is empty every place that settles spans does one check and no more.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.sdk.trace import ReadableSpan

    from agentlightning.types.record import SpanRecord, WriteBatch

STORED, SPILLED, DROPPED, WAITING = "stored", "spilled", "dropped", "waiting"


class Outcome(NamedTuple):
    """What is known about a span now."""

    state: str
    """``stored``: committed in its store. ``spilled``: safe on the disk, on its way to the store. ``dropped``: lost.
    ``waiting``: none of these yet."""
    reason: str = ""
    """Why it was dropped: a reason of the loss ledger (``queue_full``, ``sampled``, ``filtered``, ``too_large``, ...),
    ``disabled`` (``AGL_ENABLED=0``), ``invalid`` (the event is not what its type says), ``failed`` (an error of ours,
    counted), or ``not_recorded`` (a provider that records nothing). With ``waiting``: ``other_process``, when a fork
    lies between."""


_WAITING = Outcome(WAITING)
_ELSEWHERE = Outcome(WAITING, "other_process")


class Receipt:
    """Of one span. Thread-safe; costs nothing more when nobody asks."""

    __slots__ = ("__weakref__", "_key", "_outcome", "_pid", "span")

    def __init__(self) -> None:
        """Make one that knows nothing yet."""
        self.span: ReadableSpan | None = None
        """The span that was written, None where nothing was recorded."""
        self._outcome = _WAITING
        self._pid = os.getpid()
        self._key = 0

    def __del__(self) -> None:
        """Nobody asks any more."""
        if self._key:
            _receipts.pop(self._key, None)

    @property
    def outcome(self) -> Outcome:
        """What is known now; ``spilled`` may become ``stored``, ``stored`` and ``dropped`` never change."""
        if self._outcome is _WAITING and self._pid != os.getpid():
            return _ELSEWHERE  # the parent delivers what was handed over before the fork, and the child cannot see it
        return self._outcome

    def wait(self, timeout: float | None = None) -> Outcome:
        """Return what became of the span, after at most *timeout* seconds (None: as long as it takes).

        Returns as soon as the span is stored, spilled or dropped, else with state ``waiting``. The worker itself, and a
        child of the process that made the span, get what is known at once.
        """
        if self.outcome is not _WAITING or not _nudge():
            return self.outcome
        deadline = None if timeout is None else time.monotonic() + timeout
        with _table.changed:
            while self.outcome is _WAITING:
                left = _LONGEST_S if deadline is None else min(_LONGEST_S, deadline - time.monotonic())
                if left <= 0:
                    break
                _table.changed.wait(left)
        return self.outcome

    def settle(self, outcome: Outcome) -> None:
        """Note what became of the span; called by the pipeline, and by the emitters where there is no span."""
        if self._outcome.state in {WAITING, SPILLED}:
            self._outcome = outcome

    def expect(self, span_id: int) -> None:
        """Be told what becomes of the span with *span_id*; called before the span is handed over."""
        self._key = span_id
        _receipts[span_id] = ref(self)


_LONGEST_S = 1.0
"""A waiting thread looks by itself that often, in case that the worker could not be started."""


_receipts: dict[int, ref[Receipt]] = {}
"""The receipts that somebody holds, by span id; only operations on it that are atomic are used."""


class _Table:
    """Who waits, and how the worker is told."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.nudge: Callable[[], bool] = bool

    def after_fork(self) -> None:
        """The parent delivers the parent's spans; its locks may be held for ever here."""
        _receipts.clear()
        self.changed = threading.Condition()

    def settle(self, span_ids: Iterable[int], outcome: Outcome) -> None:
        """Give the receipts of *span_ids* their *outcome* and wake whoever waits; ids without one are passed by."""
        found = False
        for span_id in span_ids:
            reference = _receipts.get(span_id)
            receipt = None if reference is None else reference()
            if receipt is not None:
                receipt.settle(outcome)
                found = True
        if found:
            with self.changed:
                self.changed.notify_all()


_table = _Table()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_table.after_fork)


def _nudge() -> bool:
    return _table.nudge()


def call_when_waited(nudge: Callable[[], bool]) -> None:
    """Call *nudge* when somebody begins to wait: it makes the worker look, and says whether waiting makes sense."""
    _table.nudge = nudge


def settle(records: Iterable[SpanRecord], state: str, reason: str = "") -> None:
    """Tell the receipts of *records* what became of them; open notes are left out."""
    if _receipts:
        _table.settle(
            (_number(record.span_id) for record in records if record.end_ns is not None), Outcome(state, reason)
        )


def settle_missing(before: list[SpanRecord], after: list[SpanRecord], reason: str) -> None:
    """Tell the receipts of those records that are in *before* and not in *after* that they were dropped."""
    if before is not after and _receipts:
        kept = {id(record) for record in after}
        settle([record for record in before if id(record) not in kept], DROPPED, reason)


def take_rejected(batch: WriteBatch, span_ids: set[str]) -> None:
    """Take the spans with *span_ids*, which a store has rejected, out of *batch*, and tell their receipts."""
    settle([span for span in batch.spans if span.span_id in span_ids], DROPPED, "rejected")
    batch.spans = [span for span in batch.spans if span.span_id not in span_ids]


def drop(span: ReadableSpan, reason: str) -> None:
    """Tell the receipt of *span*, if there is one, that it was dropped."""
    if _receipts:
        context = span.get_span_context()
        if context is not None:
            _table.settle((context.span_id,), Outcome(DROPPED, reason))


def _number(span_id: str) -> int:
    try:
        return int(span_id, 16)
    except ValueError:  # a record of another process, read back from the disk
        return 0
