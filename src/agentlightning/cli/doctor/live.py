"""``agl doctor --live``: what is written to a store now, from the last minute of its spans and the live counters."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from agentlightning import settings
from agentlightning.cli import document
from agentlightning.cli.doctor.trouble import resident_bytes
from agentlightning.cli.terminal import fit, has_colour, style, width, write
from agentlightning.cli.text import count, duration, plural
from agentlightning.errors import StoreUnavailableError
from agentlightning.pipeline.ledger import Account, ledger_folder, read_each
from agentlightning.store.upkeep import read_only
from agentlightning.store.url import canonical_url, default_store_url, open_store, scheme_of, shown_url, sqlite_path
from agentlightning.types.change import ChangeCursor
from agentlightning.view.tree import COUNTED_KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentlightning.store.base import LightningStore

WINDOW_S = 60.0
"""Spans that ended in these last seconds are looked at."""
_EVERY_S = 1.0
_MOST, _MOST_ASKED = 50_000, 10_000
"""At most so many of the newest spans are looked at: in a file, over a server."""

_RECENT = """
SELECT start_ns, end_ns, status_code, json_extract(facts, '$.kind') FROM spans
WHERE rowid > (SELECT max(rowid) FROM spans) - ? AND end_ns >= ?
"""


class Ended(NamedTuple):
    """A span that ended lately."""

    start_ns: int
    end_ns: int
    is_error: bool
    is_call: bool


class Figures(NamedTuple):
    """What is known of a store at one moment; None: nothing to compute it from."""

    url: str
    window_s: float
    spans: int
    """Spans that ended within the window."""
    per_s: float
    errors: int
    error_rate: float | None
    """Share of those spans with status ERROR."""
    p50_s: float | None
    """Half of the spans took less."""
    p99_s: float | None
    calls: int
    """Calls of models among them."""
    call_p50_s: float | None
    call_p99_s: float | None
    programs: int
    """Processes of this machine that are writing."""
    produced: int
    waiting: int
    lost: int
    success_rate: float | None
    """Share of all spans that those processes produced that was not lost."""
    memory_bytes: int
    """Resident memory of those processes."""
    store_bytes: int
    answer_s: float
    """How long the store took to answer."""


def show(store: str | None, project: str | None, *, once: bool, as_json: bool) -> None:
    """Print the figures, once or every second until Ctrl+C.

    Raises:
        StoreError: The store cannot be read.
    """
    lines = 0
    while True:
        figures = look(store, project)
        if as_json:
            write(document.dumps({"version": document.VERSION, "type": "live", **figures._asdict()}))
        else:
            shown = list(_lines(figures))
            if lines and has_colour():
                sys.stdout.write(f"\x1b[{lines}A\x1b[J")  # over the former ones; elsewhere they follow each other
            elif lines:
                write("")
            for line in shown:
                write(line)
            lines = len(shown)
        if once:
            return
        time.sleep(_EVERY_S)


def look(store: str | None, project: str | None) -> Figures:
    """Return the figures of this moment.

    Raises:
        StoreError: The store cannot be read.
    """
    url = canonical_url(store) if store else default_store_url()
    now_ns, began = time.time_ns(), time.monotonic()
    since_ns = now_ns - int(WINDOW_S * 1e9)
    size = 0
    if scheme_of(url) == "sqlite":
        path = sqlite_path(url)
        size = sum(each.stat().st_size for each in (path, path.with_name(path.name + "-wal")) if each.exists())
        if not size:
            msg = f"there is no store at {path}; record something with 'agl run' or name another with --store"
            raise StoreUnavailableError(msg)
        with read_only(path) as connection:
            found = [
                Ended(start, end, status == "ERROR", kind in COUNTED_KINDS)
                for start, end, status, kind in connection.execute(_RECENT, (_MOST, since_ns))
            ]
    else:
        opened = open_store(url, project or settings.get(settings.PROJECT), create=False)
        try:
            found, size = asyncio.run(_ask(opened, since_ns))
        finally:
            opened.close()
    return _figures(url, found, size, time.monotonic() - began)


async def _ask(store: LightningStore, since_ns: int) -> tuple[list[Ended], int]:
    """Ask a server for its newest spans, as a follower does who left off some thousand spans ago."""
    present = await store.query_changes(None)
    cursor = ChangeCursor(span=max(0, present.cursor.span - _MOST_ASKED), rollout=present.cursor.rollout)
    found: list[Ended] = []
    while True:
        changes = await store.query_changes(cursor)
        found += [
            Ended(row.start_ns, row.end_ns, row.status_code == "ERROR", row.facts.kind in COUNTED_KINDS)
            for row in changes.spans
            if row.end_ns is not None and row.end_ns >= since_ns
        ]
        if not changes.spans or changes.cursor.version:
            return found, (await store.statistics()).size_bytes
        cursor = changes.cursor


def _figures(url: str, found: list[Ended], size: int, answer_s: float) -> Figures:
    everything, calls = _seconds(found), _seconds([each for each in found if each.is_call])
    errors = sum(each.is_error for each in found)
    account, programs, memory = Account(), 0, 0
    folder = ledger_folder(url, None)
    for each in folder.parent.iterdir() if folder is not None and folder.parent.is_dir() else ():
        for one in read_each(each):
            if one.is_alive:
                account += one.account
                programs += 1
                memory += resident_bytes(one.process)
    return Figures(
        url=shown_url(url),
        window_s=WINDOW_S,
        spans=len(found),
        per_s=len(found) / WINDOW_S,
        errors=errors,
        error_rate=errors / len(found) if found else None,
        p50_s=quantile(everything, 0.5),
        p99_s=quantile(everything, 0.99),
        calls=len(calls),
        call_p50_s=quantile(calls, 0.5),
        call_p99_s=quantile(calls, 0.99),
        programs=programs,
        produced=account.produced,
        waiting=account.waiting,
        lost=account.total_lost,
        success_rate=1 - account.total_lost / account.produced if account.produced else None,
        memory_bytes=memory,
        store_bytes=size,
        answer_s=answer_s,
    )


def _seconds(found: list[Ended]) -> list[float]:
    return sorted((each.end_ns - each.start_ns) / 1e9 for each in found)


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """Return the value below which *share* of the *ordered* ones lie (nearest rank); None of none."""
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _lines(figures: Figures) -> list[str]:
    last = f"last {figures.window_s:.0f} s"
    rows = [
        ("store", figures.url),
        ("spans", f"{count(figures.spans)} in the {last}, {figures.per_s:,.1f}/s"),
        ("errors", f"{count(figures.errors)}, rate {_percent(figures.error_rate)}"),
        ("duration", f"p50 {_time(figures.p50_s)}, p99 {_time(figures.p99_s)}"),
        ("calls", f"{count(figures.calls)}, p50 {_time(figures.call_p50_s)}, p99 {_time(figures.call_p99_s)}"),
        ("programs", f"{plural(figures.programs, 'process', 'processes')}, {figures.memory_bytes / 2**20:,.0f} MB"),
        ("produced", f"{count(figures.produced)}, waiting {count(figures.waiting)}, lost {count(figures.lost)}"),
        ("success", f"{_percent(figures.success_rate)} of their spans"),
        ("disk", f"{figures.store_bytes / 2**20:,.1f} MB; answered in {figures.answer_s * 1e3:.0f} ms"),
    ]
    return [style(f"{name:<9}", bold=True) + fit(text, max(10, width() - 9)).rstrip() for name, text in rows]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else duration(int(seconds * 1e9))
