"""What the SDK sends: sign-in, spans, logs, objects, metrics.

A 2xx is said after the commit. What cannot be stored now is 503, which the SDK's exporter sends again; any other
status would make it throw the spans away.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, cast

from fastapi import APIRouter, HTTPException, Request
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from starlette.responses import JSONResponse, Response

from agentlightning._internal.clock import now_ns
from agentlightning.errors import StoreError
from agentlightning.semconv import SpanAttributeNames, SpanNames
from agentlightning.server.agentops.session import log_record, note_sessions, trace_id_of
from agentlightning.server.agentops.state import agentops_of, audit
from agentlightning.server.routes import otlp
from agentlightning.server.routes.intake import redact
from agentlightning.server.routes.state import state_of
from agentlightning.store import wire
from agentlightning.types.record import ResourceRecord, SpanRecord, WriteBatch

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

router = APIRouter(tags=["agentops"])

PROJECT_ATTRIBUTE = "agentops.project.id"
OBJECT_SCOPE = "agentops.object"
_RETRY_AFTER_S = "1"


@router.get("/")
async def root() -> dict[str, str]:
    """Say what this is; older programs ask here whether the server is up."""
    return {"status": "ok", "server": "agentlightning agentops"}


@router.get("/health")
async def health(request: Request) -> JSONResponse:
    """Say that the server is alive, in which mode, and why the service gets nothing, where that is so."""
    state = agentops_of(request)
    answer: dict[str, object] = {"status": "ok", "mode": state.mode}
    if state.upload is not None:
        answer |= {"uploaded": state.upload.sent, "problem": state.upload.problem}
    return JSONResponse(answer)


@router.post("/v3/auth/token")
async def sign_in(request: Request) -> JSONResponse:
    """Give a token for a key; 400 without one, 403 for one that is not known here."""
    return await _sign_in(request, "token")


@router.post("/public/v1/auth/access_token")
async def public_sign_in(request: Request) -> JSONResponse:
    """Give a token for the public API; 400 without a key or for one that is not known here."""
    return await _sign_in(request, "bearer")


async def _sign_in(request: Request, name: str) -> JSONResponse:
    state = agentops_of(request)
    body = _object(await request.body())
    key = body.get("api_key")
    if not isinstance(key, str) or not key.strip():
        audit(request, "sign-in refused", "no api_key")
        return JSONResponse({"error": 'send {"api_key": "..."}'}, 400)
    claims = state.keys.sign_in(key.strip())
    if claims is None:
        audit(request, "sign-in refused", "unknown key")
        reason = "this API key is not known here: 'agl store token' makes one"
        return JSONResponse({"error": reason}, 403 if name == "token" else 400)
    audit(request, "sign-in", claims.project, request.headers.get("user-agent", "")[:80])
    answer = {name: state.signer.sign(claims)}
    if name == "token":
        answer |= {"project_id": claims.project, "project_prem_status": "pro"}
    return JSONResponse(answer)


@router.get("/v3/auth/token")
async def check_token(request: Request) -> JSONResponse:
    """Say whether a token is good, and for which project."""
    claims = agentops_of(request).rules.claims(dict(request.headers))
    if claims is None:
        return JSONResponse({"error": "this token is not good here: sign in again"}, 401)
    return JSONResponse({"message": "the token is good", "payload": {"project_id": claims.project}})


@router.post("/v1/traces")
@router.post("/traces")
async def export_traces(request: Request) -> Response:
    """Store the spans of an OTLP request in the project of its token, and note the sessions that ended with it."""
    state = agentops_of(request)
    store = state.store_of(request)
    resources: dict[int, tuple[ResourceRecord, ResourceRecord]] = {}

    def adjust(record: SpanRecord) -> None:
        """Give a span the resource that names the project of whoever sends it."""
        record.resource = _with_project(record.resource, store.project, resources)

    try:
        answer, records = await otlp.ingest(request, store, adjust)
        await note_sessions(store, records)
    except StoreError as error:
        return _busy(request, error)
    audit(request, "upload", "spans", len(records))
    return answer


def _with_project(
    resource: ResourceRecord, project: str, known: dict[int, tuple[ResourceRecord, ResourceRecord]]
) -> ResourceRecord:
    """Return *resource* with the project of the token: what the SDK writes there is a placeholder or a wish."""
    if PROJECT_ATTRIBUTE not in resource.attributes:
        return resource
    found = known.get(id(resource))
    if found is None:
        changed = ResourceRecord({**resource.attributes, PROJECT_ATTRIBUTE: project}, resource.schema_url)
        found = known[id(resource)] = (resource, changed)  # the key is an id(): its object has to live on
    return found[1]


@router.post("/v4/logs/upload")
@router.post("/v4/logs/upload/")
async def upload_log(request: Request) -> Response:
    """Store what a program printed, under its trace."""
    trace_id = trace_id_of(request.headers.get("trace-id", ""), decimal=True)
    if trace_id is None:
        return JSONResponse({"error": "the header Trace-Id has to be a trace id"}, 400)
    text = _text(await request.body())
    store = agentops_of(request).store_of(request)
    try:
        record = log_record(trace_id, text, now_ns(), await store.find_attempt_of_trace(trace_id))
        await _store(request, store, record)
    except StoreError as error:
        return _busy(request, error)
    audit(request, "upload", "log", trace_id, len(text))
    return JSONResponse({"url": f"{_base(request)}/v4/logs/{trace_id}", "size": len(text.encode())})


@router.post("/v4/objects/upload")
@router.post("/v4/objects/upload/")
async def upload_object(request: Request) -> Response:
    """Store an object under the hash of its content."""
    text = _text(await request.body())
    name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    store = agentops_of(request).store_of(request)
    record = _object_record(name, text)
    try:
        await _store(request, store, record)
        await note_sessions(store, [record])
    except StoreError as error:
        return _busy(request, error)
    audit(request, "upload", "object", name, len(text))
    return JSONResponse({"url": f"{_base(request)}/v4/objects/{name}", "size": len(text.encode())})


@router.get("/v4/objects/{name}")
async def get_object(request: Request, name: str) -> Response:
    """Return an object that was uploaded."""
    store = agentops_of(request).store_of(request)
    found = await store.query_spans_by_key([(name, name[:16])])
    if not found or not await store.query_rollouts(rollout_ids=[found[0].rollout_id]):
        return JSONResponse({"error": "Object not found"}, 404)
    text = str(found[0].attributes.get(SpanAttributeNames.OBJECT.value, ""))
    return Response(text, media_type="text/plain", headers={"x-content-type-options": "nosniff"})


@router.post("/v1/metrics")
async def export_metrics(request: Request) -> Response:
    """Take metrics, count the requests, keep nothing."""
    state_of(request).count("agentops_metric_requests")
    if request.headers.get("content-type", "").startswith(wire.JSON):
        return JSONResponse({})
    return Response(ExportMetricsServiceResponse().SerializeToString(), media_type=wire.PROTOBUF)


@router.api_route("/v2/{rest:path}", methods=["GET", "POST"])
async def old_generation(rest: str) -> JSONResponse:
    """Say that the protocol of SDKs up to 0.3 is not spoken."""
    return JSONResponse({"error": f"/v2/{rest} is of AgentOps SDK 0.3; this server speaks with 0.4.13 and later"}, 410)


async def _store(request: Request, store: LightningStore, record: SpanRecord) -> None:
    await redact(state_of(request), [record])
    await asyncio.to_thread(store.write_batch, WriteBatch(spans=[record], project=store.project))


def _object_record(name: str, text: str) -> SpanRecord:
    now = now_ns()
    return SpanRecord(
        rollout_id=f"ro-{name}",
        attempt_id=f"at-{name}",
        counter=1,
        trace_id=name,
        span_id=name[:16],
        name=SpanNames.OBJECT.value,
        start_ns=now,
        end_ns=now,
        attributes={SpanAttributeNames.OBJECT.value: text},
        resource=ResourceRecord({}),
        scope_name=OBJECT_SCOPE,
    )


def _busy(request: Request, error: StoreError) -> JSONResponse:
    """Answer 503 whatever is wrong with the store: the SDK tries again after that, and after nothing else."""
    audit(request, "upload failed", type(error).__name__)
    return JSONResponse(wire.error_body(error), 503, {"retry-after": _RETRY_AFTER_S})


def _object(body: bytes) -> dict[str, object]:
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _text(body: bytes) -> str:
    """Return the text of an upload: a JSON string, ``{"body": string}``, or what is there."""
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")
    if isinstance(value, dict):
        value = cast("dict[str, object]", value).get("body")
    if not isinstance(value, str):
        raise HTTPException(400, 'send a JSON string, or {"body": string}')
    return value


def _base(request: Request) -> str:
    return str(request.base_url).rstrip("/")
