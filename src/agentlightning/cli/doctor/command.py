"""The command: which of the views is asked for, and how rows are printed."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentlightning.cli import document
from agentlightning.cli.doctor import environment, storage, trouble, values
from agentlightning.cli.doctor.finding import FAIL, NOTE, OK, WARN, Finding, taken
from agentlightning.cli.doctor.reading import read
from agentlightning.cli.options import store_options
from agentlightning.cli.terminal import folded, folds, safe, style, width, write
from agentlightning.cli.text import plural
from agentlightning.errors import AgentLightningError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Section = tuple[str, list[Finding]]

ENTRY_POINTS = "agentlightning.checks"
"""Entry point group of further checks: functions without arguments that return findings."""

_MARKS = {OK: "ok  ", NOTE: "note", WARN: "warn", FAIL: "FAIL"}
_COLOURS = {OK: "green", NOTE: "cyan", WARN: "yellow", FAIL: "red"}
_WHAT = 16
_NARROW = 70
"""Below so many columns what was found goes on lines of its own."""


@click.command()
@store_options
@click.option(
    "--settings", "show_settings", is_flag=True, help="Print every setting, its value and where it comes from."
)
@click.option("--live", is_flag=True, help="Show what is written to the store now, until Ctrl+C.")
@click.option("--once", is_flag=True, help="With --live: once, which is what happens too where stdout is no terminal.")
@click.option("--follow", metavar="SPAN_ID", help="Show which stages one span passed; the beginning of an id will do.")
@click.option(
    "--check",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Look into a program without running it: decorated functions, contexts; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; docs/json.md says what is in it.")
def command(  # noqa: PLR0913 - one for each option
    *,
    store: str | None,
    project: str | None,
    show_settings: bool,
    live: bool,
    once: bool,
    follow: str | None,
    files: tuple[Path, ...],
    as_json: bool,
) -> int:
    """Check this installation, its settings and its store, and say what helps; nothing is changed.

    Exit code 0: well, or only warnings; 1: something is wrong; 2: wrong usage, or a store that cannot be read.
    """
    given = {"--settings": show_settings, "--live": live, "--follow": follow is not None, "--check": bool(files)}
    chosen = [name for name, is_given in given.items() if is_given]
    if len(chosen) > 1:
        msg = f"{' and '.join(chosen)} show different things; give one of them"
        raise click.UsageError(msg)
    if once and not live:
        msg = "--once goes with --live"
        raise click.UsageError(msg)
    if show_settings:
        return values.show(as_json=as_json)
    if live:
        from agentlightning.cli.doctor import live as live_view  # noqa: PLC0415 - for this view only

        live_view.show(store, project, once=once or not sys.stdout.isatty(), as_json=as_json)
        return 0
    if follow is not None:
        from agentlightning.cli.doctor import follow as follow_view  # noqa: PLC0415 - for this view only

        return follow_view.show(store, project, follow, as_json=as_json)
    if as_json:
        return _print_json(list(_sections(store, project, files)))
    return _print(_sections(store, project, files))


def _sections(store: str | None, project: str | None, files: tuple[Path, ...]) -> Iterator[Section]:
    reading = read(store, project)
    yield "Installation", _carefully("installation", environment.findings)
    yield "Store", _carefully("store", lambda: storage.findings(reading))
    yield "AgentOps", _carefully("agentops", lambda: _agentops(store))
    yield "Other packages", list(_further())
    yield from trouble.questions(reading, files)


def _carefully(what: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return the rows of a section; an error that has a message for the user, or is the system's, is a row itself."""
    found: list[Finding] = []
    try:
        found.extend(look())
    except AgentLightningError as error:
        found.append(Finding(FAIL, what, str(error), "agl doctor --settings"))
    except OSError as error:
        found.append(Finding(FAIL, what, str(error), f"make it readable: {error.filename}"))
    return found


def _agentops(store: str | None) -> Iterator[Finding]:
    from agentlightning.cli import agentops_check  # noqa: PLC0415 - the parts of a server, for this section only

    yield from map(taken, agentops_check.findings(store))


def _further() -> Iterator[Finding]:
    """Yield what other packages found; one that fails is a finding itself."""
    for point in entry_points(group=ENTRY_POINTS):
        try:
            yield from map(taken, list(point.load()()))
        except Exception as error:  # noqa: BLE001 - another package's code; doctor has to go on
            yield Finding(FAIL, point.name, f"its check failed: {type(error).__name__}: {error}", "ask its makers")


def _print(sections: Iterable[Section]) -> int:
    seen: list[str] = []
    for title, rows in sections:
        seen += [row.level for row in rows]
        verdict = ""
        if title.endswith("?"):
            worst = {row.level for row in rows}
            verdict = "  yes" if FAIL in worst else "  perhaps" if WARN in worst else "  it seems not"
        write(style(title + verdict, bold=True))
        for row in rows:
            for line in _lines(row):
                write(line)
    failed, warned = seen.count(FAIL), seen.count(WARN)
    write(f"{plural(failed, 'problem')}, {plural(warned, 'warning')} in {plural(len(seen), 'row')}")
    write("Something else?")
    write("  a log of every step:")
    write("    agl -v run PROGRAM 2> agl.log")
    write("  a report: agl doctor --json")
    return 1 if failed else 0


def _lines(row: Finding) -> Iterator[str]:
    """Yield the lines of a row: level, what, found; the remedy on a line of its own."""
    mark = style(_MARKS[row.level], fg=_COLOURS[row.level], bold=row.level == FAIL)
    found, remedy = safe(row.found), safe(row.remedy)
    is_narrow = folds() and width() < _NARROW
    indent = "  " if is_narrow else " " * (_WHAT + 7)
    if is_narrow:
        yield f"{mark}  {row.what}"
        yield from folded(found, indent)
    else:
        first, *rest = folded(found, indent)
        yield f"{mark}  {row.what:<{_WHAT}} {first.strip()}"
        yield from rest
    if remedy:
        yield from folded(f"do: {remedy}", indent)


def _print_json(sections: list[Section]) -> int:
    rows = [row for _, found in sections for row in found]
    failed = any(row.level == FAIL for row in rows)
    body = {
        "version": document.VERSION,
        "type": "doctor",
        "is_well": not failed,
        "problems": sum(row.level == FAIL for row in rows),
        "warnings": sum(row.level == WARN for row in rows),
        "sections": [{"title": title, "rows": [row._asdict() for row in found]} for title, found in sections],
    }
    write(document.dumps(body))
    return 1 if failed else 0
