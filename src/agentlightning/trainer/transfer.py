"""Rollouts copied from the private store of a trainer into another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentlightning._internal.clock import now_ns, to_ns
from agentlightning._internal.context import home_rollout
from agentlightning.store.base import UNSET
from agentlightning.types.record import AttemptEnd, RolloutStart, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Collection

    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import Attempt, Rollout

_OVER = frozenset({"succeeded", "failed", "timeout"})


async def copy_rollouts(source: LightningStore, target: LightningStore, *, known: Collection[str] = ()) -> list[str]:
    """Copy every rollout with an attempt, its spans and resources, and return the ids; those in *known* are left out.

    Rollouts, attempts and spans keep their ids; resources get new ones. Inside ``agl run`` the copies are
    rollouts inside the run's.

    Raises:
        StoreError: Something was not copied; what was stays.
    """
    copied: list[str] = []
    resources: dict[str, str] = {}
    for rollout in await source.query_rollouts():
        attempts = await source.query_attempts(rollout.rollout_id)
        if attempts and rollout.rollout_id not in known:
            await _Copy(source, target, resources).copy(rollout, attempts)
            copied.append(rollout.rollout_id)
    return copied


class _Copy:
    """One rollout on its way."""

    def __init__(self, source: LightningStore, target: LightningStore, resources: dict[str, str]) -> None:
        self._source = source
        self._target = target
        self._resources = resources

    async def copy(self, rollout: Rollout, attempts: list[Attempt]) -> None:
        target, rollout_id = self._target, rollout.rollout_id
        batch = WriteBatch()
        for attempt in attempts:
            batch.starts.append(_start(rollout, attempt, target.project))
            batch.spans += [span.to_record() for span in await self._source.query_spans(rollout_id, attempt.attempt_id)]
            if attempt.status in _OVER:
                batch.ends.append(_end(attempt))
        resources_id = await self._resources_id(rollout.resources_id)
        # One transaction: nobody sees the rollout with an attempt missing, and no worker finds it in the queue.
        target.write_batch(batch)
        await target.update_rollout(rollout_id, config=rollout.config, resources_id=resources_id)
        for attempt in attempts:
            worker_id = UNSET if attempt.worker_id is None else attempt.worker_id
            await target.update_attempt(rollout_id, attempt.attempt_id, worker_id=worker_id, metadata=attempt.metadata)
        if rollout.status == "cancelled":
            await target.update_rollout(rollout_id, status="cancelled")

    async def _resources_id(self, resources_id: str | None) -> str | None:
        if resources_id is not None and resources_id not in self._resources:
            found = await self._source.get_resources_by_id(resources_id)
            if found is None:
                return None
            self._resources[resources_id] = (await self._target.add_resources(found.resources)).resources_id
        return None if resources_id is None else self._resources[resources_id]


def _start(rollout: Rollout, attempt: Attempt, project: str) -> RolloutStart:
    return RolloutStart(
        rollout_id=rollout.rollout_id,
        attempt_id=attempt.attempt_id,
        project=project,
        input=rollout.input,
        start_ns=to_ns(attempt.start_time if attempt.sequence_id > 1 else rollout.start_time) or now_ns(),
        mode=rollout.mode,
        metadata=_metadata(rollout),
        number=attempt.sequence_id,
    )


def _end(attempt: Attempt) -> AttemptEnd:
    return AttemptEnd(
        rollout_id=attempt.rollout_id,
        attempt_id=attempt.attempt_id,
        status=attempt.status,
        end_ns=to_ns(attempt.end_time) or now_ns(),
    )


def _metadata(rollout: Rollout) -> dict[str, Any]:
    home = home_rollout()
    parent = {"parent_rollout_id": home.rollout_id} if home else {}
    return {**parent, **(rollout.metadata or {})}
