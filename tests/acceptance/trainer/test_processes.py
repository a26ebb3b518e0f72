"""A trainer with processes, and what is left when they are killed or stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = """
import asyncio, logging, os, sys, time
from agentlightning import *
from agentlightning.store import LightningStoreClient

@rollout
def agent(task, llm):
    emit_message(f"{task} {os.getpid()}")
    if task == "kill":
        os.kill(os.getpid(), 9)
    if task == "raise":
        raise ValueError(task)
    if task == "slow":
        print("slow", flush=True)
        time.sleep(60)
    return 1.0

@algo
async def train(store, train_dataset, initial_resources):
    update = await store.add_resources(initial_resources)
    config = RolloutConfig(max_attempts=2, retry_condition=["failed", "unresponsive"])
    queued = await store.enqueue_rollouts(train_dataset, resources_id=update.resources_id, config=config)
    done = await store.wait_for_rollouts(rollout_ids=[one.rollout_id for one in queued], timeout=None)
    print("done", len(done), flush=True)

def main(tasks, **options):
    logging.basicConfig(level=logging.WARNING)
    resources = {"main": LLM(endpoint="http://127.0.0.1:1/v1", model="m")}
    options.setdefault("store", open_store("own.db"))
    Trainer(algorithm=train, initial_resources=resources, **options).fit(agent, tasks)

if __name__ == "__main__":
"""


class Program:
    """A program that trains, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, call: str, name: str = "program.py", **environment: str) -> subprocess.Popen[str]:
        """Start the program that does *call*."""
        (self._folder / name).write_text(PROGRAM + "    " + call + "\n")
        process = subprocess.Popen(
            [sys.executable, name], cwd=self._folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **environment}, start_new_session=True,
        )  # fmt: skip
        self._processes.append(process)
        return process

    def run(self, call: str) -> tuple[int, str, str]:
        """Run the program that does *call* to its end."""
        process = self.start(call)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def rollouts(self) -> dict[str, list[str]]:
        """Return the status of each rollout and of its attempts, by its input."""

        async def read() -> dict[str, list[str]]:
            store = open_store(str(self._folder / "own.db"))
            found: dict[str, list[str]] = {}
            for rollout in await store.query_rollouts():
                attempts = await store.query_attempts(rollout.rollout_id)
                assert rollout.metadata is None  # none is an implicit one that a stray span made
                found[rollout.input] = [rollout.status, *(attempt.status for attempt in attempts)]
            store.close()
            return found

        return asyncio.run(read())

    def close(self) -> None:
        """Kill what is left."""
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """Give a program that trains."""
    program = Program(tmp_path)
    yield program
    program.close()


def test_killed_workers_are_replaced(program: Program) -> None:
    """A task that kills its process costs two attempts, as its configuration says; all others succeed."""
    code, out, err = program.run('main(["a", "kill", "b", "raise", "c"], strategy="cs", n_runners=2)')
    assert (code, out) == (0, "done 5\n"), err
    assert program.rollouts() == {
        "a": ["succeeded", "succeeded"], "b": ["succeeded", "succeeded"], "c": ["succeeded", "succeeded"],
        "kill": ["failed", "failed", "failed"], "raise": ["failed", "failed", "failed"],
    }  # fmt: skip
    assert err.count("is replaced") == 2


@pytest.mark.parametrize("strategy", ["shm", "cs"])
def test_ctrl_c_stops_soon_and_leaves_order(program: Program, strategy: str, load: float) -> None:
    """Ctrl+C ends everything within 5 s; what was running waits in the queue again, what was done stays done."""
    process = program.start(f'main(["a", "slow", "slow 2"], strategy="{strategy}", n_runners=1)')
    assert process.stdout is not None
    assert process.stdout.readline() == "slow\n"
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 5 * load
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    found = program.rollouts()
    assert found["a"] == ["succeeded", "succeeded"]
    assert found["slow"][0] in ("requeuing", "queuing")
    assert found["slow 2"] == ["queuing"]
    assert is_group_gone(process.pid)


def is_group_gone(group: int) -> bool:
    """Tell whether nothing of a process group is left, also multiprocessing's own helper, which ends a little later."""
    for _ in range(40):
        if not subprocess.run(["pgrep", "-g", str(group)], check=False, capture_output=True).stdout:
            return True
        time.sleep(0.05)
    return False


def test_roles_may_start_each_for_itself(program: Program) -> None:
    """An algorithm and two runners, started as programs of their own, meet over HTTP."""
    port = str(free_port())
    role = {"AGL_SERVER_PORT": port}
    algorithm = program.start('main(["a", "b", "c", "d"], strategy="cs")', AGL_CURRENT_ROLE="algorithm", **role)
    runners = [
        program.start('main(None, strategy="cs", max_rollouts=2)', f"runner{n}.py", AGL_CURRENT_ROLE="runner", **role)
        for n in range(2)
    ]
    out, err = algorithm.communicate(timeout=60)
    assert (algorithm.returncode, out) == (0, "done 4\n"), err
    for runner in runners:
        runner.kill()  # how many tasks each got is chance; the one that got fewer waits for more
    assert program.rollouts() == {task: ["succeeded", "succeeded"] for task in "abcd"}


def test_machines_meet_at_a_store_with_tokens(program: Program, tmp_path: Path, load: float) -> None:
    """As documented for several machines: a store server that wants tokens, the algorithm and two runners, each alone.

    Ctrl+C ends a runner that has nothing to do within 5 s, and in order.
    """
    port = free_port()
    agl, tokens = [sys.executable, "-m", "agentlightning.cli"], str(tmp_path / "tokens.json")
    making = [*agl, "store", "token", tokens, "--name", "ci", "--scope", "write"]
    token = subprocess.run(making, check=True, capture_output=True, text=True).stdout.strip()
    serving = [*agl, "store", "serve", "--host", "0.0.0.0", "--port", str(port), "--tokens", tokens]
    server = subprocess.Popen([*serving, "--store", str(tmp_path / "own.db")], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        assert "serving" in server.stderr.readline()
        how = (
            f'store=LightningStoreClient("http://127.0.0.1:{port}"), '
            "strategy=ClientServerExecutionStrategy(role={role!r}, managed_store=False)"
        )
        runners = [
            program.start(f"main(None, {how.format(role='runner')})", f"runner{n}.py", AGL_STORE_TOKEN=token)
            for n in range(2)
        ]
        call = f'main(["a", "raise", "b", "c"], {how.format(role="algorithm")})'
        algorithm = program.start(call, AGL_STORE_TOKEN=token)
        out, err = algorithm.communicate(timeout=60)
        assert (algorithm.returncode, out) == (0, "done 4\n"), err
        begun = time.monotonic()
        for runner in runners:
            runner.send_signal(signal.SIGINT)
        assert [runner.wait(60) for runner in runners] == [-signal.SIGINT] * 2
        assert time.monotonic() - begun < 5 * load
    finally:
        server.terminate()
        server.communicate()
    found = program.rollouts()
    assert found.pop("raise") == ["failed", "failed", "failed"]
    assert found == {task: ["succeeded", "succeeded"] for task in "abc"}


def free_port() -> int:
    """Return a port that nobody listens on."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_the_algorithm_may_have_the_process(program: Program) -> None:
    """With ``main_process="runner"`` the runner is in the program's process and the algorithm in its own."""
    call = 'main(["a", "b"], strategy=ClientServerExecutionStrategy(main_process="runner"))'
    code, out, err = program.run(call)
    assert (code, out) == (0, "done 2\n"), err
    assert program.rollouts() == {task: ["succeeded", "succeeded"] for task in "ab"}


def test_what_cannot_be_pickled_is_forked(program: Program) -> None:
    """An agent that lives in a function works in processes too."""
    code, out, err = program.run("agent = wrap(lambda task: 5.0); main(['a'], strategy='cs')")
    assert (code, out) == (0, "done 1\n"), err
    assert program.rollouts() == {"a": ["succeeded", "succeeded"]}


def test_a_private_store_of_processes_is_copied_and_removed(program: Program, tmp_path: Path) -> None:
    """Without ``store=`` the rollouts arrive in ``$AGL_STORE``, and no temporary file stays."""
    call = """
    import tempfile; tempfile.tempdir = os.getcwd()
    os.environ["AGL_STORE"] = "own.db"
    resources = {"m": LLM(endpoint="http://127.0.0.1:1", model="m")}
    Trainer(strategy="cs", initial_resources=resources).dev(agent, ["a", "b"])
"""
    code, _, err = program.run(call)
    assert code == 0, err
    assert program.rollouts() == {task: ["succeeded", "succeeded"] for task in "ab"}
    assert not list(tmp_path.glob("agentlightning-*"))


def test_the_store_is_consistent_after_a_kill(program: Program) -> None:
    """SIGKILL of the whole group leaves a store that opens, with nothing claimed for ever."""
    process = program.start('main(["a", "slow"], strategy="cs")')
    assert process.stdout is not None
    assert process.stdout.readline() == "slow\n"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    found: Any = program.rollouts()
    assert found["a"] == ["succeeded", "succeeded"]
    assert found["slow"][0] in ("running", "preparing")
