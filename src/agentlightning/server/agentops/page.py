"""The page behind the link that the SDK prints: ``/sessions?trace_id=``; without an id the newest sessions.

Everything that a program wrote is text here: templates escape it, and the page may run no script and load nothing.
"""

from __future__ import annotations

import time
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import Response

from agentlightning.server.agentops.session import trace_id_of
from agentlightning.server.agentops.state import agentops_of
from agentlightning.server.agentops.trace import Trace, build_views, find_trace, logs_of, tags_of_trace, traces_of

if TYPE_CHECKING:
    import jinja2

    from agentlightning.store.base import LightningStore
    from agentlightning.types.record import JsonObject
    from agentlightning.view.tree import Totals

router = APIRouter(tags=["agentops page"])

_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_LISTED = 100
_LONGEST_OFFSET = 9
_MOST_SPANS = 2000
_MOST_ERRORS = 100
_MOST_CHARS = 2000
"""Characters of a name, a state or an error that are shown."""
_MOST_LOG_CHARS = 200_000
_DEEPEST = 12
"""Depth of a span that is still shown; deeper ones stand below it."""
_FILES = {"style.css": "text/css", "icon.svg": "image/svg+xml"}


@router.get("/sessions/{name}")
async def file(name: str) -> Response:
    """Return what the page loads; a style inside of the page would need a looser policy."""
    if name not in _FILES:
        return _page(404, title="No such page", message="Sessions are listed at /sessions.")
    text = _read(f"sessions.{name.partition('.')[2]}")
    return Response(text, media_type=_FILES[name], headers={**_HEADERS, "cache-control": "max-age=60"})


@router.get("/sessions")
async def sessions(request: Request, trace_id: str = "", offset: str = "") -> Response:
    """Show one session, or the newest ones of the project; *offset* of them are left out."""
    store = agentops_of(request).store_of(request)
    if not trace_id:
        return await _listing(store, int(offset) if offset.isdecimal() and len(offset) <= _LONGEST_OFFSET else 0)
    wanted = trace_id_of(trace_id)
    trace = await find_trace(store, wanted) if wanted else None
    if trace is None:
        message = "Its first spans may be on their way; a link to another server or project is not found here."
        return _page(404, title="No such session", message=message)
    return await _session(store, trace)


async def _listing(store: LightningStore, offset: int) -> Response:
    found = await traces_of(store, _LISTED, offset)
    # Rollouts without a span are left out, so a page may be short although another one follows.
    has_older = bool(await store.query_newest_rollouts(1, offset + _LISTED, children=True))
    message = "" if found else f"No session in project {store.project} {'is that old' if offset else 'yet'}."
    return _page(
        title=f"Sessions of project {store.project}",
        items=[await _item(store, trace) for trace in found],
        message=message,
        pages=[
            *([("Newer sessions", max(0, offset - _LISTED))] if offset else []),
            *([("Older sessions", offset + _LISTED)] if has_older else []),
        ],
    )


async def _session(store: LightningStore, trace: Trace) -> Response:
    await build_views([trace])
    totals = trace.totals()
    logs = await logs_of(store, trace)
    spans, failed = _outline(trace), trace.errors
    return _page(
        trace=trace,
        title=trace.name[:_MOST_CHARS],
        tags=await tags_of_trace(store, trace),
        end_state=_state(trace),
        failed=_failed(trace),
        started=_clock(trace.start_ns),
        took=_duration(trace.end_ns - trace.start_ns),
        totals=totals,
        cost=_cost(totals),
        errors=[f"{row.name}: {row.status_description or 'error'}"[:_MOST_CHARS] for row in failed[:_MOST_ERRORS]],
        more_errors=max(0, len(failed) - _MOST_ERRORS),
        spans=spans[:_MOST_SPANS],
        more=max(0, len(spans) - _MOST_SPANS),
        logs=[log[:_MOST_LOG_CHARS] for log in logs],
        logs_cut=any(len(log) > _MOST_LOG_CHARS for log in logs),
    )


async def _item(store: LightningStore, trace: Trace) -> JsonObject:
    return {
        "trace_id": trace.trace_id,
        "name": trace.name[:_MOST_CHARS],
        "tags": await tags_of_trace(store, trace),
        "state": _state(trace),
        "failed": _failed(trace),
        "started": _clock(trace.start_ns),
        "took": _duration(trace.end_ns - trace.start_ns),
        "spans": len(trace.rows),
        "errors": len(trace.errors),
    }


def _outline(trace: Trace) -> list[JsonObject]:
    """Return what the table of spans shows, in the order of their tree."""
    return [
        {
            "depth": min(max(node.depth - 1, 0), _DEEPEST),
            "name": row.name[:_MOST_CHARS],
            "kind": row.facts.kind,
            "model": (row.facts.model or "")[:_MOST_CHARS],
            "took": "" if row.end_ns is None else _duration(row.end_ns - row.start_ns),
            "status": "" if row.status_code == "UNSET" else row.status_code,
        }
        for node in trace.view.walk()
        if (row := node.row) is not None
    ]


def _state(trace: Trace) -> str:
    return str(trace.noted("end_state") or trace.rollout.status)[:_MOST_CHARS]


def _failed(trace: Trace) -> bool:
    return trace.rollout.status == "failed"


def _cost(totals: Totals) -> str:
    known = f"${totals.cost:.6f}"
    if not totals.cost_unknown:
        return known
    calls = "1 call" if totals.cost_unknown == 1 else f"{totals.cost_unknown} calls"
    return f"{known}, without {calls} whose price is not known" if totals.cost else f"unknown: no price for {calls}"


def _clock(ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ns / 1e9))


def _duration(ns: int) -> str:
    return f"{ns / 1e6:,.0f} ms" if ns < 10**10 else f"{ns / 1e9:,.1f} s"


def _read(name: str) -> str:
    return resources.files("agentlightning.server.agentops").joinpath(name).read_text("utf-8")


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    import jinja2  # noqa: PLC0415 - an idle server does not need it

    made = jinja2.Environment(autoescape=True, trim_blocks=True)
    return made.from_string(_read("sessions.html"))


def _page(status: int = 200, *, title: str, **values: object) -> Response:
    text = _template().render(title=title, zone=time.strftime("%Z"), **values)
    return Response(text.encode("utf-8", "replace"), status, _HEADERS, "text/html; charset=utf-8")
