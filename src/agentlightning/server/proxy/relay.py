"""The ASGI application: a request goes to a backend, its answer comes back as it is, and a span says what happened.

Nothing is added to an answer, and nothing taken away: status, headers and bytes are those of the backend. The end of
an answer waits until the span is durable, so that whoever has seen an answer finds its span, whatever happens next.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from agentlightning._internal.ids import process_key
from agentlightning.errors import StoreError
from agentlightning.server.access import Refusal
from agentlightning.server.connection import CONNECTION
from agentlightning.server.fence import FencedStore
from agentlightning.server.gate import Hall, RefusedError, Room, refuse
from agentlightning.server.proxy.probe import CREDENTIALS, TokenIds
from agentlightning.server.proxy.record import NAMES, RecordedCall
from agentlightning.server.proxy.request import MOST_WAITING_BYTES, Request, error_body, read_body, reply
from agentlightning.server.proxy.sink import resolve
from agentlightning.server.proxy.upstream import Answer, Outgoing, Upstream
from agentlightning.store import wire

if TYPE_CHECKING:
    from agentlightning.server.access import AccessRules
    from agentlightning.server.connection import PatientProtocol
    from agentlightning.server.gate import App, Receive, Scope, Send
    from agentlightning.server.proxy.backend import Backend, Pool
    from agentlightning.server.proxy.sink import SpanSink

_OWN = (
    "chat/completions", "completions", "responses", "embeddings", "messages", "complete", "models", "audio", "images",
    "files", "batches", "moderations", "fine_tuning", "vector_stores", "assistants", "threads",
)  # fmt: skip
"""First parts of paths that are a model server's; all others without a rollout are the store's."""
_PATH = re.compile(rf"/rollout/([^/]{{1,200}})/attempt/([^/]{{1,200}})(?:/v1)?(/.*)|/v1(/(?:{'|'.join(_OWN)})(?:/.*)?)")
_BATCHES = "/batches"
"""Of both: a batch of spans has the store's content type."""
_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
     b"trailer", b"transfer-encoding", b"upgrade", b"host", b"content-length", b"accept-encoding")
)  # fmt: skip
_FOR_US = frozenset({b"authorization", wire.PROJECT_HEADER.encode()})
"""Where the proxy asks for tokens, what is for it alone."""
_HOP_BACK = _HOP - {b"content-length"}
_WITH_TOKENS = frozenset({"/chat/completions", "/completions"})
_TRY_NEXT = frozenset({502, 503, 504})
_DURABLE_S = 1.0
"""Longest time that the end of an answer waits for a store that is slow; the span is written later then."""


class Relay:
    """Passes requests on; all else goes to the application behind it. One event loop."""

    def __init__(self, pool: Pool, sink: SpanSink, rules: AccessRules, behind: App, *, has_tokens: bool) -> None:
        """Send model requests to *pool*, spans to *sink*, and what is no model request to *behind*.

        *has_tokens*: The *rules* ask for tokens, so that ``Authorization`` is the proxy's own and goes no further.
        """
        self._pool = pool
        self._sink = sink
        self._rules = rules
        self._behind = behind
        self._for_us = _FOR_US if has_tokens else frozenset[bytes]()
        self._hall = Hall(MOST_WAITING_BYTES, "too much is under way")
        self._upstream = Upstream()
        self._process = process_key()
        self._token_ids = TokenIds(self._upstream)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        # The path as it was sent: what is escaped in it stays so.
        match = _PATH.fullmatch(scope["raw_path"].decode("latin-1")) if scope["type"] == "http" else None
        if match is None:
            await self._behind(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if match[4] == _BATCHES and headers.get("content-type", "").partition(";")[0].lower() == wire.MSGPACK:
            await self._behind(scope, receive, send)
            return
        room = Room(self._hall)
        try:
            request, call = await self._take(scope, match, headers, receive, room)
            await self._serve(request, call, send)
        except RefusedError as error:
            await refuse(scope, send, error, error_body(str(error), "refused"))
        finally:
            room.leave()

    async def _take(
        self, scope: Scope, match: re.Match[str], headers: dict[str, str], receive: Receive, room: Room
    ) -> tuple[Request, RecordedCall | None]:
        """Return a request that may go on, and its call if it is one that is recorded.

        Raises:
            RefusedError: It may not.
        """
        admitted = self._rules.admit(scope["method"], scope["path"], headers)
        if isinstance(admitted, Refusal):
            raise RefusedError(admitted.status, admitted.reason)
        bound = admitted.project
        if bound not in {None, self._sink.store.project}:
            raise RefusedError(403, f"this token is bound to project {bound!r}")
        body = await read_body(headers, receive, scope[CONNECTION], room)
        ids = (unquote(match[1]), unquote(match[2])) if match[1] else None
        request = Request(scope, headers.get("traceparent", ""), match[3] or match[4], ids, body)
        if request.method != b"POST" or request.path not in NAMES or request.fields is None:
            return request, None
        call = RecordedCall(request.path, request.fields, request.ids, request.traceparent, self._process)
        if bound is not None:
            await self._check_project(call, bound)
        return request, call

    async def _check_project(self, call: RecordedCall, project: str) -> None:
        """Raise a RefusedError when a token that is bound to *project* may not record *call*."""
        ids = (("rollouts", call.record.rollout_id), ("attempts", call.record.attempt_id))
        try:
            fenced = FencedStore(self._sink.store, project)
            for kind, own in ids:
                if await asyncio.to_thread(fenced.foreign, kind, [own]):
                    msg = f"there is no {kind[:-1]} {own!r} in project {project!r}, to which this token is bound"
                    raise RefusedError(403, msg)
        except StoreError as error:  # also when it cannot be asked now: no answer is no permission
            raise RefusedError(403, str(error)) from None

    async def _serve(self, request: Request, call: RecordedCall | None, send: Send) -> None:
        work = asyncio.current_task()
        has_left = False

        def leave() -> None:  # nobody is there to take the answer: the backend may stop
            """Cancel the call whose asker has left."""
            nonlocal has_left
            has_left = True
            if work is not None:
                work.cancel()

        request.connection.tell_when_lost(leave)
        try:
            await self._relay(request, call, send)
        except BaseException as error:  # whatever it is: the span of a call that was sent is not lost with it
            if not (has_left and isinstance(error, asyncio.CancelledError)):
                if call is not None and not call.has_ended:
                    is_stopped = isinstance(error, asyncio.CancelledError)
                    self._end(call, "the proxy was stopped" if is_stopped else f"{type(error).__name__}: {error}")
                raise
        finally:
            request.connection.tell_when_lost(None)
        if call is not None and not call.has_ended:
            await self._keep(call, "the program left before the answer was complete", gone=True)

    async def _relay(self, request: Request, call: RecordedCall | None, send: Send) -> None:
        problem = f"no backend speaks {'Anthropic' if request.is_anthropic else 'OpenAI'}'s API"
        model = (request.fields or {}).get("model")
        candidates = self._pool.candidates(model, anthropic=request.is_anthropic)
        for place, backend in enumerate(candidates):
            is_last = place == len(candidates) - 1
            try:
                answer = await self._ask(backend, request, call)
            except OSError as error:
                problem = f"{backend.endpoint} cannot be reached: {type(error).__name__}: {error}"
                if call is not None and not is_last:
                    call.tried(backend.endpoint, problem)
                continue
            try:
                if is_last or answer.status not in _TRY_NEXT:
                    await self._pass_on(backend, answer, call, request.connection, send)
                    return
            finally:
                answer.close()
            if call is not None:
                call.tried(backend.endpoint, f"status {answer.status}")
        if call is not None:
            await self._keep(call, problem)
        await reply(send, 502, problem, "backend_unreachable")

    async def _ask(self, backend: Backend, request: Request, call: RecordedCall | None) -> Answer:
        """Send *request* and return when the head of the answer is there."""
        answer = await self._upstream.send(await self._outgoing(backend, request))
        try:
            if call is not None:
                self._sink.look(call)  # there is time for it now
            await answer.head()
        except BaseException:
            answer.close()
            raise
        return answer

    async def _outgoing(self, backend: Backend, request: Request) -> Outgoing:
        dropped = _HOP | self._for_us if backend.api_key is None else _HOP | self._for_us | CREDENTIALS
        headers = [pair for pair in request.headers if pair[0] not in dropped]
        if backend.api_key is not None:
            key = backend.api_key.encode()
            headers.append((b"x-api-key", key) if backend.anthropic else (b"authorization", b"Bearer " + key))
        headers.append((b"accept-encoding", b"identity"))
        content = request.body
        if request.path in _WITH_TOKENS and await self._token_ids.understands(backend, headers):
            content = _asking_for_tokens(request)
        url = backend.url(request.path) + (f"?{request.query}" if request.query else "")
        return Outgoing(request.method, url, headers, content)

    async def _pass_on(
        self, backend: Backend, answer: Answer, call: RecordedCall | None, connection: PatientProtocol, send: Send
    ) -> None:
        headers = [pair for pair in answer.raw_headers if pair[0].lower() not in _HOP_BACK]
        head = {"type": "http.response.start", "status": answer.status, "headers": headers}
        if call is None:
            await send(head)
            while part := await answer.next():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        call.began(backend.endpoint, answer.status, answer.headers)
        has_begun = call.is_stream
        if has_begun:
            await send(head)
        held = b""
        problem = ""
        try:
            while part := await answer.next():
                # The end of a plain answer, and of a stream what says that it is over, wait for the span; everything
                # else goes on at once, before it is looked at.
                now, held = call.split(held, part)
                if now and not has_begun:
                    await send(head)
                    has_begun = True
                if now:
                    await send({"type": "http.response.body", "body": now, "more_body": True})
                if call.passed(part):
                    self._sink.look(call)
        except OSError as error:
            problem = f"{backend.endpoint} broke off: {type(error).__name__}: {error}"
        await self._keep(call, problem)
        with connection.together():
            if not has_begun:
                await send(head)
            await send({"type": "http.response.body", "body": held, "more_body": bool(problem)})
        if problem:
            # The program must see a broken answer too, and not one that looks complete.
            raise ConnectionError(problem)

    async def _keep(self, call: RecordedCall, problem: str = "", *, gone: bool = False) -> None:
        """Write the span, and wait for it a while; the write goes on when nobody waits any more."""
        written = self._end(call, problem, gone=gone)
        clock = asyncio.get_running_loop().call_later(_DURABLE_S, resolve, written)
        try:
            await written
        finally:
            clock.cancel()

    def _end(self, call: RecordedCall, problem: str, *, gone: bool = False) -> asyncio.Future[None]:
        """Give the span away; return what says that it is written."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        call.ended(problem, gone=gone)
        self._sink.put(call, loop, written)
        return written

    async def close(self) -> None:
        """Close the connections to the backends."""
        self._upstream.close()


def _asking_for_tokens(request: Request) -> bytes:
    if request.fields is None:
        return request.body
    more: dict[str, Any] = {"return_token_ids": True}
    if request.path == "/chat/completions":
        more["logprobs"] = True
    return json.dumps({**more, **request.fields}).encode()
