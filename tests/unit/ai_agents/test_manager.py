"""The manager of the process."""

from __future__ import annotations

import atexit
import json
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

import agentlightning
from ai_agents.telemetry import TaskStatus, TelemetryDataStore, TelemetryManager, book, get_error_handler
from ai_agents.telemetry.collector import NoOpCollector

if TYPE_CHECKING:
    from ai_agents.telemetry import TelemetrySession


def manager_of(tmp_path: Path) -> TelemetryManager:
    """Return a manager that writes into *tmp_path*."""
    manager = TelemetryManager.get_instance()
    manager.initialize({"storage_dir": str(tmp_path)})
    return manager


def session_of(manager: TelemetryManager) -> TelemetrySession:
    """Return the session, which is there."""
    session = manager.get_session_data()
    assert session is not None
    return session


def test_one_manager_registered_once() -> None:
    """There is one manager; it hooks the end of the process once and takes it back, and no signal (B17, B18)."""
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with patch.object(atexit, "register") as register, patch.object(atexit, "unregister") as unregister:
        manager = TelemetryManager()
        assert TelemetryManager.get_instance() is manager
        register.assert_called_once_with(manager.shutdown)
        TelemetryManager.reset_instance()
        unregister.assert_called_once_with(manager.shutdown)
        assert TelemetryManager.get_instance() is not manager
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers


def test_begins_by_itself(tmp_path: Path) -> None:
    """The collector is there without a call, the same one each time, and the store only then."""
    manager = TelemetryManager.get_instance()
    assert vars(manager)["_data_store"] is None
    collector = manager.get_collector()
    assert manager.get_collector("other") is collector
    assert vars(manager)["_data_store"] is not None
    assert agentlightning.flush()


def test_no_file_without_records(tmp_path: Path) -> None:
    """A session in which nothing happened leaves no file; one with a single stray call does."""
    manager = manager_of(tmp_path)
    manager.flush_data()
    assert list(tmp_path.iterdir()) == []
    manager.get_collector().record_llm_call(model="m", prompt_tokens=1)
    manager.flush_data()
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_what_has_no_task_is_in_one_of_its_own(tmp_path: Path) -> None:
    """A session that is read shows what was done outside every task, ended with its last record and with its cost."""
    manager = TelemetryManager.get_instance()
    manager.initialize({"storage_dir": str(tmp_path)})
    collector = manager.get_collector()
    collector.start_task("open", "d")
    collector.end_task("open", TaskStatus.COMPLETED)
    collector.record_llm_call(model="gpt-4o-mini", prompt_tokens=1_000_000, duration=2.0)
    collector.start_task("running", "d")
    session = manager.get_session_data()
    assert session is not None
    assert [task.task_id for task in session.tasks] == ["open", "_unassigned"]
    alone = session.tasks[1]
    assert alone.status is TaskStatus.COMPLETED
    assert alone.duration is not None
    assert session.total_tokens.cost_estimate == alone.llm_calls[0].cost_estimate == pytest.approx(0.15)
    assert [task.task_id for task in collector.get_session_data().tasks] == ["open"]
    assert collector.get_session_data().total_tokens.cost_estimate == pytest.approx(0.15)


def test_open_tasks_are_in_the_file(tmp_path: Path) -> None:
    """What runs is in the file too, so that a killed process leaves it (B12)."""
    manager = manager_of(tmp_path)
    manager.get_collector().start_task("t", "x")
    manager.flush_data()
    (path,) = tmp_path.glob("*.json")
    data = json.loads(path.read_text())
    assert [(task["task_id"], task["status"]) for task in data["tasks"]] == [("t", "in_progress")]
    assert data["end_time"] is None


def test_end_of_the_process_keeps_everything(tmp_path: Path) -> None:
    """Shutting down ends what is open as PARTIAL and writes it; a second time and later calls do nothing."""
    manager = manager_of(tmp_path)
    manager.get_collector().start_task("t", "x")
    session_id = manager.get_collector().session_id
    manager.shutdown()
    manager.shutdown()
    manager.initialize({"enabled": True})
    (path,) = tmp_path.glob("*.json")
    data = json.loads(path.read_text())
    assert data["session_id"] == session_id
    assert data["tasks"][0]["status"] == "partial"
    assert data["end_time"] is not None


def test_sessions_follow_each_other(tmp_path: Path) -> None:
    """A new session ends the one before; both are read by their ids, the newest last."""
    manager = manager_of(tmp_path)
    assert manager.finalize_current_session() is not None
    first = manager.start_new_session()
    manager.get_collector().record_tool_usage("one", 1)
    second = manager.start_new_session()
    assert first != second
    manager.get_collector().record_tool_usage("two", 1)
    assert manager.get_all_session_ids() == [first, second]
    old = manager.get_session_data(first)
    assert old is not None
    assert [tool.tool_name for task in old.tasks for tool in task.tools] == ["one"]
    assert old.end_time is not None


def test_context_manager(tmp_path: Path) -> None:
    """As a block the manager begins and shuts down."""
    with manager_of(tmp_path) as manager:
        manager.get_collector().record_tool_usage("x", 1)
        assert manager.has_unsaved_data()
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_off_from_the_beginning(tmp_path: Path) -> None:
    """Switched off nothing is made: no store, one shared collector that keeps nothing (B19)."""
    manager = TelemetryManager.get_instance()
    manager.initialize({"enabled": False, "storage_dir": str(tmp_path / "x")})
    collector = manager.get_collector()
    assert isinstance(collector, NoOpCollector)
    assert manager.get_collector() is collector
    collector.start_task("t", "x")
    collector.end_task("t", TaskStatus.COMPLETED)
    collector.record_llm_call(model="m")
    assert collector.get_session_data(include_active=True).tasks == []
    assert manager.get_session_data() is None
    stats = manager.get_storage_stats()
    assert (stats["enabled"], stats["storage_path"], stats["active_collectors"]) == (False, "", 0)
    assert not (tmp_path / "x").exists()


def test_all_capture_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """``AGL_ENABLED=0`` switches sessions off too."""
    monkeypatch.setenv("AGL_ENABLED", "0")
    assert isinstance(TelemetryManager.get_instance().get_collector(), NoOpCollector)


def test_no_folder_at_all(tmp_path: Path) -> None:
    """Where nothing can be written the session stays in memory, and the failure is counted."""
    manager = TelemetryManager.get_instance()
    with (
        patch.object(Path, "mkdir", side_effect=PermissionError),
        patch("tempfile.mkdtemp", side_effect=PermissionError),
    ):
        manager.initialize({"storage_dir": str(tmp_path / "x")})
    manager.get_collector().record_llm_call(model="m", prompt_tokens=2)
    assert session_of(manager).total_tokens.total_tokens == 2
    assert len(get_error_handler().get_error_summary()) == 1


def test_threads_share_one_session(tmp_path: Path) -> None:
    """Tasks of many threads are all in the one session."""
    manager = manager_of(tmp_path)

    def work(number: int) -> None:
        for place in range(3):
            collector = manager.get_collector()
            collector.start_task(f"{number}.{place}", "x")
            collector.end_task(f"{number}.{place}", TaskStatus.COMPLETED)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(session_of(manager).tasks) == 15


def test_huge_session_goes_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound older records are in a file beside the session's; the sums and the costs stay whole."""
    monkeypatch.setattr(book, "MAX_RECORDS", 1_500)
    manager = manager_of(tmp_path)
    manager.get_collector().start_task("t", "x")
    for _ in range(2_000):
        manager.get_collector().record_llm_call(model="gpt-4o-mini", prompt_tokens=1_000_000, duration=0.1)
    manager.flush_data()
    stats = manager.get_storage_stats()
    assert stats["records_in_memory"] + stats["records_on_disk"] == 2_000
    assert stats["records_in_memory"] <= 1_500
    (archive,) = tmp_path.glob("*.records.jsonl")
    assert len(archive.read_text().splitlines()) == stats["records_on_disk"]
    session = session_of(manager)
    assert session.total_tokens.prompt_tokens == 2_000_000_000
    assert session.total_tokens.cost_estimate == pytest.approx(2_000 * 0.15)
    manager.flush_data()
    session_id = manager.get_collector().session_id
    manager.start_new_session()
    read = manager.get_session_data(session_id)
    assert read is not None
    assert read.total_tokens.prompt_tokens == 2_000_000_000


def test_figures_are_measured(tmp_path: Path) -> None:
    """The figures say how much memory is used and what reading spans has cost."""
    stats = manager_of(tmp_path).get_storage_stats()
    assert {"records_in_memory", "memory_mb", "spans_read", "overhead_us_per_span", "overhead_s", "errors"} <= set(
        stats
    )


@pytest.mark.parametrize("tasks", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(120)
def test_huge_session_of_small_tasks_is_bounded(tmp_path: Path, tasks: int) -> None:
    """Many records in small tasks and runs of agents stay within a bound of memory, with their sums whole."""
    code = """
        import sys
        import psutil
        from ai_agents.telemetry import AgentType, TaskStatus, TelemetryManager, book
        manager = TelemetryManager.get_instance()
        manager.initialize({"storage_dir": sys.argv[1]})
        collector = manager.get_collector()
        collector.record_tool_usage("warm", 0.1)
        manager.flush_data()
        process = psutil.Process()
        begun = peak = process.memory_info().rss
        most = 0
        for number in range(int(sys.argv[2])):
            task, agent = f"t{number}", f"a{number}"
            collector.start_task(task, "d" * 400)
            collector.start_agent_execution(agent, AgentType.MICRO, "agent", task)
            for _ in range(10):
                collector.record_llm_call(model="gpt-4o-mini", prompt_tokens=1, duration=0.001, agent_id=agent)
            collector.end_agent_execution(agent, TaskStatus.COMPLETED)
            collector.end_task(task, TaskStatus.COMPLETED)
            if not number % 100:
                peak = max(peak, process.memory_info().rss)
                most = max(most, collector.book.records + collector.book.shells)
        session = manager.get_session_data()
        stats = manager.get_storage_stats()
        print((peak - begun) / 2**20 < 96, most <= 3 * book.MAX_RECORDS)
        print(session.total_tokens.total_tokens, len(session.tasks) + session.archived_tasks)
        print(stats["records_in_memory"] + stats["records_on_disk"], session.total_tokens.cost_estimate)
        manager.shutdown()
    """
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path), str(tasks)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    bounded, sums, records = answer.stdout.splitlines()
    assert (bounded, sums) == ("True True", f"{10 * tasks} {tasks + 1}"), answer.stderr  # one for what has no task
    assert records.split()[0] == str(10 * tasks + 1)
    assert float(records.split()[1]) == pytest.approx(10 * tasks * 0.15e-6)
    store = TelemetryDataStore(tmp_path)
    (session_id,) = store.get_session_ids()
    session = store.get_session_data(session_id)
    assert session is not None
    assert session.total_tokens.total_tokens == 10 * tasks
    (archive,) = tmp_path.glob("*.records.jsonl")
    kept = [json.loads(line) for line in archive.read_text().splitlines()]
    moved = [line for line in kept if line["kind"] == "task"]
    assert len(moved) == session.archived_tasks > 0
    assert moved[0]["agents"][0]["llm_calls"][0]["model"] == "gpt-4o-mini"
