"""One OTLP/HTTP request to a backend, and what its answer means.

https://opentelemetry.io/docs/specs/otlp/#otlphttp-response: 2xx is taken, perhaps in part; 408, 429, 502, 503, 504 and
errors of the network are worth another try; the others are not.
"""

from __future__ import annotations

import email.utils
import gzip
import os
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import httpx
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from agentlightning.errors import SettingError
from agentlightning.store import wire
from agentlightning.store.exchange import certificate_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TRACES_PATH = "/v1/traces"
LONGEST_RETRY_AFTER_S = 300.0
"""A backend that asks for a longer pause is asked again after this one."""

_BUSY = frozenset({408, 429, 502, 503, 504})
_NOT_ALLOWED = frozenset({401, 402, 403, 404, 405, 407})
"""What says something about the address or the credentials, and nothing about the spans."""
_UNAUTHORIZED, _TOO_LARGE = 401, 413
_GZIP_FROM_BYTES = 1024
_REASON_LENGTH = 200

Verdict = Literal["taken", "again", "not_allowed", "too_large", "refused"]


@dataclass(frozen=True)
class BackendReply:
    """What became of a request."""

    verdict: Verdict
    """``taken``; ``again``: try later; ``not_allowed``: the address or the credentials are wrong; ``too_large``: send
    less at once; ``refused``: these spans will never be taken."""
    reason: str = ""
    """For people, and the name under which lost spans are counted: ``status 400``."""
    rejected: int = 0
    """Spans of a request that was taken which the backend did not want."""
    retry_after_s: float = 0.0
    """How long the backend wants to be left alone."""
    is_fault: bool = False
    """The backend says that it failed itself (5xx)."""
    is_unauthorized: bool = False
    """The credentials are missing or no longer good (401)."""


def no_headers() -> Mapping[str, str]:
    """Return no further headers."""
    return {}


def traces_url(text: str) -> str:
    """Return the address that takes traces: *text* itself when it ends in ``/v1/traces``, else that path below it.

    Raises:
        SettingError: It is no http or https URL, or holds a user and password.
    """
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        msg = f"{text!r} is no address of an OTLP backend; write http://host:4318"
        raise SettingError(msg)
    if parts.username or parts.password:
        msg = "an OTLP address holds no password; give it with --header 'authorization=Basic …'"
        raise SettingError(msg)
    path = parts.path.rstrip("/")
    if not path.endswith(TRACES_PATH):
        path += TRACES_PATH
    return parts._replace(path=path).geturl()


class OtlpTarget:
    """An OTLP/HTTP backend. Thread-safe; connections are kept, redirects are not followed, proxies are not used."""

    def __init__(
        self,
        url: str,
        *,
        headers: Callable[[], Mapping[str, str]] = no_headers,
        on_unauthorized: Callable[[], None] | None = None,
        ca_file: str | None = None,
        compress: bool = True,
        timeout_s: float = 10.0,
    ) -> None:
        """Send to *url*; nothing is sent yet.

        Args:
            url: See ``traces_url``.
            headers: Called before each request, on the thread that sends: it may sign in, and what it raises is
                raised by ``send``.
            on_unauthorized: Called when the backend answers 401, before the request is sent once more: what *headers*
                remembers is no longer good.
            ca_file: PEM file with the certificates to trust instead of the system's.
            compress: Send gzip.
            timeout_s: Longest wait for a connection and for each part of the answer.

        Raises:
            SettingError: The address or the certificates cannot be used.
        """
        self.url = traces_url(url)
        self._headers = headers
        self._on_unauthorized = on_unauthorized
        self._compress = compress
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        self._pid = os.getpid()
        try:
            self._verify = ssl.create_default_context(cafile=ca_file) if self.url.startswith("https:") else False
        except (OSError, ssl.SSLError) as error:
            msg = f"cannot read the certificates in {ca_file!r}: {error}; name a PEM file"
            raise SettingError(msg) from error

    def send(self, body: bytes) -> BackendReply:
        """Send an ``ExportTraceServiceRequest`` once and say what became of it; a second time only after a 401."""
        answer = self._send(body)
        if answer.is_unauthorized and self._on_unauthorized is not None:
            self._on_unauthorized()
            answer = self._send(body)
        return answer

    def _send(self, body: bytes) -> BackendReply:
        headers = {**self._headers(), "content-type": wire.PROTOBUF}
        if self._compress and len(body) >= _GZIP_FROM_BYTES:
            body = gzip.compress(body, 1, mtime=0)
            headers["content-encoding"] = "gzip"
        try:
            response = self._open().post(self.url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            problem = certificate_problem(error)
            if problem:
                return BackendReply(
                    "not_allowed", f"its certificate is not trusted: {problem}; name its issuer with --ca"
                )
            return BackendReply("again", str(error) or type(error).__name__)
        return reply_of(response)

    def _open(self) -> httpx.Client:
        with self._lock:
            if self._client is None or self._pid != os.getpid():
                self._client = httpx.Client(verify=self._verify, timeout=self._timeout_s, trust_env=False)
                self._pid = os.getpid()
            return self._client

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._lock:
            if self._client is not None and self._pid == os.getpid():
                self._client.close()
            self._client = None


def reply_of(response: httpx.Response) -> BackendReply:
    """Return what *response* means."""
    status = response.status_code
    if response.is_success:
        return _taken(response)
    reason = f"status {status}"
    if status in _BUSY:
        return BackendReply("again", reason, retry_after_s=retry_after_s(response.headers.get("retry-after", "")))
    if status in _NOT_ALLOWED or response.is_redirect:
        return BackendReply("not_allowed", reason, is_unauthorized=status == _UNAUTHORIZED)
    if status == _TOO_LARGE:
        return BackendReply("too_large", "too large")
    return BackendReply("refused", reason, is_fault=response.is_server_error)


def _taken(response: httpx.Response) -> BackendReply:
    try:
        partial = ExportTraceServiceResponse.FromString(response.content).partial_success
    except DecodeError:  # some backends answer with text, and took it all the same
        return BackendReply("taken")
    return BackendReply("taken", partial.error_message[:_REASON_LENGTH], rejected=max(0, partial.rejected_spans))


def retry_after_s(text: str) -> float:
    """Return the pause that a ``Retry-After`` header asks for, in seconds or as a date; 0 for none or nonsense."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (TypeError, ValueError):
            return 0.0
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER_S) if seconds == seconds else 0.0  # noqa: PLR0124 - NaN
