"""``agl store forward``: committed spans to an OTLP backend, as they come."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentlightning.cli.options import store_options
from agentlightning.cli.otlp import Backend, backend_options, report
from agentlightning.store.url import open_store

if TYPE_CHECKING:
    from collections.abc import Generator

    from agentlightning.server.forward import Forwarder
    from agentlightning.store.base import LightningStore


@click.command()
@store_options
@click.option("--otlp", "otlp_url", metavar="URL", required=True, help="OTLP/HTTP backend: http://host:4318.")
@backend_options()
@click.option("--once/--follow", default=False, help="End when all is sent, or go on until Ctrl+C (default).")
@click.option("--cursor", type=click.Path(dir_okay=False, path_type=Path), help="File that holds how far it came.")
def forward(  # noqa: PLR0913 - one for each option
    *,
    store: str | None,
    project: str | None,
    otlp_url: str,
    headers: tuple[str, ...],
    ca_file: str | None,
    once: bool,
    cursor: Path | None,
) -> int:
    """Send the ended spans of a project to an OTLP backend, each at least once; a later run goes on where this ended.

    With --once it ends with 1 when the backend did not want a span, and with 2 when it took nothing.
    """
    opened = open_store(store, project, create=False)
    try:
        return asyncio.run(_forward(opened, Backend(otlp_url, headers, ca_file), cursor, once=once))
    finally:
        opened.close()


async def _forward(store: LightningStore, backend: Backend, cursor: Path | None, *, once: bool) -> int:
    from agentlightning.server.forward import CursorFile, Forwarder  # noqa: PLC0415 - with the rest of the server

    target = backend.target()
    file = CursorFile(cursor) if cursor else CursorFile.beside(store, target.url)
    forwarder = Forwarder(store, target, cursor=file)
    try:
        if once:
            return report(await forwarder.run_once(), target.url)
        click.echo(f"agl: forwarding project {store.project!r} of {store.url} to {target.url}", err=True)
        with _stopped_by_signals(forwarder):
            report(await forwarder.follow(), target.url)
        return 0
    finally:
        target.close()


@contextmanager
def _stopped_by_signals(forwarder: Forwarder) -> Generator[None, None, None]:
    """End the service by SIGINT and SIGTERM after the request under way."""
    loop = asyncio.get_running_loop()
    before = {
        number: signal.signal(number, lambda _number, _frame: loop.call_soon_threadsafe(forwarder.stop))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
