"""The real service: signing in with the user's key, and uploading what the local server has committed.

Used in the modes SERVICE and BOTH only; in the mode LOCAL this module is not even loaded. A store is the buffer: what
the service cannot take now goes later, in order, also after a restart. What goes twice has the same ids.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import httpx

from agentlightning import settings
from agentlightning._internal.private import private_folder
from agentlightning.errors import AccessError, SettingError, StoreError, StoreUnavailableError
from agentlightning.pipeline.lock import FolderLock
from agentlightning.server.access import is_loopback
from agentlightning.server.forward import CursorFile, Forwarder, ForwardOptions, OtlpTarget
from agentlightning.store.exchange import certificate_problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

    from agentlightning.store.base import LightningStore

log = logging.getLogger("agentlightning.agentops")

_TIMEOUT_S = 10.0
_POLL_S = 0.5
_STOP_TIMEOUT_S = 5.0
_KEPT_S = 3600.0
"""How long a buffer keeps what was uploaded, for the sessions page."""
_PRUNE_S = 60.0
_BUSY = 500
_REFUSED = frozenset({400, 401, 403})


@dataclass(frozen=True)
class Service:
    """Where the service is, and with which key."""

    api_key: str
    endpoint: str
    exporter_endpoint: str
    ca_file: str | None = None

    @classmethod
    def from_settings(cls) -> Self:
        """Return what the settings say.

        Raises:
            SettingError: There is no key, or an address would send it in clear text to another machine.
        """
        found = cls(
            settings.get(settings.AGENTOPS_API_KEY),
            settings.get(settings.AGENTOPS_ENDPOINT).rstrip("/"),
            settings.get(settings.AGENTOPS_EXPORTER_ENDPOINT),
            settings.get(settings.AGENTOPS_CA) or None,
        )
        if not found.api_key:
            msg = "the modes SERVICE and BOTH need the key of your AgentOps project: set AGL_AGENTOPS_API_KEY"
            raise SettingError(msg)
        _check_address(found.endpoint, settings.AGENTOPS_ENDPOINT.variable)
        _check_address(found.exporter_endpoint, settings.AGENTOPS_EXPORTER_ENDPOINT.variable)
        return found


def _check_address(text: str, variable: str) -> None:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        msg = f"{variable} is {text!r}, which is no address; write https://host"
        raise SettingError(msg)
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        msg = f"{variable} is {text!r}, which would send the key in clear text; write https://"
        raise SettingError(msg)


class Credentials:
    """The token of the service: fetched when it is needed, kept until it is refused. Thread-safe."""

    def __init__(self, service: Service) -> None:
        """Sign in to *service*.

        Raises:
            SettingError: The certificates cannot be read.
        """
        self._service = service
        self._token = ""
        self._lock = threading.Lock()
        try:
            self._verify = ssl.create_default_context(cafile=service.ca_file)
        except (OSError, ssl.SSLError) as error:
            msg = f"cannot read the certificates in {service.ca_file!r}: {error}; AGL_AGENTOPS_CA names a PEM file"
            raise SettingError(msg) from error

    def headers(self) -> Mapping[str, str]:
        """Return the header that an upload needs.

        Raises:
            AccessError: The key, the address or the certificate is wrong; the message says which.
            StoreUnavailableError: The service does not answer now.
        """
        with self._lock:
            if not self._token:
                self._token = self._sign_in()
            return {"authorization": f"Bearer {self._token}"}

    def forget(self) -> None:
        """Sign in again before the next upload."""
        with self._lock:
            self._token = ""

    def _sign_in(self) -> str:
        url = f"{self._service.endpoint}/v3/auth/token"
        try:
            with httpx.Client(verify=self._verify, timeout=_TIMEOUT_S, trust_env=False) as client:
                answer = client.post(url, json={"api_key": self._service.api_key})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = certificate_problem(error)
            if problem:
                raise AccessError(certificate_line(self._service.endpoint, problem)) from None
            msg = (
                f"{self._service.endpoint} cannot be reached ({str(error) or type(error).__name__}): spans wait here; "
                "if it lasts, look at AGL_AGENTOPS_ENDPOINT"
            )
            raise StoreUnavailableError(msg) from None
        if answer.status_code in _REFUSED:
            msg = (
                f"{self._service.endpoint} refuses the API key (status {answer.status_code}): "
                "look at AGL_AGENTOPS_API_KEY"
            )
            raise AccessError(msg)
        if answer.status_code >= _BUSY or answer.status_code == 429:  # noqa: PLR2004 - too many requests
            msg = f"{self._service.endpoint} fails now (status {answer.status_code}): spans wait here"
            raise StoreUnavailableError(msg)
        token = _token_in(answer)
        if not token:
            msg = (
                f"{self._service.endpoint} is no AgentOps service (status {answer.status_code} without a token): "
                "look at AGL_AGENTOPS_ENDPOINT"
            )
            raise AccessError(msg)
        return token


def _token_in(answer: httpx.Response) -> str:
    try:
        value: object = answer.json()
    except ValueError:
        return ""
    token = cast("dict[str, object]", value).get("token") if isinstance(value, dict) else None
    return token if answer.is_success and isinstance(token, str) else ""


def certificate_line(address: str, problem: str) -> str:
    """Return the line for a certificate that is not trusted."""
    return f"the certificate of {address} is not trusted ({problem}): name its issuer with AGL_AGENTOPS_CA"


@dataclass(frozen=True)
class _Pauses(ForwardOptions):
    """Pauses between uploads, as the settings say."""

    jitter: float = 0.5

    def pause_s(self, failures: int) -> float:
        """Return the pause after so many failures in a row, in seconds."""
        longest = min(self.longest_pause_s, self.first_pause_s * 2 ** min(failures - 1, 30))
        return longest * (1 - self.jitter * random.random())  # noqa: S311 - no secret


def pauses() -> ForwardOptions:
    """Return sizes and pauses of uploads; a failure is told at once, and waited for by ``Upload``."""
    return _Pauses(
        first_pause_s=settings.get(settings.AGENTOPS_RETRY_FIRST_S),
        longest_pause_s=settings.get(settings.AGENTOPS_RETRY_CAP_S),
        jitter=settings.get(settings.AGENTOPS_RETRY_JITTER),
        patience_s=0.0,
    )


class Upload:
    """Uploads what a store commits, on a thread, while the block runs. The store must be thread-safe."""

    def __init__(self, store: LightningStore, service: Service, *, is_buffer: bool) -> None:
        """Upload from *store* to *service*.

        Args:
            store: The store, and with it the project.
            service: Where to.
            is_buffer: Whether the store holds nothing but what is to be uploaded: then all of it is, and what was is
                deleted after an hour. Else uploading begins with what is stored from the first use on.

        Raises:
            SettingError: An address or the certificates cannot be used.
        """
        self.problem = ""
        """Why nothing is uploaded now; empty when all is well."""
        credentials = Credentials(service)
        self._service = service
        self._target = OtlpTarget(
            service.exporter_endpoint,
            headers=credentials.headers,
            on_unauthorized=credentials.forget,
            ca_file=service.ca_file,
        )
        self._store = store
        self._is_buffer = is_buffer
        self._cursor = CursorFile.beside(store, self._target.url)
        self._options = pauses()
        self._forwarder = Forwarder(store, self._target, cursor=self._cursor, options=self._options)
        self._stopping = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="agl-agentops-upload", daemon=True)
        self._pruned = time.monotonic()
        self._turn: FolderLock | None = None

    @property
    def sent(self) -> int:
        """Spans that the service took."""
        return self._forwarder.counts.sent

    def figures(self) -> dict[str, int]:
        """Return counters for ``/metrics``."""
        counts = self._forwarder.counts
        skipped = counts.rejected + sum(counts.skipped.values())
        return {"agentops_uploaded": counts.sent, "agentops_not_taken": skipped, "agentops_requests": counts.requests}

    def _run(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        failures = 0
        while not self._stopping.is_set():
            if not self._is_our_turn():
                await self._sleep(_POLL_S)
                continue
            try:
                await self._begin()
                await self._forwarder.run_once()
                await self._clean()
            except StoreError as error:
                failures += 1
                if not self._stopping.is_set():
                    self._tell(self._line(error))
                    await self._sleep(self._options.pause_s(failures))
            else:
                failures = 0
                self._tell("")
                await self._sleep(_POLL_S)

    def _is_our_turn(self) -> bool:
        """Tell whether this server uploads: of several on one store one does, until it ends."""
        folder = self._cursor.path.with_name(f"{self._cursor.path.name}.turn")
        try:
            private_folder(folder)
            self._turn = self._turn or FolderLock(folder)
            return self._turn.acquire()
        except OSError:
            return True  # without a place for the lock some spans may go out twice, with the same ids

    async def _begin(self) -> None:
        """Begin with the present where the store has a past of its own."""
        if not self._is_buffer and not self._cursor.path.exists():
            changes = await self._store.query_changes(None)
            await asyncio.to_thread(self._cursor.write, changes.cursor)

    async def _clean(self) -> None:
        if self._is_buffer and time.monotonic() - self._pruned > _PRUNE_S:
            self._pruned = time.monotonic()
            await self._store.prune(before=time.time() - _KEPT_S)

    def _tell(self, problem: str) -> None:
        """Log each problem once, and its end."""
        if problem and problem != self.problem:
            log.warning("%s", problem)
        elif self.problem and not problem:
            log.warning("AgentOps takes spans again")
        self.problem = problem

    def _line(self, error: StoreError) -> str:
        """Return the one line for what is wrong; errors of the sign-in say it themselves."""
        text, url = str(error), self._target.url
        if "certificate is not trusted" in text:
            return certificate_line(url, text.partition("not trusted: ")[2].partition(";")[0])
        if not isinstance(error, AccessError) or "does not take spans" not in text:
            return text
        status = text.partition("does not take spans: ")[2].partition(";")[0]
        if status in {"status 401", "status 403"}:
            return f"AgentOps refuses spans with this key ({status}): look at AGL_AGENTOPS_API_KEY"
        return f"{url} takes no spans ({status}): look at AGL_AGENTOPS_EXPORTER_ENDPOINT"

    async def _sleep(self, seconds: float) -> None:
        await asyncio.to_thread(self._stopping.wait, seconds)

    def __enter__(self) -> Self:
        """Begin; what is stored from here on will be uploaded, however soon this ends."""
        if self._is_our_turn():
            try:
                asyncio.run(self._begin())
            except StoreError as error:
                self._tell(self._line(error))  # the thread tries again
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End after the request under way."""
        self._stopping.set()
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._forwarder.stop)
        self._thread.join(_STOP_TIMEOUT_S)
        if self._turn is not None:
            self._turn.release()
        self._target.close()
