"""What ``agl doctor`` says about AgentOps: the problems of ``docs/agentops.md``, looked for one after the other."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil

from agentlightning import settings
from agentlightning.cli.agentops_server import Running, running_servers
from agentlightning.errors import AgentLightningError, ServerStartError
from agentlightning.instrumentation.agentops_server import DEFAULT_PORT, PROCESS_NAME, bind
from agentlightning.server.access import is_loopback
from agentlightning.server.agentops.log import state_folder
from agentlightning.store.url import canonical_url, default_store_url, scheme_of, sqlite_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Finding = tuple[bool, str, str]

_ROOM_BYTES = 100 * 2**20
_LONG_PAUSE_S = 300.0
_TIMEOUT_S = 2.0
_EXPORTER, _API = "AGENTOPS_EXPORTER_ENDPOINT", "AGENTOPS_API_ENDPOINT"
_LAST_GOOD_EXPORTER, _FIRST_BAD_SDK = (1, 45), (0, 4, 19)


def findings(store: str | None = None) -> Iterator[Finding]:
    """Yield whether it is well, what was looked at, what was found; *store* as in ``agl doctor``.

    Nothing is changed.
    """
    servers = running_servers(tidy=False)
    if not (servers or _is_used()):
        yield True, "agentops", "not used here: no SDK, no server, no AGENTOPS_ variable (docs/agentops.md)"
        return
    mode = settings.get(settings.AGENTOPS_MODE)
    yield from _sdk()
    yield _destination(mode)
    yield from _servers(servers)
    yield _port(servers)
    yield from _files(store)
    yield from _left_over(servers)
    yield from _service(mode)


def _is_used() -> bool:
    named = any(name.startswith(("AGENTOPS_", "AGL_AGENTOPS_")) for name in os.environ)
    return named or _version_of("agentops") is not None or state_folder().is_dir()


def _version_of(package: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in version(package).split(".")[:3] if part.isdigit())
    except PackageNotFoundError:
        return None


def _sdk() -> Iterator[Finding]:
    """Events lost: a pair of SDK and exporter that loses all of them."""
    sdk, exporter = _version_of("agentops"), _version_of("opentelemetry-exporter-otlp-proto-http")
    if sdk is None:
        return
    text = f"{'.'.join(map(str, sdk))}"
    if sdk >= _FIRST_BAD_SDK and exporter is not None and exporter >= _LAST_GOOD_EXPORTER:
        text += (
            "; with this OpenTelemetry it loses every span where nobody mends it: 'agl run' and AgentOpsTracer do; "
            "else: pip install 'opentelemetry-exporter-otlp-proto-http<1.45'"
        )
    yield True, "agentops SDK", text


def _destination(mode: str) -> Finding:
    """Events lost: the SDK sends them to nobody, or past the local server."""
    api, exporter = os.environ.get(_API), os.environ.get(_EXPORTER)
    if api and not exporter and _is_local(api):
        return False, "agentops target", f"{_API} is set and {_EXPORTER} is not: spans go to the service; set both"
    if exporter and _is_local(exporter) and not _answers(exporter):
        port = urlsplit(exporter).port or DEFAULT_PORT
        return False, "agentops target", f"nothing answers at {exporter}: start it with agl agentops --port {port}"
    where = {
        "LOCAL": "nothing leaves this machine",
        "SERVICE": "to the service",
        "BOTH": "to the store and the service",
    }
    sent = f", the SDK sends to {exporter}" if exporter else ""
    return True, "agentops target", f"AGL_AGENTOPS_MODE={mode}: {where[mode]}{sent}"


def _is_local(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")


def _answers(url: str) -> bool:
    return _health(url) is not None


def _health(url: str) -> dict[str, object] | None:
    import httpx  # noqa: PLC0415 - only where there is something to ask

    parts = urlsplit(url)
    try:
        # Whether the right one answers is not asked here, so its certificate does not matter.
        with httpx.Client(verify=False, timeout=_TIMEOUT_S, trust_env=False) as client:  # noqa: S501 - see above
            answer: dict[str, object] = client.get(f"{parts.scheme}://{parts.netloc}/health").json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return None
    return answer


def _servers(servers: list[Running]) -> Iterator[Finding]:
    """Events late: a server that does not answer, or cannot upload."""
    for item in servers:
        health = _health(item.url)
        if health is None:
            yield False, "agentops server", f"{item.url} does not answer: agl agentops --stop --port {item.port}"
        elif health.get("problem"):
            yield False, "agentops upload", f"spans wait at {item.url}: {health['problem']}"
        else:
            yield True, "agentops server", f"{item.url}, process {item.pid}, store {item.store}"
    pause = settings.get(settings.AGENTOPS_RETRY_CAP_S)
    if pause > _LONG_PAUSE_S:
        advice = f"after trouble uploads may wait {pause:g} s: lower AGL_AGENTOPS_RETRY_CAP_S"
        yield False, "agentops pauses", advice


def _port(servers: list[Running]) -> Finding:
    """Tell whether ``agl agentops`` would get its port."""
    if any(item.port == DEFAULT_PORT for item in servers):
        return True, "agentops port", f"{DEFAULT_PORT} is that of a server of ours"
    try:
        bind("127.0.0.1", DEFAULT_PORT).close()
    except ServerStartError as error:
        return True, "agentops port", str(error)
    return True, "agentops port", f"{DEFAULT_PORT} is free"


def _files(store: str | None) -> Iterator[Finding]:
    """Events lost and start failed: no room, or no right to write."""
    folder = state_folder()
    existing = _existing(folder)
    if not os.access(existing, os.W_OK):
        yield False, "agentops files", f"{existing} cannot be written: no log, no pid file; set XDG_STATE_HOME"
    else:
        yield True, "agentops files", f"log and pid files are in {folder}"
    url = canonical_url(store) if store else default_store_url()
    if scheme_of(url) != "sqlite":
        return
    free = shutil.disk_usage(_existing(sqlite_path(url).parent)).free
    text = f"{free / 2**20:,.0f} MB are free for {url}"
    if free < _ROOM_BYTES:
        yield False, "agentops room", f"only {text}: the server answers 503, and the SDK drops what it cannot send"
    else:
        yield True, "agentops room", text


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _left_over(servers: list[Running]) -> Iterator[Finding]:
    """Processes: a server that nobody manages any more."""
    known = {item.pid for item in servers}
    for process in psutil.process_iter(["name", "ppid", "username"]):
        if not str(process.info["name"]).startswith(PROCESS_NAME) or process.pid in known:
            continue
        if process.info["ppid"] == 1:
            yield False, "agentops process", f"process {process.pid} has no manager: kill {process.pid}"


def _service(mode: str) -> Iterator[Finding]:
    """Sign-in: key, address, certificate."""
    if mode == "LOCAL":
        return
    from agentlightning.server.agentops.service import Credentials, Service  # noqa: PLC0415 - it can reach outward

    try:
        service = Service.from_settings()
        Credentials(service).headers()
    except AgentLightningError as error:
        yield False, "agentops sign-in", str(error)
    else:
        yield True, "agentops sign-in", f"{service.endpoint} takes the key"
