"""The base of agents that do one kind of work, alone or for a supervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ai_agents.core.agents.baseagent import BaseAgent
from ai_agents.telemetry.types import AgentType
from ai_agents.tools import get_tools

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Unpack

    from ai_agents.core.agents.baseagent import AgentOptions
    from ai_agents.lib.smolagents import Agent

DEFAULT_TOOLS = ("browse_directory", "file_search", "text_grep", "file_reader")
IMPORTS = ("time", "pathlib", "json", "os", "sys")
"""What the code of a micro agent may import."""


class BaseMicroAgent(BaseAgent, base=True):
    """An agent with tools; a subclass with an empty body has the file tools, for the folder *project_path*."""

    agent_type: ClassVar[AgentType] = AgentType.MICRO
    max_steps: int = 20

    def __init__(self, model: object = None, *, project_path: str = "", **options: Unpack[AgentOptions]) -> None:
        """Make the agent for the files in *project_path*, default the working directory; see ``BaseAgent``."""
        super().__init__(model, **options)
        self._project_path = project_path

    def get_code_agent(self) -> Agent:
        """Return an agent of smolagents with this one's name, tools and model; a supervisor can manage it.

        It is recorded like every agent, and each of its runs is a sub-task of the running task.
        """
        return self._new_agent(enable_sub_task_tracking=True, **self._code_options())

    def _make_agent(self) -> Agent:
        return self._new_agent(**self._code_options())

    def _code_options(self) -> dict[str, object]:
        return {} if self.tool_call_type == "tool_call" else {"additional_authorized_imports": IMPORTS}

    def _get_tools(self) -> Sequence[object]:
        return get_tools(DEFAULT_TOOLS, self._project_path)

    def _project_folder(self) -> str | None:
        return self._project_path or "."
