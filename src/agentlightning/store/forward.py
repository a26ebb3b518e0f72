"""A store that hands every call to another one; what differs is where the call runs."""

from __future__ import annotations

import functools
from abc import abstractmethod
from typing import TYPE_CHECKING, TypeVar, cast

from agentlightning.store.base import LightningStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
M = TypeVar("M", bound="Callable[..., Awaitable[object]]")


def _handed_on(method: M) -> M:
    """Return *method* of the contract, with its signature and docstring, as a call of the store behind."""

    # Without its __dict__, where it says that it is abstract.
    @functools.wraps(method, updated=())
    async def hand_on(self: ForwardingStore, /, *args: object, **kwargs: object) -> object:
        """Hand on; never seen: ``wraps`` puts the contract's docstring here."""
        return await self.forward(lambda store: getattr(store, method.__name__)(*args, **kwargs))

    return cast("M", hand_on)


class ForwardingStore(LightningStore):
    """Every coroutine of the contract, handed on; see ``LightningStore`` for the promises."""

    @abstractmethod
    async def forward(self, call: Callable[[LightningStore], Awaitable[T]]) -> T:
        """Run *call* on the store behind, where it may run, and return what it returns."""

    add_started = _handed_on(LightningStore.add_started)
    add_queued = _handed_on(LightningStore.add_queued)
    dequeue_rollout = _handed_on(LightningStore.dequeue_rollout)
    start_attempt = _handed_on(LightningStore.start_attempt)
    heartbeat = _handed_on(LightningStore.heartbeat)
    wait_for_rollouts = _handed_on(LightningStore.wait_for_rollouts)
    query_rollouts = _handed_on(LightningStore.query_rollouts)
    query_newest_rollouts = _handed_on(LightningStore.query_newest_rollouts)
    query_child_rollouts = _handed_on(LightningStore.query_child_rollouts)
    find_rollout_id = _handed_on(LightningStore.find_rollout_id)
    get_rollout_by_id = _handed_on(LightningStore.get_rollout_by_id)
    query_attempts = _handed_on(LightningStore.query_attempts)
    change_rollout = _handed_on(LightningStore.change_rollout)
    change_attempt = _handed_on(LightningStore.change_attempt)
    add_spans = _handed_on(LightningStore.add_spans)
    get_next_span_sequence_id = _handed_on(LightningStore.get_next_span_sequence_id)
    query_spans = _handed_on(LightningStore.query_spans)
    query_span_rows = _handed_on(LightningStore.query_span_rows)
    query_spans_by_key = _handed_on(LightningStore.query_spans_by_key)
    query_changes = _handed_on(LightningStore.query_changes)
    add_resources = _handed_on(LightningStore.add_resources)
    update_resources = _handed_on(LightningStore.update_resources)
    get_resources_by_id = _handed_on(LightningStore.get_resources_by_id)
    get_latest_resources = _handed_on(LightningStore.get_latest_resources)
    find_attempt_of_trace = _handed_on(LightningStore.find_attempt_of_trace)
    delete_rollouts = _handed_on(LightningStore.delete_rollouts)
    prune = _handed_on(LightningStore.prune)
    statistics = _handed_on(LightningStore.statistics)
