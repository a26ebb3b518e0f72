"""A session as a file: what is written of it, and how a file is read back, also one whose process was killed."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec

from agentlightning.pipeline.redaction import Redactor
from ai_agents.telemetry.book import add_up, end_record
from ai_agents.telemetry.loose import EPOCH, aware
from ai_agents.telemetry.types import TaskStatus, TelemetrySession

if TYPE_CHECKING:
    from ai_agents.telemetry.types import EnvironmentInfo, TaskExecution
    from ai_agents.telemetry.value import JsonObject


_NO_TEXT = {"start_time", "end_time", "timestamp", "status", "agent_type", "arguments_key", "kind"}
"""Fields that hold nothing that anybody wrote."""

_encoder = msgspec.json.Encoder(enc_hook=str)  # ten times as fast as the standard library with indentation


def encode(session: TelemetrySession) -> bytes:
    """Return the content of the file of *session*, without credentials and without the user's home."""
    cleaner = _Cleaner()
    data = session.to_dict()
    data["environment"] = _public(session.environment, cleaner).to_dict()
    for task in cast("list[JsonObject]", data["tasks"]):
        cleaner.clean(task)
    return _dump(data, indent=1)


def encode_lines(records: list[JsonObject]) -> bytes:
    """Return records that leave the memory as lines of JSON, without credentials."""
    cleaner = _Cleaner()
    for record in records:
        cleaner.clean(record)
    return b"".join(map(_dump, records))


def _dump(data: object, *, indent: int = -1) -> bytes:
    """Return *data* as JSON with a line break at its end."""
    try:
        text = _encoder.encode(data)
    except (ValueError, OverflowError):  # half a surrogate pair, a number of more than 64 bits
        width = indent if indent > 0 else None
        text = json.dumps(data, indent=width, default=str, ensure_ascii=False).encode("utf-8", "backslashreplace")
    else:
        text = msgspec.json.format(text, indent=indent) if indent > 0 else text
    return text + b"\n"


def decode(content: bytes, written_at: float) -> TelemetrySession:
    """Return the session in the content of a file that was written at *written_at*, seconds since 1970.

    A session that never ended and whose process is gone ended as PARTIAL when the file was written.

    Raises:
        ValueError: It is no JSON, or not an object.
    """
    data: object = json.loads(content)
    if not isinstance(data, dict) or "session_id" not in data:
        msg = "the file holds no session"
        raise ValueError(msg)
    session = TelemetrySession.from_dict(cast("JsonObject", data))
    if session.end_time is None and _is_gone(session.process):
        _end_as_partial(session, datetime.fromtimestamp(written_at, timezone.utc))
    return session


def _end_as_partial(session: TelemetrySession, end: datetime) -> None:
    session.end_time = end
    for task in session.tasks:
        for record in (*task.agents, *task.tools, *(tool for agent in task.agents for tool in agent.tools_used)):
            end_record(record, end)
        if task.end_time is None:
            _end_task(task, end)
    add_up(session, session.tasks)


def _end_task(task: TaskExecution, end: datetime) -> None:
    task.end_time = (
        end if aware(task.start_time) > EPOCH else task.start_time
    )  # a start that was not written: no duration
    task.status = TaskStatus.PARTIAL


def _is_gone(process: str) -> bool:
    """Tell whether the process that recorded a session has ended; one that was not noted has."""
    import psutil  # noqa: PLC0415 - readers only

    pid, _, start = process.partition(":")
    if not pid.isdigit():
        return True
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != start
    except (psutil.Error, OverflowError):
        return True


def _public(environment: EnvironmentInfo, cleaner: _Cleaner) -> EnvironmentInfo:
    home = os.environ.get("HOME") or str(Path.home())

    def clean(text: str) -> str:
        """Return *text* without secrets, and with ``~`` for the home folder."""
        text = cleaner.text(text)
        return text.replace(home, "~") if len(home) > 1 else text

    variables = {name: clean(value) for name, value in environment.environment_variables.items()}
    return replace(
        environment,
        working_directory=clean(environment.working_directory),
        project_root=clean(environment.project_root),
        environment_variables=variables,
    )


class _Cleaner:
    """Takes credentials out of the texts of records; names come again and again and are looked at once."""

    def __init__(self) -> None:
        self.text = functools.lru_cache(maxsize=4096)(Redactor().text)

    def clean(self, record: JsonObject) -> None:
        """Take credentials out of the texts of a record and of those in it."""
        for key, value in record.items():
            if isinstance(value, str):
                if key not in _NO_TEXT:
                    record[key] = self.text(value)
            elif isinstance(value, list):
                for item in cast("list[object]", value):
                    if isinstance(item, dict):
                        self.clean(cast("JsonObject", item))
