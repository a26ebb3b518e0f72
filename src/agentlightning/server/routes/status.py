"""Routes about the server itself: alive, ready, counts."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from agentlightning.server.routes.state import json_reply, state_of

router = APIRouter(tags=["status"])


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
    lines = [
        line
        for name, number in sorted(state.counts.items())
        for line in (f"# TYPE agentlightning_{name}_total counter", f"agentlightning_{name}_total {number}")
    ]
    if state.gate is not None:
        lines += ["# TYPE agentlightning_requests_refused_total counter"]
        lines += [f"agentlightning_requests_refused_total {state.gate.refused}"]
        lines += [
            "# TYPE agentlightning_waiting_bytes gauge",
            f"agentlightning_waiting_bytes {state.gate.waiting_bytes}",
        ]
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")
