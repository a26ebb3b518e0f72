"""Workers that are killed at random moments: every rollout ends once, none is lost, late workers decide nothing."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import pytest

from agentlightning.server.launcher import LightningStoreServer
from agentlightning.store import SqliteLightningStore
from agentlightning.types.core import AttemptStatus, RolloutConfig

if TYPE_CHECKING:
    from pathlib import Path

LEASE_S = 1.0

# Claims, works for a moment, stores a span and ends the attempt; notes what the store said to each end.
WORKER = """
import asyncio, os, sys
from agentlightning.errors import StaleAttemptError, TransitionError
from agentlightning.store import open_store
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.tracer import Span
async def main():
    store = open_store(sys.argv[1])
    log = os.open(sys.argv[2], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    while True:
        rollout = await store.dequeue_rollout(lease_s=float(sys.argv[3]))
        if rollout is None:
            await asyncio.sleep(0.05)
            continue
        ids = rollout.rollout_id, rollout.attempt.attempt_id
        await asyncio.sleep(0.1)
        # The number of an attempt makes the key of its span its own.
        await store.add_span(Span.from_record(record_of(*ids, rollout.attempt.sequence_id), 0))
        try:
            await store.update_attempt(*ids, status="succeeded")
            said = "accepted"
        except StaleAttemptError:
            said = "stale"
        except TransitionError:
            said = "over"
        os.write(log, f"{said} {ids[0]} {ids[1]}\\n".encode())
asyncio.run(main())
"""


class Size(NamedTuple):
    """How much is done."""

    workers: int
    rollouts: int
    kills: int


class Workers:
    """Worker processes, of which any may be killed or held."""

    def __init__(self, command: list[str], count: int) -> None:
        self._command = command
        self._processes = [self._start() for _ in range(count)]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command)

    def kill(self, index: int) -> None:
        """Kill one and start another in its place."""
        self._processes[index].kill()
        self._processes[index].wait()
        self._processes[index] = self._start()

    def hold(self, index: int, seconds: float) -> None:
        """Let one stand still, as a machine that sleeps does."""
        self._processes[index].send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._processes[index].send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill all."""
        for process in self._processes:
            process.kill()
            process.wait()


async def check(store: SqliteLightningStore, notes: list[list[str]], size: Size) -> str:
    """Every rollout succeeded by one attempt, and each refused attempt left its span."""
    said = Counter(note[0] for note in notes)
    accepted = Counter(note[1] for note in notes if note[0] == "accepted")
    rollouts = await store.query_rollouts()
    attempts = [await store.query_attempts(rollout.rollout_id) for rollout in rollouts]
    succeeded = [sum(attempt.status == "succeeded" for attempt in of_rollout) for of_rollout in attempts]
    assert {rollout.status for rollout in rollouts} == {"succeeded"}
    assert succeeded == [1] * size.rollouts
    assert max(accepted.values()) == 1
    for _, rollout_id, attempt_id in (note for note in notes if note[0] == "stale"):
        assert len(await store.query_spans(rollout_id, attempt_id)) == 1
    retries = sum(len(of_rollout) - 1 for of_rollout in attempts)
    return f"{sum(succeeded)} of {size.rollouts} succeeded, {retries} retries, {said['stale']} late ends refused"


def run(url: str, store: SqliteLightningStore, folder: Path, size: Size) -> None:
    """Let workers do all rollouts while they are killed and held."""
    log = folder / "ends.log"
    log.touch()
    retried: list[AttemptStatus] = ["unresponsive", "timeout", "failed"]
    config = RolloutConfig(max_attempts=1000, retry_condition=retried)
    asyncio.run(store.enqueue_rollouts(list(range(size.rollouts)), config=config))
    workers = Workers([sys.executable, "-c", WORKER, url, str(log), str(LEASE_S)], size.workers)
    chance = random.Random(9)
    kills = 0
    deadline = time.monotonic() + 500
    try:
        while asyncio.run(store.statistics()).statuses != {"succeeded": size.rollouts}:
            assert time.monotonic() < deadline
            time.sleep(0.3)
            if kills < size.kills and log.stat().st_size:
                index = chance.randrange(size.workers)
                workers.hold(index, LEASE_S + 0.5) if kills % 4 == 0 else workers.kill(index)
                kills += 1
        time.sleep(0.2)  # who was held says what it has to say
    finally:
        workers.end()
    notes = [line.split() for line in log.read_text().splitlines() if line.count(" ") == 2]
    print(f"\n{kills} times a worker of {size.workers} killed or held: {asyncio.run(check(store, notes, size))}")


SHORT = Size(int(os.environ.get("AGL_TEST_WORKERS", "3")), int(os.environ.get("AGL_TEST_ROLLOUTS", "40")), kills=4)
LONG = Size(workers=8, rollouts=2000, kills=10**9)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", ["file", "http"])
def test_every_rollout_ends_once_though_workers_are_killed(tmp_path: Path, way: str, size: Size) -> None:
    """Rollouts whose worker was killed are claimed again after their lease, and each succeeds exactly once."""
    store = SqliteLightningStore(tmp_path / "queue.db")
    if way == "file":
        run(str(store.url), store, tmp_path, size)
        store.close()
        return
    with LightningStoreServer(store, "127.0.0.1", 0) as server:
        run(server.endpoint, store, tmp_path, size)


async def test_a_late_worker_decides_nothing_and_its_spans_are_kept(tmp_path: Path) -> None:
    """Once a later attempt exists, a status of the one before is a StaleAttemptError over HTTP too; its span stays."""
    from agentlightning.errors import StaleAttemptError
    from agentlightning.store import LightningStoreClient
    from agentlightning.testing.store_contract_spans import record_of
    from agentlightning.types.tracer import Span

    with LightningStoreServer(SqliteLightningStore(tmp_path / "queue.db"), "127.0.0.1", 0) as server:
        late, other = LightningStoreClient(server.endpoint), LightningStoreClient(server.endpoint)
        retried: list[AttemptStatus] = ["unresponsive"]
        await late.enqueue_rollout("x", config=RolloutConfig(max_attempts=2, retry_condition=retried))
        first = await late.dequeue_rollout(lease_s=0.2)
        assert first is not None
        second = None
        while second is None:
            second = await other.dequeue_rollout(lease_s=60)
            await asyncio.sleep(0.02)
        ids = first.rollout_id, first.attempt.attempt_id
        assert (await late.add_span(Span.from_record(record_of(*ids, 1), 0))).attempt_id == ids[1]
        with pytest.raises(StaleAttemptError):
            await late.update_attempt(*ids, status="succeeded")
        with pytest.raises(StaleAttemptError):
            await late.heartbeat(*ids)
        assert (await other.update_attempt(first.rollout_id, second.attempt.attempt_id, status="succeeded")).end_time
        rollout = await other.get_rollout_by_id(first.rollout_id)
        assert rollout is not None
        assert rollout.status == "succeeded"
        assert [attempt.status for attempt in await other.query_attempts(first.rollout_id)] == [
            "unresponsive", "succeeded"
        ]  # fmt: skip
        assert len(await other.query_spans(*ids)) == 1
        late.close()
        other.close()
