"""The checksum of a stored span: made when it is written, compared when a store is checked.

It covers every column of the row, so it finds what the database itself cannot: a page that a disk or another program
changed and that is still well formed. Rows of releases before schema 3 have none and are taken as they are. What many
spans share, their source, needs none: its number is a hash of it.
"""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from types import NoneType
from typing import TYPE_CHECKING, cast

import msgspec

from agentlightning.store.pack import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COLUMNS = (
    "trace_id", "span_id", "parent_id", "rollout_id", "attempt_id", "sequence_id", "name", "kind", "start_ns",
    "end_ns", "status_code", "status_description", "source_id", "facts", "trace_state", "links", "events",
    "attributes", "packed",
)  # fmt: skip
"""Columns that the checksum covers, in the order of a row that the writer makes; ``crc`` follows them."""

DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What reading a damaged file raises: SQLite's message itself may hold bytes of it that are no text."""

_TYPES: dict[str, tuple[type, ...]] = {
    "sequence_id": (int,), "start_ns": (int,), "source_id": (int,), "end_ns": (int, NoneType),
    "parent_id": (str, NoneType), "status_description": (str, NoneType), "packed": (bytes, NoneType),
}  # fmt: skip
"""What a column holds that is not always text."""

SEQUENCE = COLUMNS.index("sequence_id")
_CRC = len(COLUMNS)

_encode = msgspec.msgpack.Encoder().encode


def checksum(row: Sequence[object]) -> int:
    """Return the checksum of a row's columns; its ``sequence_id`` must still be 0.

    The row is encoded as MessagePack, which tells apart what differs: one call in C, 2 us for a span of 1 KB.
    """
    return zlib.crc32(_encode(row))


def number_row(row: list[object], sequence_id: int) -> None:
    """Give a row of the writer its place in the rollout; the checksum follows without a look at the rest.

    The number is known only within the transaction, where time is dear, so it is folded into the finished checksum.
    """
    row[_CRC] = cast("int", row[_CRC]) ^ cast("int", row[SEQUENCE]) ^ sequence_id
    row[SEQUENCE] = sequence_id


def source_number(row: Sequence[object]) -> int:
    """Return the number of what made a span: a hash of process, scope and resource, so that all processes agree on it.

    Raises:
        UnicodeEncodeError: A column was read from a damaged file and is no text.
    """
    digest = hashlib.blake2b(to_json(row).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # SQLite's integers are signed


def damaged_sources(connection: sqlite3.Connection, *, limit: int) -> Iterator[str]:
    """Name the sources that do not fit their number, at most *limit* of them, by a rollout whose spans they made."""
    connection.text_factory = _text
    query = "SELECT source_id, process, scope_name, scope_version, schema_url, resource FROM sources"
    damaged = [number for number, *row in connection.execute(query) if not _is_number_of(number, row)]
    for number in damaged[:limit]:
        query = "SELECT count(*), min(rollout_id) FROM spans WHERE source_id = ?"
        spans, rollout_id = connection.execute(query, (number,)).fetchone()
        yield f"process or resource of {spans} spans, of rollout {rollout_id} and perhaps others, is damaged"


def _is_number_of(number: object, row: Sequence[object]) -> bool:
    try:
        return source_number(row) == number
    except (UnicodeEncodeError, TypeError, ValueError):
        return False


def damaged_spans(connection: sqlite3.Connection, *, limit: int, newest: int | None = None) -> Iterator[str]:
    """Name the spans that do not fit their checksum or cannot be read, at most *limit* of them. Only reads.

    *newest*: look at the so many newest rows only; None for all.
    *connection* may be to a file of an earlier schema, whose rows have no checksum; its ``text_factory`` is changed.
    """
    if not any(row[1] == "crc" for row in connection.execute("PRAGMA table_info(spans)")):
        return
    connection.text_factory = _text
    query = f"SELECT {', '.join(COLUMNS)}, crc FROM spans"  # noqa: S608 - our own names
    if newest is not None:
        query += f" WHERE rowid > (SELECT max(rowid) FROM spans) - {newest:d}"  # noqa: S608 - a number
    found = 0
    for name in _named(connection, query):
        found += 1
        if found <= limit:
            yield name
    if found > limit:
        yield f"{found - limit} further spans are damaged"


def _named(connection: sqlite3.Connection, query: str) -> Iterator[str]:
    """Name every damaged span."""
    named: set[str] = set()
    try:
        for row in connection.execute(query):
            if not _fits(row):
                named.add(_name_of(row))
                yield _name_of(row)
    except DAMAGE:
        # Rows cannot be walked: look for each by the index of its rollout, which lies elsewhere in the file.
        yield from (name for name in _named_by_index(connection, query) if name not in named)


def _named_by_index(connection: sqlite3.Connection, query: str) -> Iterator[str]:
    index = connection.execute("SELECT rowid, rollout_id, sequence_id FROM spans INDEXED BY spans_of_rollout")
    while True:
        try:
            place = index.fetchone()
        except DAMAGE as error:
            yield f"the index of spans cannot be read ({error})"
            return
        if place is None:
            return
        rowid, rollout_id, sequence_id = place
        try:
            joint = "AND" if " WHERE " in query else "WHERE"
            row = connection.execute(f"{query} {joint} rowid = ?", (rowid,)).fetchone()
        except DAMAGE:
            row = None
        if row is None:
            yield f"span number {sequence_id} in rollout {rollout_id} is damaged"
        elif not _fits(row):
            yield _name_of(row)


def _name_of(row: tuple[object, ...]) -> str:
    return f"span {row[1]} of trace {row[0]} in rollout {row[3]} is damaged"


def _text(value: bytes) -> str:
    """Return text that may be damaged; what is no UTF-8 cannot be encoded again and so never fits its checksum."""
    return value.decode("utf-8", "surrogateescape")


def _fits(row: tuple[object, ...]) -> bool:
    """Tell whether a row is as it was written."""
    crc, sequence_id = row[_CRC], row[SEQUENCE]
    if crc is None:  # of an earlier release, or by a bit that moved the columns
        return all(isinstance(value, _TYPES.get(name, str)) for name, value in zip(COLUMNS, row, strict=False))
    if not isinstance(crc, int) or not isinstance(sequence_id, int):
        return False
    columns = list(row[:_CRC])
    columns[SEQUENCE] = 0
    try:
        return checksum(columns) ^ sequence_id == crc
    except UnicodeEncodeError:
        return False
