"""Routes of spans: batches of the pipeline, single spans, and reading them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response

from agentlightning.pipeline.redaction import rules_hash
from agentlightning.server.routes.intake import decoded, flag_all, redact
from agentlightning.server.routes.state import ServerState, json_reply, state_of
from agentlightning.store import wire
from agentlightning.store.client_server import Seconds  # noqa: TC001 - FastAPI reads the annotations
from agentlightning.types.record import WriteResult
from agentlightning.view.integrity import problem

if TYPE_CHECKING:
    from agentlightning.types.record import WriteBatch
    from agentlightning.types.tracer import Span

MAX_HOLD_S = 20.0
"""Longest time that a request which waits is held."""

router = APIRouter(prefix="/v1", tags=["spans"])
log = logging.getLogger(__name__)


@router.post("/batches")
async def write_batch(request: Request) -> Response:
    """Write a batch of the pipeline (MessagePack) in one transaction; answered after the commit."""
    state = state_of(request)
    batch = await decoded(wire.decode_batch, request)
    rejected = _take_out_rejected(batch, state)
    if batch.rules != rules_hash():  # redacted once, where both have the same rules
        await redact(state, batch.spans, batch.starts)
    await flag_all(state, batch.spans)
    store = state.store_of(request)
    batch.project = store.project
    result = await asyncio.to_thread(store.write_batch, batch)
    state.count("spans_stored", result.stored)
    state.count("spans_duplicate", result.duplicate)
    return json_reply(WriteResult(result.stored, result.duplicate, [*result.rejected, *rejected]))


@router.post("/spans")
async def add_spans(request: Request) -> Response:
    """Insert spans (MessagePack) of known attempts and return them as they are stored."""
    state = state_of(request)
    items = await decoded(wire.decode_spans, request)
    records = [item.record for item in items]
    reason = next(filter(None, map(problem, records)), None)
    if reason is not None:
        state.count("spans_rejected", len(records))
        raise HTTPException(400, f"nothing was stored: {reason}")
    await redact(state, records)
    await flag_all(state, records)
    spans = [_span(item) for item in items]
    stored = await state.store_of(request).add_spans(spans)
    state.count("spans_stored", len(stored))
    return _spans_reply(stored)


@router.get("/rollouts/{rollout_id}/spans")
async def query_spans(
    request: Request, rollout_id: str, attempt_id: str | None = None, *, include_open: bool = False
) -> Response:
    """Return the spans of a rollout, as JSON, or as MessagePack when that is accepted."""
    store = state_of(request).store_of(request)
    spans = await store.query_spans(rollout_id, attempt_id, include_open=include_open)
    if wire.MSGPACK in request.headers.get("accept", ""):
        return await asyncio.to_thread(_spans_reply, spans)
    return await asyncio.to_thread(lambda: json_reply([span.model_dump(mode="json") for span in spans]))


@router.get("/rollouts/{rollout_id}/span-rows")
async def query_span_rows(
    request: Request, rollout_id: str, attempt_id: str | None = None, *, include_open: bool = True
) -> Response:
    """Return the shape of a rollout without payloads, as JSON, or as MessagePack when that is accepted."""
    store = state_of(request).store_of(request)
    rows = await store.query_span_rows(rollout_id, attempt_id, include_open=include_open)
    if wire.MSGPACK in request.headers.get("accept", ""):
        return Response(wire.encode(rows), media_type=wire.MSGPACK)
    return json_reply(rows)


@router.post("/spans/by-key")
async def query_spans_by_key(request: Request) -> Response:
    """Return spans in full by trace and span id (MessagePack)."""
    keys = await decoded(wire.decode_keys, request)
    spans = await state_of(request).store_of(request).query_spans_by_key(keys)
    return await asyncio.to_thread(_spans_reply, spans)


@router.post("/changes")
async def query_changes(request: Request, wait_s: Seconds = 0.0) -> Response:
    """Return what happened in the project since a cursor (MessagePack), waiting for it at most 20 s."""
    after = await decoded(wire.decode_cursor, request)
    found = await state_of(request).store_of(request).query_changes(after, wait_s=min(wait_s, MAX_HOLD_S))
    rollouts = [rollout.model_dump(mode="json") for rollout in found.rollouts]
    return Response(wire.encode_any(wire.ChangesReply(found.cursor, rollouts, found.spans)), media_type=wire.MSGPACK)


@router.get("/traces/{trace_id}/attempt")
async def find_attempt_of_trace(request: Request, trace_id: str) -> tuple[str, str] | None:
    """Return rollout and attempt id of the newest attempt with a span of this trace, or null."""
    return await state_of(request).store_of(request).find_attempt_of_trace(trace_id)


def _take_out_rejected(batch: WriteBatch, state: ServerState) -> list[str]:
    """Take spans that are none of OpenTelemetry's model out of *batch*, count them, and return their ids."""
    reasons = [(span, problem(span)) for span in batch.spans]
    rejected = [span for span, reason in reasons if reason is not None]
    if rejected:
        batch.spans = [span for span, reason in reasons if reason is None]
        state.count("spans_rejected", len(rejected))
        log.warning("%d spans were rejected: %s", len(rejected), next(reason for _, reason in reasons if reason))
    return [span.span_id for span in rejected if span.end_ns is not None]


def _span(item: wire.NumberedSpan) -> Span:
    from agentlightning.types.tracer import Span as SpanModel  # noqa: PLC0415 - only for single spans

    return SpanModel.from_record(item.record, item.sequence_id)


def _spans_reply(spans: list[Span]) -> Response:
    items = [wire.NumberedSpan(span.to_record(), span.sequence_id) for span in spans]
    return Response(wire.encode(items), media_type=wire.MSGPACK)
