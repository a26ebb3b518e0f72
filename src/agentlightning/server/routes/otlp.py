"""OTLP over HTTP: spans of any OpenTelemetry exporter, as protobuf or JSON.

https://opentelemetry.io/docs/specs/otlp/#otlphttp. Answered after the commit; spans that are refused are counted in
``partialSuccess`` with the first reasons, and the others are stored.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import APIRouter, HTTPException, Request
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.responses import Response

from agentlightning.server.fence import FencedStore
from agentlightning.server.otlp import OtlpError, give_owners, records_of, request_from_json
from agentlightning.server.routes.intake import beside, content_type_of, flag_all, redact
from agentlightning.server.routes.state import json_reply, state_of
from agentlightning.store import wire
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning.store.base import LightningStore
    from agentlightning.types.record import SpanRecord

router = APIRouter(prefix="/v1", tags=["otlp"])

_MAX_BATCH = 500


@router.post("/traces")
async def export_traces(request: Request) -> Response:
    """Store the spans of an ``ExportTraceServiceRequest``."""
    return (await ingest(request, state_of(request).store_of(request)))[0]


async def ingest(
    request: Request, store: LightningStore, adjust: Callable[[SpanRecord], None] | None = None
) -> tuple[Response, list[SpanRecord]]:
    """Store the spans of *request* in *store*, after *adjust* saw each; return the answer and what is stored.

    Raises:
        HTTPException: It is no OTLP.
        StoreError: Some or all of the spans are not stored; the same request may be sent again.
    """
    state = state_of(request)
    content_type = content_type_of(request)
    if content_type not in {wire.PROTOBUF, wire.JSON}:
        raise HTTPException(415, f"OTLP is {wire.PROTOBUF} or {wire.JSON}")
    body = await request.body()
    records, reasons = await beside(body, lambda: records_of(_parsed(body, content_type)))
    await give_owners(records, store)
    if adjust is not None:
        for record in records:
            adjust(record)
    if isinstance(store, FencedStore):
        own = await asyncio.to_thread(store.without_foreign, records)
        reasons += ["it belongs to another project"] * (len(records) - len(own))
        records = own
    await redact(state, records)
    await flag_all(state, records)
    for start in range(0, len(records), _MAX_BATCH):
        batch = WriteBatch(spans=records[start : start + _MAX_BATCH], project=store.project)
        result = await asyncio.to_thread(store.write_batch, batch)
        state.count("spans_stored", result.stored)
        state.count("spans_duplicate", result.duplicate)
    state.count("spans_rejected", len(reasons))
    return _reply(content_type, reasons), records


def _parsed(body: bytes, content_type: str) -> ExportTraceServiceRequest:
    try:
        if content_type == wire.JSON:
            return request_from_json(body)
        return ExportTraceServiceRequest.FromString(body)
    except (DecodeError, OtlpError, ValueError, RecursionError) as error:
        raise HTTPException(400, f"this is no OTLP request: {str(error)[:200]}") from None


def _reply(content_type: str, reasons: list[str]) -> Response:
    text = "; ".join(dict.fromkeys(reasons[:5]))
    if content_type == wire.JSON:
        partial = {"rejectedSpans": str(len(reasons)), "errorMessage": text}
        return json_reply({"partialSuccess": partial} if reasons else {})
    answer = ExportTraceServiceResponse()
    if reasons:
        answer.partial_success.rejected_spans = len(reasons)
        answer.partial_success.error_message = text
    return Response(answer.SerializeToString(), media_type=wire.PROTOBUF)
