"""Agents from YAML: a list of them in ``agents.yaml``, or one in each file, also inside Markdown.

A file of one agent holds its keys; ``.md`` holds them in a block of ``yaml``, and the rest of it is its guidance.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from agentlightning.errors import MissingExtraError
from ai_agents.core.agents.baseagent import AgentOptions
from ai_agents.core.model_types import TASK_TYPES, TaskType
from ai_agents.micro_agents.base_micro_agent import BaseMicroAgent
from ai_agents.tools import get_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from typing_extensions import Unpack

LIST_FILES = ("agents.yaml", "agents.yml")
FOLDER = "micro_agents"
"""Folder below the working directory in which agents are looked for, after the files above."""

_SUFFIXES = (".yaml", ".yml", ".md")
_BLOCK = re.compile(r"```ya?ml\n(.*?)```", re.DOTALL)
_TYPES = ("micro",)
_CALL_TYPES = ("tool_call", "code_act")


class MicroAgentOptions(AgentOptions, total=False):
    """What a micro agent takes beside its model."""

    project_path: str
    """Folder of the files, default the working directory."""


@dataclass(frozen=True)
class AgentConfig:
    """What YAML says of one agent."""

    name: str
    tools: tuple[str | Mapping[str, object], ...]
    description: str = ""
    task_type: str = TaskType.CODE_GENERATION
    tool_call_type: str = "tool_call"
    guidance: str = ""
    max_steps: int = 20
    agent_tool: dict[str, object] = field(default_factory=dict[str, object])


class YamlMicroAgent(BaseMicroAgent):
    """A micro agent whose name, tools and guidance come from YAML."""

    def __init__(self, config: AgentConfig, model: object = None, **options: Unpack[MicroAgentOptions]) -> None:
        """Make the agent that *config* describes; see ``BaseMicroAgent``."""
        self.config = config
        self.name = config.name
        self.description = config.description or f"The agent {config.name}."
        self.default_task_type = config.task_type
        self.tool_call_type = config.tool_call_type
        self.max_steps = config.max_steps
        super().__init__(model, **options)

    def _get_tools(self) -> Sequence[object]:
        return get_tools(self.config.tools, self._project_path)

    def _prompt(self, task: str) -> str:
        prompt = super()._prompt(task)
        return (
            f"<guidance>\n{self.config.guidance.strip()}\n</guidance>\n\n{prompt}" if self.config.guidance else prompt
        )


class YamlAgentFactory:
    """Makes agents, and tools that ask them, from configurations and folders."""

    @staticmethod
    def create_agent(
        config: Mapping[str, object], model: object = None, **options: Unpack[MicroAgentOptions]
    ) -> YamlMicroAgent:
        """Return the agent that *config* describes.

        Raises:
            ValueError: A key is missing or wrong; the message names it.
        """
        agent = YamlMicroAgent(read_config(config), model, **options)
        agent.get_all_tools()  # a tool that is not there is said now, and not when the agent runs
        return agent

    @staticmethod
    def create_agent_tool(config: Mapping[str, object]) -> list[Callable[..., object]]:
        """Return the tools that *config* names.

        Raises:
            ValueError: As above.
        """
        return get_tools(read_config(config).tools)

    @staticmethod
    def create_agent_as_tool(config: Mapping[str, object], model: object = None) -> list[Callable[[str], str]]:
        """Return a function that asks the agent, none where ``agent_tool`` is not enabled.

        Raises:
            ValueError: As above.
        """
        read = read_config(config)
        wanted = read.agent_tool
        if not wanted.get("enabled"):
            return []
        name, description = wanted.get("function_name"), wanted.get("description")
        if not isinstance(name, str) or not name.isidentifier() or not isinstance(description, str):
            msg = f"agent_tool of {read.name} needs function_name, a Python name, and description"
            raise ValueError(msg)
        agent = YamlMicroAgent(read, model)

        def ask(query: str) -> str:
            """Return the answer of the agent to *query*; models see the description in its place."""
            return str(agent.run(query))

        ask.__name__ = ask.__qualname__ = name
        ask.__doc__ = f"{description}\n\nArgs:\n    query: What to ask.\n"
        return [ask]

    @staticmethod
    def create_agents_as_tools_from_folder(folder: str | Path) -> list[Callable[[str], str]]:
        """Return the functions of all agents in a folder that are enabled as tools.

        Raises:
            ValueError: As above.
        """
        found = [YamlAgentFactory.create_agent_as_tool(config) for config in _in_folder(Path(folder))]
        return [function for functions in found for function in functions]

    @staticmethod
    def load_agents_from_directory(folder: str | Path) -> dict[str, list[Callable[..., object]]]:
        """Return the tools of each agent in a folder, by its name.

        Raises:
            ValueError: As above.
        """
        return {
            str(config.get("name")): YamlAgentFactory.create_agent_tool(config) for config in _in_folder(Path(folder))
        }


def create_agent_from_yaml(
    name: str,
    path: str | Path | None = None,
    *,
    model: object = None,
    **options: Unpack[MicroAgentOptions],
) -> YamlMicroAgent:
    """Return the agent *name* of a configuration, with telemetry like every agent.

    Args:
        name: Its name there.
        path: File or folder; default ``agents.yaml``, ``agents.yml`` and the folder ``micro_agents`` of the working
            directory, in this order.
        model: Model instead of the one that the settings name.
        options: What ``BaseMicroAgent`` takes.

    Raises:
        ValueError: There is no such agent, or its configuration is wrong.
    """
    places = [Path(path)] if path is not None else [*map(Path, LIST_FILES), Path(FOLDER)]
    if path is not None and not places[0].exists():
        msg = f"there is no agent {name!r}: {path} is not there"
        raise ValueError(msg)
    known: list[str] = []
    for place in places:
        for config in _in_folder(place) if place.is_dir() else _in_file(place):
            if config.get("name") == name:
                return YamlAgentFactory.create_agent(config, model, **options)
            known.append(str(config.get("name")))
    looked = ", ".join(str(place.resolve()) for place in places)
    msg = f"there is no agent {name!r} in {looked}; there are: {', '.join(known) or 'none'}"
    raise ValueError(msg)


def read_config(config: Mapping[str, object]) -> AgentConfig:
    """Return a checked configuration.

    Raises:
        ValueError: A key is missing or wrong; the message names it.
    """
    name = config.get("name")
    if not isinstance(name, str) or not name.isidentifier():
        msg = f"the name of an agent is {name!r}; it must be a Python name, such as search_agent"
        raise ValueError(msg)
    tools = config.get("tools")
    if not isinstance(tools, list):
        msg = f"tools of {name} must be a list of names"
        raise ValueError(msg)  # noqa: TRY004 - wrong content of a file is a ValueError, as documented
    _choice(name, "type", config.get("type", "micro"), _TYPES)
    call_type = _choice(name, "tool_call_type", config.get("tool_call_type", "tool_call"), _CALL_TYPES)
    task_type = _choice(name, "task_type", config.get("task_type", "CODE_GENERATION"), tuple(TASK_TYPES))
    max_steps = config.get("max_steps", 20)
    if not isinstance(max_steps, int) or isinstance(max_steps, bool) or max_steps < 1:
        msg = f"max_steps of {name} is {max_steps!r}; it must be a number of at least 1"
        raise ValueError(msg)
    return AgentConfig(
        name,
        tuple(cast("list[str | Mapping[str, object]]", tools)),
        str(config.get("description") or ""),
        TASK_TYPES[task_type],
        call_type,
        str(config.get("guidance") or ""),
        max_steps,
        dict(cast("Mapping[str, object]", config.get("agent_tool") or {})),
    )


def _choice(name: str, key: str, value: object, choices: Sequence[str]) -> str:
    if value not in choices:
        msg = f"{key} of {name} is {value!r}; it must be one of {', '.join(choices)}"
        raise ValueError(msg)
    return str(value)


def _in_folder(folder: Path) -> Iterator[dict[str, object]]:
    for file in sorted(folder.iterdir()):
        if file.suffix in _SUFFIXES:
            yield from _in_file(file)


def _in_file(file: Path) -> Iterator[dict[str, object]]:
    """Yield the configurations in a file; none where there is no file."""
    if not file.is_file():
        return
    text = file.read_text(encoding="utf-8")
    guidance = ""
    if file.suffix == ".md":
        block = _BLOCK.search(text)
        if block is None:
            return
        text, guidance = block[1], (text[: block.start()] + text[block.end() :]).strip()
    data = _parse(text, file)
    agents: object = data.get("agents") if isinstance(data.get("agents"), list) else [data]
    for config in cast("list[object]", agents):
        if not isinstance(config, dict):
            msg = f"{file}: an agent is {config!r}; it must have keys such as name and tools"
            raise ValueError(msg)  # noqa: TRY004 - wrong content of a file is a ValueError, as documented
        yield {"guidance": guidance, **cast("dict[str, object]", config)}


def _parse(text: str, file: Path) -> dict[str, object]:
    try:
        import yaml  # noqa: PLC0415 - optional, comes with smolagents
    except ImportError:
        extra = "smolagents"
        raise MissingExtraError(extra, "an agent from YAML") from None
    try:
        data: object = yaml.safe_load(text)
    except yaml.YAMLError as error:
        msg = f"{file}: {error}"
        raise ValueError(msg) from None
    if not isinstance(data, dict):
        msg = f"{file}: it must hold 'agents:', or the keys of one agent"
        raise ValueError(msg)  # noqa: TRY004 - see above
    return cast("dict[str, object]", data)
