"""Real programs, started with and without ``agl run``."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning import open_store

if TYPE_CHECKING:
    from agentlightning import Rollout, Span

AGL = str(Path(sys.executable).with_name("agl"))

SPANS = """
from opentelemetry import trace
tracer = trace.get_tracer("test")
def emit(name):
    with tracer.start_as_current_span(name):
        pass
"""
"""Beginning of a program that writes spans; without ``agl run`` they are no-ops."""


@dataclass(frozen=True)
class End:
    """How a program ended and what it wrote."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def last_line(self) -> str:
        """Return the last line on stderr."""
        lines = self.stderr.decode().splitlines()
        return lines[-1] if lines else ""


@dataclass
class Lab:
    """A folder with programs in it, and a store."""

    folder: Path
    store: Path
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def script(self, code: str, name: str = "program.py", *, spans: bool = True) -> str:
        """Write a program and return its name in the folder."""
        (self.folder / name).write_text((SPANS if spans else "") + code)
        return name

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start *command* in the folder with pipes for its streams."""
        settings: dict[str, Any] = {
            "cwd": self.folder,
            "env": self.environment,
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        return subprocess.Popen[bytes](command, **{**settings, **options})

    def run(self, command: list[str], *, stdin: bytes = b"", patience_s: float = 100, **options: Any) -> End:
        """Run *command* to its end."""
        with self.start(command, **options) as process:
            try:
                out, err = process.communicate(stdin, timeout=patience_s)
            except BaseException:
                process.kill()
                raise
        return End(process.returncode, out or b"", err or b"")

    def traced(self, *program: str, options: tuple[str, ...] = (), **more: Any) -> End:
        """Run ``agl run`` with *options* and *program*."""
        return self.run([AGL, "run", *options, *program], **more)

    def python(self, code: str, *arguments: str, **more: Any) -> End:
        """Run a program that writes spans under ``agl run``."""
        return self.traced(sys.executable, self.script(code), *arguments, **more)

    def both(self, *program: str, **more: Any) -> tuple[End, End]:
        """Run *program* without ``agl``, then with ``agl run --quiet``."""
        return self.run(list(program), **more), self.traced(*program, options=("--quiet",), **more)

    def spans(self, rollout_id: str = "latest") -> list[Span]:
        """Return the ended spans of a rollout."""

        async def read() -> list[Span]:
            store = open_store(str(self.store), create=False)
            try:
                return await store.query_spans(await store.find_rollout_id(rollout_id))
            finally:
                store.close()

        return asyncio.run(read())

    def rollouts(self, *, children: bool = True) -> list[Rollout]:
        """Return all rollouts, newest first."""

        async def read() -> list[Rollout]:
            store = open_store(str(self.store), create=False)
            try:
                return await store.query_newest_rollouts(100, children=children)
            finally:
                store.close()

        return asyncio.run(read())


@pytest.fixture
def lab(tmp_path: Path, isolated: Path) -> Lab:
    """Return a folder for programs; the store is the default one of the test."""
    return Lab(tmp_path, Path(os.environ["AGL_STORE"]))
