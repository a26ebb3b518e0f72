"""``agl doctor --follow``: the stages that one span passed, with the times that are known, and where it is now."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple, cast

from agentlightning import semconv
from agentlightning._internal.ids import is_process_gone
from agentlightning.cli import document
from agentlightning.cli.doctor.reading import Reading, read, spans_in_segments
from agentlightning.cli.terminal import folded, folds, safe, style, width, write
from agentlightning.cli.text import count, duration
from agentlightning.errors import UnknownIdError
from agentlightning.pipeline import stage
from agentlightning.store.pack import to_json
from agentlightning.store.sql.connector import named_queries
from agentlightning.store.sql.rows import to_span_record
from agentlightning.store.upkeep import read_only
from agentlightning.store.url import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from agentlightning.types.record import SpanRecord

_SHORTEST = 4
"""Digits of a span id that must be given."""
_MOST_SHOWN = 10
_NARROW = 80
"""Below so many columns the detail of a stage goes on lines of its own."""


class Passed(NamedTuple):
    """One stage."""

    stage: str
    """``produced queued taken prepared spilled delivered stored``, or ``lost`` or ``open`` for where it ended."""
    time_ns: int | None
    """When; None where nobody noted it."""
    detail: str


class _Row(NamedTuple):
    """What a store or a spill segment knows of a span."""

    span_id: str
    name: str
    process: str
    start_ns: int
    end_ns: int | None
    rollout_id: str
    sequence_id: int
    attributes: dict[str, object]


def show(store: str | None, project: str | None, span_id: str, *, as_json: bool) -> int:
    """Print the stages; return 0 when the span was found, 1 when it is nowhere, 2 when its store could not be asked.

    Raises:
        StoreError: The store cannot be read.
        UnknownIdError: The id is too short, or several spans begin with it.
    """
    wanted = span_id.strip().lower().removeprefix("0x")
    if len(wanted) < _SHORTEST or not all(each in "0123456789abcdef" for each in wanted):
        msg = f"{span_id!r} is no beginning of a span id; give at least {_SHORTEST} of its 16 hexadecimal digits"
        raise UnknownIdError(msg)
    reading = read(store, project)
    if reading.problem is not None and reading.path is not None:
        raise reading.problem
    found = _stored(reading, wanted)
    spilled = (
        {} if found else {record.span_id: (path, record) for path, record in spans_in_segments(reading.url, wanted)}
    )
    ids = sorted({*found, *spilled})
    if len(ids) > 1:
        msg = f"{len(ids)} spans begin with {wanted}: {', '.join(ids[:_MOST_SHOWN])}; give more digits"
        raise UnknownIdError(msg)
    if found:
        row = found[ids[0]]
        passed = [*_before(row), *_in_store(row)]
    elif spilled:
        path, record = spilled[ids[0]]
        row = _of_record(record)
        passed = [*_before(row), _in_segment(path)]
    else:
        row, passed = None, [_nowhere(reading, wanted)]
    if as_json:
        body: document.Document = {"version": document.VERSION, "type": "follow"}
        body |= {"span_id": row.span_id if row else wanted, "name": row.name if row else None}
        body["stages"] = [each._asdict() for each in passed]
        write(document.dumps(body))
    else:
        write(style(f"{safe(row.name)}  {row.span_id}" if row else wanted, bold=True))
        for each in passed:
            for line in _lines(each):
                write(line)
    if row is not None:
        return 0
    # Where every span of a program was lost there is no store, but its counters are.
    was_asked = reading.problem is None and (reading.is_there or bool(reading.ledgers))
    return 1 if was_asked else 2


def _before(row: _Row) -> list[Passed]:
    """Return the stages in the program's process."""
    if row.end_ns is None:
        state = "is gone: nothing will end it" if is_process_gone(row.process) else "runs"
        return [Passed("open", row.start_ns, f"began; not ended yet, process {safe(row.process)} {state}")]
    took = duration(row.end_ns - row.start_ns)
    passed = [Passed("produced", row.end_ns, f"ended in process {safe(row.process)} after {took}")]
    noted = row.attributes.get(semconv.STAGES)
    times = [each if isinstance(each, int) else 0 for each in _list(noted)]
    if len(times) <= stage.DELIVERED:
        passed.append(
            Passed("queued", None, "handed over at its end; times of stages are noted with AGL_LOG_LEVEL=DEBUG")
        )
        return [*passed, Passed("prepared", None, _prepared(row))]
    passed.append(
        Passed("queued", row.end_ns, f"handed over at its end, number {count(times[stage.QUEUED])} of its process")
    )
    passed.append(Passed("taken", times[stage.TAKEN], "by the worker thread"))
    passed.append(Passed("prepared", times[stage.PREPARED], _prepared(row)))
    if times[stage.SPILLED]:
        passed.append(Passed("spilled", times[stage.SPILLED], "to the disk of its machine, until the store takes it"))
    if times[stage.DELIVERED]:
        passed.append(
            Passed("delivered", times[stage.DELIVERED], "given to the store, the last time that this was tried")
        )
    return passed


def _prepared(row: _Row) -> str:
    """Say what became of the span's content: redaction, limits, sampling, rules."""
    names = {
        semconv.REDACTED_RULES: "redacted",
        semconv.TRUNCATED: "cut",
        semconv.DROPPED_ATTRIBUTES: "attributes dropped before us",
        semconv.INTEGRITY: "breaks rules",
        semconv.INCLUSION: "kept with probability",
    }
    told = [f"{text}: {_text(row.attributes[name])}" for name, text in names.items() if name in row.attributes]
    return safe("; ".join(told)) or "nothing was redacted or cut"


def _text(value: object) -> str:
    return ", ".join(map(str, _list(value))) or str(value)


def _list(value: object) -> list[object]:
    return list(cast("Iterable[object]", value)) if isinstance(value, (list, tuple)) else []


def _in_store(row: _Row) -> list[Passed]:
    if row.end_ns is None:
        return []
    rollout = safe(row.rollout_id)
    where = f"rollout {rollout}, place {count(row.sequence_id)}; agl show {rollout} --span {row.span_id}"
    return [Passed("stored", None, f"committed, {where}")]


def _in_segment(path: Path) -> Passed:
    try:
        made = int(path.name.partition("-")[0])
    except ValueError:
        made = None
    text = f"waits in {path} for its store; the end of the next agl run brings it in"
    return Passed("spilled", made, text)


def _nowhere(reading: Reading, wanted: str) -> Passed:
    lost = reading.lost
    told = ", ".join(f"{count(number)} {reason}" for reason, number in sorted(lost.items()))
    text = f"no span that begins with {wanted} is in the store or on the disk; "
    if reading.problem is not None:
        text += f"the store was not asked: {reading.problem}; "
    elif not reading.is_there:
        text += f"there is no store at {reading.path}; "
    text += f"lost were {told}" if told else "no loss is counted here"
    waiting = reading.account.waiting - reading.account.spilled
    if waiting > 0:
        text += f"; {count(waiting)} wait in programs that run"
    return Passed("lost" if told else "unknown", None, safe(text))


def _stored(reading: Reading, wanted: str) -> dict[str, _Row]:
    """Return the spans of the store whose id begins so, by id, at most some of them."""
    if reading.problem is not None or not reading.is_there:
        return {}
    if reading.path is None:
        return asyncio.run(_asked(reading, wanted))
    with read_only(reading.path) as connection:
        query = "SELECT trace_id, span_id FROM spans WHERE span_id >= ? AND span_id < ? LIMIT ?"
        keys = connection.execute(query, (wanted, wanted + "g", _MOST_SHOWN)).fetchall()
        rows = connection.execute(named_queries()["spans_by_key"], {"1": to_json(keys)}).fetchall()
    return {record.span_id: _of_record(record, place) for record, place in map(to_span_record, rows)}


async def _asked(reading: Reading, wanted: str) -> dict[str, _Row]:
    """Ask a server: it is known only which spans the newest rollouts have."""
    rows = {(row.trace_id, row.span_id): row for row in reading.rows if row.span_id.startswith(wanted)}
    if not rows:
        return {}
    opened = open_store(reading.url, reading.project, create=False)
    try:
        spans = await opened.query_spans_by_key(list(rows)[:_MOST_SHOWN])
    finally:
        opened.close()
    found: dict[str, _Row] = {}
    for span in spans:
        row = rows[span.trace_id, span.span_id]
        found[row.span_id] = _Row(
            row.span_id, row.name, row.process, row.start_ns, row.end_ns, row.rollout_id, row.sequence_id,
            dict(span.attributes),
        )  # fmt: skip
    return found


def _of_record(record: SpanRecord, place: int = 0) -> _Row:
    return _Row(
        record.span_id, record.name, record.process, record.start_ns, record.end_ns, record.rollout_id, place,
        record.attributes,
    )  # fmt: skip


def _lines(passed: Passed) -> Iterator[str]:
    moment = "at an unknown time" if passed.time_ns is None else _moment(passed.time_ns)
    head = f"{passed.stage:<10} {moment:<23}"
    if folds() and width() < _NARROW:
        yield head.rstrip()
        yield from folded(passed.detail, "  ")
        return
    first, *rest = folded(passed.detail, " " * (len(head) + 2))
    yield f"{head}  {first.strip()}"
    yield from rest


def _moment(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) + f".{rest // 1_000_000:03d}"
