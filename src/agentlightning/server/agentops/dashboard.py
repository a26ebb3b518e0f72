"""What the dashboard of AgentOps asks for: lists of traces, their details, figures of a project, logs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from agentlightning.server.agentops.public import metrics_of, nested, span_head
from agentlightning.server.agentops.session import trace_id_of
from agentlightning.server.agentops.state import agentops_of
from agentlightning.server.agentops.trace import (
    Trace,
    build_views,
    find_trace,
    iso,
    logs_of,
    spans_of,
    tags_of_trace,
    traces_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning.store.base import LightningStore
    from agentlightning.types.query import SpanRow
    from agentlightning.types.record import JsonObject
    from agentlightning.types.tracer import Span

router = APIRouter(prefix="/v4", tags=["agentops dashboard"])

_LOOKED_AT = 1000
"""Newest traces that a list chooses from."""
_ORDERS = frozenset({"start_time", "end_time", "duration", "span_count", "error_count", "total_cost"})
_DEFAULT_LIMIT, _MAX_LIMIT = 20, 100


class _Selection:
    """Which traces a list has, from the query of a request."""

    def __init__(self, given: Mapping[str, str]) -> None:
        """Take the parameters; an unknown order is the start.

        Raises:
            ValueError: A number is none.
        """
        self.start_time, self.end_time = given.get("start_time", ""), given.get("end_time", "")
        self.query = given.get("query", "").lower()
        self.limit = min(_MAX_LIMIT, max(1, int(given.get("limit", _DEFAULT_LIMIT))))
        self.offset = max(0, int(given.get("offset", 0)))
        order = given.get("order_by", "")
        self.order = order if order in _ORDERS else "start_time"
        self.descending = given.get("sort_order", "").upper() != "ASC"

    def wants(self, item: JsonObject) -> bool:
        """Tell whether a trace fits; times compare as ISO 8601 in UTC."""
        if self.start_time and item["start_time"] < self.start_time:
            return False
        if self.end_time and item["start_time"] > self.end_time:
            return False
        text = " ".join([item["trace_id"], item["root_span_name"], *item["tags"]]).lower()
        return self.query in text


@router.get("/traces/list/{project_id}")
async def list_traces(request: Request, project_id: str) -> JSONResponse:
    """Return a page of the project's traces with the figures of all that fit."""
    store = _store(request, project_id)
    if store is None:
        return _unknown_project()
    try:
        selection = _Selection(request.query_params)
    except ValueError:
        return JSONResponse({"error": "limit and offset are whole numbers"}, 400)
    traces = await traces_of(store, _LOOKED_AT, 0)
    await build_views(traces)
    items = [(await _item(store, trace), trace) for trace in traces]
    fitting = [pair for pair in items if selection.wants(pair[0])]
    fitting.sort(key=lambda pair: pair[0][selection.order], reverse=selection.descending)
    metrics = await asyncio.to_thread(metrics_of, [trace for _, trace in fitting])
    page = fitting[selection.offset : selection.offset + selection.limit]
    return JSONResponse(
        {
            "traces": [item for item, _ in page],
            "metrics": metrics,
            "total": len(fitting),
            "limit": selection.limit,
            "offset": selection.offset,
        }
    )


@router.get("/traces/detail/{trace_id}")
async def get_trace(request: Request, trace_id: str) -> JSONResponse:
    """Return a trace with its spans in full."""
    store = agentops_of(request).store_of(request)
    trace = await find_trace(store, trace_id)
    if trace is None:
        return JSONResponse({"error": "Trace not found"}, 404)
    await build_views([trace])
    found = await spans_of(store, trace)
    spans = await asyncio.to_thread(lambda: [_detail(*pair) for pair in zip(found, trace.rows, strict=False)])
    head = {
        "trace_id": trace_id,
        "project_id": store.project,
        "tags": await tags_of_trace(store, trace),
        "end_state": trace.noted("end_state") or "",
    }
    return JSONResponse({**head, "metrics": metrics_of([trace]), "spans": spans})


@router.get("/meterics/project/{project_id}")
@router.get("/metrics/project/{project_id}")
async def get_project_metrics(request: Request, project_id: str) -> JSONResponse:
    """Return the figures of the newest traces of a project."""
    store = _store(request, project_id)
    if store is None:
        return _unknown_project()
    traces = await traces_of(store, _LOOKED_AT, 0)
    return JSONResponse({"project_id": project_id, **await asyncio.to_thread(metrics_of, traces)})


@router.get("/logs/{trace_id}")
async def get_log(request: Request, trace_id: str) -> Response:
    """Return what a program printed, as text."""
    wanted = trace_id_of(trace_id)
    store = agentops_of(request).store_of(request)
    trace = await find_trace(store, wanted) if wanted else None
    logs = await logs_of(store, trace) if trace else []
    if not logs:
        return JSONResponse({"error": "Log not found"}, 404)
    return PlainTextResponse("".join(logs), headers={"x-content-type-options": "nosniff"})


async def _item(store: LightningStore, trace: Trace) -> JsonObject:
    totals = trace.totals()
    return {
        "trace_id": trace.trace_id,
        "root_service_name": "agentops",
        "root_span_name": trace.name,
        "start_time": iso(trace.start_ns),
        "end_time": iso(trace.end_ns),
        "duration": trace.end_ns - trace.start_ns,
        "span_count": len(trace.rows),
        "error_count": len(trace.errors),
        "tags": await tags_of_trace(store, trace),
        "total_cost": float(totals.cost),
    }


def _detail(span: Span, row: SpanRow) -> JsonObject:
    return {
        **span_head(span, row),
        "span_attributes": nested(span.attributes),
        "resource_attributes": nested(span.resource.attributes),
        "events": [{"name": event.name, "attributes": event.attributes} for event in span.events],
    }


def _store(request: Request, project_id: str) -> LightningStore | None:
    """Return the handle of the request's project, when that is the one that is asked for."""
    store = agentops_of(request).store_of(request)
    return store if project_id == store.project else None


def _unknown_project() -> JSONResponse:
    return JSONResponse({"error": "this token is not of that project"}, 403)
