"""Analyse this repository with a supervisor agent, and read its session: tokens, time, cost, advice.

    pip install 'agentlightning[smolagents]'
    python examples/telemetry_demo.py [PROJECT]

With OPENAI_API_KEY a real model does it (OPENAI_BASE_URL and MODEL as usual); without it, a model server on loopback
answers by a script. The session stays as a file: ``agl sessions show``; its spans are in the store: ``agl show``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning.testing import AgentRule, ModelServer, ToolCall
from ai_agents.supervisor_agents.repo_analysis_supervisor_agent import RepoAnalysisSupervisorAgent
from ai_agents.telemetry import TelemetryManager
from ai_agents.telemetry.analysis import analyze_performance, analyze_token_usage, give_advice

if TYPE_CHECKING:
    from collections.abc import Generator

SCRIPT = AgentRule(
    plan=(
        ToolCall("browse_directory", {"path": "."}),
        ToolCall("file_reader", {"path": "pyproject.toml", "end_line": 30}),
        ToolCall("search_agent", {"task": "Which commands does the project have?"}),
        ToolCall("text_grep", {"pattern": r"^\[project.scripts\]", "file_pattern": "*.toml"}),
    ),
    answer="A Python package with commands, tests and documentation; its parts are the folders below src.",
)


@contextlib.contextmanager
def model() -> Generator[None]:
    """Have a model at hand: the one of the environment, else a scripted one on loopback."""
    if os.environ.get("OPENAI_API_KEY"):
        yield
        return
    with ModelServer(SCRIPT) as server:
        os.environ.update(server.environment)
        yield


def main() -> None:
    """Run the analysis and print what the session says."""
    project = sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).resolve().parents[1])
    with model():
        agent = RepoAnalysisSupervisorAgent(project)
        print(agent.run("Explain the architecture of this repository."))
    manager = TelemetryManager.get_instance()
    session = manager.finalize_current_session()
    if session is None:
        print("telemetry is off")
        return
    print()
    analyze_token_usage(session)
    analyze_performance(session)
    for advice in give_advice(session):
        print(f"Advice: {advice.text} ({advice.evidence})")
    print(f"Session {session.session_id} is in {manager.get_storage_stats()['storage_path']}")


if __name__ == "__main__":
    main()
