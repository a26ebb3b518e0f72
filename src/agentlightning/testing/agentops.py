"""The AgentOps server in this process, and what a program sends to it."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import httpx
import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from agentlightning.instrumentation.agentops_server import AgentOpsServerOptions, bind
from agentlightning.server.access import new_token
from agentlightning.server.agentops.child import make_app
from agentlightning.server.launcher import ServerOptions, make_config
from agentlightning.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from agentlightning.server.agentops.service import Upload
    from agentlightning.store.base import LightningStore
    from agentlightning.types.record import JsonObject
    from agentlightning.types.tracer import Span

T = TypeVar("T")

KEY = "00000000-0000-0000-0000-000000000000"
PROTOBUF = {"content-type": "application/x-protobuf"}
HOSTILE_TEXTS = [
    f"{before}{body}"
    for before in ("", '"', "'", "-->", "</title>", "</pre>", "</td>", "</span>", "\u2028", "{{7*7}}", "]]>", "\x00")
    for body in (
        "<script>window.__xss=1</script>",
        "<img src=x onerror=window.__xss=1>",
        "<svg/onload=window.__xss=1>",
        "<a href=javascript:window.__xss=1>x</a>",
        "<iframe srcdoc='<script>top.__xss=1</script>'></iframe>",
        "<style>@import'x'</style>",
        "<body onload=window.__xss=1>",
        "<meta http-equiv=refresh content=0;url=x>",
        "{% raw %}<b>",
    )
]
"""Texts that a page which takes them for markup would act on; the scripts in them set ``window.__xss``."""


@dataclass
class Server:
    """A running server."""

    url: str
    store: LightningStore
    client: httpx.Client

    def sign_in(self, key: str = KEY) -> dict[str, str]:
        """Return the header of somebody who signed in."""
        answer = self.client.post("/v3/auth/token", json={"api_key": key})
        answer.raise_for_status()
        return {"authorization": f"Bearer {answer.json()['token']}"}

    def send(self, body: bytes, headers: dict[str, str] | None = None, path: str = "/v1/traces") -> httpx.Response:
        """Send an OTLP request."""
        return self.client.post(path, content=body, headers={**PROTOBUF, **(headers or {})})


@contextmanager
def serving(
    options: AgentOpsServerOptions, store: LightningStore, upload: Upload | None = None, ca: str | None = None
) -> Generator[Server]:
    """Serve in a thread."""
    app = make_app(store, options, upload)
    listener = bind(options.host, 0)
    port = listener.getsockname()[1]
    how = ServerOptions(host=options.host, port=port, tls_cert=options.tls_cert, tls_key=options.tls_key)
    server = uvicorn.Server(make_config(app, how))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.005)  # uvicorn offers no event for it
    url = f"{'https' if options.tls_cert else 'http'}://127.0.0.1:{port}"
    client = httpx.Client(
        base_url=url, timeout=15, verify=ssl.create_default_context(cafile=ca) if ca else False, trust_env=False
    )
    try:
        yield Server(url, store, client)
    finally:
        client.close()
        server.should_exit = True
        thread.join()
        listener.close()


class RemoteService:
    """The AgentOps service as far as programs see it: another server over TLS that knows one key."""

    def __init__(self, folder: Path, certificate: tuple[str, str], *, host: str = "localhost") -> None:
        """Prepare it in *folder* with the files of a certificate and its key, to be reached as *host* too."""
        text, token = new_token("user", "write")
        tokens = folder / "tokens.json"
        tokens.write_text(json.dumps([vars(token)]))
        tokens.chmod(0o600)
        self.key = text
        self.ca = certificate[0]
        self.store = open_store(str(folder / "service.db"))
        self._options = AgentOpsServerOptions(
            tokens=str(tokens),
            tls_cert=certificate[0],
            tls_key=certificate[1],
            require_auth=True,
            allowed_hosts=(host,),
        )
        self._stack = ExitStack()
        self.server: Server | None = None

    def start(self) -> str:
        """Run it and return its address."""
        self.server = self._stack.enter_context(serving(self._options, self.store, ca=self.ca))
        return self.server.url

    def stop(self) -> None:
        """End it; it may be started again, at another address."""
        self._stack.close()

    def close(self) -> None:
        """End it for good."""
        self.stop()
        self.store.close()

    def spans(self) -> list[Span]:
        """Return the spans that it has, of all traces."""
        rollouts = asyncio.run(self.store.query_rollouts())
        return [span for item in rollouts for span in asyncio.run(self.store.query_spans(item.rollout_id))]


def make_certificate(folder: Path, *hosts: str) -> tuple[str, str]:
    """Make a certificate for this machine and *hosts*, which is its own issuer; return its file and that of its key."""
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    names = ",".join(["DNS:localhost", "IP:127.0.0.1", *(f"DNS:{host}" for host in hosts)])
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", f"subjectAltName={names}"),
        ],
        check=True,
        capture_output=True,
        timeout=20,
    )
    return cert, key


def otlp(*spans: JsonObject, project: str = "temporary") -> bytes:
    """Return an OTLP request as the SDK sends it; a span is trace, id, name, and perhaps parent, attributes, error."""
    request = ExportTraceServiceRequest()
    of_resource = request.resource_spans.add()
    of_resource.resource.attributes.extend(_pairs({"service.name": "agentops", "agentops.project.id": project}))
    of_scope = of_resource.scope_spans.add()
    of_scope.scope.name = "agentops"
    for number, span in enumerate(spans):
        start = 1_790_000_000_000_000_000 + number * 1_000_000
        message = of_scope.spans.add(
            trace_id=bytes.fromhex(span["trace"]),
            span_id=bytes.fromhex(span["id"]),
            parent_span_id=bytes.fromhex(span.get("parent", "")),
            name=span.get("name", "work"),
            kind=1,
            start_time_unix_nano=start,
            end_time_unix_nano=start + 5_000_000,
        )
        message.attributes.extend(_pairs(span.get("attributes", {})))
        if "error" in span:
            message.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=span["error"]))
    return request.SerializeToString()


def _pairs(values: JsonObject) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in values.items()]


def _value(value: object) -> AnyValue:
    if isinstance(value, list):
        items = [AnyValue(string_value=str(item)) for item in cast("list[object]", value)]
        return AnyValue(array_value=ArrayValue(values=items))
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return AnyValue(string_value=str(value))


def session(
    number: int, *, end_state: str = "Success", tags: tuple[str, ...] | str = ("a",), name: str = ""
) -> list[JsonObject]:
    """Return the spans of a small session: its root and a model call."""
    trace = f"{number:032x}"
    root = {
        "trace": trace,
        "id": f"{number * 16 + 1:016x}",
        "name": name or f"job{number}.session",
        "attributes": {
            "agentops.span.kind": "session",
            "agentops.tags": list(tags) if isinstance(tags, tuple) else tags,
            "agentops.session.end_state": end_state,
        },
    }
    call = {
        "trace": trace,
        "id": f"{number * 16 + 2:016x}",
        "parent": root["id"],
        "name": "openai.chat.completion",
        "attributes": {
            "agentops.span.kind": "llm",
            "gen_ai.request.model": "gpt-4o-mini",
            "gen_ai.response.model": "gpt-4o-mini",
            "gen_ai.usage.prompt_tokens": 10,
            "gen_ai.usage.completion_tokens": 5,
            "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": f"question {number}",
        },
    }
    return [call, root]


def hostile_session(number: int, text: str) -> list[JsonObject]:
    """Return a session that has *text* in each field that a program chooses."""
    call, root = session(number, end_state=text, tags=(text,), name=text)
    call["name"], call["error"] = text, text
    call["attributes"] |= {"gen_ai.request.model": text, "gen_ai.response.model": text, text[:50]: text}
    return [call, root]


def wait_until(condition: Callable[[], T], timeout_s: float = 10.0) -> T:
    """Return what *condition* returns as soon as it is true."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    msg = f"nothing after {timeout_s} s"
    raise AssertionError(msg)


def log_lines(state: Path) -> list[str]:
    """Return the lines of the server's log."""
    file = state / "agentlightning" / "agentops" / "agentops.log"
    return file.read_text("utf-8").splitlines() if file.exists() else []


def audit_of(lines: list[str]) -> list[list[str]]:
    """Return the audit lines among *lines* as what they hold."""
    return [json.loads(line.partition("] ")[2]) for line in lines if " agentlightning.audit " in line]
