"""Many processes on one SQLite file."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from agentlightning.store import SqliteLightningStore

if TYPE_CHECKING:
    from pathlib import Path

# Each process writes batches as fast as it can and prints its longest wait; any error ends it with a traceback.
WRITER = """
import json, sys, time
from agentlightning.store.sql.writer import SqliteWriter
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.record import WriteBatch
path, name, batches = sys.argv[1], sys.argv[2], int(sys.argv[3])
writer = SqliteWriter(path)
longest = 0.0
for number in range(batches):
    spans = [record_of(f"ro-{name}", f"at-{name}", n, attributes={"text": "x" * 900}) for n in range(20)]
    started = time.monotonic()
    assert writer.write_batch(WriteBatch(spans=spans)).stored == 20
    longest = max(longest, time.monotonic() - started)
writer.close()
print(json.dumps(longest))
"""

WORKER = """
import asyncio, json, sys
from agentlightning.store import SqliteLightningStore
async def main():
    store = SqliteLightningStore(sys.argv[1])
    mine = []
    while (rollout := await store.dequeue_rollout(worker_id=sys.argv[2])) is not None:
        mine.append(rollout.rollout_id)
        await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="succeeded")
    print(json.dumps(mine))
asyncio.run(main())
"""


def run_all(code: str, arguments: list[list[str]]) -> list[str]:
    """Run *code* in a process for each list of arguments, all at once, and return what they print."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for given in arguments
    ]
    answers = [process.communicate(timeout=280) for process in processes]
    for process, (_, error) in zip(processes, answers, strict=True):
        assert process.returncode == 0, error
    return [output for output, _ in answers]


async def check_writers(path: Path, processes: int, batches: int) -> None:
    """Write from many processes at once and count what is there."""
    waits = [
        json.loads(text) for text in run_all(WRITER, [[str(path), str(n), str(batches)] for n in range(processes)])
    ]
    store = SqliteLightningStore(path)
    found = await store.statistics()
    expected = processes * batches * 20
    print(f"\n{processes} processes: {found.spans} of {expected} spans stored, longest wait {max(waits):.2f} s")
    assert (found.spans, found.rollouts) == (expected, processes)
    spans = await store.query_spans("ro-0")
    assert [span.sequence_id for span in spans] == list(range(1, batches * 20 + 1))
    store.close()


async def test_many_processes_write_one_file(tmp_path: Path) -> None:
    """Processes that write one file at once see no error, and nothing is lost; the file may not exist yet."""
    await check_writers(tmp_path / "new" / "shared.db", 6, 10)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_sixteen_processes_write_one_file(tmp_path: Path) -> None:
    """The same with 16 processes and more spans."""
    await check_writers(tmp_path / "shared.db", 16, 200)


async def test_workers_share_a_queue(tmp_path: Path) -> None:
    """Workers in several processes claim every rollout once."""
    path = tmp_path / "queue.db"
    store = SqliteLightningStore(path)
    queued = await store.enqueue_rollouts(list(range(60)))
    taken = await asyncio.to_thread(run_all, WORKER, [[str(path), str(n)] for n in range(3)])
    ids = [rollout_id for text in taken for rollout_id in json.loads(text)]
    assert sorted(ids) == sorted(rollout.rollout_id for rollout in queued)
    assert (await store.statistics()).statuses == {"succeeded": 60}
    store.close()
