"""Sessions of whole programs: under agl, killed, without a disk, in children, and from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ai_agents.telemetry import TaskStatus, TelemetryDataStore

if TYPE_CHECKING:
    from agentlightning.testing import ModelServer

AGENT = """
import sys
from smolagents import OpenAIServerModel, ToolCallingAgent
agent = ToolCallingAgent(tools=[], model=OpenAIServerModel("gpt-4o-mini"), verbosity_level=-1)
print(agent.run("hello"))
"""


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program of Python and return what it said."""
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, timeout=60, **options
    )


def program(code: str) -> tuple[str, str]:
    """Return the arguments that run *code*."""
    return "-c", textwrap.dedent(code)


def folder(home: Path) -> Path:
    """Return where sessions are."""
    return home / ".cache" / "ept" / "sop_agents"


def sessions(home: Path) -> list[dict[str, Any]]:
    """Return the content of every session file."""
    return [json.loads(path.read_text()) for path in sorted(folder(home).glob("*.json"))]


def test_session_under_agl(server: ModelServer, project: Path, isolated: Path) -> None:
    """Under ``agl run`` importing ``ai_agents`` is enough for a session file; without the import there is none."""
    answer = run("-m", "agentlightning.cli", "run", sys.executable, *program(AGENT))
    assert answer.returncode == 0, answer.stderr
    assert not folder(isolated).exists()
    answer = run("-m", "agentlightning.cli", "run", sys.executable, *program("import ai_agents\n" + AGENT))
    assert answer.returncode == 0, answer.stderr
    (session,) = sessions(isolated)
    assert session["total_tokens"]["total_tokens"] > 0
    (task,) = session["tasks"]
    assert [agent["agent_name"] for agent in task["agents"]] == ["ToolCallingAgent"]
    assert session["end_time"] is not None


def test_importing_the_framework_is_enough(server: ModelServer, project: Path, isolated: Path) -> None:
    """Importing any part of the framework records every agent of smolagents, made before or after (B1)."""
    for code in (
        "import ai_agents.micro_agents\n" + AGENT,
        AGENT.replace("\nagent", "\nimport ai_agents.micro_agents\nagent"),
    ):
        answer = run(*program(code))
        assert answer.returncode == 0, answer.stderr
    found = sessions(isolated)
    assert len(found) == 2
    assert all(len(session["tasks"][0]["agents"]) == 1 for session in found)


def test_framework_under_agl_counts_once(server: ModelServer, project: Path, isolated: Path) -> None:
    """Under ``agl run`` an agent of the framework is one run in the file, and its spans are the run's (B6)."""
    command = ("-m", "ai_agents", "run", "--agent", "search", "--task", "Find it", str(project))
    answer = run("-m", "agentlightning.cli", "run", sys.executable, *command)
    assert answer.returncode == 0, answer.stderr
    (session,) = sessions(isolated)
    (task,) = session["tasks"]
    assert [(agent["agent_name"], agent["agent_type"]) for agent in task["agents"]] == [("search_agent", "micro")]
    assert len(task["agents"][0]["llm_calls"]) == 3
    assert task["llm_calls"] == task["tools"] == []
    assert "search_agent.run" in run("-m", "agentlightning.cli", "show", "latest").stdout


def test_output_is_the_same(server: ModelServer, project: Path, isolated: Path) -> None:
    """A program says and returns the same with telemetry and without."""
    start = "from ai_agents.telemetry import TelemetryManager; TelemetryManager.get_instance().initialize()\n"
    bare, recorded = run(*program(AGENT)), run(*program(start + AGENT))
    assert (bare.stdout, bare.stderr, bare.returncode) == (recorded.stdout, recorded.stderr, recorded.returncode)
    assert len(sessions(isolated)) == 1


def test_killed_process_leaves_a_partial_session(project: Path, isolated: Path) -> None:
    """Of a process that is killed, the session is read back as PARTIAL with what was recorded a second before."""
    code = """
        import os, signal, time
        from ai_agents.telemetry import TelemetryManager
        collector = TelemetryManager.get_instance().get_collector()
        collector.start_task("t", "x")
        collector.record_llm_call(model="gpt-4o-mini", prompt_tokens=10, completion_tokens=5, duration=1.0)
        deadline = time.monotonic() + 10
        while not TelemetryManager.get_instance().get_storage_stats()["total_files"] and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run(*program(code)).returncode == -9
    store = TelemetryDataStore(folder(isolated))
    (session_id,) = store.get_session_ids()
    session = store.get_session_data(session_id)
    assert session is not None
    assert [(task.task_id, task.status) for task in session.tasks] == [("t", TaskStatus.PARTIAL)]
    assert session.total_tokens.total_tokens == 15
    assert session.end_time is not None


@pytest.mark.parametrize("sign", ["SIGINT", "SIGTERM"])
def test_signals_are_the_programs(project: Path, isolated: Path, sign: str) -> None:
    """Signals do what they do without us: Ctrl+C raises KeyboardInterrupt, SIGTERM ends the process (B17)."""
    code = f"""
        import os, signal, time
        from ai_agents.telemetry import TelemetryManager
        TelemetryManager.get_instance().get_collector().record_tool_usage("x", 1)
        try:
            os.kill(os.getpid(), signal.{sign})
            time.sleep(5)
        except KeyboardInterrupt:
            print("interrupted")
    """
    answer = run(*program(code))
    assert (answer.stdout, answer.returncode) == (("interrupted\n", 0) if sign == "SIGINT" else ("", -15))


def test_unwritable_home_changes_nothing(server: ModelServer, project: Path, isolated: Path) -> None:
    """Where no session can be written the agent works, nothing is printed, and the failure is counted."""
    (isolated / ".cache").write_text("a file where the folder should be")
    code = (
        "from ai_agents.telemetry import TelemetryManager, get_error_handler\n"
        "TelemetryManager.get_instance().initialize()\n" + AGENT + "\n"
        "print(TelemetryManager.get_instance().get_session_data().total_tokens.total_tokens > 0)\n"
    )
    answer = run(*program(code), env={**os.environ, "TMPDIR": str(project)})
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.endswith("True\n")
    assert (project / "ept_telemetry").is_dir()


def test_full_disk_changes_nothing(server: ModelServer, project: Path, isolated: Path) -> None:
    """On a full disk the agent's result is the same, the session stays in memory, and the failure is counted."""
    code = (
        "import errno\n"
        "from ai_agents.telemetry import TelemetryManager, data_store, get_error_handler\n"
        "def full(*_): raise OSError(errno.ENOSPC, 'full')\n"
        "data_store.write_durably = full\n"
        "manager = TelemetryManager.get_instance(); manager.initialize()\n" + AGENT + "\n"
        "manager.flush_data()\n"
        "session = manager.get_session_data()\n"
        "print(session.total_tokens.total_tokens > 0, len(get_error_handler().get_error_summary()))\n"
    )
    answer = run(*program(code))
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.endswith("True 1\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_child_has_a_session_of_its_own(server: ModelServer, project: Path, isolated: Path) -> None:
    """A forked child that records begins its own session; the parent's stays its own."""
    code = (
        "import os\n"
        "from ai_agents.telemetry import TelemetryManager\n"
        "TelemetryManager.get_instance().initialize()\n"
        "import smolagents\n"
        "child = os.fork()\n" + AGENT + "\n"
        "sys.exit(0) if not child else os.waitpid(child, 0)\n"
    )
    answer = run("-W", "ignore", *program(code))
    assert answer.returncode == 0, answer.stderr
    found = sessions(isolated)
    assert len(found) == 2
    assert len({session["session_id"] for session in found}) == 2
    assert all(session["total_tokens"]["total_tokens"] > 0 for session in found)


def test_telemetry_without_smolagents(project: Path) -> None:
    """Without smolagents the telemetry works, and what needs it says how to install it."""
    code = """
        import sys
        sys.modules["smolagents"] = None
        from ai_agents.telemetry import *
        manager = TelemetryManager.get_instance()
        manager.get_collector().record_llm_call(model="m", prompt_tokens=1)
        print(manager.get_session_data().total_tokens.total_tokens)
        from agentlightning import MissingExtraError
        try:
            instrument_smolagents_models(manager.get_collector(), get_error_handler())
        except MissingExtraError as error:
            print(error)
        from ai_agents.micro_agents import SearchAgent
        try:
            SearchAgent().run("x")
        except MissingExtraError as error:
            print(error)
    """
    answer = run(*program(code))
    assert answer.returncode == 0, answer.stderr
    first, *others = answer.stdout.splitlines()
    assert first == "1"
    assert len(others) == 2
    assert all("pip install 'agentlightning[smolagents]'" in line for line in others)


def test_command_lines(server: ModelServer, project: Path, isolated: Path) -> None:
    """An agent is run from the command line with a summary, and its session is listed, shown, compared and written."""
    arguments = ("--agent", "repo_analysis", "--task", "Explain it", str(project))
    run("-m", "ai_agents", "run", *arguments)
    answer = run("-m", "ai_agents", "run", *arguments)
    assert answer.returncode == 0, answer.stderr
    assert "Session " in answer.stdout
    assert "repo_analysis (supervisor)" in answer.stdout
    ids = [session["session_id"] for session in sessions(isolated)]

    def agl(*words: str) -> str:
        answer = run("-m", "agentlightning.cli", "sessions", *words)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    assert all(session_id in agl("ls") for session_id in ids)
    assert "search_agent (managed)" in agl("show")
    assert json.loads(agl("stats", "--json"))["sessions"] == 2
    assert "total tokens" in agl("compare", *ids)
    assert json.loads(agl("export", ids[0]))["session_id"] == ids[0]
    for suffix in (".json", ".csv", ".html"):
        agl("export", "-o", f"out{suffix}")
        assert "gpt-4o-mini" in Path(f"out{suffix}").read_text()
    refused = run("-m", "agentlightning.cli", "sessions", "show", "nothing")
    assert (refused.returncode, "agl sessions ls" in refused.stderr) == (1, True)
    refused = run("-m", "ai_agents", "run", "--agent", "nobody", "--task", "x")
    assert (refused.returncode, "there is no agent 'nobody'" in refused.stderr) == (2, True)


def test_session_is_in_the_store(server: ModelServer, project: Path) -> None:
    """Outside ``agl run`` a task of an agent is a rollout, which ``agl show`` has (O19)."""
    code = """
        from ai_agents.micro_agents import SearchAgent
        from ai_agents.telemetry import TelemetryManager
        SearchAgent().run("find the name")
        print(TelemetryManager.get_instance().get_collector().session_id)
    """
    answer = run(*program(code))
    assert answer.returncode == 0, answer.stderr
    shown = run("-m", "agentlightning.cli", "show", "latest")
    assert "find the name" in shown.stdout
    assert "search_agent.run" in shown.stdout


def test_doctor_answers_the_questions(project: Path, isolated: Path) -> None:
    """Whether sessions are recorded, whether there is room, and what they cost are rows of ``agl doctor``."""
    TelemetryDataStore()
    answer = run("-m", "agentlightning.cli", "doctor", env={**os.environ, "COLUMNS": "300"})
    assert "ok    sessions         recorded" in answer.stdout
    assert f"ok    session files    0 files, 0.0 MB in {folder(isolated)}" in answer.stdout
    assert "ok    session cost" in answer.stdout
    answer = run("-m", "agentlightning.cli", "doctor", env={**os.environ, "AGL_ENABLED": "0", "COLUMNS": "300"})
    assert "sessions         not recorded: AGL_ENABLED is 0" in answer.stdout


@pytest.mark.parametrize("how", ["AGL_ENABLED", "disable_telemetry"])
def test_switched_off_writes_nothing(server: ModelServer, project: Path, isolated: Path, how: str) -> None:
    """Switched off before anything runs, the framework works and leaves no file, no folder and no thread."""
    before = set(isolated.rglob("*"))
    code = (
        "from ai_agents.telemetry import TelemetryManager\n"
        "if {off!r}: TelemetryManager.get_instance().initialize({{'enabled': False}})\n"
        "from ai_agents.micro_agents import SearchAgent\n"
        "print(SearchAgent().run('Find it'))\n"
        "TelemetryManager.get_instance().flush_data()\n"
        "import threading, smolagents\n"
        "names = [thread.name for thread in threading.enumerate()]\n"
        "print([name for name in names if 'agl' in name or 'agentlightning' in name or 'ai-agents' in name])\n"
        "print(hasattr(smolagents.MultiStepAgent.run, '__wrapped__'))\n"
    ).format(off=how == "disable_telemetry")
    more = {"AGL_ENABLED": "0"} if how == "AGL_ENABLED" else {}
    answer = run(*program(code), env={**os.environ, **more})
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-2:] == ["[]", "False"]
    assert set(isolated.rglob("*")) == before


def test_demonstration(isolated: Path, project: Path) -> None:
    """The demonstration analyses a repository without a key, and says tokens, time, cost and where the session is."""
    example = Path(__file__).parents[3] / "examples" / "telemetry_demo.py"
    answer = run(str(example), str(project), env={**os.environ, "OPENAI_API_KEY": ""})
    assert answer.returncode == 0, answer.stderr
    assert "its parts are the folders below src" in answer.stdout
    assert "repo_analysis (supervisor)" in answer.stdout
    assert "search_agent (managed)" in answer.stdout
    assert str(folder(isolated)) in answer.stdout
    (session,) = sessions(isolated)
    (task,) = session["tasks"]
    assert (task["status"], session["total_tokens"]["total_tokens"] > 0) == ("completed", True)
    assert f"Total tokens: {session['total_tokens']['total_tokens']:,}" in answer.stdout
    tools = {tool["tool_name"] for agent in task["agents"] for tool in agent["tools_used"]}
    assert {"browse_directory", "file_reader", "text_grep"} <= tools
    shown = run("-m", "agentlightning.cli", "show", "latest").stdout
    assert "Explain the architecture" in shown


def test_nothing_leaves_the_process(project: Path, isolated: Path) -> None:
    """A session that ends is a file, and nothing is sent anywhere (B23)."""
    code = """
        import socket
        def refuse(*_): raise AssertionError("a connection")
        socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
        socket.create_connection = socket.getaddrinfo = refuse
        from ai_agents.telemetry import TelemetryManager, get_error_handler
        manager = TelemetryManager.get_instance()
        manager.get_collector().record_llm_call(model="gpt-4o-mini", prompt_tokens=10, duration=1.0)
        manager.finalize_current_session()
        manager.shutdown()
        print(len(get_error_handler().get_error_summary()))
    """
    answer = run(*program(code))
    assert (answer.stdout, answer.stderr) == ("0\n", "")
    assert len(sessions(isolated)) == 1


def test_needs_no_more_than_it_says(project: Path, isolated: Path) -> None:
    """The framework works where fcntl is missing, as on Windows, and loads no litellm or Langfuse (B16, B25)."""
    code = """
        import sys
        sys.modules["fcntl"] = sys.modules["litellm"] = sys.modules["langfuse"] = None
        import ai_agents.micro_agents, ai_agents.supervisor_agents, ai_agents.lib.tracing
        from ai_agents.telemetry import TelemetryManager
        TelemetryManager.get_instance().get_collector().record_tool_usage("x", 1.0)
        TelemetryManager.get_instance().shutdown()
    """
    answer = run(*program(code))
    assert answer.returncode == 0, answer.stderr
    assert len(sessions(isolated)) == 1


def test_disk_that_refuses_changes_nothing(server: ModelServer, project: Path, isolated: Path) -> None:
    """Where the system lets files grow to 4 KB only, the agent's result is the same, and the session is readable."""
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))\n"
        "from ai_agents.telemetry import TelemetryManager, get_error_handler\n"
        "manager = TelemetryManager.get_instance(); manager.initialize()\n" + AGENT + "\n"
        "for _ in range(40): manager.get_collector().record_tool_usage('file_reader', 0.1)\n"
        "manager.flush_data()\n"
        "print(len(get_error_handler().get_error_summary()) > 0, manager.get_storage_stats()['total_files'])\n"
        "print(manager.get_session_data().total_tokens.total_tokens > 0)\n"
    )
    answer = run(*program(code), env={**os.environ, "AGL_FLUSH_TIMEOUT_S": "0.3"})
    assert answer.returncode == 0, answer.stderr
    bare = run(*program(AGENT), env={**os.environ, "AGL_ENABLED": "0"})
    assert answer.stdout == bare.stdout + "True 0\nTrue\n"
