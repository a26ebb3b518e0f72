"""Requests to one of several servers: retries with jitter, failover, errors as ours. One thread at a time or many.

The first URL is the favourite: when its retry budget is spent, the next one is used, and after a while the first is
asked again whether it is healthy.
"""

from __future__ import annotations

import os
import random
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import httpx

from agentlightning import settings
from agentlightning.errors import StoreError, StoreUnavailableError
from agentlightning.store import wire
from agentlightning.store.pack import from_json
from agentlightning.store.url import shown_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BUSY = frozenset({408, 429, 502, 503, 504})
"""Statuses after which the same request may work: nothing was done."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_LONGEST_WAIT_S = 30.0
"""Longest pause that a server's ``Retry-After`` can ask for."""
_FAVOURITE_AGAIN_S = 5.0
"""How long a server that failed is left alone."""
_SLOW_S = 55.0
"""How much longer one that is slow is left alone."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently a request is repeated."""

    delays: tuple[float, ...]
    """Pause in seconds before each repetition; a random part of up to half is taken off."""
    deadline_s: float
    """No repetition begins later than this after the first try."""
    timeout_s: float
    """Longest wait for a connection, and for each part of an answer."""

    @classmethod
    def from_settings(cls, delays: Sequence[float] | None = None) -> RetryPolicy:
        """Return the policy of the settings, with other *delays* if given."""
        if delays is None:
            first, cap = settings.get(settings.HTTP_RETRY_FIRST_S), settings.get(settings.HTTP_RETRY_CAP_S)
            delays = [min(cap, first * 2**number) for number in range(settings.get(settings.HTTP_RETRIES))]
        return cls(tuple(delays), settings.get(settings.HTTP_DEADLINE_S), settings.get(settings.HTTP_TIMEOUT_S))


@dataclass(frozen=True)
class Request:
    """One call, which may arrive more than once: what creates something carries an id."""

    method: str
    path: str
    """From the root of the server, quoted, without a query."""
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = None
    content_type: str = wire.JSON
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    timeout_s: float | None = None


class Exchange:
    """Sends requests to the first server that answers. Thread-safe; usable again in a child after a fork."""

    def __init__(self, addresses: Sequence[str], policy: RetryPolicy, *, token: str, ca_file: str) -> None:
        """Talk to *addresses* (base URLs, favourite first).

        Args:
            addresses: ``http://host:port`` or ``https://…``.
            policy: How requests are repeated.
            token: Sent as bearer token; empty for none.
            ca_file: Certificates to trust instead of the system's; empty for the system's.
        """
        self.addresses = [address.rstrip("/") for address in addresses]
        self._policy = policy
        self._token = token
        self._ca_file = ca_file
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        self._pid = os.getpid()
        self._failed_at: dict[str, float] = {}

    def send(self, request: Request) -> bytes:
        """Return the body of the answer.

        Raises:
            StoreUnavailableError: No server answered within the retry budget.
            StoreError: A server refused the request.
        """
        last: StoreError | None = None
        for address in self._order():
            try:
                answer = self._send_to(address, request)
            except StoreUnavailableError as error:
                self._failed_at[address] = time.monotonic()
                last = error
            else:
                self._failed_at.pop(address, None)
                return answer
        raise last or StoreUnavailableError("no address of a server was given")

    def _order(self) -> list[str]:
        """Return the addresses in the order to try: those that failed lately come last."""
        recently = time.monotonic() - _FAVOURITE_AGAIN_S
        return sorted(self.addresses, key=lambda address: self._failed_at.get(address, 0.0) > recently)

    def switch(self) -> bool:
        """Leave the address that is in use alone for a minute; False when there is no other one."""
        if len(self.addresses) < 2:  # noqa: PLR2004 - another one
            return False
        self._failed_at[self._order()[0]] = time.monotonic() + _SLOW_S
        return True

    def forget_failures(self) -> None:
        """Ask every address again in its order, also those that failed a moment ago."""
        self._failed_at.clear()

    def _send_to(self, address: str, request: Request) -> bytes:
        started = time.monotonic()
        for delay in (*self._policy.delays, None):
            pause, error = self._try(address, request, delay)
            if isinstance(pause, bytes):
                return pause
            late = time.monotonic() - started + (pause or 0.0) > self._policy.deadline_s
            if error is not None and (pause is None or late):
                raise error
            time.sleep(pause or 0.0)
        msg = f"the store at {shown_url(address)} did not answer"
        raise StoreUnavailableError(msg)

    def _try(
        self, address: str, request: Request, delay: float | None
    ) -> tuple[bytes | float | None, StoreError | None]:
        """Send once; return the answer, or how long to pause (None: give up) and the error."""
        pause = None if delay is None else delay * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
        try:
            response = self._open().send(self._build(address, request))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return (None if certificate_problem(error) else pause), _unreachable(address, error)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            return pause, _unreachable(address, error)
        if response.is_success:
            return response.content, None
        error = wire.error_from(response.status_code, _json_object(response.content))
        if response.is_redirect:
            location: str = response.headers.get("location", "")
            where = urlsplit(location).netloc.rpartition("@")[2] or "another address"
            msg = f"the server at {address} redirects to {where}; redirects are not followed: name the server itself"
            return None, StoreError(msg)
        if response.status_code in _BUSY and pause is not None:
            return max(pause, _retry_after(response)), error
        return (pause if isinstance(error, wire.ChecksumError) else None), error

    def _build(self, address: str, request: Request) -> httpx.Request:
        headers = dict(request.headers)
        body = request.body
        if body is not None:
            far = urlsplit(address).hostname not in _LOOPBACK
            body, described = wire.body_headers(body, request.content_type, compress=far)
            headers |= described
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        timeout_s = request.timeout_s or self._policy.timeout_s
        return self._open().build_request(
            request.method,
            address + request.path,
            params=dict(request.query),
            content=body,
            headers=headers,
            timeout=timeout_s,
        )

    def _open(self) -> httpx.Client:
        with self._lock:
            if self._client is None or self._pid != os.getpid():
                # A child must not close the parent's connections: it only forgets them.
                self._client, self._pid = self._connect(), os.getpid()
            return self._client

    def _connect(self) -> httpx.Client:
        # Redirects are not followed: the token belongs to the server that was named.
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=16, keepalive_expiry=4.0)
        if not any(address.startswith("https:") for address in self.addresses):
            return httpx.Client(limits=limits, verify=False, trust_env=False)  # noqa: S501 - no TLS at all
        try:
            context = ssl.create_default_context(cafile=self._ca_file or None)
        except (OSError, ssl.SSLError) as error:
            msg = f"cannot read the certificates in {self._ca_file!r}: {error}; set AGL_STORE_CA to a PEM file"
            raise StoreError(msg) from error
        return httpx.Client(limits=limits, verify=context, trust_env=False)

    def after_fork(self) -> None:
        """Make it usable in a child: another thread may have held the lock when the parent forked."""
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._lock:
            if self._client is not None and self._pid == os.getpid():
                self._client.close()
            self._client = None


def _retry_after(response: httpx.Response) -> float:
    try:
        seconds = float(response.headers.get("retry-after", "0"))
    except ValueError:  # a date: rare, and the delays go on anyway
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT_S)


def _json_object(body: bytes) -> dict[str, object]:
    try:
        value: object = from_json(body)
    except ValueError:
        return {}
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def certificate_problem(error: BaseException | None) -> str | None:
    """Return what TLS says against the certificate when that is why a connection failed."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return None


def _unreachable(address: str, error: Exception) -> StoreUnavailableError:
    problem = certificate_problem(error)
    if problem:
        msg = f"the certificate of {shown_url(address)} is not trusted: {problem}; name its issuer with AGL_STORE_CA"
    else:
        msg = f"cannot reach the store at {shown_url(address)}: {str(error) or type(error).__name__}; is it running?"
    return StoreUnavailableError(msg)
