"""Routes about the server itself: alive, ready, counts."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from agentlightning.server.routes.state import json_reply, state_of

router = APIRouter(tags=["status"])


_HELP = {
    "spans_stored": "Ended spans that were new.",
    "spans_duplicate": "Ended spans that were there already.",
    "spans_rejected": "Spans that are none by OpenTelemetry's data model, and were not stored.",
    "spans_flagged": "Spans whose content cannot be true; they were stored and marked.",
    "requests_refused": "Requests that were refused before a route saw them.",
}
_FURTHER_HELP = {
    "waiting_bytes": "Bodies of the requests under way.",
    "forward_sent": "Spans that the OTLP backend took.",
    "forward_rejected": "Spans that the OTLP backend did not want of requests that it took.",
    "forward_skipped": "Spans that the OTLP backend will never take.",
    "forward_retries": "Requests that were sent to the OTLP backend again.",
}


def _metric(name: str, kind: str, number: int) -> list[str]:
    text = (_HELP | _FURTHER_HELP).get(name.removesuffix("_total"), "")
    full = f"agentlightning_{name}"
    return [*([f"# HELP {full} {text}"] if text else []), f"# TYPE {full} {kind}", f"{full} {number}"]


@router.get("/health")
async def health() -> dict[str, str]:
    """Say that the server is alive."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> dict[str, str]:
    """Say that the store can be read; 503 when it cannot."""
    await state_of(request).store.query_newest_rollouts(limit=1)
    return {"status": "ok"}


@router.get("/v1/statistics")
async def statistics(request: Request) -> Response:
    """Count what the store holds."""
    return json_reply(await state_of(request).store_of(request).statistics())


@router.get("/metrics")
async def metrics(request: Request) -> PlainTextResponse:
    """Return counts in the text format of Prometheus."""
    state = state_of(request)
    counts = dict.fromkeys(_HELP, 0) | state.counts
    gauges: dict[str, int] = {}
    if state.gate is not None:
        counts |= {"requests_refused": state.gate.refused, **state.gate.further_counts()}
        gauges = {"waiting_bytes": state.gate.waiting_bytes}
    lines = [line for name, number in sorted(counts.items()) for line in _metric(f"{name}_total", "counter", number)]
    lines += [line for name, number in gauges.items() for line in _metric(name, "gauge", number)]
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")
