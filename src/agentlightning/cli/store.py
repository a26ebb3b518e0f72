"""``agl store``: serve a store to other machines and look after it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentlightning._internal.private import private_folder
from agentlightning.cli.choice import age_s
from agentlightning.cli.forward import forward
from agentlightning.cli.options import store_options
from agentlightning.cli.otlp import Backend, backend_options, report
from agentlightning.cli.terminal import safe, write
from agentlightning.cli.text import plural
from agentlightning.errors import StoreUnavailableError
from agentlightning.store.url import canonical_url, default_store_url, open_store, scheme_of, sqlite_path

if TYPE_CHECKING:
    from agentlightning.server.access import Scope
    from agentlightning.server.forward import ForwardCounts
    from agentlightning.store.base import LightningStore
    from agentlightning.types.query import StoreStatistics

_UNITS = ("B", "KB", "MB", "GB", "TB")
_STEP = 1000


@click.group()
def command() -> None:
    """Serve a store, and look after it: backup, restore, check, compaction, retention."""


command.add_command(forward)


def _path(**how: Any) -> click.Path:  # noqa: ANN401 - arguments of click
    return click.Path(dir_okay=False, path_type=Path, **how)


@command.command()
@store_options
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address; others than this machine's need --tokens."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=4747, show_default=True, help="Port; 0 takes a free one."
)
@click.option("--tokens", "token_file", type=_path(), help="File that 'agl store token' writes.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="Further host name under which it is reached.")
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False), help="Certificate, PEM.")
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False), help="Its key, PEM.")
@click.option("--forward-otlp", metavar="URL", help="Send each ended span of the project on: http://host:4318.")
@backend_options("forward-")
def serve(**given: Any) -> None:  # noqa: ANN401 - as many options as a server has
    """Serve a store over HTTP, and take OTLP at /v1/traces. Ends on Ctrl-C after the requests under way.

    Each refusal and deletion is a line on stderr.
    """
    from agentlightning.server.access import TokenFile  # noqa: PLC0415
    from agentlightning.server.app import thread_safe  # noqa: PLC0415 - the server is loaded for this command only
    from agentlightning.server.launcher import ServerOptions, run_server  # noqa: PLC0415

    tokens = TokenFile(given["token_file"]) if given["token_file"] else None
    store = thread_safe(open_store(given["store"], given["project"]))
    forwarding = _Forwarding(store, Backend(given["forward_otlp"], given["forward_headers"], given["forward_ca_file"]))
    options = ServerOptions(
        host=given["host"],
        port=given["port"],
        tokens=tokens,
        allowed_hosts=given["allow_host"],
        tls_cert=given["tls_cert"],
        tls_key=given["tls_key"],
        figures=forwarding.figures,
    )

    def announce(url: str) -> None:
        """Say where the store is served, once connections are taken."""
        click.echo(f"serving {store.url} at {url}", err=True)

    _show_audit()
    try:
        with forwarding:
            run_server(store, options, announce)
    finally:
        store.close()


class _Forwarding:
    """Sends spans on beside a server, when a backend is named."""

    def __init__(self, store: LightningStore, backend: Backend) -> None:
        self._store = store
        self._backend = backend
        self._counts: ForwardCounts | None = None
        self._running = contextlib.ExitStack()

    def __enter__(self) -> None:
        if not self._backend.url:
            return
        from agentlightning.server.forward import CursorFile, Forwarder, ForwardThread  # noqa: PLC0415

        target = self._backend.target()
        self._running.callback(target.close)
        forwarder = Forwarder(self._store, target, cursor=CursorFile.beside(self._store, target.url))
        self._counts = forwarder.counts
        self._running.callback(report, forwarder.counts, target.url)
        self._running.enter_context(ForwardThread(forwarder))
        click.echo(f"forwarding project {self._store.project!r} to {target.url}", err=True)

    def __exit__(self, *error: object) -> None:
        self._running.close()

    def figures(self) -> dict[str, int]:
        """Return what was sent so far."""
        return {} if self._counts is None else self._counts.figures()


@command.command()
@store_options
def info(*, store: str | None, project: str | None) -> None:
    """Say what a store holds."""
    opened = open_store(store, project, create=False)
    found = asyncio.run(_statistics(opened))
    click.echo(f"store      {opened.url}\nproject    {opened.project}")
    for name, value in _figures(found):
        click.echo(f"{name:<10} {value}")
    opened.close()


async def _statistics(store: LightningStore) -> StoreStatistics:
    return await store.statistics()


def _figures(found: StoreStatistics) -> list[tuple[str, str]]:
    statuses = ", ".join(f"{count:,} {status}" for status, count in sorted(found.statuses.items()))
    return [
        ("rollouts", f"{found.rollouts:,}" + (f" ({statuses} in this project)" if statuses else "")),
        ("attempts", f"{found.attempts:,}"),
        ("spans", f"{found.spans:,}"),
        ("resources", f"{found.resources:,}"),
        ("queued", f"{found.queued:,}"),
        ("size", size(found.size_bytes)),
    ]


@command.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--store", metavar="URL", help="Store or file; default: AGL_STORE, else the user's own.")
def backup(*, target: Path, store: str | None) -> None:
    """Copy a store to the file TARGET while others write to it."""
    from agentlightning.store import upkeep  # noqa: PLC0415 - for this command only

    path = _file_of(store)
    click.echo(f"{target}: {size(upkeep.backup(path, target))}, all that {path} held when the copy began")


@command.command()
@click.argument("saved", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--store", metavar="URL", help="Store or file; default: AGL_STORE, else the user's own.")
def restore(*, saved: Path, store: str | None) -> None:
    """Check the backup SAVED and put it in the place of a store that nobody has open."""
    from agentlightning.store import upkeep  # noqa: PLC0415 - for this command only

    path = _file_of(store)
    verdict = upkeep.restore(saved, path)
    _audit("restore", str(path), str(saved))
    click.echo(f"{path}: restored {verdict.rollouts:,} rollouts with {verdict.spans:,} spans")


@command.command()
@click.option("--store", metavar="URL", help="Store or file; default: AGL_STORE, else the user's own.")
def vacuum(*, store: str | None) -> None:
    """Give back the room of what was deleted."""
    from agentlightning.store import upkeep  # noqa: PLC0415 - for this command only

    path = _file_of(store)
    before, after = upkeep.vacuum(path)
    click.echo(f"{path}: {size(before)} → {size(after)}")


@command.command()
@click.option("--store", metavar="URL", help="Store or file; default: AGL_STORE, else the user's own.")
def verify(*, store: str | None) -> int:
    """Check a store thoroughly; ends with 1 when something is wrong."""
    from agentlightning.store import upkeep  # noqa: PLC0415 - for this command only

    path = _file_of(store)
    verdict = upkeep.verify(path)
    for problem in verdict.problems:
        write(safe(f"{path}: {problem}"))  # it may hold bytes of a damaged file
    if not verdict.problems:
        write(safe(f"{path}: sound, {plural(verdict.rollouts, 'rollout')} with {plural(verdict.spans, 'span')}"))
    return 1 if verdict.problems else 0


@command.command()
@store_options
@click.option("--older-than", metavar="AGE", help="Only rollouts without a sign of life for so long: 30d, 12h, 2w.")
@click.option("--keep", type=click.IntRange(0), help="The newest so many rollouts stay in any case.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune(*, store: str | None, project: str | None, older_than: str | None, keep: int | None, yes: bool) -> None:
    """Delete old rollouts of a project with their spans; what waits or is at work stays."""
    if older_than is None and keep is None:
        msg = "say what may go: --older-than AGE, --keep NUMBER, or both"
        raise click.UsageError(msg)
    before = None if older_than is None else time.time() - age_s(older_than)
    opened = open_store(store, project, create=False)
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete rollouts of project {opened.project!r} in {opened.url}?", abort=True)
    deleted = asyncio.run(_prune(opened, before, keep))
    opened.close()
    _audit("prune", str(opened.url), opened.project, deleted)
    click.echo(f"{deleted:,} rollouts deleted; 'agl store vacuum' gives back their room")


async def _prune(store: LightningStore, before: float | None, keep: int | None) -> int:
    return await store.prune(before=before, keep=keep)


@command.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="Who gets it; a token of the same name is replaced.")
@click.option("--scope", type=click.Choice(["read", "write", "admin"]), default="write", help="What it allows.")
@click.option("--project", metavar="NAME", help="The only project that it opens; default: all.")
@click.option("--expires-in", metavar="AGE", help="How long it is good: 90d, 12h; default: for ever.")
def token(*, file: Path, name: str, scope: Scope, project: str | None, expires_in: str | None) -> None:
    """Make a token, print it once, and keep its hash in FILE for 'agl store serve --tokens FILE'."""
    from agentlightning.server.access import TokenFile, new_token  # noqa: PLC0415 - for this command only

    if not file.exists():
        private_folder(file.parent)
        with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as empty:
            empty.write("[]")
    text, kept = new_token(name, scope, time.time() + age_s(expires_in) if expires_in else None, project)
    TokenFile(file).add(kept)
    click.echo(text)


def size(count: int) -> str:
    """Return a number of bytes for people."""
    value, unit = float(count), _UNITS[0]
    for unit in _UNITS:  # noqa: B007 - the last one is used
        if value < _STEP:
            break
        value /= _STEP
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _file_of(url: str | None) -> Path:
    canonical = default_store_url() if url is None else canonical_url(url)
    if scheme_of(canonical) != "sqlite":
        msg = f"this works on the file of a store, not on {canonical}; run it where the file is"
        raise StoreUnavailableError(msg)
    return sqlite_path(canonical)


def _audit(event: str, *fields: object) -> None:
    from agentlightning.server.gate import write_audit  # noqa: PLC0415 - with the rest of the server

    _show_audit()
    write_audit(event, *fields)


def _show_audit() -> None:
    """Let audit lines appear on stderr, each with its time (UTC), also where nothing else is logged."""
    from agentlightning.server.gate import audit  # noqa: PLC0415 - with the rest of the server

    handler = logging.StreamHandler()
    handler.formatter = logging.Formatter("%(asctime)s audit %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    handler.formatter.converter = time.gmtime
    audit.handlers[:] = [handler]
    audit.propagate = False
    audit.setLevel(logging.WARNING)
