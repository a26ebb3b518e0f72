"""What the AgentOps SDK sends: its exporters, mended, and answers for what is not to leave this machine.

The classes are made when they are asked for, because their bases come with the SDK.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agentlightning import settings
from agentlightning._internal.guard import guard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentlightning.instrumentation.base import Patches

log = logging.getLogger("agentlightning.agentops")

_TIMEOUT_S = 0.5
"""Longest time that one upload to a server on this machine may take, its repetitions included."""
_REST_S = 5.0
"""After an upload that failed none is tried for so long: at each end of a trace the program would wait again."""
_LOOPBACK = frozenset(("localhost", "::1"))

_MOST_WAITING = 10_000
"""Spans that wait in memory for a server on this machine that is away; beyond it the oldest are lost."""

kept_here: set[str] = set()
"""Addresses to which no spans are sent, because they come to the same store through the provider."""

_local_clients: set[str] = set()
"""Has an element once spans are sent to a server on this machine."""


class Backlog:
    """Spans on their way to a server on this machine, which may be away for a while; one thread."""

    def __init__(self, send: Callable[[tuple[Any, ...]], bool]) -> None:
        """Send with *send*, which tells whether the spans were taken."""
        self._send = send
        self._waiting: deque[Any] = deque(maxlen=_MOST_WAITING)
        self._rests_until = 0.0

    def take(self, spans: Sequence[Any]) -> bool:
        """Send *spans* behind those that wait, and tell whether all were taken; what was not waits on."""
        self._waiting.extend(spans)
        return time.monotonic() >= self._rests_until and self._try()

    def end(self) -> None:
        """Try a last time; what is not taken then is lost, and the log says so."""
        if self._waiting and not self._try():
            log.warning("%d spans were not taken by the local AgentOps server and are lost", len(self._waiting))

    def _try(self) -> bool:
        if self._send(tuple(self._waiting)):
            self._waiting.clear()
            return True
        self._rests_until = time.monotonic() + _REST_S
        log.warning("the local AgentOps server takes no spans; they wait for %g s", _REST_S)
        return False


def is_local(url: str) -> bool:
    """Tell whether *url* is on this machine."""
    host = urlsplit(url).hostname or ""
    return host in _LOOPBACK or host.startswith("127.")


def replace_exporters(patches: Patches, *, stay: bool) -> None:
    """Put exporters of ours where the SDK's core takes its from; with *stay* they send to this machine only."""
    core = importlib.import_module("agentops.sdk.core")
    for name in ("AuthenticatedOTLPExporter", "OTLPSpanExporter"):
        if name in vars(core):
            patches.replace(core, name, span_exporter(stay=stay))
    patches.replace(core, "OTLPMetricExporter", metric_exporter(core.OTLPMetricExporter, stay=stay))


def span_exporter(*, stay: bool) -> type:
    """Return a class that takes the arguments of the SDK's ``AuthenticatedOTLPExporter`` of any release.

    Only public arguments of OpenTelemetry are used, so it works with every release of that too. A server on this
    machine that is away holds the program up for half a second in five, and gets what it missed when it is back.
    """
    session_type: Any = importlib.import_module("requests").Session
    base: Any = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter
    results: Any = importlib.import_module("opentelemetry.sdk.trace.export").SpanExportResult

    class AuthenticatedOTLPExporter(base):
        def __init__(
            self,
            endpoint: str,
            jwt: str | None = None,
            jwt_provider: Callable[[], str | None] | None = None,
            **more: Any,  # noqa: ANN401 - of the SDK and OpenTelemetry
        ) -> None:
            self._is_local = is_local(endpoint)
            if self._is_local:
                _local_clients.add("spans")
            self._is_kept = endpoint in kept_here or (stay and not self._is_local)
            self._backlog = Backlog(lambda spans: base.export(self, spans) is results.SUCCESS)
            known = {name: more[name] for name in ("headers", "timeout", "compression") if more.get(name) is not None}
            if self._is_local:
                known.setdefault("timeout", _TIMEOUT_S)
            session = session_type()
            session.auth = _bearer(jwt, jwt_provider)
            base.__init__(self, endpoint=endpoint, session=session, **known)

        def export(self, spans: Sequence[Any]) -> Any:  # noqa: ANN401 - of OpenTelemetry
            if self._is_kept:
                return results.SUCCESS
            if not self._is_local:
                return base.export(self, spans)
            return results.SUCCESS if self._backlog.take(spans) else results.FAILURE

        def shutdown(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - of OpenTelemetry
            self._backlog.end()
            base.shutdown(self, *args, **kwargs)

        def clear(self) -> None:
            """Do nothing; the SDK's has it."""

    return AuthenticatedOTLPExporter


def _bearer(jwt: str | None, provider: Callable[[], str | None] | None) -> Callable[[Any], Any]:
    """Return a callable that adds the token of the moment to a request of ``requests``."""

    def authorize(request: Any) -> Any:  # noqa: ANN401 - of requests
        token = provider() if provider is not None else jwt
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    return authorize


def metric_exporter(base: Any, *, stay: bool) -> type:  # noqa: ANN401 - a class
    """Return a subclass of *base* that with *stay* sends nothing beyond this machine."""
    results: Any = importlib.import_module("opentelemetry.sdk.metrics.export").MetricExportResult

    class OTLPMetricExporter(base):
        """The SDK's exporter of metrics, whose address no variable sets."""

        def __init__(self, endpoint: str | None = None, **more: Any) -> None:  # noqa: ANN401 - of OpenTelemetry
            # Whoever sends spans to this machine does not mean metrics to go elsewhere.
            self._is_kept = (stay or bool(_local_clients)) and not is_local(endpoint or "")
            base.__init__(self, endpoint=endpoint, **more)

        def export(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - of OpenTelemetry
            return results.SUCCESS if self._is_kept else base.export(self, *args, **kwargs)

    return OTLPMetricExporter


def _answer(url: str, body: object) -> dict[str, object]:
    """Return what the service answers to a request of the SDK."""
    if "/auth/token" in url:
        project = settings.get(settings.PROJECT)
        return {"token": "local", "project_id": project, "project_prem_status": "pro"}
    return {"url": "", "size": len(body) if isinstance(body, (str, bytes)) else 0}


def answer_here(patches: Patches) -> None:
    """Answer requests of the SDK to the service; those to a server on this machine go there."""
    client: Any = importlib.import_module("agentops.client.http.http_client").HttpClient
    original: Callable[[], Any] = client.get_session
    adapter = _local_adapter()

    def get_session(cls: object) -> Any:  # noqa: ANN401 - a session of requests
        del cls
        session = original()
        with guard("agentops.session"):
            for prefix in ("http://", "https://"):
                if not isinstance(session.adapters.get(prefix), adapter):
                    session.mount(prefix, adapter(session.adapters.get(prefix)))
        return session

    patches.replace(client, "get_session", _class_method(get_session))
    if hasattr(client, "async_request"):
        asynchronous: Callable[..., Any] = client.async_request

        async def async_request(cls: object, method: str, url: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            del cls
            if not is_local(url):
                return _answer(url, kwargs.get("data"))
            return await asynchronous(method, url, *args, **kwargs)

        patches.replace(client, "async_request", _class_method(async_request))


def _class_method(function: Any) -> Any:  # noqa: ANN401 - any function
    return classmethod(function)


def _local_adapter() -> type:
    base: Any = importlib.import_module("requests.adapters").BaseAdapter

    class LocalAdapter(base):
        """Sends to this machine, and answers what would go further."""

        def __init__(self, inner: Any) -> None:  # noqa: ANN401 - an adapter
            base.__init__(self)
            self._inner = inner

        def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - of requests
            if is_local(request.url):
                return self._inner.send(request, *args, **kwargs)
            return _response(request, _answer(request.url, request.body))

        def close(self) -> None:
            self._inner.close()

    return LocalAdapter


def _response(request: Any, content: dict[str, object]) -> Any:  # noqa: ANN401 - of requests
    response: Any = importlib.import_module("requests").Response()
    response.status_code = 200
    response.headers["Content-Type"] = "application/json"
    response._content = json.dumps(content).encode()  # noqa: SLF001 - there is no public way to make a response
    response.url, response.request = request.url, request
    return response


def forgive_sign_in(patches: Patches) -> None:
    """Let ``agentops.init`` go on when a server on this machine cannot be signed in to; from 0.4.19 on it does so."""
    client: Any = importlib.import_module("agentops.client.api.versions.v3").V3Client
    original: Callable[..., Any] = client.fetch_auth_token
    if inspect.iscoroutinefunction(original):
        return

    def fetch_auth_token(self: Any, api_key: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - of the SDK
        try:
            return original(self, api_key, *args, **kwargs)
        except Exception as error:
            if not is_local(self.endpoint):
                raise
            log.warning("no sign-in at the local AgentOps server (%s); going on without", type(error).__name__)
            return _answer("/auth/token", None)

    patches.replace(client, "fetch_auth_token", fetch_auth_token)
