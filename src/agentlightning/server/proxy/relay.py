"""The ASGI application: a request goes to a backend, its answer comes back as it is, and a span says what happened.

Nothing is added to an answer, and nothing taken away: status, headers and bytes are those of the backend. The end of
an answer waits until the span is durable, so that whoever has seen an answer finds its span, whatever happens next.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import TYPE_CHECKING, Any, cast

from agentlightning.server.proxy.record import NAMES, RecordedCall
from agentlightning.server.proxy.upstream import Answer, Outgoing, Upstream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning.server.access import AccessRules
    from agentlightning.server.gate import App, Receive, Scope, Send
    from agentlightning.server.proxy.backend import Backend, Pool
    from agentlightning.server.proxy.sink import SpanSink

_PATH = re.compile(r"(?:/rollout/([^/]{1,200})/attempt/([^/]{1,200}))(?:/v1)?(/.*)|/v1(/.*)")
_OWN = (
    "chat/completions", "completions", "responses", "embeddings", "messages", "complete", "models", "audio", "images",
    "files", "batches", "moderations", "fine_tuning", "vector_stores", "assistants", "threads",
)  # fmt: skip
"""First parts of paths that are a model server's; all others without a rollout are the store's."""
_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade", "host", "content-length", "accept-encoding")
)  # fmt: skip
_HOP_BACK = _HOP - {"content-length"}
_TRY_NEXT = frozenset({502, 503, 504})
_MAX_BODY_BYTES = 256 * 2**20
_PROBE_TIMEOUT_S = 2.0
_DURABLE_S = 1.0
"""Longest time that the end of an answer waits for a store that is slow; the span is written later then."""


class Relay:
    """Passes requests on; all else goes to the application behind it. One event loop."""

    def __init__(self, pool: Pool, sink: SpanSink, rules: AccessRules, behind: App) -> None:
        """Send model requests to *pool*, spans to *sink*, and what is no model request to *behind*."""
        self._pool = pool
        self._sink = sink
        self._rules = rules
        self._behind = behind
        self._upstream = Upstream()
        self._has_token_ids: dict[str, bool] = {}
        self._writing: set[asyncio.Future[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        match = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if match is None or (match[4] is not None and not match[4][1:].startswith(_OWN)):
            await self._behind(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._rules.check(scope["method"], scope["path"], headers)
        if refusal is not None:
            await _reply(send, refusal.status, refusal.reason, "refused")
            return
        ids = (match[1], match[2]) if match[1] else None
        body = await _read(receive)
        if body is None:
            await _reply(send, 413, "the request is too large", "refused")
            return
        await self._serve(_Request(scope, headers, match[3] or match[4], ids, body), receive, send)

    async def _serve(self, request: _Request, receive: Receive, send: Send) -> None:
        call = None
        if request.method == "POST" and request.path in NAMES and request.fields is not None:
            call = RecordedCall(request.path, request.fields, request.ids, request.headers.get("traceparent", ""))
        gone = asyncio.ensure_future(_until_gone(receive))
        work = asyncio.ensure_future(self._relay(request, call, send))
        try:
            await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():  # nobody is there to take the answer: the backend may stop
                work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
        finally:
            gone.cancel()
        if call is not None and call.record.end_ns is None:
            await self._keep(call, "the program left before the answer was complete", gone=True)

    async def _relay(self, request: _Request, call: RecordedCall | None, send: Send) -> None:
        problem = "no backend serves this path"
        candidates = self._pool.candidates(request.path, (request.fields or {}).get("model"))
        for place, backend in enumerate(candidates):
            is_last = place == len(candidates) - 1
            asking = asyncio.ensure_future(self._ask(backend, request))
            await asyncio.sleep(0)  # the request is on its way
            if call is not None and place == 0:
                call.describe()
            try:
                answer = await asking
            except OSError as error:
                problem = f"{backend.endpoint} cannot be reached: {type(error).__name__}: {error}"
                if call is not None and not is_last:
                    call.tried(backend.endpoint, problem)
                continue
            if answer.status in _TRY_NEXT and not is_last:
                if call is not None:
                    call.tried(backend.endpoint, f"status {answer.status}")
                answer.close()
                continue
            await self._pass_on(backend, answer, call, send)
            return
        if call is not None:
            await self._keep(call, problem)
        await _reply(send, 502, problem, "backend_unreachable")

    async def _ask(self, backend: Backend, request: _Request) -> Answer:
        headers = {name: value for name, value in request.headers.items() if name not in _HOP}
        headers["accept-encoding"] = "identity"
        if backend.api_key is not None:
            headers |= {"x-api-key": backend.api_key} if backend.anthropic else {}
            headers |= {} if backend.anthropic else {"authorization": f"Bearer {backend.api_key}"}
        content = request.body
        if request.path in {"/chat/completions", "/completions"} and await self._knows_token_ids(backend):
            content = _asking_for_tokens(request)
        url = backend.url(request.path) + (f"?{request.query}" if request.query else "")
        return await self._upstream.send(Outgoing(request.method, url, headers, content))

    async def _knows_token_ids(self, backend: Backend) -> bool:
        """Tell whether *backend* understands ``return_token_ids``; a server that is not asked again says it once."""
        if backend.token_ids is not None:
            return backend.token_ids
        known = self._has_token_ids.get(backend.endpoint)
        if known is None:
            known = False
            with contextlib.suppress(OSError, asyncio.TimeoutError, ValueError, TypeError, KeyError, AttributeError):
                models = await asyncio.wait_for(self._models(backend), _PROBE_TIMEOUT_S)
                known = any(model.get("owned_by") in {"vllm", "sglang"} for model in models)
            self._has_token_ids[backend.endpoint] = known
        return known

    async def _models(self, backend: Backend) -> list[Any]:
        key = {"authorization": f"Bearer {backend.api_key}"} if backend.api_key else {}
        answer = await self._upstream.send(Outgoing("GET", backend.url("/models"), key, b""))
        try:
            return json.loads(await answer.read())["data"]
        finally:
            answer.close()

    async def _pass_on(self, backend: Backend, answer: Answer, call: RecordedCall | None, send: Send) -> None:
        headers = [pair for pair in answer.raw_headers if pair[0].lower().decode("latin-1") not in _HOP_BACK]
        if call is not None:
            call.began(backend.endpoint, answer.status, answer.headers)
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        held = b""
        problem = ""
        try:
            async for chunk in answer.chunks():
                if call is None:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    continue
                # The last part of a plain answer, and of a stream the part that says that it is over, wait for the
                # span; everything else goes on at once.
                if held or not call.is_stream or call.is_last(chunk):
                    if held and not call.is_stream:
                        await send({"type": "http.response.body", "body": held, "more_body": True})
                        held = b""
                    held += chunk
                else:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                call.passed(chunk)
        except OSError as error:
            problem = f"{backend.endpoint} broke off: {type(error).__name__}: {error}"
        finally:
            answer.close()
        if call is not None:
            await self._keep(call, problem)
        if problem:
            # The program must see a broken answer too, and not one that looks complete.
            raise ConnectionError(problem)
        await send({"type": "http.response.body", "body": held, "more_body": False})

    async def _keep(self, call: RecordedCall, problem: str = "", *, gone: bool = False) -> None:
        """Write the span, and wait for it a while; the write goes on when nobody waits any more."""
        writing = asyncio.ensure_future(self._sink.put(call.ended(problem, gone=gone)))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        await asyncio.wait({writing}, timeout=_DURABLE_S)

    async def close(self) -> None:
        """Close the connections to the backends."""
        self._upstream.close()


class _Request:
    """What the program asked."""

    def __init__(
        self, scope: Scope, headers: Mapping[str, str], path: str, ids: tuple[str, str] | None, body: bytes
    ) -> None:
        self.method: str = scope["method"]
        self.query: str = scope.get("query_string", b"").decode("latin-1")
        self.headers = headers
        self.path = path
        self.ids = ids
        self.body = body
        self.fields = _fields(body)


def _fields(body: bytes) -> dict[str, Any] | None:
    try:
        value = cast("object", json.loads(body))
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _asking_for_tokens(request: _Request) -> bytes:
    if request.fields is None:
        return request.body
    more: dict[str, Any] = {"return_token_ids": True}
    if request.path == "/chat/completions":
        more["logprobs"] = True
    return json.dumps({**more, **request.fields}).encode()


async def _read(receive: Receive) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > _MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _reply(send: Send, status: int, reason: str, kind: str) -> None:
    """Answer with an error of our own, in the form that clients of the OpenAI API read."""
    body = json.dumps({"error": {"message": f"agentlightning proxy: {reason}", "type": kind, "code": None}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
