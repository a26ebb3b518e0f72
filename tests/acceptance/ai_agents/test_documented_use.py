"""Every way of use that the specification shows, as a user would write it."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from ai_agents.telemetry import TelemetryManager, TelemetrySession

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("server", "project")


def test_manager() -> None:
    """The manager is one, initializes by itself and gives collector, session and figures."""
    manager = TelemetryManager.get_instance()
    manager.initialize()
    collector = manager.get_collector()
    manager.flush_data()
    session_data = manager.get_session_data()
    stats = manager.get_storage_stats()
    assert session_data is not None
    assert session_data.session_id == collector.session_id == stats["current_session_id"]
    assert manager is TelemetryManager.get_instance() is TelemetryManager()


def test_collector() -> None:
    """The collector's calls, as they are documented, without a manager."""
    from ai_agents.telemetry import TaskStatus, TelemetryCollector

    collector = TelemetryCollector()
    collector.start_task("task_123", "分析代码仓库")
    collector.record_llm_call(model="gpt-4", prompt_tokens=100, completion_tokens=50, duration=2.5)
    collector.record_agent_execution(agent_type="supervisor", agent_name="RepoAnalysisAgent", duration=30.2)
    collector.record_tool_usage(tool_name="file_reader", duration=0.5)
    collector.end_task("task_123", TaskStatus.COMPLETED)
    (task,) = collector.get_session_data().tasks
    assert task.description == "分析代码仓库"
    assert task.get_total_tokens().total_tokens == 150
    assert [agent.agent_name for agent in task.agents] == ["RepoAnalysisAgent"]
    assert [tool.tool_name for tool in task.tools] == ["file_reader"]


def test_empty_supervisor_runs() -> None:
    """A supervisor with an empty body runs, and its model calls, tools and time are recorded."""
    from ai_agents.supervisor_agents.base_supervisor_agent import BaseSupervisorAgent

    class MyCustomSupervisorAgent(BaseSupervisorAgent):
        pass

    agent = MyCustomSupervisorAgent()
    result = agent.run("执行任务")
    assert result
    session = TelemetryManager.get_instance().get_session_data()
    assert session is not None
    (task,) = session.tasks
    assert (task.description, task.sop_category, task.status.value) == ("执行任务", "default", "completed")
    (run,) = task.agents
    assert run.agent_type.value == "supervisor"
    assert len(run.llm_calls) == 3
    assert [tool.tool_name for tool in run.tools_used if not tool.is_final_answer] == ["file_search", "text_grep"]
    with pytest.raises(TypeError, match="subclass"):
        BaseSupervisorAgent()


def test_empty_micro_agent_runs() -> None:
    """A micro agent with an empty body gives an agent of smolagents that is recorded."""
    from smolagents import MultiStepAgent

    from ai_agents.micro_agents.base_micro_agent import BaseMicroAgent

    class MyCustomMicroAgent(BaseMicroAgent):
        pass

    agent = MyCustomMicroAgent()
    code_agent = agent.get_code_agent()
    assert code_agent.run("look around")
    assert isinstance(code_agent, MultiStepAgent)
    session = TelemetryManager.get_instance().get_session_data()
    assert session is not None
    assert session.total_tokens.total_tokens > 0
    with pytest.raises(TypeError, match="subclass"):
        BaseMicroAgent()


def test_agent_from_yaml(project: Path) -> None:
    """The documented ``agents.yaml``, in the working directory, makes an agent that is recorded."""
    from ai_agents import create_agent_from_yaml

    (project / "agents.yaml").write_text(
        '# agents.yaml\nagents:\n  - name: "search_agent"\n    type: "micro"\n    tools: ["file_search", "text_grep"]\n'
    )
    agent = create_agent_from_yaml("search_agent")
    assert agent.run("find the name")
    session = TelemetryManager.get_instance().get_session_data()
    assert session is not None
    (run,) = session.tasks[0].agents
    assert run.agent_name == "search_agent"
    assert {tool.tool_name for tool in run.tools_used} == {"file_search", "text_grep", "final_answer"}


def test_changes_of_an_agent_are_counted(project: Path) -> None:
    """Files that an agent of the framework writes are in its task when the session is read."""
    from agentlightning.testing import AgentRule, ModelServer, ToolCall
    from ai_agents.micro_agents import YamlAgentFactory

    write = ToolCall("file_writer", {"path": "new.py", "content": "a\nb\n"})
    with ModelServer(AgentRule(plan=(write,))) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", server.url)
        YamlAgentFactory.create_agent({"name": "writer", "tools": ["file_writer"]}).run("write it")
    session = TelemetryManager.get_instance().get_session_data()
    assert session is not None
    (task,) = session.tasks
    assert (task.code_changes.files_created, task.code_changes.lines_added) == (1, 2)
    assert (project / "new.py").exists()


def test_basic_use(capsys: pytest.CaptureFixture[str]) -> None:
    """After a run of the repository analysis the figures are there at once."""
    from ai_agents.supervisor_agents.repo_analysis_supervisor_agent import RepoAnalysisSupervisorAgent

    agent = RepoAnalysisSupervisorAgent()
    agent.run("分析这个代码仓库的架构")
    manager = TelemetryManager.get_instance()
    session_data = manager.get_session_data()
    assert session_data is not None
    print(f"总令牌使用: {session_data.total_tokens.total_tokens}")
    print(f"执行时间: {session_data.total_duration}秒")
    print(f"任务数量: {len(session_data.tasks)}")
    assert session_data.total_tokens.total_tokens > 0
    assert session_data.total_duration > 0
    assert len(session_data.tasks) == 1
    kinds = {run.agent_name: run.agent_type.value for run in session_data.tasks[0].agents}
    assert kinds == {"repo_analysis": "supervisor", "search_agent": "managed"}


def test_recording_by_hand() -> None:
    """A task with calls and tools by hand."""
    from ai_agents.telemetry import TaskStatus

    manager = TelemetryManager.get_instance()
    collector = manager.get_collector()
    collector.start_task("custom_task", "自定义任务")
    collector.record_llm_call(model="gpt-4", prompt_tokens=150, completion_tokens=75, duration=3.2)
    collector.record_tool_usage("file_reader", 0.8)
    collector.end_task("custom_task", TaskStatus.COMPLETED)
    session = manager.get_session_data()
    assert session is not None
    assert session.total_tokens.total_tokens == 225
    assert session.total_tokens.model_breakdown["gpt-4"].total_tokens == 225
    assert session.total_tokens.cost_estimate == pytest.approx(150 * 30e-6 + 75 * 60e-6)


def test_statistics_and_history(capsys: pytest.CaptureFixture[str], isolated: Path) -> None:
    """The documented keys are there, and sessions of before are listed oldest first and read by their id."""
    manager = TelemetryManager.get_instance()
    stats = manager.get_storage_stats()
    print(f"存储路径: {stats['storage_path']}")
    print(f"活跃收集器: {stats['active_collectors']}")
    print(f"总文件数: {stats['total_files']}")
    expected: list[str] = []
    for number in range(3):
        manager.get_collector().start_task(f"t{number}", "x")
        expected.append(manager.get_collector().session_id)
        manager.start_new_session()
    session_ids = manager.get_all_session_ids()
    assert set(session_ids) == set(expected)
    for session_id in session_ids[-5:]:
        session = manager.get_session_data(session_id)
        assert session is not None
        print(f"会话 {session_id}: {len(session.tasks)} 个任务")
    assert capsys.readouterr().out.count("1 个任务") == 3
    assert manager.get_session_data("no such") is None
    stats = manager.get_storage_stats()
    assert stats["total_files"] == 3
    assert stats["storage_path"] == str(isolated / ".cache" / "ept" / "sop_agents")


def test_configuration(tmp_path: Path) -> None:
    """Every configuration key is taken, also a second time while the session goes on."""
    config = {
        "enabled": True,
        "storage_dir": str(tmp_path / "custom" / "path"),
        "max_file_age_days": 14,
        "auto_cleanup": True,
    }
    manager = TelemetryManager.get_instance()
    manager.initialize(config)
    collector = manager.get_collector()
    manager.initialize({"flush_interval": 600, "max_memory_sessions": 20})
    assert manager.get_collector() is collector
    store = vars(manager)["_data_store"]
    assert (store.flush_interval, store.max_memory_sessions, store.max_file_age_days) == (600, 20, 14)
    assert manager.get_storage_stats()["storage_path"] == str(tmp_path / "custom" / "path")


def test_switching_off_and_on() -> None:
    """Off records nothing and keeps what there is; on goes on."""
    manager = TelemetryManager.get_instance()
    manager.get_collector().record_tool_usage("before", 1)
    manager.disable_telemetry()
    print(f"遥测状态: {manager.is_enabled()}")
    assert not manager.is_enabled()
    manager.get_collector().record_tool_usage("while off", 1)
    manager.enable_telemetry()
    assert manager.is_enabled()
    manager.get_collector().record_tool_usage("after", 1)
    (task,) = manager.get_collector().get_session_data(include_active=True).tasks
    assert [tool.tool_name for tool in task.tools] == ["before", "after"]


def analyze_token_usage(session: TelemetrySession) -> None:
    """Print what the specification prints of tokens."""
    total_tokens = session.total_tokens
    print(f"总令牌使用: {total_tokens.total_tokens}")
    print(f"提示令牌: {total_tokens.prompt_tokens}")
    print(f"完成令牌: {total_tokens.completion_tokens}")
    for model, usage in total_tokens.model_breakdown.items():
        print(f"{model}: {usage.total_tokens} 令牌")
    if total_tokens.cost_estimate:
        print(f"估算成本: ${total_tokens.cost_estimate:.4f}")


def analyze_performance(session: TelemetrySession) -> None:
    """Print what the specification prints of times."""
    print(f"总执行时间: {session.total_duration:.2f}秒")
    for task in session.tasks:
        print(f"任务 {task.task_id}: {task.duration:.2f}秒")
        for agent in task.agents:
            print(f"  {agent.agent_name}: {agent.duration:.2f}秒")
        for tool in task.tools:
            print(f"  工具 {tool.tool_name}: {tool.duration:.2f}秒")


def export_session_data(session_id: str, output_file: str) -> None:
    """Write a session as the specification does."""
    manager = TelemetryManager.get_instance()
    session = manager.get_session_data(session_id)
    if session:
        with open(output_file, "w", encoding="utf-8") as f:  # noqa: PTH123 - as it is documented
            f.write(session.to_json())
        print(f"会话数据已导出到: {output_file}")
    else:
        print(f"未找到会话: {session_id}")


def test_analysis_and_export(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The documented functions work on a real session, also on one that was ended with open parts."""
    from ai_agents.supervisor_agents.repo_analysis_supervisor_agent import RepoAnalysisSupervisorAgent

    RepoAnalysisSupervisorAgent().run("分析这个代码仓库的架构")
    manager = TelemetryManager.get_instance()
    manager.get_collector().start_task("open", "x")
    manager.get_collector().start_tool_execution("x", "slow")
    session = manager.finalize_current_session()
    assert session is not None
    analyze_token_usage(session)
    analyze_performance(session)
    out = capsys.readouterr().out
    assert "gpt-4o-mini: " in out
    assert "估算成本: $0." in out
    assert "  repo_analysis: 0." in out
    assert "  工具 slow: 0.00秒" in out
    export_session_data(session.session_id, str(tmp_path / "out.json"))
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["session_id"] == session.session_id
    export_session_data("none", str(tmp_path / "none.json"))
    assert "未找到会话: none" in capsys.readouterr().out


def test_errors_and_cleaning(caplog: pytest.LogCaptureFixture) -> None:
    """Errors in functions of the program's own telemetry are counted; old files are counted; debugging can be asked."""
    from ai_agents.telemetry import get_error_handler
    from ai_agents.telemetry.error_handler import safe_telemetry_operation

    @safe_telemetry_operation("custom_operation")
    def my_telemetry_function() -> None:
        raise ValueError

    my_telemetry_function()
    error_handler = get_error_handler()
    error_summary = error_handler.get_error_summary()
    print(f"遥测错误数量: {len(error_summary)}")
    assert len(error_summary) == 1
    error_handler.reset_error_state()
    assert len(error_handler.get_error_summary()) == 0
    manager = TelemetryManager.get_instance()
    cleaned = manager.cleanup_old_data(max_age_days=7)
    print(f"清理了 {cleaned} 个文件")
    assert cleaned == 0
    logging.getLogger("ai_agents.telemetry").setLevel(logging.DEBUG)
    try:
        manager.get_collector().start_task("t", "x")
        assert "task t: started" in caplog.text
    finally:
        logging.getLogger("ai_agents.telemetry").setLevel(logging.NOTSET)


@pytest.mark.parametrize("module", ["manager", "collector", "data_store", "types", "error_handler", "instrumentation"])
def test_modules_by_path(module: str) -> None:
    """The modules that the specification names are at their paths."""
    from importlib import import_module

    assert import_module(f"ai_agents.telemetry.{module}").__doc__
