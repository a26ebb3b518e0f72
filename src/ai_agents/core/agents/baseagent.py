"""The base of every agent of the framework: model, tools, ids and telemetry, so that a subclass needs no code.

Importing this module begins the telemetry of the process.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections import defaultdict
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from ai_agents.core.model_manager import get_model_for_task
from ai_agents.core.model_types import TaskType
from ai_agents.lib.smolagents import new_agent
from ai_agents.lib.tracing import (
    generate_task_id,
    get_current_agent_id,
    get_current_task_id,
    set_current_agent_id,
    task_context,
)
from ai_agents.telemetry.agent import telemetry_context
from ai_agents.telemetry.code_change import CodeWatch
from ai_agents.telemetry.error_handler import safe_telemetry_operation
from ai_agents.telemetry.manager import TelemetryManager
from ai_agents.telemetry.types import AgentType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ai_agents.lib.smolagents import Agent
    from ai_agents.telemetry.types import TaskExecution

TelemetryManager.get_instance().initialize()

_numbers: defaultdict[str, itertools.count[int]] = defaultdict(lambda: itertools.count(1))


class AgentOptions(TypedDict, total=False):
    """What every agent of the framework takes beside its model."""

    logger: logging.Logger | None
    """Where the agent logs; default ``ai_agents.NAME``."""
    model_cache: bool
    """Give agents of the same settings the same model; default True."""


class BaseAgent:
    """An agent with a name, a model and tools. ``run`` may be called from several threads, with an agent for each.

    Attributes to set in a subclass: ``name``, ``description``, ``default_task_type`` (a value of ``TaskType``),
    ``tool_call_type`` (``tool_call`` calls tools one by one, ``code_act`` writes code), ``max_steps``.
    """

    name: str = ""
    description: str = ""
    default_task_type: str = TaskType.CODE_GENERATION
    tool_call_type: str = "tool_call"
    max_steps: int = 80
    agent_type: ClassVar[AgentType] = AgentType.MICRO
    _is_base: ClassVar[bool] = True

    def __init_subclass__(cls, *, base: bool = False, **kwargs: object) -> None:
        """Give a class without a name one from its own."""
        super().__init_subclass__(**kwargs)
        cls._is_base = base
        if not cls.name or "name" not in vars(cls):
            own = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
            cls.name = own.strip("_")

    def __init__(
        self,
        model: object = None,
        *,
        logger: logging.Logger | None = None,
        model_cache: bool = True,
    ) -> None:
        """Make the agent; *model* is by default the one that the settings name for its kind of task.

        Raises:
            TypeError: The class is a base of agents, and no agent itself.
        """
        if type(self)._is_base:  # noqa: SLF001 - of this class
            msg = f"{type(self).__name__} is no agent; make a subclass of it, whose body may be empty"
            raise TypeError(msg)
        TelemetryManager.get_instance().get_collector()  # begins the telemetry where it was reset since the import
        self.logger = logger or logging.getLogger(f"ai_agents.{self.name}")
        self._model = model
        self._model_cache = model_cache
        self._agent_id = f"{self.name}_{next(_numbers[self.name]):03d}"
        self._final_answer_checks: list[Callable[..., object]] = []
        self._memory_instruction = ""

    @property
    def model(self) -> object:
        """The model; made on first use, so that an agent can be made without settings."""
        if self._model is None:
            self._model = get_model_for_task(self.default_task_type, "smolagents", cache=self._model_cache)
        return self._model

    def get_agent_id(self) -> str:
        """Return name and number of this agent."""
        return self._agent_id

    def inject_memory_instruction(self, text: str) -> None:
        """Put *text* in front of every task; a second call replaces it."""
        self._memory_instruction = text

    def set_final_answer_checks(self, checks: Sequence[Callable[..., object]]) -> None:
        """Have every final answer checked; see ``final_answer_checks`` of smolagents."""
        self._final_answer_checks = list(checks)

    def get_all_tools(self) -> list[object]:
        """Return the tools of this agent."""
        return list(self._get_tools())

    def run(self, task: str, task_id: str | None = None) -> Any:  # noqa: ANN401 - the agent's answer
        """Work on *task* and return the answer; inside a task of another agent it is part of that one.

        Errors of the model are raised as smolagents raises them; telemetry changes neither answer nor error.
        """
        with ExitStack() as blocks:
            if task_id is not None or get_current_task_id() is None:
                wanted = task_id or generate_task_id(f"{self.agent_type.value}_{self.name}")
                blocks.enter_context(task_context(wanted))
            return self.run_with_telemetry(task, get_current_task_id() or generate_task_id())

    def run_with_telemetry(self, task: str, task_id: str) -> Any:  # noqa: ANN401 - the agent's answer
        """Work on *task* as the task *task_id*, or as a part of it where it is open already."""
        before = get_current_agent_id()
        set_current_agent_id(self._agent_id)
        try:
            agent = self._make_agent()
            context = telemetry_context(
                agent, self.name, task, self._category(), task_id, self.agent_type, self.default_task_type
            )
            joins = task_id in _open_tasks()
            with context as instrumented:
                watch = None if joins else _watch(self._project_folder())
                try:
                    return instrumented.run(self._prompt(task))
                finally:
                    _note_changes(watch, task_id)
        finally:
            set_current_agent_id(before)

    def _make_agent(self) -> Agent:
        """Return an agent of smolagents for one run."""
        return self._new_agent()

    def _new_agent(self, **options: Any) -> Agent:  # noqa: ANN401 - of the agent's class
        if self._final_answer_checks:
            options["final_answer_checks"] = self._final_answer_checks
        options = {"max_steps": self.max_steps, "verbosity_level": 0, **options}
        return new_agent(
            self.get_all_tools(),
            model=self.model,
            use_tool_call=self.tool_call_type == "tool_call",
            agent_name=self.name,
            description=self.description or (type(self).__doc__ or self.name).strip(),
            **options,
        )

    def _get_tools(self) -> Sequence[object]:
        """Return the tools, or functions to make tools of; a subclass has its own."""
        return ()

    def _prompt(self, task: str) -> str:
        """Return what the agent is asked."""
        if not self._memory_instruction:
            return task
        return f"<memory_instruction>\n{self._memory_instruction}\n</memory_instruction>\n\n{task}"

    def _category(self) -> str | None:
        return None

    def _project_folder(self) -> str | None:
        """Return the folder whose changes belong to the task, None for none."""
        return None


def _open_tasks() -> dict[str, TaskExecution]:
    with safe_telemetry_operation("open_tasks"):
        manager = TelemetryManager.get_instance()
        return dict(manager.get_collector().get_active_tasks()) if manager.is_enabled() else {}
    return {}


def _watch(folder: str | None) -> CodeWatch | None:
    if folder is None or not TelemetryManager.get_instance().is_enabled():
        return None
    watch = CodeWatch(folder)
    watch.start()
    return watch


def _note_changes(watch: CodeWatch | None, task_id: str) -> None:
    """Have the changes noted beside the program: git takes longer than the agent may wait for telemetry."""
    if watch is None:
        return
    with safe_telemetry_operation("code_changes"):
        collector = TelemetryManager.get_instance().get_collector()
        task = collector.get_active_tasks().get(task_id)
        if task is not None:
            collector.book.wait_for(watch.finish_beside(partial(setattr, task, "code_changes")))
