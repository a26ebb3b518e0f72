"""``agl export``: recorded rollouts for other programs."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click

from agentlightning.cli.options import store_options
from agentlightning.cli.otlp import Backend, backend_options, report
from agentlightning.cli.store import age_s
from agentlightning.store.url import open_store
from agentlightning.types.query import RolloutFilter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentlightning.store.base import LightningStore

_PAGE = 200


@click.command()
@store_options
@click.argument("rollouts", nargs=-1, metavar="[ROLLOUT]...")
@click.option("--since", metavar="AGE", help="Only rollouts that began within it: 12h, 7d.")
@click.option("--otlp", "otlp_url", metavar="URL", help="Send the spans to an OTLP/HTTP backend: http://host:4318.")
@backend_options()
def command(  # noqa: PLR0913 - one for each option
    *,
    store: str | None,
    project: str | None,
    rollouts: tuple[str, ...],
    since: str | None,
    otlp_url: str | None,
    headers: tuple[str, ...],
    ca_file: str | None,
) -> int:
    """Give recorded rollouts to other programs: the named ones, or all of the project.

    Ends with 1 when a backend did not want a span. Sent again, a span keeps its ids.
    """
    if otlp_url is None:
        msg = "say where to: --otlp URL"
        raise click.UsageError(msg)
    started_after = None if since is None else time.time() - age_s(since)
    opened = open_store(store, project, create=False)
    try:
        return asyncio.run(_to_backend(opened, rollouts, started_after, Backend(otlp_url, headers, ca_file)))
    finally:
        opened.close()


async def _to_backend(
    store: LightningStore, names: tuple[str, ...], started_after: float | None, backend: Backend
) -> int:
    from agentlightning.server.forward import Forwarder  # noqa: PLC0415 - with the rest of the server

    target = backend.target()
    forwarder = Forwarder(store, target)
    try:
        async for rollout_id in chosen(store, names, started_after):
            await forwarder.send([span.to_record() for span in await store.query_spans(rollout_id)])
    finally:
        target.close()
    return report(forwarder.counts, target.url)


async def chosen(store: LightningStore, names: tuple[str, ...], started_after: float | None) -> AsyncIterator[str]:
    """Yield the ids of the rollouts that *names* mean with those inside them; without names, of all of the project.

    Raises:
        UnknownIdError: A name means none, or several.
    """
    pending = [await store.find_rollout_id(name) for name in names]  # all of them before anything is sent
    seen: set[str] = set()
    while pending:
        rollout_id = pending.pop(0)
        if rollout_id not in seen:
            seen.add(rollout_id)
            rollout = await store.get_rollout_by_id(rollout_id)
            if rollout is not None and (started_after is None or rollout.start_time >= started_after):
                yield rollout_id
            pending += [child.rollout_id for child in await store.query_child_rollouts(rollout_id)]
    offset = 0
    while not names:
        where = RolloutFilter(start_after=started_after, limit=_PAGE, offset=offset)
        page = await store.query_rollouts(where=where)
        for rollout in page:
            yield rollout.rollout_id
        if len(page) < _PAGE:
            return
        offset += _PAGE
