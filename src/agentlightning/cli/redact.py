"""``agl redact``: what redaction would do to a text, and which rules there are."""

from __future__ import annotations

import bisect
import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from agentlightning.cli.terminal import style
from agentlightning.cli.text import count
from agentlightning.pipeline.redaction import Redactor, rules_hash

if TYPE_CHECKING:
    from agentlightning.pipeline.redaction import Secret

_SHOWN = 4
"""Characters of a credential that are shown, and only of one that is at least four times as long."""


@click.group()
def command() -> None:
    """Show what redaction finds in a text, and its rules."""


@command.command()
@click.argument("file", type=click.File("r", encoding="utf-8", errors="surrogateescape"))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--environment", is_flag=True, help="Look for the credentials in this environment too.")
def test(*, file: Any, as_json: bool, environment: bool) -> int:  # noqa: ANN401 - an open text file of click
    """Show what would be replaced in FILE (- for standard input); nothing is changed and nothing stored.

    Exit code 0 when nothing was found, 1 when something was, 2 for a file or setting that cannot be used.
    """
    text: str = file.read()
    found = Redactor(None if environment else {}).find(text)
    lines = [place for place, one in enumerate(text) if one == "\n"]
    rows = [_row(secret, lines) for secret in found]
    counts = dict(sorted(Counter(secret.rule for secret in found).items()))
    if as_json:
        click.echo(json.dumps({"findings": rows, "counts": counts, "rules": rules_hash()}, indent=2))
        return 1 if found else 0
    for row in rows:
        click.echo(f"{row['line']:>6}:{row['column']:<5} {row['rule']:<32} {row['masked']}")
    total = ", ".join(f"{number} {rule}" for rule, number in counts.items())
    if found:
        click.echo(style(f"{count(len(found))} would be replaced: {total}", fg="yellow"))
        return 1
    click.echo(f"nothing would be replaced in {count(len(text))} characters (rules {rules_hash()})")
    return 0


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def rules(*, as_json: bool) -> int:
    """List the rules that are applied under the settings that hold now."""
    from agentlightning.pipeline.redaction.rule import Options, active_rules  # noqa: PLC0415 - only here

    active = active_rules(Options.from_settings())
    if as_json:
        listed = [{"id": rule.id, "group": rule.group, "gate": list(rule.gate)} for rule in active]
        click.echo(json.dumps({"rules": listed, "hash": rules_hash()}, indent=2))
        return 0
    for rule in active:
        click.echo(f"{rule.id:<44} {rule.group:<7} {', '.join(rule.gate)[:60]}".rstrip())
    click.echo(f"{len(active)} rules and the names of credentials; rule set {rules_hash()}", file=sys.stderr)
    return 0


def _row(secret: Secret, newlines: list[int]) -> dict[str, Any]:
    before = bisect.bisect_left(newlines, secret.start)
    column = secret.start - (newlines[before - 1] if before else -1)
    return {
        "line": before + 1,
        "column": column,
        "characters": secret.end - secret.start,
        "rule": secret.rule,
        "masked": _masked(secret.value),
    }


def _masked(value: str) -> str:
    """Return enough of *value* to recognise it, and too little to use it, on one line."""
    shown = value[:_SHOWN] if len(value) >= 4 * _SHOWN else ""
    shown = "".join(one if one.isprintable() else "?" for one in shown)
    return f"{shown}… ({len(value)} characters)"
