"""Stores with known content, and agl as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning.store import SqliteLightningStore
from agentlightning.types.record import AttemptEnd, ResourceRecord, RolloutStart, SpanRecord, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass
class Writer:
    """Writes spans of made-up rollouts into a store file."""

    path: Path
    counter: int = 0
    started: set[str] = field(default_factory=set[str])
    begin_ns: int = field(default_factory=time.time_ns)

    def __post_init__(self) -> None:
        """Open the store."""
        self.store = SqliteLightningStore(self.path)

    def span(self, rollout: str, name: str, attributes: dict[str, Any] | None = None, **given: Any) -> SpanRecord:
        """Make a span, ended unless ``end_ns=None`` is given; *attributes* in any dialect."""
        self.counter += 1
        start_ns = given.get("start_ns", self.begin_ns + self.counter * 1_000_000)
        fields: dict[str, Any] = {
            "rollout_id": f"ro-{rollout}",
            "attempt_id": f"at-{rollout}",
            "counter": self.counter,
            "trace_id": f"{hash(rollout) & (2**64 - 1):032x}",
            "span_id": f"{self.counter:016x}",
            "name": name,
            "start_ns": start_ns,
            "end_ns": start_ns + 250_000_000,
            "attributes": attributes or {},
            "resource": ResourceRecord({}),
            "process": "elsewhere/1/1",
        }
        return SpanRecord(**(fields | given))

    def write(self, *spans: SpanRecord, end: str | None = None, task: object = None, **given: Any) -> None:
        """Write spans of one rollout, with its start the first time and its *end* (a status) when that is given."""
        rollout_id, attempt_id = spans[0].rollout_id, spans[0].attempt_id
        batch = WriteBatch(spans=list(spans))
        if rollout_id not in self.started:
            self.started.add(rollout_id)
            batch.starts = [
                RolloutStart(
                    rollout_id=rollout_id,
                    attempt_id=attempt_id,
                    project="default",
                    start_ns=spans[0].start_ns,
                    input=task,
                    **given,
                )
            ]
        if end:
            last = max(span.end_ns or span.start_ns for span in spans)
            batch.ends = [AttemptEnd(rollout_id=rollout_id, attempt_id=attempt_id, status=end, end_ns=last)]
        self.store.write_batch(batch)

    def call(self, rollout: str, *said: tuple[str, str], answer: str = "yes", **given: Any) -> SpanRecord:
        """Make an LLM call of 1,000 prompt and 100 output tokens with these messages."""
        attributes: dict[str, Any] = {
            "openinference.span.kind": "LLM",
            "llm.model_name": given.pop("model", "gpt-4o"),
            "llm.provider": "openai",
            "llm.token_count.prompt": 1000,
            "llm.token_count.completion": 100,
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.content": answer,
        }
        for place, (role, text) in enumerate(said):
            attributes[f"llm.input_messages.{place}.message.role"] = role
            attributes[f"llm.input_messages.{place}.message.content"] = text
        return self.span(rollout, "chat", attributes | given.pop("more", {}), **given)


@pytest.fixture
def make_writer(tmp_path: Path) -> Iterator[Callable[[], Writer]]:
    """Give what makes the store when it is called, and a writer of it."""
    made: list[Writer] = []

    def make() -> Writer:
        made.append(Writer(tmp_path / "store.db"))
        return made[-1]

    yield make
    for each in made:
        each.store.close()


@pytest.fixture
def writer(make_writer: Callable[[], Writer]) -> Writer:
    """Give a writer of an empty store, which is the default one for agl."""
    return make_writer()


@dataclass
class Agl:
    """Runs ``agl`` in processes of its own."""

    path: Path

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of a process."""
        return {**os.environ, "AGL_STORE": str(self.path), "TZ": "UTC", **variables}

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start ``agl`` with pipes."""
        return subprocess.Popen(
            [sys.executable, "-m", "agentlightning.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=self.environment(**variables),
        )

    def __call__(self, *arguments: str, code: int = 0, **variables: str) -> str:
        """Run ``agl``, check its exit code, and return what it printed: stdout, or stderr where it failed."""
        with self.start(*arguments, **variables) as process:
            out, errors = process.communicate(timeout=60)
        assert process.returncode == code, errors
        if code:
            assert out == ""
            return errors
        assert errors == ""
        return out


@pytest.fixture
def agl(tmp_path: Path) -> Agl:
    """Give ``agl`` with the store that ``writer`` writes."""
    return Agl(tmp_path / "store.db")
