"""The resources of a rollout, read once for all rollouts that were enqueued with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import AttemptedRollout
    from agentlightning.types.resources import NamedResources

_MOST_KEPT = 8


class ResourceCache:
    """What a runner has read already. For one event loop.

    A snapshot that was read when one rollout was claimed serves every rollout that had been enqueued by then; one that
    was enqueued later may mean an updated snapshot, and is read again. Both times are of the store's clock.
    """

    def __init__(self) -> None:
        """Start with nothing read."""
        self._kept: dict[str, tuple[float, NamedResources]] = {}

    async def get(self, store: LightningStore, rollout: AttemptedRollout) -> NamedResources:
        """Return the resources of *rollout*, the caller's own copy; without an id the latest, or none.

        Raises:
            LookupError: The store does not have them.
            StoreError: The store cannot be read.
        """
        wanted = rollout.resources_id
        if wanted is None:
            latest = await store.get_latest_resources()
            return {} if latest is None else latest.resources
        kept = self._kept.get(wanted)
        if kept is None or rollout.start_time > kept[0]:
            found = await store.get_resources_by_id(wanted)
            if found is None:
                msg = f"rollout {rollout.rollout_id} wants the resources {wanted}, which are not in the store"
                raise LookupError(msg)
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            kept = self._kept[wanted] = (rollout.attempt.start_time, found.resources)
        return {name: resource.model_copy(deep=True) for name, resource in kept[1].items()}
