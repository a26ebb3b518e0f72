"""``agl import``: rollouts from a file into a store."""

from __future__ import annotations

import asyncio
import gzip
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentlightning.adapter.dataset.exact import ImportFileError
from agentlightning.adapter.dataset.restore import read_atif, read_jsonl
from agentlightning.cli.options import store_options
from agentlightning.cli.text import plural
from agentlightning.store.restore import put_rollout
from agentlightning.store.url import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.adapter.dataset.call import Recorded
    from agentlightning.store.base import LightningStore

FORMATS = ("jsonl", "atif")


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--format", "form", type=click.Choice(FORMATS), required=True, help="What the file is.")
@store_options
def command(*, file: str, form: str, store: str | None, project: str | None) -> int:
    """Read rollouts from FILE (- is standard input, .gz is unpacked) and keep them in the store.

    What agl export wrote comes back with its ids, spans and token ids; a rollout that is in the store already is left
    as it is. What was read before a bad line stays.
    """
    opened = open_store(store, project)
    kept = known = spans = 0
    try:
        for recorded in _read(file, form):
            added = asyncio.run(add(opened, recorded))
            kept += added is not None
            known += added is None
            spans += added or 0
    except ImportFileError as error:
        msg = f"{file}: {error}"
        raise click.ClickException(msg) from error
    finally:
        opened.close()
        if kept or known:
            again = f"; {plural(known, 'rollout')} already there" if known else ""
            click.echo(f"{plural(kept, 'rollout')} with {plural(spans, 'span')} imported{again}", err=True)
    return 0 if kept or known else 1


def _read(file: str, form: str) -> Iterator[Recorded]:
    try:
        if file == "-":
            stream = sys.stdin
        elif file.endswith(".gz"):
            stream = gzip.open(file, "rt", encoding="utf-8")  # noqa: SIM115 - closed below
        else:
            stream = Path(file).open(encoding="utf-8")  # noqa: SIM115
        with stream:
            yield from read_jsonl(stream) if form == "jsonl" else read_atif(stream.read())
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise ImportFileError(str(getattr(error, "strerror", None) or error)) from error


async def add(store: LightningStore, recorded: Recorded) -> int | None:
    """Keep a rollout with its attempts and spans, and return how many spans; None when it is there already.

    One that is there in part, because an import was stopped, is finished.

    Raises:
        StoreError: It was not kept, or not all of it.
    """
    rollout = recorded.rollout
    if await store.get_rollout_by_id(rollout.rollout_id) is not None:
        there = await store.query_span_rows(rollout.rollout_id)
        if len(there) >= len(recorded.spans):
            return None
    await put_rollout(store, rollout, recorded.attempts, recorded.spans)
    return len(recorded.spans)
