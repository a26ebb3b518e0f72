"""What ``agl doctor`` knows of a store: read once, from the file or the server, without changing anything."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, cast

import msgspec

from agentlightning import settings
from agentlightning.errors import AgentLightningError, StoreCorruptError, StoreError, StoreUnavailableError
from agentlightning.pipeline.frame import ENDED
from agentlightning.pipeline.ledger import Account, ProcessAccount, ledger_folder, read_each
from agentlightning.pipeline.segment import open_segment
from agentlightning.pipeline.spill import spill_folders
from agentlightning.semconv import ALERT
from agentlightning.store.pack import to_json
from agentlightning.store.sql.connector import named_queries
from agentlightning.store.sql.integrity import damaged_spans
from agentlightning.store.sql.rows import to_span_record, to_span_row
from agentlightning.store.upkeep import read_only
from agentlightning.store.url import canonical_url, default_store_url, open_store, scheme_of, sqlite_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agentlightning.types.query import SpanRow
    from agentlightning.types.record import SpanRecord

MOST_ROLLOUTS, MOST_SPANS = 20, 20_000
"""How many of the newest rollouts, and about how many of their spans, are looked at."""
CHECKED_SPANS, _MOST_NAMED = 2_000, 3
"""How many of the newest spans are compared with their checksums, and how many damaged ones are named."""
_MOST_ALERTS = 500
"""How many alerts are looked into."""
_MOST_SEGMENT_BYTES = 64 * 2**20
"""Spill segments are read up to this size in all; the rest is counted in bytes only."""


class RolloutState(NamedTuple):
    """A rollout, as much of it as a diagnosis needs."""

    rollout_id: str
    status: str
    start_s: float
    process: str
    """Who runs its latest attempt; empty when nobody said so."""
    spans: int | None = None
    """How many spans of it were read; None where they were not looked at."""


class SegmentState(NamedTuple):
    """A spill segment: spans on the disk of this machine that are not in the store yet."""

    path: Path
    size_bytes: int
    is_open: bool
    """Whether a living process writes it."""
    spans: int | None
    """Ended spans in it; None where it was not read."""
    damaged: int


@dataclass
class Reading:
    """What was read; a store that cannot be read has a ``problem`` and nothing else."""

    url: str
    project: str
    problem: AgentLightningError | None = None
    is_there: bool = True
    """False for a file that nothing has been recorded into yet."""
    answer_s: float = 0.0
    """How long the store took for the first answer."""
    noted: Counter[str] = field(default_factory=Counter[str])
    """Losses by reason that the newest rollouts have noted themselves."""
    queued: int = 0
    """Rollouts of the project that wait for a runner."""
    rollouts: list[RolloutState] = field(default_factory=list[RolloutState])
    rows: list[SpanRow] = field(default_factory=list["SpanRow"])
    """Spans of the newest rollouts, open ones too."""
    alerts: Counter[str] = field(default_factory=Counter[str])
    """How often a figure passed its threshold, by its name: ``memory``, ``cpu``, ``latency``, ``errors`` and so on."""
    ledgers: list[ProcessAccount] = field(default_factory=list[ProcessAccount])
    """The counters of each process whose figures no rollout has noted yet."""
    damaged: list[str] = field(default_factory=list[str])
    """Names of spans, among the newest, that do not fit their checksum."""
    segments: list[SegmentState] = field(default_factory=list[SegmentState])

    @property
    def scheme(self) -> str:
        """``sqlite``, ``http``, ``https``, ``memory`` or a plug-in's."""
        return scheme_of(self.url)

    @property
    def path(self) -> Path | None:
        """The file of the store, None where it is none."""
        return sqlite_path(self.url) if self.scheme == "sqlite" else None

    @property
    def lost(self) -> Counter[str]:
        """Losses by reason: those that the newest rollouts have noted, and of processes that none has noted yet."""
        return self.noted + Counter(self.account.lost)

    @property
    def account(self) -> Account:
        """The sum of all counters."""
        total = Account()
        for each in self.ledgers:
            total += each.account
        return total


def read(store: str | None, project: str | None) -> Reading:
    """Read the store named as in every command; never raises for what is wrong with it."""
    try:
        url = canonical_url(store) if store else default_store_url()
        name = project or settings.get(settings.PROJECT)
    except AgentLightningError as error:
        return Reading("", "", error)
    reading = Reading(url, name)
    began = time.monotonic()
    try:
        if reading.path is not None:
            _read_file(reading, reading.path)
        else:
            asyncio.run(_read_store(reading))
    except AgentLightningError as error:
        reading.problem = error
    except sqlite3.DatabaseError as error:
        reading.problem = StoreCorruptError(f"{reading.path} cannot be read: {error}")
    except OSError as error:
        reading.problem = StoreUnavailableError(f"the store cannot be reached: {error}")
    reading.answer_s = reading.answer_s or time.monotonic() - began
    reading.ledgers = list(_ledgers(reading))
    reading.segments = list(_segments(url))
    return reading


def _read_file(reading: Reading, path: Path) -> None:
    """Read the file itself: opening it as a store would migrate it and retire what is overdue."""
    if not path.exists() or not path.stat().st_size:
        reading.is_there = False
        return
    began = time.monotonic()
    with read_only(path) as connection:
        newest = connection.execute(
            "SELECT rollout_id, status, start_ns FROM rollouts WHERE project = ? ORDER BY start_ns DESC LIMIT ?",
            (reading.project, MOST_ROLLOUTS),
        ).fetchall()
        reading.answer_s = time.monotonic() - began
        query = "SELECT count(*) FROM rollouts WHERE project = ? AND status IN ('queuing', 'requeuing')"
        reading.queued = connection.execute(query, (reading.project,)).fetchone()[0]
        for rollout_id, status, start_ns in newest:
            found = connection.execute(
                "SELECT metadata FROM attempts WHERE rollout_id = ? ORDER BY number DESC LIMIT 1", (rollout_id,)
            ).fetchone()
            process = _note(reading, _decoded(found[0]) if found else None)
            left, spans = MOST_SPANS - len(reading.rows), None
            if left > 0:
                rows = connection.execute(named_queries()["span_rows"], {"1": rollout_id, "2": None, "3": 1})
                found_rows = [to_span_row(row) for row in islice(rows, left)]
                reading.rows += found_rows
                spans = len(found_rows)
            reading.rollouts.append(RolloutState(rollout_id, status, start_ns / 1e9, process, spans))
        rows = connection.execute(named_queries()["spans_by_key"], {"1": to_json(_alerts_of(reading))})
        for record, _ in map(to_span_record, rows):
            reading.alerts.update(str(each.attributes.get("name")) for each in record.events if each.name == ALERT)
        reading.damaged = list(damaged_spans(connection, limit=_MOST_NAMED, newest=CHECKED_SPANS))


def _alerts_of(reading: Reading) -> list[tuple[str, str]]:
    """Return the keys of the alerts among the spans that were read, the newest rollout's first."""
    return [(row.trace_id, row.span_id) for row in reading.rows if row.name == ALERT][:_MOST_ALERTS]


def _decoded(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return None


def _note(reading: Reading, metadata: object) -> str:
    """Take the losses that the metadata of an attempt name, and return who runs it; empty for nobody."""
    known = cast("dict[str, object]", metadata) if isinstance(metadata, dict) else {}
    ledger = known.get("ledger")
    lost = cast("dict[str, object]", ledger).get("lost") if isinstance(ledger, dict) else None
    for reason, number in cast("dict[str, object]", lost).items() if isinstance(lost, dict) else ():
        if isinstance(number, int):
            reading.noted[reason] += number
    process = known.get("process")
    return process if isinstance(process, str) else ""


async def _read_store(reading: Reading) -> None:
    opened = open_store(reading.url, reading.project, create=False)
    began = time.monotonic()
    try:
        for rollout in await opened.query_newest_rollouts(limit=MOST_ROLLOUTS):
            reading.answer_s = reading.answer_s or time.monotonic() - began
            attempt = await opened.get_latest_attempt(rollout.rollout_id)
            process = _note(reading, attempt.metadata if attempt else None)
            spans = None
            if len(reading.rows) < MOST_SPANS:
                rows = await opened.query_span_rows(rollout.rollout_id, include_open=True)
                reading.rows += rows
                spans = len(rows)
            state = RolloutState(rollout.rollout_id, rollout.status, rollout.start_time, process, spans)
            reading.rollouts.append(state)
        for span in await opened.query_spans_by_key(_alerts_of(reading)):
            reading.alerts.update(str(each.attributes.get("name")) for each in span.events if each.name == ALERT)
        reading.queued = (await opened.statistics()).queued
    finally:
        opened.close()


def _ledgers(reading: Reading) -> Iterator[ProcessAccount]:
    folder = ledger_folder(reading.url, None)
    if folder is not None and folder.parent.is_dir():
        for each in sorted(folder.parent.iterdir()):
            yield from read_each(each)


def _segments(url: str) -> Iterator[SegmentState]:
    """Look at the spill segments of the store, also at those that wait for a server that is away."""
    left = _MOST_SEGMENT_BYTES
    for folder in spill_folders(url):
        ready = set(folder.ready())
        for path in folder.segments():
            with contextlib.suppress(OSError):
                size = path.stat().st_size
                spans, damaged = _look_into(path, is_open=path not in ready) if size <= left else (None, 0)
                left -= size
                yield SegmentState(path, size, path not in ready, spans, damaged)


def _look_into(path: Path, *, is_open: bool) -> tuple[int, int]:
    """Return how many ended spans a segment holds, and how many of its records are damaged."""
    reader = open_segment(path)
    if reader is None:
        return 0, 0
    with contextlib.closing(reader):
        spans = sum(frame.kind == ENDED for frame in reader)
        return spans, reader.damaged + (reader.is_torn and not is_open)


def spans_in_segments(url: str, span_id: str) -> Iterator[tuple[Path, SpanRecord]]:
    """Yield each spilled record whose span id begins with *span_id*, with its segment."""
    for path in (path for folder in spill_folders(url) for path in folder.segments()):
        with contextlib.suppress(OSError, StoreError):
            for record in _ended_in(path):
                if record.span_id.startswith(span_id):
                    yield path, record


def _ended_in(path: Path) -> Iterator[SpanRecord]:
    """Yield the ended spans of a segment; what this release cannot decode is left out."""
    from agentlightning.types.record import SpanRecord  # noqa: PLC0415 - for one command

    reader = open_segment(path)
    if reader is None:
        return
    decode = msgspec.msgpack.Decoder(SpanRecord).decode
    with contextlib.closing(reader):
        for payload in (frame.payload for frame in reader if frame.kind == ENDED):
            with contextlib.suppress(msgspec.MsgspecError):
                yield decode(payload)
