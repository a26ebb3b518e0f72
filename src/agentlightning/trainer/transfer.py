"""Rollouts copied from the private store of a trainer into another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlightning._internal.context import home_rollout
from agentlightning.store.restore import put_rollout

if TYPE_CHECKING:
    from collections.abc import Collection

    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import Attempt, Rollout


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
        """Put a rollout with its attempts and spans into the target; the running rollout becomes its parent."""
        home = home_rollout()
        parent = {"parent_rollout_id": home.rollout_id} if home else {}
        await put_rollout(
            self._target,
            rollout.model_copy(update={"metadata": {**parent, **(rollout.metadata or {})}}),
            attempts,
            await self._source.query_spans(rollout.rollout_id),
            resources_id=await self._resources_id(rollout.resources_id),
        )

    async def _resources_id(self, resources_id: str | None) -> str | None:
        if resources_id is not None and resources_id not in self._resources:
            found = await self._source.get_resources_by_id(resources_id)
            if found is None:
                return None
            self._resources[resources_id] = (await self._target.add_resources(found.resources)).resources_id
        return None if resources_id is None else self._resources[resources_id]
