"""Ids of the running task, sub-task and agent: context variables, so each thread and task of asyncio has its own.

They go on into the tools and managed agents of a run, also into the threads in which smolagents runs generated code.
"""

from __future__ import annotations

import contextlib
import uuid
from contextvars import ContextVar
from typing import TYPE_CHECKING

from agentlightning import span_attributes
from ai_agents.telemetry.stream import SUB_TASK_ID, TASK_ID

if TYPE_CHECKING:
    from collections.abc import Generator

_task_id: ContextVar[str | None] = ContextVar("ai_agents_task_id", default=None)
_sub_task_id: ContextVar[str | None] = ContextVar("ai_agents_sub_task_id", default=None)
_agent_id: ContextVar[str | None] = ContextVar("ai_agents_agent_id", default=None)


def generate_task_id(name: str | None = None) -> str:
    """Return a fresh id: ``task_``, *name* if there is one, and 12 hexadecimal digits."""
    return f"task_{name}_{uuid.uuid4().hex[:12]}" if name else f"task_{uuid.uuid4().hex[:12]}"


def set_current_task_id(task_id: str | None) -> None:
    """Set the task of this context until it is set again."""
    _task_id.set(task_id)


def get_current_task_id() -> str | None:
    """Return the task of this context, or None."""
    return _task_id.get()


def clear_current_task_id() -> None:
    """Leave this context without a task."""
    _task_id.set(None)


def set_current_sub_task_id(sub_task_id: str | None) -> None:
    """Set the sub-task of this context until it is set again."""
    _sub_task_id.set(sub_task_id)


def get_current_sub_task_id() -> str | None:
    """Return the sub-task of this context, or None."""
    return _sub_task_id.get()


def clear_current_sub_task_id() -> None:
    """Leave this context without a sub-task."""
    _sub_task_id.set(None)


def set_current_agent_id(agent_id: str | None) -> None:
    """Set the agent of this context until it is set again."""
    _agent_id.set(agent_id)


def get_current_agent_id() -> str | None:
    """Return the agent of this context, or None."""
    return _agent_id.get()


def clear_current_agent_id() -> None:
    """Leave this context without an agent."""
    _agent_id.set(None)


@contextlib.contextmanager
def task_context(task_id: str | None = None) -> Generator[str]:
    """Work on a task, by default a new one; its spans carry the id, and the outer task comes back at the end."""
    task_id = task_id or generate_task_id()
    token = _task_id.set(task_id)
    try:
        with span_attributes({TASK_ID: task_id}):
            yield task_id
    finally:
        _task_id.reset(token)


@contextlib.contextmanager
def sub_task_context(agent_name: str, sub_task_id: str | None = None) -> Generator[str]:
    """Work on a part of the task with *agent_name*; what was set before comes back at the end."""
    sub_task_id = sub_task_id or f"sub_{agent_name}_{uuid.uuid4().hex[:8]}"
    tokens = _sub_task_id.set(sub_task_id), _agent_id.set(agent_name)
    try:
        with span_attributes({SUB_TASK_ID: sub_task_id}):
            yield sub_task_id
    finally:
        _sub_task_id.reset(tokens[0])
        _agent_id.reset(tokens[1])
