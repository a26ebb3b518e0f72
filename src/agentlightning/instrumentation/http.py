"""HTTP clients: httpx, httpx2, requests and aiohttp write a span for each call of a model that nobody else records.

Off unless asked for: ``agl run --http``, the setting ``http``, or ``HttpTracer``. The program gets the very answers
that it would get; a stream is looked at as the program reads it, and never read ahead.
"""

from __future__ import annotations

import functools
import importlib
import weakref
from typing import TYPE_CHECKING, Any, Protocol, cast

import wrapt

from agentlightning import settings
from agentlightning._internal.guard import guard
from agentlightning.instrumentation import registry
from agentlightning.instrumentation.base import Instrumentor, Patches
from agentlightning.instrumentation.http_call import Choice, Recorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from types import ModuleType

    from opentelemetry.trace import TracerProvider

    from agentlightning.instrumentation.http_call import HttpCall


class _Request(Protocol):
    """What we read of a request of httpx or requests."""

    method: str
    url: object
    """A text, or what becomes one."""
    headers: Mapping[str, str]
    body: bytes | str | None
    """Of requests only."""


class _Answer(Protocol):
    """What we read of an answer of httpx."""

    status_code: int
    headers: Mapping[str, str]
    stream: object
    content: bytes


class _Stream(Protocol):
    """The body of an answer of ``httpx.Client``."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield the parts as they come."""
        ...

    def close(self) -> None:
        """Read no more."""
        ...


class _AsyncStream(Protocol):
    """The body of an answer of ``httpx.AsyncClient``."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the parts as they come."""
        ...

    async def aclose(self) -> None:
        """Read no more."""
        ...


class _Wanted:
    """What was asked for in this process."""

    is_on = False
    choice = Choice()


class HttpInstrumentor(Instrumentor):
    """Makes one HTTP client write spans."""

    def __init__(self) -> None:
        """Make it; nothing is changed yet."""
        super().__init__()
        self._patches = Patches()
        self._recorder: Recorder | None = None

    def is_wanted(self) -> bool:
        """Tell whether it was asked for: a tracer that does not may find it registered by one that did before."""
        return _Wanted.is_on or settings.get(settings.HTTP)

    def _install(self, tracer_provider: TracerProvider) -> None:
        tracer = tracer_provider.get_tracer("agentlightning.instrumentation.http")
        self._recorder = Recorder(tracer, lambda: _Wanted.choice)
        self.patch(self._recorder, self._patches)

    def patch(self, recorder: Recorder, patches: Patches) -> None:
        """Wrap what sends requests."""
        raise NotImplementedError

    def _remove(self) -> None:
        if self._recorder is not None:
            self._recorder.is_on = False
            _Wanted.is_on, _Wanted.choice = False, Choice()
        self._patches.restore()


class HttpxInstrumentor(HttpInstrumentor):
    """``httpx.Client`` and ``httpx.AsyncClient``."""

    name = "httpx"
    modules = ("httpx",)

    def patch(self, recorder: Recorder, patches: Patches) -> None:
        """Wrap ``send`` of both clients."""
        httpx = importlib.import_module(self.name)
        streams = _stream(httpx), _async_stream(httpx)

        def start(request: _Request) -> HttpCall | None:
            """Begin a call when *request* goes to a model; None for any other."""
            with guard("http.start"):
                body = getattr(request, "_content", None)  # absent where the body is a stream, which we do not read
                return recorder.start(request.method, str(request.url), request.headers, body)
            return None

        def sync_send(original: Callable[..., _Answer]) -> Callable[..., object]:
            """Wrap ``Client.send``."""

            @functools.wraps(original)
            def send(this: object, request: _Request, *args: object, **kwargs: object) -> object:
                """Send *request* inside a span, where it goes to a model."""
                call = start(request)
                if call is None:
                    return original(this, request, *args, **kwargs)
                with call.sending():
                    response = original(this, request, *args, **kwargs)
                _received(call, response, streams[0], unread=bool(kwargs.get("stream")))
                return response

            return send

        def async_send(original: Callable[..., Awaitable[_Answer]]) -> Callable[..., Awaitable[object]]:
            """Wrap ``AsyncClient.send``."""

            @functools.wraps(original)
            async def send(this: object, request: _Request, *args: object, **kwargs: object) -> object:
                """Send *request* inside a span, where it goes to a model."""
                call = start(request)
                if call is None:
                    return await original(this, request, *args, **kwargs)
                with call.sending():
                    response = await original(this, request, *args, **kwargs)
                _received(call, response, streams[1], unread=bool(kwargs.get("stream")))
                return response

            return send

        patches.replace(httpx.Client, "send", sync_send(httpx.Client.send))
        patches.replace(httpx.AsyncClient, "send", async_send(httpx.AsyncClient.send))


class Httpx2Instrumentor(HttpxInstrumentor):
    """``httpx2``, whose clients are those of httpx."""

    name = "httpx2"
    modules = ("httpx2",)


def _received(call: HttpCall, response: _Answer, stream: type, *, unread: bool) -> None:
    """Look at an answer that was read, or put ourselves between one that was not and its reader."""
    with guard("http.received"):
        call.began(response.status_code, response.headers, is_decoded=not unread)
        if unread:
            response.stream = stream(response.stream, call)
            return
        call.part(response.content)
        call.end()


def _stream(httpx: ModuleType) -> type:
    """Return our stream, which the library recognises as one of its own kind."""

    class Watched(httpx.SyncByteStream):
        """The library's stream, with each chunk shown to the call as the program reads it."""

        def __init__(self, inner: _Stream, call: HttpCall) -> None:
            self._inner = inner
            self._call = call

        def __getattr__(self, name: str) -> object:
            return getattr(self._inner, name)

        def __iter__(self) -> Iterator[bytes]:
            with self._call.reading():
                for chunk in self._inner:
                    self._call.part(chunk)
                    yield chunk

        def close(self) -> None:
            """Close the stream; what was not read by then will not be."""
            try:
                self._inner.close()
            finally:
                self._call.end(whole=False)

        def __del__(self) -> None:
            self._call.dropped()

    return Watched


def _async_stream(httpx: ModuleType) -> type:
    """Return the same for asynchronous clients."""

    class AsyncWatched(httpx.AsyncByteStream):
        """As ``Watched``, for the async client."""

        def __init__(self, inner: _AsyncStream, call: HttpCall) -> None:
            self._inner = inner
            self._call = call

        def __getattr__(self, name: str) -> object:
            return getattr(self._inner, name)

        async def __aiter__(self) -> AsyncIterator[bytes]:
            with self._call.reading():
                async for chunk in self._inner:
                    self._call.part(chunk)
                    yield chunk

        async def aclose(self) -> None:
            """Close the stream; what was not read by then will not be."""
            try:
                await self._inner.aclose()
            finally:
                self._call.end(whole=False)

        def __del__(self) -> None:
            self._call.dropped()

    return AsyncWatched


class RequestsInstrumentor(HttpInstrumentor):
    """``requests.Session``, and so ``requests.post`` and the rest."""

    name = "requests"
    modules = ("requests",)

    def patch(self, recorder: Recorder, patches: Patches) -> None:
        """Wrap ``send``."""
        session = importlib.import_module("requests").Session
        original: Callable[..., Any] = session.send

        @functools.wraps(original)
        def send(this: object, request: _Request, **kwargs: object) -> object:
            """Send *request* inside a span, where it goes to a model."""
            call = None
            with guard("http.start"):
                call = recorder.start(request.method or "", str(request.url or ""), request.headers, request.body)
            if call is None:
                return original(this, request, **kwargs)
            with call.sending():
                response = original(this, request, **kwargs)
            with guard("http.received"):
                call.began(response.status_code, response.headers, is_decoded=True)
                if kwargs.get("stream") and not response._content_consumed:  # noqa: SLF001 - nothing public says it
                    _watch_requests(response, call)
                else:
                    call.part(response.content)
                    call.end()
            return response

        patches.replace(session, "send", send)


def _watch_requests(response: Any, call: HttpCall) -> None:  # noqa: ANN401 - of requests
    """Look at what is read of *response*: its lines and its content are read by ``iter_content`` too."""
    read: Callable[..., Iterator[bytes | str]] = response.iter_content
    close: Callable[[], None] = response.close

    def watched(chunks: Iterator[bytes | str]) -> Iterator[bytes | str]:
        """Yield *chunks* as they come and end the call with the last one, or with what reading raised."""
        with call.reading():
            for chunk in chunks:
                call.part(chunk.encode() if isinstance(chunk, str) else chunk)
                yield chunk

    def iter_content(*args: object, **kwargs: object) -> Iterator[bytes | str]:
        """Read the body as ``Response.iter_content`` does."""
        return watched(read(*args, **kwargs))  # what it raises for wrong arguments, it raises at once

    def closing() -> None:
        """Close the answer; what was not read by then will not be."""
        try:
            close()
        finally:
            call.end(whole=False)

    weakref.finalize(response, call.dropped)
    response.iter_content = iter_content
    response.close = closing


class AiohttpInstrumentor(HttpInstrumentor):
    """``aiohttp.ClientSession``."""

    name = "aiohttp"
    modules = ("aiohttp",)

    def patch(self, recorder: Recorder, patches: Patches) -> None:
        """Wrap the coroutine by which every request goes."""
        session = importlib.import_module("aiohttp").ClientSession
        original: Callable[..., Any] = session._request  # noqa: SLF001 - the only place that every request passes

        @functools.wraps(original)
        async def request(this: Any, method: str, str_or_url: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - of aiohttp
            """Make a request inside a span, where it goes to a model."""
            call = None
            with guard("http.start"):
                body = kwargs.get("json") if kwargs.get("json") is not None else kwargs.get("data")
                headers = {str(name): str(value) for name, value in dict(kwargs.get("headers") or {}).items()}
                call = recorder.start(method, str(this._build_url(str_or_url)), headers, body)  # noqa: SLF001 - see above
            if call is None:
                return await original(this, method, str_or_url, **kwargs)
            with call.sending():
                response = await original(this, method, str_or_url, **kwargs)
            with guard("http.received"):
                call.began(response.status, response.headers, is_decoded=True)
                _watch_aiohttp(response, call)
            return response

        patches.replace(session, "_request", request)


_Proxy: Any = cast("Any", wrapt.ObjectProxy)  # wrapt has no types


class _Content(_Proxy):
    """The reader of an answer that shows what is read of it; in all else it is the reader that it wraps."""

    def __init__(self, reader: Any, call: HttpCall) -> None:  # noqa: ANN401 - of aiohttp
        _Proxy.__init__(self, reader)
        self._self_call = call

    def _seen(self, chunk: bytes) -> bytes:
        call = self._self_call
        if chunk:
            call.part(chunk)
        if self.__wrapped__.at_eof():
            call.end()
        return chunk

    async def _read(self, name: str, *args: object, **kwargs: object) -> Any:  # noqa: ANN401 - of aiohttp
        with self._self_call.waiting():
            return await getattr(self.__wrapped__, name)(*args, **kwargs)

    async def read(self, n: int = -1) -> bytes:
        """Read up to *n* bytes, all for -1."""
        return self._seen(await self._read("read", n))

    async def readany(self) -> bytes:
        """Read what is there."""
        return self._seen(await self._read("readany"))

    async def readline(self, **kwargs: object) -> bytes:
        """Read a line."""
        return self._seen(await self._read("readline", **kwargs))

    async def readuntil(self, *args: object, **kwargs: object) -> bytes:
        """Read up to a separator."""
        return self._seen(await self._read("readuntil", *args, **kwargs))

    async def readexactly(self, n: int) -> bytes:
        """Read *n* bytes; fewer are an ``IncompleteReadError`` of asyncio."""
        return self._seen(await self._read("readexactly", n))

    async def readchunk(self) -> tuple[bytes, bool]:
        """Read what is there, and tell whether an HTTP chunk ends with it."""
        chunk, is_end = await self._read("readchunk")
        self._seen(chunk)
        return chunk, is_end

    def read_nowait(self, n: int = -1) -> bytes:
        """Read up to *n* bytes that have come already."""
        return self._seen(self.__wrapped__.read_nowait(n))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while line := await self.readline():
            yield line

    async def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        """Yield the body in parts of at most *n* bytes."""
        while chunk := await self.read(n):
            yield chunk

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Yield the body in parts as they come."""
        while chunk := await self.readany():
            yield chunk

    async def iter_chunks(self) -> AsyncIterator[tuple[bytes, bool]]:
        """Yield each part with whether an HTTP chunk ends with it."""
        while True:
            chunk, is_end = await self.readchunk()
            if not chunk and not is_end:
                return
            yield chunk, is_end


def _watch_aiohttp(response: Any, call: HttpCall) -> None:  # noqa: ANN401 - of aiohttp
    """Look at what is read of *response*, and at how it is left."""
    release: Callable[[], object] = response.release
    close: Callable[[], None] = response.close
    weakref.finalize(response, call.dropped)
    response.content = _Content(response.content, call)

    def releasing() -> object:
        """Give the connection back: what was not read by then will not be."""
        call.end(whole=False)
        return release()

    def closing() -> None:
        """Close the connection: what was not read by then will not be."""
        call.end(whole=False)
        close()

    response.release = releasing
    response.close = closing


CLIENTS: dict[str, type[HttpInstrumentor]] = {
    found.name: found for found in (HttpxInstrumentor, Httpx2Instrumentor, RequestsInstrumentor, AiohttpInstrumentor)
}
"""Instrumentors by their names, which ``--no-instrument`` takes."""


def record_http(choice: Choice | None = None) -> None:
    """Record model calls of HTTP clients that are or will be imported, until ``uninstrument_all``.

    A second call changes what is recorded beside the calls. Before the registry watches, nothing happens yet.
    """
    _Wanted.is_on = True
    if choice is not None:
        _Wanted.choice = choice
    for name, instrumentor in CLIENTS.items():
        registry.register(name, instrumentor.modules, instrumentor)


__all__ = ["CLIENTS", "Choice", "HttpInstrumentor", "record_http"]
