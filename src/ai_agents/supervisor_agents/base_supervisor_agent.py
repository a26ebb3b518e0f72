"""The base of agents that work by a procedure, with micro agents to ask."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ai_agents.core.agents.baseagent import BaseAgent
from ai_agents.core.model_types import TaskType
from ai_agents.sop_workflows import SOPManager
from ai_agents.telemetry.types import AgentType
from ai_agents.tools import get_tools

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Unpack

    from ai_agents.core.agents.baseagent import AgentOptions
    from ai_agents.lib.smolagents import Agent
    from ai_agents.micro_agents import BaseMicroAgent

_PRINCIPLES = """\
- Follow the procedure. Leave a step out only when the task has no use for it.
- Rest every statement on what a tool or an agent said.
- Give the final answer as soon as the task is done."""


class BaseSupervisorAgent(BaseAgent, base=True):
    """An agent that follows a procedure; a subclass with an empty body has the file tools and the default one.

    Attributes to set in a subclass, beside those of ``BaseAgent``: ``sop_category``.
    """

    agent_type: ClassVar[AgentType] = AgentType.SUPERVISOR
    default_task_type: str = TaskType.COMPLEX_REASONING
    tool_call_type: str = "code_act"
    sop_category: str = "default"
    authorized_imports: tuple[str, ...] = ("time", "pathlib", "json", "re", "collections", "math", "statistics")

    def __init__(
        self,
        project_path: str = "",
        model: object = None,
        *,
        sop_manager: SOPManager | None = None,
        **options: Unpack[AgentOptions],
    ) -> None:
        """Make the agent for the files in *project_path*, default the working directory; see ``BaseAgent``."""
        super().__init__(model, **options)
        self._project_path = project_path
        self._sop = sop_manager or SOPManager()

    def _make_agent(self) -> Agent:
        options: dict[str, object] = {"managed_agents": [agent.get_code_agent() for agent in self._get_micro_agents()]}
        if self.tool_call_type != "tool_call":
            options["additional_authorized_imports"] = self.authorized_imports
        return self._new_agent(**options)

    def _get_tools(self) -> Sequence[object]:
        return get_tools(("browse_directory", "file_search", "text_grep", "file_reader"), self._project_path)

    def _get_micro_agents(self) -> Sequence[BaseMicroAgent]:
        """Return the agents that this one may ask; a subclass has its own."""
        return ()

    def _prompt(self, task: str) -> str:
        return self._get_enhanced_task(super()._prompt(task))

    def _get_enhanced_task(self, task: str) -> str:
        """Return the task with role, procedure and principles in front."""
        folder = Path(self._project_path or ".").resolve()
        procedure = self._sop.get_sop(self.sop_category, {"project_name": folder.name, "task": task})
        role = self.description or (type(self).__doc__ or "You supervise the work on a project.").strip()
        return (
            f"<role>\n{role}\n</role>\n\n<procedure>\n{procedure.strip()}\n</procedure>\n\n"
            f"<principles>\n{_PRINCIPLES}\n</principles>\n\n<task>\n{task}\n</task>"
        )

    def _category(self) -> str | None:
        return self.sop_category

    def _project_folder(self) -> str | None:
        return self._project_path or "."
