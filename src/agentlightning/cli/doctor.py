"""``agl doctor``: is everything in place, what was lost, where does each setting come from."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import TYPE_CHECKING

import click

from agentlightning import settings
from agentlightning.cli.options import store_options
from agentlightning.cli.terminal import safe, style
from agentlightning.cli.text import count, plural
from agentlightning.errors import AgentLightningError
from agentlightning.instrumentation import registry
from agentlightning.pipeline.ledger import Account, ledger_folder, read_accounts
from agentlightning.pipeline.redaction import rules_hash
from agentlightning.pipeline.redaction.rule import Options, active_rules
from agentlightning.store.url import canonical_url, default_store_url, open_store
from agentlightning.view.integrity import RULES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import Rollout

Finding = tuple[bool, str, str]
"""Whether it is well, what was looked at, what was found."""

ENTRY_POINTS = "agentlightning.checks"
"""Entry point group of further checks: functions without arguments that return findings."""

_DEFAULT_ATTRIBUTE_LIMIT = 128
_LOOKED_AT, _LOOKED_AT_SPANS = 20, 20_000
"""How many of the newest rollouts, and about how many of their spans, are looked at."""


@click.command()
@store_options
@click.option(
    "--settings", "show_settings", is_flag=True, help="Print every setting, its value and where it comes from."
)
def command(*, store: str | None, project: str | None, show_settings: bool) -> int:
    """Check this installation, its settings and its store; exit code 1 when something is wrong."""
    if show_settings:
        return _print_settings()
    well = True
    for good, what, found in _findings(store, project):
        mark = style("ok  ", fg="green") if good else style("FAIL", fg="red", bold=True)
        click.echo(f"{mark}  {what:<16} {found}")
        well = well and good
    return 0 if well else 1


def _print_settings() -> int:
    well = True
    for setting in settings.all_settings():
        try:
            value, source = settings.lookup(setting)
        except AgentLightningError as error:
            click.echo(style(str(error), fg="red"), err=True)
            well = False
        else:
            shown = "(the user's data directory)" if setting is settings.STORE and not value else value
            if value and setting in (
                settings.STORE_TOKEN,
                settings.REDACT_KEY,
                settings.AGENTOPS_API_KEY,
                settings.AGENTOPS_PROJECTS,
            ):
                shown = "(set)"  # the output of this command is what people paste into reports
            click.echo(f"{setting.variable:<22} {shown!s:<30} {source}")
    return 0 if well else 2


def _findings(store: str | None, project: str | None) -> Iterator[Finding]:
    yield (
        True,
        "agentlightning",
        f"{version('agentlightning')} on Python {platform.python_version()} ({sys.executable})",
    )
    yield _settings_finding()
    yield True, "capture", "on" if settings.get(settings.ENABLED) else "off: AGL_ENABLED is 0"
    yield from _store_findings(store, project)
    yield from _library_findings()
    yield from _agentops_findings(store)
    yield from _further_findings()
    limit = os.environ.get("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT")
    small = limit is not None and limit.isdigit() and int(limit) <= _DEFAULT_ATTRIBUTE_LIMIT
    advice = (
        "a program's own tracer provider keeps 128 attributes a span; OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT=10000 raises it"
    )
    yield not small, "attribute limit", f"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT={limit}: {advice}" if limit else advice
    yield True, "not reached", "python -I, -E and -S, and programs that are not Python"


def _settings_finding() -> Finding:
    try:
        settings.check_environment()
    except AgentLightningError as error:
        return False, "settings", str(error)
    changed = [setting.variable for setting in settings.all_settings() if settings.lookup(setting)[1] != "default"]
    return True, "settings", ("set: " + ", ".join(changed) if changed else "all at their defaults") + " (--settings)"


def _store_findings(store: str | None, project: str | None) -> Iterator[Finding]:
    try:
        url = canonical_url(store) if store else default_store_url()
        opened = open_store(url, project)
        newest = asyncio.run(opened.query_newest_rollouts(limit=_LOOKED_AT))
        integrity = asyncio.run(_integrity_finding(opened, newest))
        redaction = asyncio.run(_redaction_finding(opened, newest))
        opened.close()
    except AgentLightningError as error:
        yield False, "store", str(error)
        return
    yield (
        True,
        "store",
        f"{url}, newest rollout of project {opened.project!r}: {newest[0].rollout_id if newest else 'none'}",
    )
    yield integrity
    yield redaction
    folder = ledger_folder(url, None)
    if folder is not None:
        yield _loss_finding(folder.parent)


async def _integrity_finding(store: LightningStore, rollouts: Sequence[Rollout]) -> Finding:
    """Count the spans of *rollouts* that break a rule, and say which rules and where."""
    rules: dict[str, int] = {}
    spans = looked_at = 0
    where = ""
    for rollout in rollouts:
        if spans >= _LOOKED_AT_SPANS:
            break
        rows = await store.query_span_rows(rollout.rollout_id)
        broken = [row.facts.integrity for row in rows if row.facts.integrity]
        spans, looked_at = spans + len(rows), looked_at + 1
        where = where or (rollout.rollout_id if broken else "")
        for name in ", ".join(broken).split(", ") if broken else ():
            rules[name] = rules.get(name, 0) + 1
    seen = f"of {count(spans)} spans of the newest {plural(looked_at, 'rollout')}"
    if not rules:
        return True, "integrity", f"none {seen} breaks a rule"
    told = "; ".join(f"{count(number)} {safe(RULES.get(name, name))}" for name, number in sorted(rules.items()))
    return False, "integrity", f"{seen}, stored as they came: {told}; agl show {where} marks them"


async def _redaction_finding(store: LightningStore, rollouts: Sequence[Rollout]) -> Finding:
    """Say which rules hold and what they replaced in the newest of *rollouts*."""
    try:
        options = Options.from_settings()
        rules = active_rules(options)
    except AgentLightningError as error:
        return False, "redaction", str(error)
    engines = " and ".join(name for name in ("hyperscan", "ahocorasick", "re2") if importlib.util.find_spec(name))
    state = (
        f"{count(len(rules))} rules ({rules_hash(options)}) by {engines or 're'}"
        if rules
        else "names only: AGL_REDACT is 0"
    )
    counts: Counter[str] = Counter()
    for row in await store.query_span_rows(rollouts[0].rollout_id) if rollouts else ():
        for part in row.facts.redacted.split(", ") if row.facts.redacted else ():
            rule, _, number = part.rpartition(":")
            counts[rule] += int(number) if number.isdigit() else 0
    told = ", ".join(f"{count(number)} {safe(rule)}" for rule, number in sorted(counts.items()))
    return True, "redaction", f"{state}; replaced in the newest rollout: {told or 'nothing'}"


def _loss_finding(ledgers: Path) -> Finding:
    """Add up the counters of processes that ended without settling theirs."""
    total = Account()
    for folder in ledgers.iterdir() if ledgers.is_dir() else ():
        total += read_accounts(folder)[0]
    lost = ", ".join(f"{count(number)} {reason}" for reason, number in sorted(total.lost.items())) or "0"
    figures = (
        f"produced {count(total.produced)}, stored {count(total.stored)}, waiting {count(total.waiting)}, lost {lost}"
    )
    return not total.total_lost, "spans", f"{figures} (processes whose figures no rollout has noted)"


def _agentops_findings(store: str | None) -> Iterator[Finding]:
    from agentlightning.cli import agentops_check  # noqa: PLC0415 - the parts of a server, for this command only

    try:
        yield from list(agentops_check.findings(store))
    except AgentLightningError as error:
        yield False, "agentops", str(error)


def _further_findings() -> Iterator[Finding]:
    """Yield what other packages found; one that fails is a finding itself."""
    for point in entry_points(group=ENTRY_POINTS):
        try:
            yield from list(point.load()())
        except Exception as error:  # noqa: BLE001 - another package's code; doctor has to go on
            yield False, point.name, f"its check failed: {type(error).__name__}: {error}"


def _library_findings() -> Iterator[Finding]:
    left_out = settings.get(settings.INSTRUMENT)
    for name in registry.known():
        if importlib.util.find_spec(name) is None:
            yield True, name, "not installed here"
            continue
        try:
            yield (
                True,
                name,
                f"{version(name)}, traced when it is imported" + (f" (AGL_INSTRUMENT={left_out})" if left_out else ""),
            )
        except PackageNotFoundError:
            yield True, name, "traced when it is imported"
