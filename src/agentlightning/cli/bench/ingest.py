"""Measuring how many spans a second become durable: by the store's writer, and by bare insertion of the same rows."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning.errors import StoreError
from agentlightning.store.sql.connector import named_queries
from agentlightning.store.sql.integrity import COLUMNS
from agentlightning.store.sql.writer import SqliteWriter
from agentlightning.types.record import ResourceRecord, SpanRecord, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 500

ATTRIBUTES: dict[str, str | int] = {
    "openinference.span.kind": "LLM",
    "llm.model_name": "gpt-4o-mini",
    "llm.token_count.prompt": 812,
    "llm.token_count.completion": 97,
    "llm.invocation_parameters": '{"temperature": 0.2, "max_tokens": 512}',
    "input.value": "In a hole in the ground there lived an agent that called tools. " * 8,
    "output.value": "It answered in words and in numbers. " * 7,
}
"""About 1 KB, as an LLM span has them."""


def records(count: int, first: int) -> list[SpanRecord]:
    """Return *count* ended spans whose numbers begin with *first*."""
    resource = ResourceRecord({"service.name": "bench", "telemetry.sdk.language": "python"})
    return [
        SpanRecord(
            rollout_id="ro-bench",
            attempt_id="at-bench",
            counter=number,
            trace_id=f"{number // 100:032x}",
            span_id=f"{number:016x}",
            parent_id=f"{number - 1:016x}",
            name="ChatCompletion",
            start_ns=1_700_000_000_000_000_000 + number,
            end_ns=1_700_000_000_000_000_500 + number,
            attributes=dict(ATTRIBUTES),
            resource=resource,
            scope_name="bench",
            process="bench/1/1",
        )
        for number in range(first, first + count)
    ]


def ours(folder: Path, spans: list[SpanRecord]) -> float:
    """Return how many of *spans* a second become durable through the store's writer, opened beforehand.

    Raises:
        StoreError: A span was not stored.
    """
    writer = SqliteWriter(folder / "ours.db")
    batches = [WriteBatch(spans=spans[start : start + BATCH]) for start in range(0, len(spans), BATCH)]
    began = time.perf_counter()
    for batch in batches:
        if writer.write_batch(batch).stored != len(batch.spans):
            msg = "a span is missing; the file system under the temporary folder does not keep what is written"
            raise StoreError(msg)
    taken = time.perf_counter() - began
    writer.close()
    return len(spans) / taken


def raw(folder: Path, spans: list[SpanRecord]) -> float:
    """Return how many ready rows a second the same statement inserts into the same schema, durably.

    There are as many as *spans*, whose number is a multiple of ``BATCH``.
    """
    SqliteWriter(folder / "source.db").write_batch(WriteBatch(spans=spans[:BATCH]))
    source = sqlite3.connect(folder / "source.db")
    columns = ", ".join((*COLUMNS, "crc"))
    one = list(source.execute(f"SELECT {columns} FROM spans LIMIT 1").fetchone())  # noqa: S608 - our own names
    source.close()
    SqliteWriter(folder / "raw.db").close()
    connection = sqlite3.connect(folder / "raw.db", isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    slots = ",".join(["(" + ",".join("?" * len(one)) + ")"] * BATCH)
    statement = named_queries()["add_ended_spans"].replace("{rows}", slots)
    rows = [[span.trace_id, span.span_id, span.parent_id, *one[3:5], span.counter, *one[6:]] for span in spans]
    batches = [[value for row in rows[start : start + BATCH] for value in row] for start in range(0, len(rows), BATCH)]
    began = time.perf_counter()
    for batch in batches:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(statement, batch)
        connection.execute("COMMIT")
    taken = time.perf_counter() - began
    connection.close()
    return len(spans) / taken


def in_fresh_folder(measure: Callable[[Path], float]) -> float:
    """Return what *measure* says in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder))
