"""``agl export``: recorded rollouts for other programs."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from agentlightning.adapter.dataset.call import Selection
from agentlightning.adapter.tree import RewardMatchPolicy
from agentlightning.cli.choice import named_rollouts, since_option
from agentlightning.cli.dataset import FORMATS, write
from agentlightning.cli.options import store_options
from agentlightning.cli.otlp import Backend, backend_options, report
from agentlightning.store.url import open_store
from agentlightning.types.query import RolloutFilter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentlightning.store.base import LightningStore

STATUSES = ("queuing", "preparing", "running", "requeuing", "succeeded", "failed", "cancelled")
MATCHES = tuple(policy.value for policy in RewardMatchPolicy)
_PAGE = 200


@click.command()
@store_options
@click.argument("rollouts", nargs=-1, metavar="[ROLLOUT]...")
@since_option
@click.option("--format", "form", type=click.Choice(FORMATS), help="Write a file of training data: docs/export.md.")
@click.option("--output", "-o", metavar="FILE", help="Where to; .gz compresses. Default: standard output.")
@click.option(
    "--report", "report_file", metavar="FILE", help="The coverage report as JSON, beside the lines on stderr."
)
@click.option("--status", multiple=True, type=click.Choice(STATUSES), help="Only rollouts with it; may be repeated.")
@click.option("--agent", "agent_match", metavar="REGEX", help="Only calls of agents whose name it is found in.")
@click.option("--reward-match", type=click.Choice(MATCHES), default=MATCHES[1], show_default=True,
              help="Whose a reward is: among siblings, or of the last call before it.")  # fmt: skip
@click.option("--min-reward", type=float, metavar="X", help="Only rollouts whose final reward is X or more.")
@click.option("--otlp", "otlp_url", metavar="URL", help="Send the spans to an OTLP/HTTP backend: http://host:4318.")
@backend_options()
def command(  # noqa: PLR0913 - one for each option
    *,
    store: str | None,
    project: str | None,
    rollouts: tuple[str, ...],
    since: float | None,
    form: str | None,
    output: str | None,
    report_file: str | None,
    status: tuple[str, ...],
    agent_match: str | None,
    reward_match: str,
    min_reward: float | None,
    otlp_url: str | None,
    headers: tuple[str, ...],
    ca_file: str | None,
) -> int:
    """Give recorded rollouts to other programs: the named ones, or all of the project.

    With --format as a file of training data: what is in it, and why the rest is not, is said on stderr. With --otlp to
    a backend: sent again, a span keeps its ids. Ends with 1 when nothing was written, or a backend refused a span.
    """
    if (otlp_url is None) == (form is None):
        msg = f"say where to: --format {'|'.join(FORMATS)}, or --otlp URL"
        raise click.UsageError(msg)
    opened = open_store(store, project, create=False)
    try:
        ids = chosen(opened, rollouts, since, status)
        if otlp_url is not None:
            return asyncio.run(_to_backend(opened, ids, Backend(otlp_url, headers, ca_file)))
        selection = Selection(_pattern(agent_match), RewardMatchPolicy(reward_match), min_reward)
        coverage = asyncio.run(write(opened, ids, form or "", output, selection))
    except OSError as error:
        msg = f"{output or 'standard output'} cannot be written: {error.strerror or error}"
        raise click.ClickException(msg) from error
    finally:
        opened.close()
    for line in coverage.text():
        click.echo(line, err=True)
    if report_file is not None:
        Path(report_file).write_text(json.dumps(msgspec.to_builtins(coverage), indent=2) + "\n", encoding="utf-8")
    return 0 if coverage.lines else 1


def _pattern(text: str | None) -> str | None:
    try:
        re.compile(text or "")
    except re.error as error:
        msg = f"--agent {text!r} is no regular expression: {error}"
        raise click.UsageError(msg) from error
    return text


async def _to_backend(store: LightningStore, ids: AsyncIterator[str], backend: Backend) -> int:
    from agentlightning.server.forward import Forwarder  # noqa: PLC0415 - with the rest of the server

    target = backend.target()
    forwarder = Forwarder(store, target)
    try:
        async for rollout_id in ids:
            await forwarder.send([span.to_record() for span in await store.query_spans(rollout_id)])
    finally:
        target.close()
    return report(forwarder.counts, target.url)


async def chosen(
    store: LightningStore, names: tuple[str, ...], started_after: float | None, statuses: tuple[str, ...] = ()
) -> AsyncIterator[str]:
    """Yield the ids of the rollouts that *names* mean with those inside them; without names, of all of the project.

    Raises:
        UnknownIdError: A name means none, or several.
    """
    if names:
        async for rollout_id in named_rollouts(store, names):
            rollout = await store.get_rollout_by_id(rollout_id)
            is_new = rollout is not None and (started_after is None or rollout.start_time >= started_after)
            if rollout is not None and is_new and (not statuses or rollout.status in statuses):
                yield rollout_id
        return
    offset = 0
    while page := await store.query_rollouts(
        where=RolloutFilter(start_after=started_after, limit=_PAGE, offset=offset)
    ):
        for rollout in page:
            if not statuses or rollout.status in statuses:
                yield rollout.rollout_id
        offset += _PAGE
