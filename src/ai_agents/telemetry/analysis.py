"""Reading sessions: tokens and times as text, one session as a file, several as rows, and two side by side."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ai_agents.telemetry.advice import give_advice
from ai_agents.telemetry.loose import aware
from ai_agents.telemetry.types import TaskStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ai_agents.telemetry.types import LLMCall, TelemetrySession, ToolExecution

__all__ = [
    "SessionFigures",
    "analyze_performance",
    "analyze_token_usage",
    "compare",
    "export_session_data",
    "figures",
    "give_advice",
    "llm_calls",
    "tool_uses",
]


@dataclass(frozen=True)
class SessionFigures:
    """The figures of one session, or the sums of several."""

    tasks: int = 0
    failed_tasks: int = 0
    agents: int = 0
    llm_calls: int = 0
    failed_calls: int = 0
    tools: int = 0
    failed_tools: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cost_usd: float | None = None
    """None where no cost is known."""
    duration_s: float = 0.0
    llm_s: float = 0.0
    """Seconds that models took, added up."""
    tool_s: float = 0.0
    """Seconds that tools took, added up."""


def figures(session: TelemetrySession) -> SessionFigures:
    """Return the figures of *session*; of what went to disk only tasks, time, tokens and cost are in it."""
    calls, tools, tokens = list(llm_calls(session)), list(tool_uses(session)), session.total_tokens
    return SessionFigures(
        tasks=len(session.tasks) + session.archived_tasks,
        failed_tasks=sum(task.status is TaskStatus.FAILED for task in session.tasks),
        agents=sum(len(task.agents) + task.archived_agents for task in session.tasks),
        llm_calls=len(calls),
        failed_calls=sum(call.failed for call in calls),
        tools=len(tools),
        failed_tools=sum(tool.status is TaskStatus.FAILED for tool in tools),
        prompt_tokens=tokens.prompt_tokens,
        completion_tokens=tokens.completion_tokens,
        total_tokens=tokens.total_tokens,
        cost_usd=tokens.cost_estimate,
        duration_s=session.total_duration,
        llm_s=sum(call.duration for call in calls),
        tool_s=sum(tool.duration or 0.0 for tool in tools),
    )


def add_figures(several: Iterable[SessionFigures]) -> SessionFigures:
    """Return the sums; the cost is that of the sessions whose cost is known."""
    sums: dict[str, float | None] = {}
    for one in several:
        for name, value in vars(one).items():
            if value is not None:
                sums[name] = (sums.get(name) or 0) + value
    return SessionFigures(**sums)  # type: ignore[arg-type] - the names and types are those of the fields


def llm_calls(session: TelemetrySession) -> Iterator[LLMCall]:
    """Yield every model call of *session*, by task and agent."""
    for task in session.tasks:
        yield from task.llm_calls
        for agent in task.agents:
            yield from agent.llm_calls


def tool_uses(session: TelemetrySession) -> Iterator[ToolExecution]:
    """Yield every use of a tool in *session*, by task and agent, without the giving of the final answer."""
    for task in session.tasks:
        for tool in (*task.tools, *(tool for agent in task.agents for tool in agent.tools_used)):
            if not tool.is_final_answer:
                yield tool


def analyze_token_usage(session: TelemetrySession) -> None:
    """Print tokens, by model, and cost."""
    sys.stdout.write("".join(f"{line}\n" for line in token_lines(session)))


def analyze_performance(session: TelemetrySession) -> None:
    """Print how long the session, its tasks, agents and tools took."""
    sys.stdout.write("".join(f"{line}\n" for line in performance_lines(session)))


def token_lines(session: TelemetrySession) -> Iterator[str]:
    """Yield what ``analyze_token_usage`` prints."""
    usage = session.total_tokens
    yield f"Total tokens: {usage.total_tokens:,}"
    yield f"Prompt tokens: {usage.prompt_tokens:,}"
    yield f"Completion tokens: {usage.completion_tokens:,}"
    for model, part in usage.model_breakdown.items():
        yield f"  {model}: {part.total_tokens:,} tokens, {dollars(part.cost_estimate)}"
    yield f"Cost: {dollars(usage.cost_estimate)}"


def performance_lines(session: TelemetrySession) -> Iterator[str]:
    """Yield what ``analyze_performance`` prints."""
    yield f"Total time: {session.total_duration:.2f} s"
    for task in session.tasks:
        yield f"Task {task.task_id} ({task.status.value}): {_seconds(task.duration)}"
        for agent in sorted(task.agents, key=lambda agent: aware(agent.start_time)):
            calls = len(agent.llm_calls)
            yield f"  {agent.agent_name} ({agent.agent_type.value}): {_seconds(agent.duration)}, {calls} model calls"
            yield from (f"    {line}" for line in _tool_lines(agent.tools_used))
        yield from (f"  {line}" for line in _tool_lines(task.tools))


def _tool_lines(uses: list[ToolExecution]) -> Iterator[str]:
    """Yield a line for each tool, in the order of their first uses."""
    by_name: dict[str, list[ToolExecution]] = {}
    for use in uses:
        by_name.setdefault(use.tool_name, []).append(use)
    for name, same in by_name.items():
        ended = [use.duration for use in same if use.duration is not None]
        seconds = _seconds(sum(ended) if ended else None)
        yield f"tool {name}: {seconds}" + (f" in {len(same):,} uses" if len(same) > 1 else "")


def export_session_data(session_id: str, output_file: str | Path) -> bool:
    """Write a session of this user as JSON; return whether there is one of this id.

    Raises:
        OSError: The file cannot be written.
    """
    from ai_agents.telemetry.manager import TelemetryManager  # noqa: PLC0415 - only to look a session up

    session = TelemetryManager.get_instance().get_session_data(session_id)
    if session is None:
        return False
    Path(output_file).write_text(session.to_json(), encoding="utf-8")
    return True


def compare(one: TelemetrySession, other: TelemetrySession) -> list[tuple[str, float | None, float | None]]:
    """Return name, figure of the one and figure of the other for every figure of two sessions."""
    left, right = vars(figures(one)), vars(figures(other))
    return [(name, left[name], right[name]) for name in left]


def dollars(amount: float | None) -> str:
    """Return an amount of USD as text; unknown where there is none."""
    if amount is None:
        return "unknown"
    return f"${amount:.4f}" if amount >= 0.001 or amount == 0 else f"${amount:.2g}"  # noqa: PLR2004 - 0.1 cent


def _seconds(duration: float | None) -> str:
    return "still open" if duration is None else f"{duration:.2f} s"
