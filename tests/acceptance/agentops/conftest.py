"""The real AgentOps SDK, in an environment of its own: it pins wrapt, psutil and packaging below what we develop with.

``make matrix`` runs these tests inside each of the ``agentops-*`` environments, with that SDK; everywhere else the
programs of the tests run in ``.venvs/agentops-0.4.21``, which the first run on a machine makes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uv

from agentlightning import open_store
from agentlightning.testing import ModelServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning import Rollout, Span

ROOT = Path(__file__).parents[3]
NAME = "agentops-0.4.21"
FOLDER = ROOT / ".venvs"
# As it was before a fixture gave the test a home of its own: the cache of packages lies in the real one.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in {"VIRTUAL_ENV", "PYTHONPATH"}}
PREPARE_LIMIT_S = 280

GUARD = """
# Beginning of every program: a name or an address outside loopback ends it, and is shown.
import os, socket, sys
_real = socket.getaddrinfo
_LOOPBACK = {"localhost", "127.0.0.1", "::1", "", None, b"127.0.0.1", b"localhost"}
def _guarded(host, *args, **kwargs):
    if os.fsdecode(host or "") in os.environ.get("NAMED_HERE", "").split():
        host = "127.0.0.1"  # a name of this machine that does not look like one
    if host not in _LOOPBACK:
        with open(os.environ["RESOLVED"], "a", encoding="utf-8") as file:
            file.write(f"{host}\\n")
        raise socket.gaierror(f"outside loopback: {host}")
    return _real(host, *args, **kwargs)
socket.getaddrinfo = _guarded
_connect = socket.socket.connect
def _guarded_connect(self, address):
    host = address[0] if isinstance(address, tuple) else None
    if host not in _LOOPBACK and not (isinstance(host, str) and host.startswith("127.")):
        with open(os.environ["RESOLVED"], "a", encoding="utf-8") as file:
            file.write(f"connect {host}\\n")
        raise OSError(f"outside loopback: {host}")
    return _connect(self, address)
socket.socket.connect = _guarded_connect
"""


@dataclass(frozen=True)
class End:
    """How a program ended."""

    code: int
    stdout: str
    stderr: str
    wall_s: float
    resolved: tuple[str, ...]
    """Names that it looked up outside loopback, and addresses that it connected to: none is the promise."""

    def check(self) -> End:
        """Return this when the program ended well and stayed on this machine.

        Raises:
            AssertionError: It did not; the message holds what it wrote.
        """
        assert self.code == 0, f"ended with {self.code}:\n{self.stdout}\n{self.stderr}"
        assert not self.resolved, f"reached out to {self.resolved}:\n{self.stderr}"
        return self


@dataclass
class Sdk:
    """The environment with the SDK, and a folder for the programs of one test."""

    python: Path
    version: tuple[int, ...]
    folder: Path
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    _count: int = 0

    @property
    def agl(self) -> str:
        """The command ``agl`` of the environment."""
        return str(self.python.with_name("agl"))

    @property
    def store(self) -> str:
        """Path of the store that programs write to unless they are told otherwise: the test's default one."""
        return self.environment["AGL_STORE"]

    def script(self, code: str) -> str:
        """Write a program that begins with the guard, and return its path."""
        self._count += 1
        path = self.folder / f"program_{self._count}.py"
        path.write_text(GUARD + code, encoding="utf-8")
        return str(path)

    def start(self, code: str, *, traced: bool = False, **environment: str) -> subprocess.Popen[str]:
        """Start a program, with *traced* under ``agl run --quiet``; the caller ends it."""
        command = [str(self.python), "-X", "faulthandler", self.script(code)]
        if traced:
            command = [self.agl, "run", "--quiet", *command]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**self.environment, "RESOLVED": str(self.folder / "resolved"), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that nothing that it started stays behind
        )

    def run(self, code: str, *, traced: bool = False, patience_s: float = 100, **environment: str) -> End:
        """Run a program to its end; it may take *patience_s* seconds."""
        resolved = self.folder / "resolved"
        resolved.unlink(missing_ok=True)
        begin = time.monotonic()
        with self.start(code, traced=traced, **environment) as process:
            try:
                out, err = process.communicate(timeout=patience_s)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        wall = time.monotonic() - begin
        names = tuple(resolved.read_text(encoding="utf-8").split("\n")[:-1]) if resolved.exists() else ()
        return End(process.returncode, out, err, wall, names)

    def spans(self, rollout_id: str = "latest", store: str | None = None) -> list[Span]:
        """Return the ended spans of a rollout in *store*, default: the test's."""

        async def read() -> list[Span]:
            handle = open_store(store or self.store, create=False)
            try:
                return await handle.query_spans(await handle.find_rollout_id(rollout_id))
            finally:
                handle.close()

        return asyncio.run(read())

    def rollouts(self, store: str | None = None) -> list[Rollout]:
        """Return all rollouts of *store*, newest first."""

        async def read() -> list[Rollout]:
            handle = open_store(store or self.store, create=False)
            try:
                return await handle.query_newest_rollouts(100, children=True)
            finally:
                handle.close()

        return asyncio.run(read())


def _prepare() -> Path:
    """Make the environment, or find it made already, and return its interpreter. Safe in several processes at once."""
    import fcntl

    FOLDER.mkdir(exist_ok=True)
    interpreter = FOLDER / NAME / "bin" / "python"
    stamp = FOLDER / NAME / ".made-from"
    source = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "scripts/matrix.py"))
    wanted = hashlib.sha256(source).hexdigest()
    with (FOLDER / f"{NAME}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if interpreter.exists() and stamp.exists() and stamp.read_text() == wanted:
            return interpreter
        command = [sys.executable, str(ROOT / "scripts/matrix.py"), "--uv", uv.find_uv_bin(), "--prepare", NAME]
        done = subprocess.run(
            command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=PREPARE_LIMIT_S
        )
        assert done.returncode == 0, f"{NAME} could not be made:\n{done.stdout}{done.stderr}"
        stamp.write_text(wanted)
    return interpreter


@pytest.fixture(scope="session")
def sdk_python() -> Path:
    """Return the interpreter of an environment that has the AgentOps SDK, openai, LangChain and our package."""
    if util.find_spec("agentops") is not None:
        return Path(sys.executable)
    return _prepare()


@pytest.fixture(scope="session")
def sdk_version(sdk_python: Path) -> tuple[int, ...]:
    """Return the release of the SDK, such as ``(0, 4, 21)``."""
    code = "from importlib.metadata import version; print(version('agentops'))"
    text = subprocess.run([sdk_python, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    return tuple(int(number) for number in text.strip().split("."))


@pytest.fixture
def sdk(sdk_python: Path, sdk_version: tuple[int, ...], tmp_path: Path, isolated: Path) -> Sdk:
    """Return the SDK's environment, with a folder for programs; the store is the default one of the test."""
    found = Sdk(sdk_python, sdk_version, tmp_path)
    found.environment["HOME"] = str(isolated)
    for name in list(found.environment):
        if name.startswith(("AGENTOPS_", "COV_", "COVERAGE_")) or name in {"VIRTUAL_ENV", "PYTHONPATH"}:
            del found.environment[name]
    return found


@pytest.fixture
def model(sdk: Sdk) -> Iterator[ModelServer]:
    """Return a model server that sends token ids as vLLM does; programs of the test are sent to it."""
    with ModelServer(token_ids="vllm") as server:
        sdk.environment.update(server.environment)
        yield server
