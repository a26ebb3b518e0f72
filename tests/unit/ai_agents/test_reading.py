"""Code changes, costs, analysis and advice."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from ai_agents.telemetry import (
    AgentExecution,
    AgentType,
    CodeMetrics,
    LLMCall,
    TaskExecution,
    TaskStatus,
    TelemetrySession,
    ToolExecution,
)
from ai_agents.telemetry.analysis import (
    add_figures,
    analyze_performance,
    analyze_token_usage,
    compare,
    export_session_data,
    figures,
    give_advice,
)
from ai_agents.telemetry.code_change import CodeWatch
from ai_agents.telemetry.pricing import cost_of, fill_costs

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2026, 11, 21, 12, 0, tzinfo=timezone.utc)


def git(folder: Path, *words: str) -> None:
    """Run git without any configuration of the user's."""
    settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *settings, *words], cwd=folder, check=True, capture_output=True)


def change(folder: Path) -> CodeMetrics | None:
    """Change the files of *folder* under watch, and return what was seen."""
    watch = CodeWatch(folder)
    watch.start()
    vars(watch)["_thread"].join()
    (folder / "kept.py").write_text("one\nTWO\nthree\nfour\n")
    (folder / "gone.py").unlink()
    (folder / "new.py").write_text("a\nb\n")
    (folder / "dirty.py").write_text("dirty\nmore\n")
    return watch.finish()


@pytest.mark.parametrize("kind", ["plain", "repository", "below"])
def test_changes_of_files(tmp_path: Path, kind: str) -> None:
    """Created, changed and deleted files and lines are counted, in a repository and without; what was there is not."""
    folder = tmp_path / "part" if kind == "below" else tmp_path
    folder.mkdir(exist_ok=True)
    (folder / "kept.py").write_text("one\ntwo\nthree\n")
    (folder / "gone.py").write_text("x\ny\n")
    (folder / "dirty.py").write_text("clean\n")
    if kind != "plain":
        git(tmp_path, "init", "-q")
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-q", "-m", "x")
    (folder / "dirty.py").write_text("dirty\n")
    (folder / "unknown.py").write_text("was there\n")
    assert change(folder) == CodeMetrics(
        files_created=1, files_modified=2, files_deleted=1, lines_added=4, lines_removed=2, lines_modified=1
    )


def test_commits_of_the_task_count(tmp_path: Path) -> None:
    """What the agent commits itself has changed too."""
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("a\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "x")
    watch = CodeWatch(tmp_path)
    watch.start()
    vars(watch)["_thread"].join()
    (tmp_path / "a.py").write_text("a\nb\n")
    git(tmp_path, "commit", "-q", "-a", "-m", "y")
    assert watch.finish() == CodeMetrics(files_modified=1, lines_added=1)


def call(model: str = "gpt-4o", prompt: int = 2_000, completion: int = 10, **fields: object) -> LLMCall:
    """Return a call."""
    found = LLMCall(model, prompt, completion, prompt + completion, 1.0, START)
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def tool(name: str, seconds: float, key: str = "", status: TaskStatus = TaskStatus.COMPLETED) -> ToolExecution:
    """Return a use of a tool."""
    return ToolExecution(name, START, START + timedelta(seconds=seconds), status=status, arguments_key=key or None)


def session(calls: list[LLMCall], tools: list[ToolExecution]) -> TelemetrySession:
    """Return a session with one agent that ran ten seconds."""
    end = START + timedelta(seconds=10)
    agent = AgentExecution(AgentType.CODE, "coder", START, end, llm_calls=calls, tools_used=tools)
    whole = TelemetrySession("s", START, end)
    fill_costs([task := TaskExecution("t", "", START, end, TaskStatus.COMPLETED, agents=[agent])])
    whole.add_task(task)
    return whole


def test_costs_are_those_of_the_price_table() -> None:
    """A call costs what the price table says; what is unknown, or has no tokens, has no cost."""
    assert cost_of(call("gpt-4o-mini", 1_000_000, 1_000_000)) == pytest.approx(0.15 + 0.6)
    assert cost_of(call("gpt-4o-mini", 1_000_000, 0, cached_tokens=1_000_000)) == pytest.approx(0.075)
    assert cost_of(call("no such model")) is None
    assert cost_of(call(prompt=0, completion=0)) is None
    assert cost_of(call(usage_missing=True)) is None


def test_a_given_cost_stays() -> None:
    """A cost that was given by hand is never replaced."""
    whole = session([call(cost_estimate=5.0), call("no such model")], [])
    assert whole.total_tokens.cost_estimate == 5.0


def rules(calls: list[LLMCall], tools: list[ToolExecution]) -> dict[str, str]:
    """Return rule and evidence of what is advised."""
    return {one.rule: one.evidence for one in give_advice(session(calls, tools))}


def test_advice_has_evidence() -> None:
    """Each rule speaks where it has seen something, with its figures."""
    found = rules(
        [call(), call(), call()],
        [tool("grep", 2, "k"), tool("grep", 3, "k"), *[tool("bad", 0, status=TaskStatus.FAILED)] * 2],
    )
    assert found["slow_tool"] == "5.0 s in 2 uses, 50% of 10.0 s"
    assert found["repeated_call"] == "2 times with the same arguments; 3.00 s repeated"
    assert found["retries"] == "2 failures"
    assert found["cache_miss"] == "3 calls with 6,000 prompt tokens, 0 of them from the cache"
    assert found["cheaper_model"].startswith("3 calls, 10 tokens of answer each: $0.0153, there $0.0009")


def test_no_advice_without_reason() -> None:
    """A session that is fine gets no advice."""
    cached = [call("gpt-4o-mini", 2_000, 300, cached_tokens=1_500) for _ in range(4)]
    assert rules(cached, [tool("grep", 0.5, "a"), tool("grep", 0.5, "b")]) == {}
    assert give_advice(TelemetrySession("s", START)) == []


def test_figures_and_comparison() -> None:
    """Figures count and add up, and two sessions are compared figure by figure."""
    one = session([call("gpt-4o-mini"), call("gpt-4o-mini", failed=True)], [tool("x", 1), tool("final_answer", 0)])
    own = figures(one)
    assert (own.tasks, own.agents, own.llm_calls, own.failed_calls, own.tools) == (1, 1, 2, 1, 2)
    assert (own.duration_s, own.llm_s, own.total_tokens) == (10.0, 2.0, 4_020)
    both = add_figures([own, own])
    assert both.total_tokens == 8_040
    assert both.cost_usd == pytest.approx(2 * (own.cost_usd or 0))
    assert add_figures([]).cost_usd is None
    assert ("llm_calls", 2, 0) in compare(one, session([], []))


def test_printing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Tokens and times are printed, unknown costs are said to be, and a session that is not there is not written."""
    whole = session([call("no such model")], [ToolExecution("x", START)])
    analyze_token_usage(whole)
    analyze_performance(whole)
    out = capsys.readouterr().out
    assert "no such model: 2,010 tokens, unknown" in out
    assert "coder (code): 10.00 s, 1 model calls" in out
    assert "tool x: still open" in out
    assert not export_session_data("none", tmp_path / "x.json")
