"""An agent that finds things in the files of a project."""

from __future__ import annotations

from ai_agents.core.model_types import TaskType
from ai_agents.micro_agents.base_micro_agent import BaseMicroAgent


class SearchAgent(BaseMicroAgent):
    """Finds files and lines in a project, and says where they are."""

    name = "search_agent"
    description = "Searches the files of the project. Ask it one question; it answers with files and lines."
    default_task_type = TaskType.COMPLEX_REASONING
