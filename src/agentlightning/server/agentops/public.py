"""The public API of AgentOps, version 1: what a program may read of its project, given a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from agentlightning.server.agentops.state import agentops_of
from agentlightning.server.agentops.trace import Trace, build_views, find_trace, iso, spans_of, tags_of_trace, trace_of
from agentlightning.view.tree import Totals

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import Rollout
    from agentlightning.types.query import SpanRow
    from agentlightning.types.record import JsonObject
    from agentlightning.types.tracer import Span

router = APIRouter(prefix="/public/v1", tags=["agentops public"])

_LOOKED_AT = 200
"""Rollouts, newest first, in which a span is looked for whose trace nobody has asked for."""
_REMEMBERED = 10_000
_OUTPUT = frozenset({"output", "reasoning"})


class _RefusedError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    def reply(self) -> JSONResponse:
        """Return it as the protocol writes errors."""
        return JSONResponse({"error": str(self)}, self.status)


@router.get("/project")
async def get_project(request: Request) -> JSONResponse:
    """Return the project of the token."""
    try:
        store = _store(request)
    except _RefusedError as error:
        return error.reply()
    return JSONResponse({"id": store.project, "name": store.project, "environment": "local"})


@router.get("/traces/{trace_id}")
async def get_trace(request: Request, trace_id: str) -> JSONResponse:
    """Return a trace with the shape of its spans."""
    try:
        store = _store(request)
        trace = await _trace(store, trace_id)
    except _RefusedError as error:
        return error.reply()
    _remember(request, trace)
    spans = [span_head(span, row) for span, row in zip(await spans_of(store, trace), trace.rows, strict=False)]
    return JSONResponse(
        {"trace_id": trace_id, "project_id": store.project, "tags": await tags_of_trace(store, trace), "spans": spans}
    )


@router.get("/traces/{trace_id}/metrics")
async def get_trace_metrics(request: Request, trace_id: str) -> JSONResponse:
    """Return counts, tokens and cost of a trace."""
    try:
        trace = await _trace(_store(request), trace_id)
    except _RefusedError as error:
        return error.reply()
    await build_views([trace])
    return JSONResponse(metrics_of([trace]))


@router.get("/spans/{span_id}")
async def get_span(request: Request, span_id: str) -> JSONResponse:
    """Return a span in full; keys with dots come nested."""
    try:
        span, row = await _span(request, span_id)
    except _RefusedError as error:
        return error.reply()
    attributes = nested(span.attributes)
    return JSONResponse(
        {
            **span_head(span, row),
            "trace_id": span.trace_id,
            "service_name": str(span.resource.attributes.get("service.name", "")),
            "attributes": attributes,
            "span_attributes": attributes,
            "resource_attributes": nested(span.resource.attributes),
        }
    )


@router.get("/spans/{span_id}/metrics")
async def get_span_metrics(request: Request, span_id: str) -> JSONResponse:
    """Return tokens and cost of one span."""
    try:
        _, row = await _span(request, span_id)
    except _RefusedError as error:
        return error.reply()
    alone = trace_of(row.trace_id, cast("Rollout", None), [row])
    totals = alone.totals()
    tokens = totals.total_tokens
    state = "fail" if row.status_code == "ERROR" else "success" if row.status_code == "OK" else "indeterminate"
    by_state = {f"{name}_tokens": tokens if name == state else 0 for name in ("success", "fail", "indeterminate")}
    return JSONResponse({**_token_figures(totals), **_cost_figures(alone), **by_state})


def _store(request: Request) -> LightningStore:
    state = agentops_of(request)
    if state.rules.claims(dict(request.headers)) is None:
        raise _RefusedError(400, "a bearer token is needed: POST /public/v1/auth/access_token gives one")
    return state.store_of(request)


async def _trace(store: LightningStore, trace_id: str) -> Trace:
    trace = await find_trace(store, trace_id)
    if trace is None:
        raise _RefusedError(404, "Trace not found")
    return trace


async def _span(request: Request, span_id: str) -> tuple[Span, SpanRow]:
    store = _store(request)
    trace_id = agentops_of(request).traces_of_spans.get(span_id) or await _trace_of_span(store, span_id)
    trace = await find_trace(store, trace_id) if trace_id else None
    row = next((row for row in trace.rows if row.span_id == span_id), None) if trace else None
    found = await store.query_spans_by_key([(row.trace_id, span_id)]) if row else []
    if row is None or not found:
        raise _RefusedError(404, "Span not found")
    return found[0], row


async def _trace_of_span(store: LightningStore, span_id: str) -> str | None:
    for rollout in await store.query_newest_rollouts(_LOOKED_AT, children=True):
        for row in await store.query_span_rows(rollout.rollout_id, "latest", include_open=False):
            if row.span_id == span_id:
                return row.trace_id
    return None


def _remember(request: Request, trace: Trace) -> None:
    known = agentops_of(request).traces_of_spans
    if len(known) > _REMEMBERED:
        known.clear()
    known.update((row.span_id, row.trace_id) for row in trace.rows)


def span_head(span: Span, row: SpanRow) -> JsonObject:
    """Return what every answer says about a span."""
    end_ns = row.end_ns or row.start_ns
    return {
        "span_id": row.span_id,
        "parent_span_id": row.parent_id,
        "span_name": row.name,
        "span_kind": span.kind,
        "start_time": iso(row.start_ns),
        "end_time": iso(end_ns),
        "duration": end_ns - row.start_ns,
        "status_code": row.status_code,
        "status_message": row.status_description or "",
    }


def metrics_of(traces: list[Trace]) -> JsonObject:
    """Return the figures of traces together; costs are texts, as the protocol wants."""
    rows = [row for trace in traces for row in trace.rows]
    failed = sum(row.status_code == "ERROR" for row in rows)
    good = sum(row.status_code == "OK" for row in rows)
    totals = Totals()
    for trace in traces:
        totals.add(trace.totals())
    costs = _cost_figures(*traces)
    return {
        "span_count": len(rows),
        "trace_count": len(traces),
        "success_count": good,
        "fail_count": failed,
        "indeterminate_count": len(rows) - good - failed,
        **_token_figures(totals),
        **costs,
        "average_cost_per_trace": str(float(costs["total_cost"]) / max(1, len(traces))),
    }


def _token_figures(totals: Totals) -> dict[str, int]:
    return {
        "prompt_tokens": totals.input_tokens,
        "completion_tokens": totals.output_tokens,
        "cache_read_input_tokens": totals.cache_read_tokens,
        "reasoning_tokens": totals.reasoning_tokens,
        "total_tokens": totals.total_tokens,
    }


def _cost_figures(*traces: Trace) -> dict[str, str]:
    """Return costs in USD; a call whose price is not known counts nothing."""
    total = sum((trace.totals().cost for trace in traces), start=Totals().cost)
    output = sum((_output_cost(trace) for trace in traces), start=Totals().cost)
    return {"prompt_cost": str(total - output), "completion_cost": str(output), "total_cost": str(total)}


def _output_cost(trace: Trace) -> Decimal:
    total = Totals().cost
    for node in trace.view.walk():
        price = node.price
        if node.counted and price is not None and price.usd is not None:
            total += sum((part.usd for part in price.amounts if part.token_class in _OUTPUT), start=Totals().cost)
    return total


def nested(flat: Mapping[str, object]) -> JsonObject:
    """Return attributes with dots in their names as objects and lists: ``a.0.b`` is ``{"a": [{"b": ...}]}``.

    A name that is both a value and the beginning of another one keeps its value under the empty name.
    """
    tree: JsonObject = {}
    for key, value in flat.items():
        place = tree
        *path, last = key.split(".")
        for part in path:
            below = place.setdefault(part, {})
            if not isinstance(below, dict):
                below = place[part] = {"": below}
            place = cast("JsonObject", below)
        if isinstance(place.get(last), dict):
            place[last][""] = value
        else:
            place[last] = value
    return cast("JsonObject", _with_lists(tree))


def _with_lists(value: object) -> object:
    if not isinstance(value, dict):
        return value
    items = {key: _with_lists(item) for key, item in cast("dict[str, object]", value).items()}
    if items and set(items) == {str(number) for number in range(len(items))}:
        return [items[str(number)] for number in range(len(items))]
    return items
