"""A supervisor that explains a repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai_agents.micro_agents import SearchAgent
from ai_agents.supervisor_agents.base_supervisor_agent import BaseSupervisorAgent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_agents.micro_agents import BaseMicroAgent


class RepoAnalysisSupervisorAgent(BaseSupervisorAgent):
    """You explain how a repository is built: its purpose, its parts, and how they work together."""

    name = "repo_analysis"
    sop_category = "repo_analysis"

    def _get_micro_agents(self) -> Sequence[BaseMicroAgent]:
        return (SearchAgent(self._model, project_path=self._project_path),)
