"""What the AgentOps SDK sends: its exporters, mended, and answers for what is not to leave this machine.

The classes are made when they are asked for, because their bases come with the SDK.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import time
from collections import deque
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from agentlightning import settings
from agentlightning._internal.guard import guard

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from agentlightning.instrumentation.base import Patches

log = logging.getLogger("agentlightning.agentops")
sdk_log = logging.getLogger("agentops")
"""The SDK's own: what goes wrong on the way is said where it would be said without us."""

_TIMEOUT_S = 0.5
"""Longest time that one upload to a server on this machine may take, its repetitions included."""
_CONNECT_S = 2.0
"""Longest time to reach a server."""
_REST_S = 5.0
"""After an upload that failed none is tried for so long: at each end of a trace the program would wait again."""
_LOOPBACK = frozenset(("localhost", "::1"))

_MOST_WAITING = 10_000
"""Spans that wait in memory for a server that is away; beyond it the oldest are lost."""
_PIECE = 512
"""Spans of one request."""
_SIGNED_OUT = frozenset((401, 403))
_MAYBE_LATER = frozenset((408, 425, 429))

kept_here: set[str] = set()
"""Addresses to which no spans are sent, because they come to the same store through the provider."""

_span_hosts: set[str] = set()
"""Hosts to which spans are sent."""


class _Request(Protocol):
    """What we read and change of a request of ``requests``."""

    url: str
    body: object
    headers: MutableMapping[str, str]


class _Client(Protocol):
    """What we read of the SDK's client of its service."""

    endpoint: str


class _Adapter(Protocol):
    """What sends the requests of a session of ``requests``."""

    def send(self, request: _Request, *args: object, **kwargs: object) -> object:
        """Send *request* and return the answer."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class Backlog:
    """Spans on their way to a server that may be away for a while; one thread."""

    def __init__(self, send: Callable[[tuple[ReadableSpan, ...]], int | None], target: str) -> None:
        """Send with *send*, which returns the status of the answer, None without one; *target* is for the log."""
        self._send = send
        self._target = target
        self._waiting: deque[ReadableSpan] = deque(maxlen=_MOST_WAITING)
        self._rests_until = 0.0
        self._problem = ""

    def take(self, spans: Sequence[ReadableSpan]) -> bool:
        """Send *spans* behind those that wait, and tell whether all were taken; what was not waits on."""
        self._waiting.extend(spans)
        return time.monotonic() >= self._rests_until and self._try()

    def end(self) -> None:
        """Try a last time; what is not taken then is lost, and the log says so."""
        if self._waiting and not self._try():
            count = len(self._waiting)
            sdk_log.warning("%s %s: %d spans are lost there", self._target, self._problem, count)

    def _try(self) -> bool:
        while self._waiting:
            piece = tuple(islice(self._waiting, _PIECE))
            status = self._send(piece)
            if status is None or not self._is_over(status, len(piece)):
                self._rests_until = time.monotonic() + _REST_S
                self._note(status)
                return False
            for _ in piece:
                self._waiting.popleft()
        self._problem = ""
        return True

    def _note(self, status: int | None) -> None:
        """Note what is wrong, and say it once; that the SDK has not signed in is normal at its begin."""
        before = self._problem
        if status in _SIGNED_OUT:
            self._problem = f"refuses spans (status {status}; look at AGENTOPS_API_KEY)"
        else:
            self._problem = "cannot be reached" if status is None else f"takes no spans now (status {status})"
            if self._problem != before:
                sdk_log.warning("%s %s; they wait", self._target, self._problem)

    def _is_over(self, status: int, count: int) -> bool:
        """Tell whether spans that were answered so need not be sent again."""
        if status < HTTPStatus.BAD_REQUEST:
            return True
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _SIGNED_OUT | _MAYBE_LATER:
            return False  # also before the SDK has signed in, which it does in the background from 0.4.19 on
        sdk_log.warning("%s refuses %d spans (status %d); they are lost there", self._target, count, status)
        return True


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def is_local(url: str) -> bool:
    """Tell whether *url* is on this machine."""
    host = _host(url)
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

    Only public arguments of OpenTelemetry are used, so it works with every release of that too. A server that is away,
    or where the SDK has not signed in yet, gets what it missed later; one on this machine holds the program up for half
    a second in five at most, another one for 2 s.
    """
    session_type = _session()
    base = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter
    results = importlib.import_module("opentelemetry.sdk.trace.export").SpanExportResult

    class AuthenticatedOTLPExporter(base):
        """OpenTelemetry's exporter with a backlog, and with a token that may come later."""

        def __init__(
            self,
            endpoint: str,
            jwt: str | None = None,
            jwt_provider: Callable[[], str | None] | None = None,
            **more: object,
        ) -> None:
            self._is_local = is_local(endpoint)
            _span_hosts.add(_host(endpoint))
            self._is_kept = endpoint in kept_here or (stay and not self._is_local)
            self._status: int | None = None
            self._backlog = Backlog(self._send, endpoint)
            known = {name: more[name] for name in ("headers", "timeout", "compression") if more.get(name) is not None}
            if self._is_local:
                known.setdefault("timeout", _TIMEOUT_S)
            session = session_type(self._note)
            session.auth = _bearer(jwt, jwt_provider)
            base.__init__(self, endpoint=endpoint, session=session, **known)

        def _note(self, status: int) -> None:
            self._status = status

        def _send(self, spans: tuple[ReadableSpan, ...]) -> int | None:
            self._status = None
            return HTTPStatus.OK if base.export(self, spans) is results.SUCCESS else self._status

        def export(self, spans: Sequence[ReadableSpan]) -> object:
            """Send *spans* behind those that wait; FAILURE where some wait on, which then are not lost."""
            return results.SUCCESS if self._is_kept or self._backlog.take(spans) else results.FAILURE

        def shutdown(self, *args: object, **kwargs: object) -> None:
            """Send what waits a last time, and end the exporter."""
            self._backlog.end()
            base.shutdown(self, *args, **kwargs)

        def clear(self) -> None:
            """Do nothing; the SDK's has it."""

    return AuthenticatedOTLPExporter


def _session() -> type:
    """Return a session that tells which status it got; what cannot be reached is not tried again: the backlog does."""
    requests = importlib.import_module("requests")
    errors = requests.exceptions

    class Session(requests.Session):
        """A session that tells the status of each answer, and waits a bounded time for a connection."""

        def __init__(self, note: Callable[[int], None]) -> None:
            requests.Session.__init__(self)
            self._note = note

        def send(self, request: _Request, **kwargs: object) -> object:
            """Send *request* once; raises ``RequestException`` for a server that cannot be reached."""
            timeout = kwargs.get("timeout")
            if isinstance(timeout, (int, float)):
                kwargs["timeout"] = (min(timeout, _CONNECT_S), timeout)
            try:
                response = requests.Session.send(self, request, **kwargs)
            except (errors.ConnectionError, errors.Timeout) as error:
                raise errors.RequestException(str(error)) from error  # OpenTelemetry repeats the other kinds
            self._note(response.status_code)
            return response

    return Session


def _bearer(jwt: str | None, provider: Callable[[], str | None] | None) -> Callable[[_Request], _Request]:
    """Return a callable that adds the token of the moment to a request of ``requests``."""

    def authorize(request: _Request) -> _Request:
        """Add the token to the headers of *request*, if there is one, and return it."""
        token = provider() if provider is not None else jwt
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    return authorize


def metric_exporter(base: Any, *, stay: bool) -> type:  # noqa: ANN401 - a class that is made at run time
    """Return a subclass of *base* that sends nothing beyond this machine with *stay*, and else only where spans go."""
    results = importlib.import_module("opentelemetry.sdk.metrics.export").MetricExportResult

    class OTLPMetricExporter(base):
        """The SDK's exporter of metrics, whose address no variable sets."""

        def __init__(self, endpoint: str | None = None, **more: object) -> None:
            # Whoever sends spans to this machine, or to a service of his own, does not mean metrics to go elsewhere.
            is_elsewhere = bool(_span_hosts) and _host(endpoint or "") not in _span_hosts
            self._is_kept = (stay or is_elsewhere) and not is_local(endpoint or "")
            base.__init__(self, endpoint=endpoint, **more)

        def export(self, *args: object, **kwargs: object) -> object:
            """Send metrics; SUCCESS without sending where they are to stay here."""
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
    client = importlib.import_module("agentops.client.http.http_client").HttpClient
    original: Callable[[], Any] = client.get_session
    adapter = _local_adapter()

    def get_session(cls: object) -> object:
        """Return the SDK's session, with our adapter in front of its own."""
        del cls
        session = original()
        with guard("agentops.session"):
            for prefix in ("http://", "https://"):
                if not isinstance(session.adapters.get(prefix), adapter):
                    session.mount(prefix, adapter(session.adapters.get(prefix)))
        return session

    patches.replace(client, "get_session", _class_method(get_session))
    if hasattr(client, "async_request"):
        asynchronous: Callable[..., Awaitable[object]] = client.async_request

        async def async_request(cls: object, method: str, url: str, *args: object, **kwargs: object) -> object:
            """Send a request to this machine; answer one that would go further."""
            del cls
            if not is_local(url):
                return _answer(url, kwargs.get("data"))
            return await asynchronous(method, url, *args, **kwargs)

        patches.replace(client, "async_request", _class_method(async_request))


def _class_method(function: Callable[..., object]) -> object:
    return classmethod(function)


def _local_adapter() -> type:
    base = importlib.import_module("requests.adapters").BaseAdapter

    class LocalAdapter(base):
        """Sends to this machine, and answers what would go further."""

        def __init__(self, inner: _Adapter) -> None:
            base.__init__(self)
            self._inner = inner

        def send(self, request: _Request, *args: object, **kwargs: object) -> object:
            """Send a request to this machine; answer one that would go further."""
            if is_local(request.url):
                return self._inner.send(request, *args, **kwargs)
            return _response(request, _answer(request.url, request.body))

        def close(self) -> None:
            """Close the SDK's own adapter."""
            self._inner.close()

    return LocalAdapter


def _response(request: _Request, content: dict[str, object]) -> object:
    response = importlib.import_module("requests").Response()
    response.status_code = 200
    response.headers["Content-Type"] = "application/json"
    response._content = json.dumps(content).encode()  # noqa: SLF001 - there is no public way to make a response
    response.url, response.request = request.url, request
    return response


def configure_service(patches: Patches) -> None:
    """Give the SDK the key and the addresses of our settings where the program names none of its own."""
    config = importlib.import_module("agentops.config").Config
    original: Callable[..., None] = config.configure
    wanted = (
        ("api_key", "AGENTOPS_API_KEY", settings.AGENTOPS_API_KEY),
        ("endpoint", "AGENTOPS_API_ENDPOINT", settings.AGENTOPS_ENDPOINT),
        ("exporter_endpoint", "AGENTOPS_EXPORTER_ENDPOINT", settings.AGENTOPS_EXPORTER_ENDPOINT),
    )

    def configure(self: object, *args: object, **kwargs: object) -> None:
        """Configure the SDK, and fill in what neither the program nor a variable names."""
        original(self, *args, **kwargs)
        with guard("agentops.configure"):
            for name, variable, setting in wanted:
                value = settings.get(setting)
                if value and kwargs.get(name) is None and not os.environ.get(variable):
                    setattr(self, name, value)

    patches.replace(config, "configure", configure)


def forgive_sign_in(patches: Patches) -> None:
    """Let ``agentops.init`` go on when a server on this machine cannot be signed in to; from 0.4.19 on it does so."""
    client = importlib.import_module("agentops.client.api.versions.v3").V3Client
    original: Callable[..., object] = client.fetch_auth_token
    if inspect.iscoroutinefunction(original):
        return

    def fetch_auth_token(self: _Client, api_key: str, *args: object, **kwargs: object) -> object:
        """Sign in; where a server on this machine fails to answer, return a token that stands for none."""
        try:
            return original(self, api_key, *args, **kwargs)
        except Exception as error:
            if not is_local(self.endpoint):
                raise
            log.warning("no sign-in at the local AgentOps server (%s); going on without", type(error).__name__)
            return _answer("/auth/token", None)

    patches.replace(client, "fetch_auth_token", fetch_auth_token)
