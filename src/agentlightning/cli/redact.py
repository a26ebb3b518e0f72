"""``agl redact``: what redaction would do to a text, and which rules there are."""

from __future__ import annotations

import bisect
import codecs
from collections import Counter
from typing import TYPE_CHECKING, BinaryIO

import click
from rich.cells import cell_len

from agentlightning.cli import document
from agentlightning.cli.terminal import folded, folds, safe, style, width, write
from agentlightning.cli.text import count, plural
from agentlightning.pipeline.redaction import Redactor, rules_hash

if TYPE_CHECKING:
    from agentlightning.pipeline.redaction import Secret

_SHOWN = 4
"""Characters of a credential that are shown, and only of one that is at least four times as long."""

_GATE = 60
"""Characters of a rule's gate words that are shown on its line."""


@click.group()
def command() -> None:
    """Show what redaction finds in a text, and its rules."""


@command.command()
@click.argument("file", type=click.File("rb"))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--environment", is_flag=True, help="Look for the credentials in this environment too.")
def test(*, file: BinaryIO, as_json: bool, environment: bool) -> int:
    """Show what would be replaced in FILE (- for standard input); nothing is changed and nothing stored.

    Exit code 0 when nothing was found, 1 when something was, 2 for a file or setting that cannot be used.
    """
    text = _text(file)
    found = Redactor(None if environment else {}).find(text)
    lines = [place for place, one in enumerate(text) if one == "\n"]
    rows = [_row(secret, lines) for secret in found]
    counts = dict(sorted(Counter(secret.rule for secret in found).items()))
    if as_json:
        body: document.Document = {"version": document.VERSION, "type": "redaction"}
        body |= {"findings": rows, "counts": counts, "rules": rules_hash()}
        write(document.dumps(body))
        return 1 if found else 0
    for row in rows:
        place = f"{row['line']:>6}:{row['column']:<5}"
        _write_row(f"{place} {row['rule']:<32} {row['masked']}", f"{place.strip()} {row['rule']}", str(row["masked"]))
    if found:
        total = ", ".join(f"{count(number)} {rule}" for rule, number in counts.items())
        for line in folded(f"{count(len(found))} would be replaced: {total}"):
            write(style(line, fg="yellow"))
        return 1
    for line in folded(f"nothing would be replaced in {plural(len(text), 'character')} (rules {rules_hash()})"):
        write(line)
    return 0


def _text(file: BinaryIO) -> str:
    """Return what the file holds; what is no text of its encoding is said, and looked through as far as it goes."""
    try:
        content = file.read()
    except OSError as error:
        msg = f"cannot read {file.name}: {error.strerror}"
        raise click.UsageError(msg) from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # what a Windows shell redirects
        return content.decode("utf-16", "replace")
    text = content.decode("utf-8-sig", "surrogateescape")
    if "\0" in text or not _is_text(text):
        click.echo("agl: parts of it are no text in UTF-8; a credential in them may go unseen", err=True)
    return text


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def rules(*, as_json: bool) -> int:
    """List the rules that are applied under the settings that hold now."""
    from agentlightning.pipeline.redaction.rule import Options, active_rules  # noqa: PLC0415 - only here

    active = active_rules(Options.from_settings())
    if as_json:
        body: document.Document = {"version": document.VERSION, "type": "redaction_rules"}
        body["rules"] = [{"id": rule.id, "group": rule.group, "gate": list(rule.gate)} for rule in active]
        write(document.dumps(body | {"hash": rules_hash()}))
        return 0
    for rule in active:
        gate = safe(", ".join(rule.gate))
        _write_row(f"{rule.id:<44} {rule.group:<7} {gate[:_GATE]}".rstrip(), f"{rule.id} ({rule.group})", gate)
    click.echo(f"{len(active)} rules and the names of credentials; rule set {rules_hash()}", err=True)
    return 0


def _write_row(line: str, head: str, rest: str) -> None:
    """Print a row of a table: *line*, or *head* and below it *rest* where that does not fit."""
    if not folds() or cell_len(line) <= width():
        write(line)
        return
    for each in (*folded(head), *(folded(rest, "  ") if rest else ())):
        write(each)


def _row(secret: Secret, newlines: list[int]) -> dict[str, int | str]:
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
