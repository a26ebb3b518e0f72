"""The application: routes, errors as replies, and the gate before them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from agentlightning._internal.version import __version__
from agentlightning.errors import AccessError, StoreError, StoreUnavailableError
from agentlightning.server.gate import Gate, GateLimits, write_audit
from agentlightning.server.routes import otlp, rollouts, spans, status
from agentlightning.server.routes.state import ServerState
from agentlightning.store import wire
from agentlightning.store.sql.manager import SqlLightningStore
from agentlightning.store.threading import LightningStoreThreaded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import APIRouter

    from agentlightning.server.access import AccessRules
    from agentlightning.store.base import LightningStore

log = logging.getLogger("agentlightning.server")

_RETRY_AFTER_S = "1"


def create_app(
    store: LightningStore,
    rules: AccessRules,
    limits: GateLimits | None = None,
    further: Sequence[APIRouter] = (),
) -> Gate:
    """Return the ASGI application that serves *store* to whom *rules* let in; routes of *further* go before ours.

    A store that is not thread-safe is called on one thread of its own.
    """
    store = thread_safe(store)
    # Newer releases of FastAPI write spans of their own for each request, which would land in the store that is served.
    own_spans: dict[str, Any] = {"telemetry": {"tracing": False, "metrics": False, "logs": False}}
    app = FastAPI(title="Agent Lightning store", version=__version__, docs_url=None, redoc_url=None, **own_spans)
    app.state.agentlightning = state = ServerState(store)
    # Spans first: routes are tried in their order, and most requests bring spans.
    for router in (*further, *(module.router for module in (spans, otlp, rollouts, status))):
        app.include_router(router)
    app.add_exception_handler(StoreError, _store_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    for kind in (UnicodeEncodeError, OverflowError):
        app.add_exception_handler(kind, _not_storable)
    app.add_exception_handler(Exception, _bug)
    state.gate = Gate(app, rules, limits)
    return state.gate


def thread_safe(store: LightningStore) -> LightningStore:
    """Return *store*, or where it may not be used from every thread, a handle that may."""
    if isinstance(store, (SqlLightningStore, LightningStoreThreaded)):
        return store
    return LightningStoreThreaded(store)


async def _store_error(request: Request, error: Exception) -> Response:
    if isinstance(error, AccessError):
        peer = request.client.host if request.client else None
        write_audit("refused", peer, request.method, request.url.path, wire.error_status(error), str(error))
    status_code = wire.error_status(error) if isinstance(error, StoreError) else 503
    headers = {"retry-after": _RETRY_AFTER_S} if isinstance(error, StoreUnavailableError) else None
    return JSONResponse(wire.error_body(error), status_code, headers)


async def _invalid(request: Request, error: Exception) -> Response:
    _ = request
    found: list[dict[str, Any]] = list(error.errors()) if isinstance(error, RequestValidationError) else []
    reasons = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in found[:5]]
    return JSONResponse({"error": "Invalid", "message": "; ".join(reasons)}, 422)


async def _not_storable(request: Request, error: Exception) -> Response:
    # Half of a surrogate pair, a number of more than 64 bits: JSON can say them, and no store keeps them.
    _ = request
    return JSONResponse({"error": "Invalid", "message": f"this holds what no store can keep: {error}"}, 422)


async def _http_error(request: Request, error: Exception) -> Response:
    _ = request
    status_code, reason = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, "")
    return JSONResponse({"error": "Refused", "message": reason}, status_code)


async def _bug(request: Request, error: Exception) -> Response:
    # The reply says nothing about our insides; the log has the traceback.
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return JSONResponse({"error": "StoreError", "message": "the server failed; its log says why"}, 500)
