"""Writing rollouts into a file for ``agl export --format``, whole or not at all."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import click
import msgspec

from agentlightning.adapter.dataset.call import Recorded, Selection, calls_of
from agentlightning.adapter.dataset.coverage import Coverage
from agentlightning.adapter.dataset.dump import lines as dump_lines
from agentlightning.adapter.dataset.preference import Preferences
from agentlightning.adapter.dataset.row import LINES, finite
from agentlightning.adapter.dataset.table import ParquetFile
from agentlightning.adapter.dataset.trajectory import trajectory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator
    from typing import TextIO

    from agentlightning.store.base import LightningStore
    from agentlightning.types.record import JsonObject

FORMATS = ("triplets", "messages", "sft", "dpo", "trl", "atif", "jsonl", "parquet")
WHOLE = ("atif", "jsonl", "parquet")
"""Formats that hold all attempts; the others hold the latest one of each rollout."""


class _Writer(Protocol):
    def add(self, recorded: Recorded) -> None:
        """Write a rollout."""
        ...

    def finish(self) -> None:
        """Write what can only be written at the end."""
        ...


class _Lines:
    """Formats with lines of JSON."""

    def __init__(self, form: str, stream: TextIO, selection: Selection, coverage: Coverage) -> None:
        self._form = form
        self._stream = stream
        self._selection = selection
        self._coverage = coverage
        self._pairs = Preferences(selection, coverage) if form == "dpo" else None

    def add(self, recorded: Recorded) -> None:
        """Write the lines of a rollout; pairs of rollouts wait for the end."""
        if self._pairs is not None:
            self._pairs.add(recorded)
            return
        for line in self._lines(recorded):
            self._write(line)

    def finish(self) -> None:
        """Write the pairs, where the format has any."""
        for line in self._pairs.pairs() if self._pairs is not None else ():
            self._write(line)

    def _lines(self, recorded: Recorded) -> Iterator[JsonObject]:
        if self._form in LINES:
            yield from LINES[self._form](recorded, self._selection, self._coverage)
            return
        calls = calls_of(_latest(recorded), self._selection, self._coverage)
        made = trajectory(recorded, calls, self._coverage) if self._form == "atif" else None
        if made is not None:
            yield made
            return
        self._coverage.exported += len(calls)
        yield from dump_lines(recorded)

    def _write(self, line: JsonObject) -> None:
        self._coverage.lines += 1
        self._stream.write(_json(line) + "\n")


class _Folder(_Lines):
    """Trajectories in files of their own, as Harbor keeps them."""

    def __init__(self, folder: Path, selection: Selection, coverage: Coverage) -> None:
        super().__init__("atif", cast("TextIO", None), selection, coverage)
        self._folder = folder

    def add(self, recorded: Recorded) -> None:
        """Write the file of a rollout; one that is there is replaced as a whole."""
        with _replaced(self._folder / _file_name(recorded.rollout.rollout_id)) as part, _opened(part, "") as stream:
            self._stream = stream
            super().add(recorded)


def _file_name(rollout_id: str) -> str:
    """Return a name for the file of a rollout that stays in its folder; an id may come from anybody who sends spans."""
    if _ORDINARY_ID.fullmatch(rollout_id):
        return f"{rollout_id}.json"
    digest = hashlib.blake2b(rollout_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"rollout-{digest}.json"


_ORDINARY_ID = re.compile(r"ro-[0-9A-Za-z_-]{1,100}")


class _Table:
    """Parquet."""

    def __init__(self, table: ParquetFile, selection: Selection, coverage: Coverage) -> None:
        self._table = table
        self._selection = selection
        self._coverage = coverage

    def add(self, recorded: Recorded) -> None:
        """Add the rows of a rollout to the table."""
        self._coverage.exported += len(calls_of(_latest(recorded), self._selection, self._coverage))
        self._table.add(recorded)
        self._coverage.lines += len(recorded.spans)

    def finish(self) -> None:
        """Do nothing: whoever opened the table closes it."""


def _json(line: JsonObject) -> str:
    try:
        return msgspec.json.encode(line).decode()  # NaN becomes null
    except UnicodeEncodeError:  # a lone surrogate; it becomes an escape when it is written
        return json.dumps(finite(line), ensure_ascii=False, allow_nan=False)


async def write(
    store: LightningStore, ids: AsyncIterator[str], form: str, target: str | None, selection: Selection
) -> Coverage:
    """Write the rollouts *ids* to *target* and return what was taken; a file that is there already is replaced at last.

    Args:
        store: Where they are.
        ids: Their ids.
        form: One of ``FORMATS``.
        target: Path; None or ``-``: standard output. One that ends with ``.gz`` is compressed. For ``atif`` a folder
            gets a file for each rollout.
        selection: Which calls.

    Raises:
        StoreError: The rollouts could not be read.
        OSError: The file could not be written; what was there before is still there.
    """
    coverage = Coverage()
    with contextlib.ExitStack() as stack:
        writer = _writer(stack, form, target, selection, coverage)
        async for rollout_id in ids:
            recorded = await _read(store, rollout_id, form)
            if recorded is not None:
                writer.add(recorded)
        writer.finish()
    return coverage


def _writer(
    stack: contextlib.ExitStack, form: str, target: str | None, selection: Selection, coverage: Coverage
) -> _Writer:
    if target is None or target == "-":
        if form == "parquet":
            msg = "Parquet is no text: say where to with --output FILE"
            raise click.UsageError(msg)
        return _Lines(form, sys.stdout, selection, coverage)
    path = Path(target)
    if form == "atif" and (path.is_dir() or target.endswith(("/", os.sep))):
        path.mkdir(parents=True, exist_ok=True)
        return _Folder(path, selection, coverage)
    part = stack.enter_context(_replaced(path))
    if form == "parquet":
        return _Table(stack.enter_context(ParquetFile(str(part))), selection, coverage)
    return _Lines(form, stack.enter_context(_opened(part, path.suffix)), selection, coverage)


@contextlib.contextmanager
def _replaced(path: Path) -> Generator[Path]:
    """Give a path beside *path* to write to, and put it in its place when all went well."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _opened(path: Path, suffix: str) -> TextIO:
    # A lone surrogate becomes an escape, which in a JSON text is what it is.
    if suffix == ".gz":
        return cast("TextIO", gzip.open(path, "wt", encoding="utf-8", errors="backslashreplace", newline="\n"))
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")


async def _read(store: LightningStore, rollout_id: str, form: str) -> Recorded | None:
    rollout = await store.get_rollout_by_id(rollout_id)
    if rollout is None:  # deleted since it was listed
        return None
    if form in WHOLE:
        return Recorded(rollout, await store.query_attempts(rollout_id), await store.query_spans(rollout_id))
    attempt = await store.get_latest_attempt(rollout_id)
    spans = [] if attempt is None else await store.query_spans(rollout_id, attempt.attempt_id)
    return Recorded(rollout, [attempt] if attempt else [], spans)


def _latest(recorded: Recorded) -> Recorded:
    """Return the rollout with its latest attempt only."""
    if not recorded.attempts:
        return recorded
    last = max(recorded.attempts, key=lambda attempt: attempt.sequence_id)
    return Recorded(recorded.rollout, [last], [span for span in recorded.spans if span.attempt_id == last.attempt_id])
