"""``agl sessions``: what sessions there are and what is in them."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ai_agents.telemetry.loose import aware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentlightning.cli.document import Document
    from ai_agents.telemetry.analysis import SessionFigures
    from ai_agents.telemetry.data_store import TelemetryDataStore
    from ai_agents.telemetry.types import TelemetrySession

_COLUMNS = (
    ("SESSION", 38),
    ("STARTED", 18),
    ("TIME", 10),
    ("TASKS", 7),
    ("CALLS", 7),
    ("TOKENS", 12),
    ("COST", 11),
)
_LESS_WANTED = ("TOKENS", "COST", "TIME", "STARTED", "CALLS", "TASKS")
"""Columns, the last of which is the first to be left out where there is no room."""

_NARROWEST_ID = 16
_FIGURE, _NARROW_FIGURE = 15, 11
_COMPARED = 58
"""Columns that a comparison takes with its changes."""

_folder = click.option(
    "--dir", "folder", type=click.Path(path_type=Path), help="Folder of the sessions instead of the user's own."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def command() -> None:
    """Show, compare and export the sessions of agents."""


@command.command("ls")
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, the newest first."
)
@_json
@_folder
def list_sessions(limit: int, folder: Path | None, *, as_json: bool) -> None:
    """List sessions, newest first."""
    from agentlightning.cli.terminal import show, style  # noqa: PLC0415 - only where something is shown

    store = _open(folder)
    ids = reversed(store.get_session_ids()[-limit:])
    found = [(name, session) for name in ids if (session := store.get_session_data(name)) is not None]
    if as_json:
        _print_json("sessions", sessions=[{"session_id": name, **_head(session)} for name, session in found])
        return
    shown = _columns()
    lines = [style(_cells({name: name for name, _ in _COLUMNS}, shown), bold=True)]
    show([*lines, *(_cells(_row(name, session), shown) for name, session in found)])
    if not found:
        click.echo(f"no sessions in {store.storage_dir}", err=True)


@command.command("show")
@click.argument("session", default="latest")
@_json
@_folder
def show_session(session: str, folder: Path | None, *, as_json: bool) -> None:
    """Show SESSION: its tasks, agents, tools and cost, where the time went, and what could be better."""
    from agentlightning.cli.terminal import show  # noqa: PLC0415 - only where something is shown
    from ai_agents.telemetry.analysis import give_advice  # noqa: PLC0415 - see above

    name, found = _find(_open(folder), session)
    if as_json:
        advice = [{"text": one.text, "evidence": one.evidence} for one in give_advice(found)]
        _print_json("session", session_id=name, **_head(found), advice=advice, session=found.to_dict())
        return
    show(summary_lines(found))


@command.command("export")
@click.argument("session", default="latest")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write: .json, .csv, .html or .png.")
@_folder
def export_session(session: str, output: Path | None, folder: Path | None) -> None:
    """Write SESSION as JSON, its records as CSV, or its charts as a page or a picture."""
    _, found = _find(_open(folder), session)
    if output is None:
        click.echo(found.to_json())
        return
    try:
        _write(found, output)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror}") from None  # noqa: EM102, TRY003
    click.echo(f"wrote {output}")


@command.command("stats")
@_json
@_folder
def show_stats(folder: Path | None, *, as_json: bool) -> None:
    """Add up all sessions, and say what their files take."""
    from ai_agents.telemetry.analysis import add_figures, figures  # noqa: PLC0415 - only where something is shown

    store = _open(folder)
    found = [session for name in store.get_session_ids() if (session := store.get_session_data(name)) is not None]
    sums, files = add_figures(map(figures, found)), store.get_storage_stats()
    if as_json:
        _print_json("session_stats", sessions=len(found), **_plain(sums), storage=files)
        return
    click.echo(f"{'sessions':<18} {len(found):>14,}")
    for name, value in _shown(sums):
        click.echo(f"{name:<18} {value:>14}")
    click.echo(f"{'files':<18} {files['total_disk_size_mb']:>11.2f} MB  {files['storage_path']}")


@command.command("compare")
@click.argument("one")
@click.argument("other")
@_json
@_folder
def compare_sessions(one: str, other: str, folder: Path | None, *, as_json: bool) -> None:
    """Show two sessions side by side, ONE and OTHER."""
    from agentlightning.cli.terminal import width  # noqa: PLC0415 - only where something is shown
    from ai_agents.telemetry.analysis import compare  # noqa: PLC0415 - see above

    store = _open(folder)
    left, right = _find(store, one), _find(store, other)
    if as_json:
        _print_json(
            "comparison",
            **{
                key: {"session_id": name, **_head(session)}
                for key, (name, session) in (("one", left), ("other", right))
            },
        )
        return
    size, has_change = (_FIGURE, True) if width() >= _COMPARED else (_NARROW_FIGURE, False)
    rows = [("", one[: size - 1], other[: size - 1], "change")]
    for name, before, after in compare(left[1], right[1]):
        change = f"{(after - before) / before:+.0%}" if before and after is not None and after != before else ""
        rows.append((_label(name), _figure(name, before), _figure(name, after), change))
    for label, before, after, change in rows:
        line = f"{label:<18}{before:>{size}}{after:>{size}}" + (f"{change:>10}" if has_change else "")
        click.echo(line.rstrip())


def summary_lines(session: TelemetrySession) -> Iterator[str]:
    """Yield what is to say about one session."""
    from agentlightning.cli.terminal import safe  # noqa: PLC0415 - only where something is shown
    from ai_agents.cli.chart import charts, in_terminal  # noqa: PLC0415 - see above
    from ai_agents.telemetry.analysis import give_advice, performance_lines, token_lines  # noqa: PLC0415 - see above

    yield f"Session {safe(session.session_id)}"
    yield f"Started {session.start_time.astimezone():%Y-%m-%d %H:%M:%S}" + ("" if session.end_time else ", still open")
    yield from token_lines(session)
    yield from map(safe, performance_lines(session))
    for title, bars in charts(session).items():
        yield ""
        yield from in_terminal(title, bars)
    changed = [(task.task_id, task.code_changes) for task in session.tasks if any(task.code_changes.to_dict().values())]
    for task_id, code in changed:
        files = f"{code.files_created} created, {code.files_modified} modified, {code.files_deleted} deleted"
        lines = f"+{code.lines_added} -{code.lines_removed} ~{code.lines_modified} lines"
        yield f"Changed by {safe(task_id)}: {files}; {lines}"
    advice = give_advice(session)
    if advice:
        yield ""
        yield "What could be better:"
        for one in advice:
            yield f"  {safe(one.text)}"
            yield f"      {safe(one.evidence)}"


def _open(folder: Path | None) -> TelemetryDataStore:
    """Open the folder without making one: a reader of nothing leaves nothing."""
    from ai_agents.telemetry.data_store import TelemetryDataStore  # noqa: PLC0415 - loads what commands need
    from ai_agents.telemetry.folder import default_folder  # noqa: PLC0415 - see above

    wanted = folder or default_folder()
    if wanted.exists() and not wanted.is_dir():
        raise click.ClickException(f"{wanted} is no folder")  # noqa: EM102, TRY003 - of click
    if not wanted.is_dir():
        raise click.ClickException(f"there are no sessions: {wanted} is not there")  # noqa: EM102, TRY003 - of click
    return TelemetryDataStore(wanted)


def _find(store: TelemetryDataStore, text: str) -> tuple[str, TelemetrySession]:
    """Return the session that *text* means, with its id here: ``latest``, an id, or the unique beginning of one."""
    ids = store.get_session_ids()
    matches = ids[-1:] if text == "latest" else [name for name in ids if name == text] or _beginning(ids, text)
    session = store.get_session_data(matches[0]) if len(matches) == 1 else None
    if session is None:
        what = f"there is no session {text!r}"
        if len(matches) > 1:
            what = f"{len(matches)} sessions begin with {text!r}"
        elif matches:
            what = f"the file of session {matches[0]!r} is damaged and was put aside"
        raise click.ClickException(f"{what}; 'agl sessions ls' lists them")  # noqa: EM102, TRY003 - of click
    return matches[0], session


def _print_json(kind: str, **fields: object) -> None:
    """Print one document, as ``docs/json.md`` describes it."""
    from agentlightning.cli import document  # noqa: PLC0415 - only where JSON is wanted

    click.echo(document.dumps({"version": document.VERSION, "type": kind, **fields}))


def _head(session: TelemetrySession) -> Document:
    """Return what a list says about a session."""
    from ai_agents.telemetry.analysis import figures  # noqa: PLC0415 - only where something is shown

    end = None if session.end_time is None else aware(session.end_time).timestamp()
    return {"start_time": aware(session.start_time).timestamp(), "end_time": end, **_plain(figures(session))}


def _plain(own: SessionFigures) -> Document:
    """Return figures with their money as text."""
    from agentlightning.cli.document import amount  # noqa: PLC0415 - only where JSON is wanted

    cost = None if own.cost_usd is None else amount(Decimal(str(own.cost_usd)))
    return {**asdict(own), "cost_usd": cost}


def _beginning(ids: list[str], text: str) -> list[str]:
    return [name for name in ids if name.startswith(text)]


def _columns() -> list[tuple[str, int]]:
    """Return the columns that there is room for, the first of them with what is left by the others."""
    from agentlightning.cli.terminal import width  # noqa: PLC0415 - only where something is shown

    shown = list(_COLUMNS)
    # A whole id is worth more than any column but the last three; in a narrow place its beginning has to do.
    for least, narrowest in ((3, _COLUMNS[0][1]), (2, _NARROWEST_ID)):
        while len(shown) > least and narrowest + sum(size for _, size in shown[1:]) > width():
            shown.remove(max(shown[1:], key=lambda column: _LESS_WANTED.index(column[0])))
    room = width() - sum(size for _, size in shown[1:])
    return [(shown[0][0], max(8, min(shown[0][1], room))), *shown[1:]]


def _cells(values: dict[str, str], shown: list[tuple[str, int]]) -> str:
    from agentlightning.cli.terminal import fit  # noqa: PLC0415 - only where something is shown

    (name, columns), *others = shown
    figures = "".join(f"{values[title]:>{size}}" for title, size in others)
    return (fit(values[name], columns) + figures).rstrip()


def _row(name: str, session: TelemetrySession) -> dict[str, str]:
    from agentlightning.cli.terminal import safe  # noqa: PLC0415 - only where something is shown
    from ai_agents.telemetry.analysis import dollars, figures  # noqa: PLC0415 - see above

    own = figures(session)
    return {
        "SESSION": safe(name),
        "STARTED": f"{session.start_time.astimezone():%Y-%m-%d %H:%M}",
        "TIME": f"{own.duration_s:.1f}s",
        "TASKS": f"{own.tasks:,}",
        "CALLS": f"{own.llm_calls:,}",
        "TOKENS": f"{own.total_tokens:,}",
        "COST": dollars(own.cost_usd),
    }


def _shown(own: SessionFigures) -> Iterator[tuple[str, str]]:
    for name, value in asdict(own).items():
        yield _label(name), _figure(name, value)


def _label(name: str) -> str:
    return name.removesuffix("_usd").removesuffix("_s").replace("_", " ")


def _figure(name: str, value: float | None) -> str:
    from ai_agents.telemetry.analysis import dollars  # noqa: PLC0415 - only where something is shown

    if name.endswith("_usd"):
        return dollars(value)
    return f"{value:,.2f} s" if name.endswith("_s") else f"{value:,}"


def _write(session: TelemetrySession, output: Path) -> None:
    from ai_agents.cli.chart import write_chart  # noqa: PLC0415 - only where something is written

    writers: dict[str, Callable[[], object]] = {
        ".json": lambda: output.write_text(session.to_json(), encoding="utf-8"),
        ".csv": lambda: _write_csv(session, output),
    }
    writers.get(output.suffix.lower(), lambda: write_chart(session, output))()


def _write_csv(session: TelemetrySession, output: Path) -> None:
    """Write one line for each model call and use of a tool."""
    import csv  # noqa: PLC0415 - here only

    with output.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["task_id", "agent", "kind", "name", "started", "duration_s", "tokens", "cost_usd", "status"])
        for task in session.tasks:
            groups = [("", task.llm_calls, task.tools)]
            groups += [(agent.agent_name, agent.llm_calls, agent.tools_used) for agent in task.agents]
            for agent_name, calls, tools in groups:
                for call in calls:
                    status = "failed" if call.failed else "completed"
                    cells = [call.timestamp.isoformat(), call.duration, call.total_tokens, call.cost_estimate, status]
                    writer.writerow([task.task_id, agent_name, "llm", call.model, *cells])
                for tool in tools:
                    cells = [tool.start_time.isoformat(), tool.duration, "", "", tool.status.value]
                    writer.writerow([task.task_id, agent_name, "tool", tool.tool_name, *cells])
