"""``python -m ai_agents run``: one agent, one task, the answer and what it took."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentlightning.errors import AgentLightningError

if TYPE_CHECKING:
    from ai_agents.core.agents.baseagent import BaseAgent


@click.group()
def command() -> None:
    """Run agents of the framework."""


@command.command("run")
@click.option("--agent", required=True, help="repo_analysis, search, or the name of an agent in agents.yaml.")
@click.option("--task", required=True, help="What it shall do.")
@click.option("--model", help="Model instead of the one that the settings name.")
@click.argument("path", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path))
def run(agent: str, task: str, model: str | None, path: Path) -> None:
    """Run an agent over the project in PATH, print its answer, and then what the session took."""
    import os  # noqa: PLC0415 - here only

    from ai_agents.cli.sessions import summary_lines  # noqa: PLC0415 - loads what only this needs
    from ai_agents.telemetry.manager import TelemetryManager  # noqa: PLC0415 - see above

    if model:
        os.environ.update(FAST_MODEL=model, POWERFUL_MODEL=model, SUMMARY_MODEL=model)
    try:
        worker = _make(agent, str(path.resolve()))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        click.echo(worker.run(task))
    finally:
        session = TelemetryManager.get_instance().finalize_current_session()
        if session is not None:
            click.echo("")
            for line in summary_lines(session):
                click.echo(line)


def _make(name: str, path: str) -> BaseAgent:
    """Return the agent *name* for the project in *path*.

    Raises:
        ValueError: There is no such agent.
    """
    from ai_agents.micro_agents import SearchAgent, create_agent_from_yaml  # noqa: PLC0415 - loads smolagents
    from ai_agents.supervisor_agents import RepoAnalysisSupervisorAgent  # noqa: PLC0415 - see above

    if name == "repo_analysis":
        return RepoAnalysisSupervisorAgent(path)
    if name in ("search", "search_agent") and not Path("agents.yaml").exists():
        return SearchAgent(project_path=path)
    return create_agent_from_yaml(name, project_path=path)


def main() -> None:
    """Run the command line; errors of ours are one line and exit code 2."""
    try:
        command.main(prog_name="python -m ai_agents")
    except AgentLightningError as error:
        click.echo(f"ai_agents: {error}", err=True)
        sys.exit(2)
