"""Ids, models from settings, procedures, agents from YAML."""

from __future__ import annotations

import threading
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock, patch

import pytest

import ai_agents
from agentlightning import SettingError
from ai_agents.core.model_manager import get_model_for_task
from ai_agents.core.model_types import TaskType
from ai_agents.core.runtime import Runtime
from ai_agents.lib import tracing
from ai_agents.lib.smolagents import new_agent
from ai_agents.micro_agents import BaseMicroAgent, SearchAgent, YamlAgentFactory, create_agent_from_yaml
from ai_agents.sop_workflows import SOPManager, get_available_sop_categories, get_sop
from ai_agents.supervisor_agents import BaseSupervisorAgent
from ai_agents.tools import get_tool

if TYPE_CHECKING:
    from pathlib import Path

SEARCH: dict[str, Any] = {"name": "search_agent", "description": "Searches.", "tools": ["file_search"]}


def test_ids_nest_and_come_back() -> None:
    """Ids of tasks and sub-tasks have their form, nest, and come back; other threads have their own."""
    assert len(tracing.generate_task_id()) == 17
    assert tracing.generate_task_id("a").startswith("task_a_")
    with tracing.task_context() as outer:
        assert tracing.get_current_task_id() == outer
        with tracing.task_context("inner"), tracing.sub_task_context("helper") as sub:
            assert tracing.get_current_task_id() == "inner"
            assert tracing.get_current_sub_task_id() == sub
            assert sub.startswith("sub_helper_")
            assert tracing.get_current_agent_id() == "helper"
            seen: list[str | None] = []

            def look() -> None:
                seen.append(tracing.get_current_task_id())

            for target in (look, partial(copy_context().run, look)):
                thread = threading.Thread(target=target)
                thread.start()
                thread.join()
            assert seen == [None, "inner"]
        assert tracing.get_current_task_id() == outer
        assert tracing.get_current_agent_id() is None
    assert tracing.get_current_task_id() is None


def test_runtime_is_set_once() -> None:
    """Application and business have one name; another one is an error."""
    runtime = Runtime()
    runtime.app = "a"
    runtime.app = "a"
    with pytest.raises(ValueError, match="'a' already"):
        runtime.app = "b"
    assert runtime.session_id == runtime.session_id


def test_models_come_from_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of task has its kind of model, with parameters from the environment; the same model is made once."""
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.setenv("FAST_MODEL", "quick")
    monkeypatch.setenv("FAST_MODEL_TEMPERATURE", "0.7")
    fast = get_model_for_task(TaskType.CLASSIFICATION)
    assert (fast["model"], fast["temperature"], fast["max_tokens"], fast["timeout"]) == ("quick", 0.7, 1024, 30)
    assert get_model_for_task(TaskType.CODE_REVIEW, override={"model": "mine"})["model"] == "mine"
    one = get_model_for_task(TaskType.CLASSIFICATION, "smolagents")
    assert one is get_model_for_task(TaskType.INTENT_CLASSIFICATION, "smolagents")
    assert one is not get_model_for_task(TaskType.CLASSIFICATION, "smolagents", cache=False)
    assert one.model_id == "quick"
    with pytest.raises(ValueError, match="framework"):
        get_model_for_task(TaskType.CLASSIFICATION, "other")
    monkeypatch.setenv("FAST_MODEL_TIMEOUT", "soon")
    with pytest.raises(SettingError, match="FAST_MODEL_TIMEOUT"):
        get_model_for_task(TaskType.CLASSIFICATION)


def test_procedures(tmp_path: Path) -> None:
    """Procedures are Markdown or templates; what is not there or wrong is a ValueError that says so."""
    assert get_available_sop_categories() == ["default", "repo_analysis"]
    assert "How to work" in get_sop("default")
    assert "called tiny" in get_sop("repo_analysis", {"project_name": "tiny"})
    manager = SOPManager(tmp_path)
    assert SOPManager(tmp_path / "none").get_available_categories() == []
    for name, text in {
        "good/sop.md.j2": "{% include 'part.md' %}{% if x %}\n yes\n{% endif %}",
        "good/part.md": "part ",
        "good/sop.md": "plain",
        "wrong/sop.md.j2": "{% if %}",
        "escape/sop.md.j2": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "outside/sop.md.j2": "{% include '../good/part.md' %}",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert manager.get_available_categories() == ["escape", "good", "outside", "wrong"]
    assert manager.get_sop("good", {"x": 1}).split() == ["part", "yes"]
    for category, complaint in {
        "none": "不存在",
        "../good": "不存在",
        "wrong": "语法错误",
        "escape": "unsafe|undefined",
        "outside": "part.md",
    }.items():
        with pytest.raises(ValueError, match=complaint):
            manager.get_sop(category)


def test_agent_from_yaml_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents are found in the list, in one file each, in Markdown, in the working directory and by path."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"there is no agent 'search_agent' in .*agents.yaml"):
        create_agent_from_yaml("search_agent")
    (tmp_path / "agents.yaml").write_text("agents:\n  - {name: search_agent, type: micro, tools: [file_search]}\n")
    assert ai_agents.create_agent_from_yaml is create_agent_from_yaml
    assert create_agent_from_yaml("search_agent").name == "search_agent"
    folder = tmp_path / "micro_agents"
    folder.mkdir()
    (folder / "one.yml").write_text("name: one\ndescription: x\ntools: [{name: text_grep}]\ntask_type: CODE_REVIEW\n")
    (folder / "two.md").write_text("# Two\n\n```yaml\nname: two\ntools: []\n```\n\nBe brief.\n")
    assert create_agent_from_yaml("one").default_task_type == TaskType.CODE_REVIEW
    two = create_agent_from_yaml("two", folder)
    assert "Be brief." in two.config.guidance
    assert create_agent_from_yaml("one", folder / "one.yml").config.tools == ({"name": "text_grep"},)
    with pytest.raises(ValueError, match="there are: one, two"):
        create_agent_from_yaml("three", folder)
    with pytest.raises(ValueError, match=r"there is no agent 'one': none\.yaml is not there"):
        create_agent_from_yaml("one", "none.yaml")
    (folder / "bad.yml").write_text("name: bad\ntools: [nothing]\n")
    with pytest.raises(ValueError, match="there is no tool 'nothing'"):
        create_agent_from_yaml("bad", folder / "bad.yml")
    (folder / "bad.yml").unlink()
    assert list(YamlAgentFactory.load_agents_from_directory(folder)) == ["one", "two"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"name": "not a name"}, "the name of an agent is 'not a name'"),
        ({"tools": "file_search"}, "tools of search_agent"),
        ({"type": "strange"}, "type of search_agent"),
        ({"task_type": "STRANGE"}, "task_type of search_agent"),
        ({"tool_call_type": "x"}, "tool_call_type of search_agent"),
        ({"max_steps": 0}, "max_steps of search_agent"),
    ],
)
def test_wrong_configurations(change: dict[str, Any], complaint: str) -> None:
    """A wrong configuration is a ValueError that names agent and key."""
    with pytest.raises(ValueError, match=complaint):
        YamlAgentFactory.create_agent({**SEARCH, **change})


@pytest.mark.parametrize("text", ["- a", "{", "agents: [1]"])
def test_wrong_files(tmp_path: Path, text: str) -> None:
    """A file that holds no agents is a ValueError that names it."""
    (tmp_path / "agents.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"agents\.yaml"):
        create_agent_from_yaml("x", tmp_path / "agents.yaml")


def test_agent_as_a_tool() -> None:
    """An agent becomes a function to ask only where the configuration says so."""
    assert YamlAgentFactory.create_agent_as_tool(SEARCH) == []
    enabled = {"agent_tool": {"enabled": True, "function_name": "ask_search", "description": "Asks."}}
    (ask,) = YamlAgentFactory.create_agent_as_tool({**SEARCH, **enabled})
    assert ask.__name__ == "ask_search"
    with pytest.raises(ValueError, match="function_name"):
        YamlAgentFactory.create_agent_as_tool({**SEARCH, "agent_tool": {"enabled": True}})


def test_agents_have_names_and_numbers() -> None:
    """An agent is called as its class says, or like its class, with a number for each object."""

    class HTTPWatcher(BaseMicroAgent):
        pass

    class Numbered(BaseMicroAgent):
        name = "mine"

    assert HTTPWatcher(model=object()).name == "httpwatcher"
    first, second = Numbered(model=object()), Numbered(model=object())
    assert first.get_agent_id().startswith("mine_00")
    assert int(second.get_agent_id()[-3:]) == int(first.get_agent_id()[-3:]) + 1
    assert SearchAgent(model=object()).name == "search_agent"
    for base in (BaseMicroAgent, BaseSupervisorAgent):
        with pytest.raises(TypeError, match="make a subclass"):
            base()


def test_supervisor_prompt_has_procedure_and_task() -> None:
    """What a supervisor is asked has role, procedure, principles and the task."""

    class Boss(BaseSupervisorAgent):
        """You are the boss."""

    boss = Boss(model=object())
    boss.inject_memory_instruction("Remember.")
    prompt = vars(type(boss).__mro__[1])["_get_enhanced_task"](boss, "Do it.")
    for part in ("You are the boss.", "How to work", "<principles>", "Do it."):
        assert part in prompt


def test_new_agent_is_strict_and_tidy() -> None:
    """Tools of one name count once, functions become tools, and tracking needs a name."""
    from smolagents.models import Model

    def double(number: int) -> int:
        """Double a number.

        Args:
            number: What.
        """
        return 2 * number

    tools = [get_tool("file_search"), get_tool("file_search"), double]
    model: Any = Model()
    agent = new_agent(tools, model=model, use_tool_call=True, agent_name="a", verbosity_level=0)
    assert set(agent.tools) == {"file_search", "double", "final_answer"}
    with pytest.raises(ValueError, match="needs a name"):
        new_agent(tools, model=model, enable_sub_task_tracking=True)


@pytest.mark.parametrize("kind", ["tool_call", "code_act"])
def test_memory_instruction_reaches_the_model(kind: str) -> None:
    """What an agent shall remember is in front of every task, whichever way it calls its tools (B9)."""

    class Reader(BaseMicroAgent):
        tool_call_type = kind

    agent = Reader(model=object())
    asked: list[str] = []
    inner = Mock()
    inner.run = asked.append
    with patch.object(Reader, "_make_agent", return_value=inner):
        agent.inject_memory_instruction("first")
        agent.inject_memory_instruction("use tabs")
        agent.run("Do it")
    assert asked == ["<memory_instruction>\nuse tabs\n</memory_instruction>\n\nDo it"]
