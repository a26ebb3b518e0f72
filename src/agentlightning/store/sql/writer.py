"""Writing a batch of the pipeline in one transaction."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, cast

from agentlightning._internal.clock import now_ns
from agentlightning.errors import UnknownIdError
from agentlightning.store.pack import dump_attributes, to_json
from agentlightning.store.sql.changes import (
    end_attempts,
    find_attempts,
    note_signs_of_life,
    parent_of,
    retire_overdue,
)
from agentlightning.store.sql.integrity import SEQUENCE, checksum, number_row, source_number
from agentlightning.store.sql.sqlite import SqliteConnector
from agentlightning.types.record import ResourceRecord, RolloutStart, WriteResult
from agentlightning.view.facts import facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from agentlightning.store.sql.connector import Connector, Transaction
    from agentlightning.types.record import SpanRecord, WriteBatch

_LOOK_S = 0.5
"""How often a writer looks for overdue attempts and notes that those it writes for are alive, in seconds: a statement
costs a thread beside one that computes 5 ms, and time limits are seconds."""

_ROLLOUT, _SOURCE = 3, 12
"""Places of ``rollout_id`` and ``source_id`` in a row of spans."""
_MOST_REMEMBERED = 4096
"""Attempts and sources that a writer remembers; then it begins anew."""


class BatchWriter:
    """Writes batches through a connector. Thread-safe; what it remembers only saves statements."""

    def __init__(self, connector: Connector) -> None:
        """Write through *connector*."""
        self._connector = connector
        self._lock = threading.Lock()
        self._known_attempts: set[str] = set()
        self._heard_of: set[str] = set()
        self._next_look = 0.0
        self._sources = _Sources()

    def write(self, batch: WriteBatch) -> WriteResult:
        """Write starts, spans and ends in one transaction; safe to repeat after any error.

        The key rule: a span that is absent is inserted, an open one is replaced by its end, an ended one is never
        changed. Sequence numbers follow the order of hand-over.

        Raises:
            StoreError: Nothing of the batch was written.
        """
        with self._lock:
            return self._write(batch)

    def after_fork(self) -> None:
        """Make the writer usable in a child: another thread may have held the lock when the parent forked."""
        self._lock = threading.Lock()

    def _write(self, batch: WriteBatch) -> WriteResult:
        ended = sorted((span for span in batch.spans if span.end_ns is not None), key=lambda span: span.counter)
        # All that needs no transaction is done before it, so that other processes wait as little as possible.
        ended_rows = [self._row(span) for span in ended]
        open_rows = [self._row(span) for span in batch.spans if span.end_ns is None]
        starts = [*batch.starts, *self._unannounced(batch)]
        sources = self._sources.rows_of([*ended_rows, *open_rows])
        with self._connector.write() as transaction:
            looks = time.monotonic() >= self._next_look
            if looks:
                retire_overdue(transaction, now_ns())
            _start(transaction, starts)
            # Each time: a compaction takes out what no span names at that moment, whoever wrote it.
            transaction.run_rows("add_sources", sources)
            _number(transaction, ended, ended_rows, batch.project)
            stored = transaction.run_rows("add_ended_spans", ended_rows)
            transaction.run_rows("add_open_spans", open_rows)
            attempts = {span.attempt_id for span in batch.spans}
            note_signs_of_life(transaction, attempts if looks else attempts - self._heard_of, now_ns())
            end_attempts(transaction, batch.ends, {start.attempt_id for start in batch.starts})
        if looks:
            self._next_look = time.monotonic() + _LOOK_S
            self._heard_of = attempts
        else:
            self._heard_of |= attempts
        if len(self._known_attempts) >= _MOST_REMEMBERED:
            self._known_attempts.clear()
        self._known_attempts.update(start.attempt_id for start in starts)
        return WriteResult(stored=stored, duplicate=len(ended) - stored)

    def add(self, spans: Sequence[SpanRecord], sequence_ids: Sequence[int]) -> int:
        """Write spans of known attempts in one transaction, each with its own number; return how many were stored.

        A number of 0 takes the next one of the rollout; an open span without a number is a note.

        Raises:
            UnknownIdError: A rollout or attempt is unknown; nothing was written.
            StoreError: Nothing was written.
        """
        with self._lock:
            rows = [self._row(span) for span in spans]
            for row, sequence_id in zip(rows, sequence_ids, strict=True):
                number_row(row, max(0, sequence_id))
            given = [row for row in rows if row[SEQUENCE]]
            unnumbered = [(span, row) for span, row in zip(spans, rows, strict=True) if not row[SEQUENCE]]
            ended = [pair for pair in unnumbered if pair[0].end_ns is not None]
            notes = [row for span, row in unnumbered if span.end_ns is None]
            sources = self._sources.rows_of(rows)
            with self._connector.write() as transaction:
                retire_overdue(transaction, now_ns())
                _check_attempts(transaction, spans)
                transaction.run_rows("add_sources", sources)
                for row in given:
                    transaction.run("raise_sequence", (row[_ROLLOUT], row[SEQUENCE]))
                _number(transaction, [span for span, _ in ended], [row for _, row in ended], "")
                stored = transaction.run_rows("add_ended_spans", [*given, *(row for _, row in ended)])
                stored += transaction.run_rows("add_open_spans", notes)
                note_signs_of_life(transaction, {span.attempt_id for span in spans}, now_ns())
            return stored

    def _unannounced(self, batch: WriteBatch) -> list[RolloutStart]:
        """Return starts for the spans of attempts that this writer has not seen; existing ones are left alone."""
        announced = self._known_attempts | {start.attempt_id for start in batch.starts}
        return _implicit_starts((span for span in batch.spans if span.attempt_id not in announced), batch.project)

    def _row(self, span: SpanRecord) -> list[object]:
        attributes, packed = dump_attributes(span.attributes)
        found = facts(span.name, span.attributes, scope=span.scope_name)
        row: list[object] = [
            span.trace_id,
            span.span_id,
            span.parent_id,
            span.rollout_id,
            span.attempt_id,
            0,
            span.name,
            span.kind,
            span.start_ns,
            span.end_ns,
            span.status_code,
            span.status_description,
            self._sources.id_of(span),
            to_json(found),
            span.trace_state,
            to_json(span.links) if span.links else "[]",
            to_json(span.events) if span.events else "[]",
            attributes,
            packed,
        ]
        row.append(checksum(row))
        return row


class _Sources:
    """Numbers for what made a span (process, resource, scope): a hash, so that all processes agree on it."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[object, ...]] = {}
        # The resource is kept beside its number: an id() is only unique while its object lives.
        self._numbers: dict[tuple[int, str, str, str], tuple[int, ResourceRecord]] = {}

    def id_of(self, span: SpanRecord) -> int:
        """Return the number of the span's source."""
        key = (id(span.resource), span.process, span.scope_name, span.scope_version)
        known = self._numbers.get(key)
        if known is None:
            row = (*key[1:], span.resource.schema_url, to_json(span.resource.attributes))
            number = source_number(row)
            known = self._numbers[key] = (number, span.resource)
            self._rows[number] = (number, *row)
        return known[0]

    def rows_of(self, spans: Iterable[list[object]]) -> list[tuple[object, ...]]:
        """Return the sources of rows of spans, each once; those whose numbers were asked for since the last call."""
        found = [self._rows[number] for number in {cast("int", row[_SOURCE]) for row in spans}]
        if len(self._numbers) >= _MOST_REMEMBERED:
            self._numbers.clear()
            self._rows.clear()
        return found


class SqliteWriter:
    """The writing half of the SQLite store: what a traced program loads, without models and event loop."""

    def __init__(self, path: str | Path) -> None:
        """Open the file at *path*; see ``SqliteConnector`` for what it raises."""
        self._connector = SqliteConnector(path)
        self._writer = BatchWriter(self._connector)
        self.url: str | None = f"sqlite:///{self._connector.path}"

    def write_batch(self, batch: WriteBatch) -> WriteResult:
        """Write a batch; see ``BatchWriter.write``. Thread-safe."""
        return self._writer.write(batch)

    def after_fork(self) -> None:
        """Make the writer usable in a forked child."""
        self._connector.after_fork()
        self._writer.after_fork()

    def close(self) -> None:
        """Close the connection; a later batch opens it again."""
        self._connector.close()


def _implicit_starts(spans: Iterable[SpanRecord], project: str) -> list[RolloutStart]:
    first: dict[str, RolloutStart] = {}
    for span in spans:
        if span.attempt_id not in first:
            first[span.attempt_id] = RolloutStart(
                rollout_id=span.rollout_id,
                attempt_id=span.attempt_id,
                project=project,
                start_ns=span.start_ns,
                implicit=True,
            )
    return list(first.values())


def _start(transaction: Transaction, starts: Sequence[RolloutStart]) -> None:
    if not starts:
        return
    for project in {start.project for start in starts}:
        transaction.run("add_project", (project, now_ns()))
    transaction.run_rows("start_rollouts", [_rollout_row(start) for start in starts])
    attempts = [
        (s.attempt_id, s.rollout_id, s.number, "running", s.start_ns, s.start_ns, to_json(_attempt_metadata(s)))
        for s in starts
    ]
    transaction.run_rows("start_attempts", attempts)


def _rollout_row(start: RolloutStart) -> tuple[object, ...]:
    return (
        start.rollout_id,
        start.project,
        "running",
        start.mode,
        None,
        parent_of(start.metadata),
        int(start.implicit),
        start.start_ns,
        "{}",
        to_json(start.metadata or None),
        to_json(start.input),
        None,
    )


def _attempt_metadata(start: RolloutStart) -> dict[str, str] | None:
    return {"process": start.process} if start.process else None


def _number(transaction: Transaction, ended: list[SpanRecord], rows: list[list[object]], project: str) -> None:
    """Give the ended spans the next sequence numbers of their rollouts."""
    if not ended:
        return
    counts = Counter(span.rollout_id for span in ended)
    if len(counts) == 1:
        ((rollout_id, count),) = counts.items()
        reserve, last, reserved, wanted = "reserve_sequences_of", "last_sequence", (rollout_id, count), (rollout_id,)
    else:
        wanted = reserved = (to_json(counts),)
        reserve, last = "reserve_sequences", "last_sequences"
    if transaction.run(reserve, reserved) != len(counts):
        # A rollout that this writer knew was deleted meanwhile: make it again, then number all spans anew.
        _start(transaction, _implicit_starts(ended, project))
        transaction.run(reserve, reserved)
    after: dict[str, int] = dict(transaction.fetch(last, wanted))
    following = {rollout_id: after[rollout_id] - count + 1 for rollout_id, count in counts.items()}
    for span, row in zip(ended, rows, strict=True):
        number_row(row, following[span.rollout_id])
        following[span.rollout_id] += 1


def _check_attempts(transaction: Transaction, spans: Sequence[SpanRecord]) -> None:
    known = find_attempts(transaction, {span.attempt_id for span in spans})
    for span in spans:
        found = known.get(span.attempt_id)
        if found is None or found.attempt.rollout_id != span.rollout_id:
            msg = f"there is no attempt {span.attempt_id!r} of a rollout {span.rollout_id!r}"
            raise UnknownIdError(msg)
