"""``agl sessions``: what sessions there are and what is in them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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

_folder = click.option(
    "--dir", "folder", type=click.Path(path_type=Path), help="Folder of the sessions instead of the user's own."
)


@click.group()
def command() -> None:
    """Show, compare and export the sessions of agents."""


@command.command("ls")
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, the newest first."
)
@_folder
def list_sessions(limit: int, folder: Path | None) -> None:
    """List sessions, newest first."""
    from agentlightning.cli.terminal import show, style  # noqa: PLC0415 - only where something is shown

    store = _open(folder)
    found = [store.get_session_data(session_id) for session_id in reversed(store.get_session_ids()[-limit:])]
    shown = _columns()
    lines = [style(_cells({name: name for name, _ in _COLUMNS}, shown), bold=True)]
    lines += [_cells(_row(session), shown) for session in found if session is not None]
    show(lines)
    if len(lines) == 1:
        click.echo(f"no sessions in {store.storage_dir}", err=True)


@command.command("show")
@click.argument("session", default="latest")
@_folder
def show_session(session: str, folder: Path | None) -> None:
    """Show SESSION: its tasks, agents, tools and cost, where the time went, and what could be better."""
    from agentlightning.cli.terminal import show  # noqa: PLC0415 - only where something is shown

    show(summary_lines(_find(_open(folder), session)))


@command.command("export")
@click.argument("session", default="latest")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write: .json, .csv, .html or .png.")
@_folder
def export_session(session: str, output: Path | None, folder: Path | None) -> None:
    """Write SESSION as JSON, its records as CSV, or its charts as a page or a picture."""
    found = _find(_open(folder), session)
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
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_folder
def show_stats(folder: Path | None, *, as_json: bool) -> None:
    """Add up all sessions, and say what their files take."""
    from ai_agents.telemetry.analysis import add_figures, figures  # noqa: PLC0415 - only where something is shown

    store = _open(folder)
    found = [session for name in store.get_session_ids() if (session := store.get_session_data(name)) is not None]
    sums, files = add_figures(map(figures, found)), store.get_storage_stats()
    if as_json:
        click.echo(json.dumps({"sessions": len(found), **asdict(sums), "storage": files}, indent=2))
        return
    click.echo(f"{'sessions':<18} {len(found):>14,}")
    for name, value in _shown(sums):
        click.echo(f"{name:<18} {value:>14}")
    click.echo(f"{'files':<18} {files['total_disk_size_mb']:>11.2f} MB  {files['storage_path']}")


@command.command("compare")
@click.argument("one")
@click.argument("other")
@_folder
def compare_sessions(one: str, other: str, folder: Path | None) -> None:
    """Show two sessions side by side, ONE and OTHER."""
    from ai_agents.telemetry.analysis import compare  # noqa: PLC0415 - only where something is shown

    store = _open(folder)
    rows = compare(_find(store, one), _find(store, other))
    click.echo(f"{'':<18} {one[:14]:>14} {other[:14]:>14} {'change':>9}")
    for name, left, right in rows:
        change = f"{(right - left) / left:+.0%}" if left and right is not None and right != left else ""
        click.echo(f"{_label(name):<18} {_figure(name, left):>14} {_figure(name, right):>14} {change:>9}".rstrip())


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


def _find(store: TelemetryDataStore, text: str) -> TelemetrySession:
    """Return the session that *text* means: ``latest``, an id, or the unique beginning of one."""
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
    return session


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


def _row(session: TelemetrySession) -> dict[str, str]:
    from agentlightning.cli.terminal import safe  # noqa: PLC0415 - only where something is shown
    from ai_agents.telemetry.analysis import dollars, figures  # noqa: PLC0415 - see above

    own = figures(session)
    return {
        "SESSION": safe(session.session_id),
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

    writers: dict[str, Callable[[], Any]] = {
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
