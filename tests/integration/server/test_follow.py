"""Waiting and following cost next to nothing while nothing happens, and hear soon of what another process wrote."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentlightning.server.launcher import LightningStoreServer
from agentlightning.store import LightningStoreClient, SqliteLightningStore
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    import pytest

    from agentlightning.store.sql.sqlite import SqliteTransaction

IDLE_S = 2.0
MOST_LOOKS = 12
"""A waiter looks twice a second for attempts that are overdue; asked every 0.03 s, it would be 60 times."""

OTHER = """
import asyncio, sys
from agentlightning.store import SqliteLightningStore
store = SqliteLightningStore(sys.argv[1])
asyncio.run(store.update_attempt(sys.argv[2], "latest", status="succeeded"))
store.close()
"""


@contextmanager
def counted(store: SqliteLightningStore, monkeypatch: pytest.MonkeyPatch) -> Generator[list[float], None, None]:
    """Note each reading transaction of *store*."""
    looks: list[float] = []
    read = store.connector.read

    @contextmanager
    def noted() -> Generator[SqliteTransaction, None, None]:
        looks.append(time.monotonic())
        with read() as transaction:
            yield transaction  # type: ignore[misc] - the same as it was

    with monkeypatch.context() as patch:
        patch.setattr(store.connector, "read", noted)
        yield looks


async def test_a_waiter_hears_of_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle, it hardly looks at the store; when another process ends the rollout, it returns."""
    store = SqliteLightningStore(tmp_path / "store.db")
    rollout = await store.start_rollout("x")
    with counted(store, monkeypatch) as looks:
        waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=[rollout.rollout_id], timeout=60))
        await asyncio.sleep(IDLE_S)
        assert len(looks) <= MOST_LOOKS
        command = [sys.executable, "-c", OTHER, str(tmp_path / "store.db"), rollout.rollout_id]
        other = await asyncio.create_subprocess_exec(*command)
        assert [item.status for item in await waiting] == ["succeeded"]
        assert await other.wait() == 0
    store.close()


async def test_a_follower_over_http_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server holds who follows it: few looks while nothing happens, and an answer when something does."""
    store = SqliteLightningStore(tmp_path / "store.db")
    with LightningStoreServer(store, "127.0.0.1", 0) as server:
        client = LightningStoreClient(server.endpoint)
        cursor = (await client.query_changes()).cursor
        with counted(store, monkeypatch) as looks:
            waiting = asyncio.create_task(client.query_changes(cursor, wait_s=60))
            await asyncio.sleep(IDLE_S)
            assert len(looks) <= MOST_LOOKS
            writer = SqliteLightningStore(tmp_path / "store.db")  # as another process would
            await asyncio.to_thread(writer.write_batch, WriteBatch(spans=[record_of("ro-1", "at-1", 1)]))
            assert [span.rollout_id for span in (await waiting).spans] == ["ro-1"]
            writer.close()
        client.close()


def test_tail_works_over_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``agl tail`` prints what is written to a server, soon after, and asks it about once a second otherwise."""
    store = SqliteLightningStore(tmp_path / "store.db")
    store.write_batch(WriteBatch(spans=[record_of("ro-1", "at-1", 1, name="before")]))
    with LightningStoreServer(store, "127.0.0.1", 0) as server:
        command = [sys.executable, "-m", "agentlightning.cli", "tail", "--store", server.endpoint, "--all"]
        tail = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert tail.stdout is not None
        while "before" not in tail.stdout.readline():
            assert tail.poll() is None
        with counted(store, monkeypatch) as looks:
            time.sleep(IDLE_S)
            assert len(looks) <= MOST_LOOKS
        store.write_batch(WriteBatch(spans=[record_of("ro-1", "at-1", 2, name="after")]))
        assert "after" in tail.stdout.readline()
        tail.kill()
        tail.communicate()
