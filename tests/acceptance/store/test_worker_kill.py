"""Workers that are killed at random moments: every rollout ends once, and none is lost."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from agentlightning.store import SqliteLightningStore
from agentlightning.types.core import AttemptStatus, RolloutConfig
from agentlightning.types.query import RolloutFilter

if TYPE_CHECKING:
    from pathlib import Path

WORKERS = int(os.environ.get("AGL_TEST_WORKERS", "3"))
ROLLOUTS = int(os.environ.get("AGL_TEST_ROLLOUTS", "60"))
LEASE_S = 1.0

# Claims, works for a moment, stores a span and ends the attempt; notes each end that the store accepted.
WORKER = """
import asyncio, os, sys
from agentlightning.errors import TransitionError
from agentlightning.store import SqliteLightningStore
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.tracer import Span
async def main():
    store = SqliteLightningStore(sys.argv[1])
    log = os.open(sys.argv[2], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    print("ready", flush=True)
    while True:
        rollout = await store.dequeue_rollout(lease_s=float(sys.argv[3]))
        if rollout is None:
            await asyncio.sleep(0.05)
            continue
        ids = rollout.rollout_id, rollout.attempt.attempt_id
        await asyncio.sleep(0.02)
        await store.add_span(Span.from_record(record_of(*ids, 1), 0))
        try:
            await store.update_attempt(*ids, status="succeeded")
        except TransitionError:
            continue
        os.write(log, (ids[0] + "\\n").encode())
asyncio.run(main())
"""


@pytest.mark.timeout(600)
def test_every_rollout_ends_once_though_workers_are_killed(tmp_path: Path) -> None:
    """Rollouts whose worker was killed are claimed again after their lease, and each succeeds exactly once."""
    path, log = tmp_path / "queue.db", tmp_path / "ends.log"
    store = SqliteLightningStore(path)
    retried: list[AttemptStatus] = ["unresponsive", "timeout", "failed"]
    config = RolloutConfig(max_attempts=1000, retry_condition=retried)
    asyncio.run(store.enqueue_rollouts(list(range(ROLLOUTS)), config=config))
    command = [sys.executable, "-c", WORKER, str(path), str(log), str(LEASE_S)]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def kill(worker: subprocess.Popen[str]) -> None:
        worker.kill()
        worker.communicate()

    workers = [start() for _ in range(WORKERS)]
    chance = random.Random(9)
    kills = 0
    deadline = time.monotonic() + 500
    while asyncio.run(store.statistics()).statuses != {"succeeded": ROLLOUTS} and time.monotonic() < deadline:
        time.sleep(0.3)
        if kills < 2 * WORKERS or ROLLOUTS > 500:
            index = chance.randrange(WORKERS)
            if workers[index].stdout is not None and workers[index].poll() is None:
                kill(workers[index])
                kills += 1
                workers[index] = start()
    for worker in workers:
        kill(worker)
    rollouts = asyncio.run(store.query_rollouts(where=RolloutFilter()))
    attempts = [asyncio.run(store.query_attempts(rollout.rollout_id)) for rollout in rollouts]
    succeeded = [sum(attempt.status == "succeeded" for attempt in of_rollout) for of_rollout in attempts]
    noted = Counter(log.read_text().split())
    retries = sum(len(of_rollout) - 1 for of_rollout in attempts)
    print(f"\n{kills} kills of {WORKERS} workers: {sum(succeeded)} of {ROLLOUTS} rollouts succeeded, {retries} retries")
    assert {rollout.status for rollout in rollouts} == {"succeeded"}
    assert succeeded == [1] * ROLLOUTS
    assert max(noted.values()) == 1
    store.close()
