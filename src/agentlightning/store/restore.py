"""Rollouts put into a store as they were in another one, or in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlightning._internal.clock import now_ns, to_ns
from agentlightning.store.base import UNSET
from agentlightning.types.record import AttemptEnd, RolloutStart, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import Attempt, Rollout
    from agentlightning.types.tracer import Span

_OVER = frozenset({"succeeded", "failed", "timeout"})
_SPANS = 500
"""Spans of one transaction."""


async def put_rollout(
    store: LightningStore,
    rollout: Rollout,
    attempts: Sequence[Attempt],
    spans: Sequence[Span],
    *,
    resources_id: str | None = None,
) -> None:
    """Put a rollout into *store* with its attempts and spans; ids, numbers, times and statuses stay what they are.

    No worker ever finds it in the queue. What is there already stays as it is, so after an error the same call finishes
    what was begun.

    Args:
        store: Where to; the rollout will belong to its project.
        rollout: The rollout.
        attempts: Its attempts, at least one.
        spans: The spans of all of them.
        resources_id: Resources in *store*; those of the rollout itself are of the store that it comes from.

    Raises:
        StoreError: Not everything was put there.
    """
    rollout_id = rollout.rollout_id
    # Starts and ends together: an attempt is not ended any more once there is a later one.
    starts = [_start(rollout, attempt, store.project) for attempt in attempts]
    ends = [_end(attempt) for attempt in attempts if attempt.status in _OVER]
    store.write_batch(WriteBatch(starts=starts, ends=ends))
    await store.update_rollout(rollout_id, config=rollout.config, resources_id=resources_id)
    for attempt in attempts:
        worker_id = UNSET if attempt.worker_id is None else attempt.worker_id
        await store.update_attempt(rollout_id, attempt.attempt_id, worker_id=worker_id, metadata=attempt.metadata)
    for place in range(0, len(spans), _SPANS):
        await store.add_spans(spans[place : place + _SPANS])
    if rollout.status == "cancelled":
        await store.update_rollout(rollout_id, status="cancelled")


def _start(rollout: Rollout, attempt: Attempt, project: str) -> RolloutStart:
    return RolloutStart(
        rollout_id=rollout.rollout_id,
        attempt_id=attempt.attempt_id,
        project=project,
        input=rollout.input,
        start_ns=to_ns(attempt.start_time if attempt.sequence_id > 1 else rollout.start_time) or now_ns(),
        mode=rollout.mode,
        metadata=rollout.metadata or {},
        number=attempt.sequence_id,
    )


def _end(attempt: Attempt) -> AttemptEnd:
    return AttemptEnd(
        rollout_id=attempt.rollout_id,
        attempt_id=attempt.attempt_id,
        status=attempt.status,
        end_ns=to_ns(attempt.end_time) or now_ns(),
    )
