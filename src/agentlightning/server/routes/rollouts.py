"""Routes of rollouts, attempts and resources: each is a method of ``LightningStore``, with its errors."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel

from agentlightning.server.gate import write_audit
from agentlightning.server.routes.spans import MAX_HOLD_S
from agentlightning.server.routes.state import state_of
from agentlightning.store import client_server as bodies  # noqa: TC001 - FastAPI reads the annotations
from agentlightning.store.base import LightningStore, is_finished
from agentlightning.store.request import RolloutChange
from agentlightning.types.core import Attempt, AttemptedRollout, Rollout
from agentlightning.types.query import RolloutFilter
from agentlightning.types.resources import ResourcesUpdate  # noqa: TC001 - FastAPI reads the annotations

router = APIRouter(prefix="/v1", tags=["rollouts"])


class Waited(BaseModel):
    """Answer of a wait: the finished rollouts, and whether there is nothing more to wait for."""

    rollouts: list[Rollout]
    complete: bool


def _store(request: Request) -> LightningStore:
    return state_of(request).store_of(request)


@router.post("/rollouts/start")
async def start_rollout(request: Request, body: bodies.RolloutRequest) -> AttemptedRollout:
    """Create a rollout that is at work, with its first attempt."""
    return await _store(request).start_rollout(
        body.input, body.mode, body.resources_id, body.config, body.metadata, rollout_id=body.rollout_id
    )


@router.post("/rollouts/enqueue")
async def enqueue_rollouts(request: Request, body: bodies.EnqueueRequest) -> list[Rollout]:
    """Put rollouts at the end of the queue."""
    return await _store(request).enqueue_rollouts(
        body.inputs, body.mode, body.resources_id, body.config, body.metadata, rollout_ids=body.rollout_ids
    )


@router.post("/rollouts/dequeue")
async def dequeue_rollout(request: Request, body: bodies.DequeueRequest) -> AttemptedRollout | None:
    """Claim the oldest rollout of the queue; null when it is empty."""
    store = _store(request)
    return await store.dequeue_rollout(worker_id=body.worker_id, lease_s=body.lease_s, attempt_id=body.attempt_id)


@router.post("/rollouts/query")
async def query_rollouts(request: Request, body: bodies.QueryRolloutsRequest) -> list[Rollout]:
    """Return the rollouts that fit."""
    where = None if body.where is None else RolloutFilter(**body.where.model_dump())
    return await _store(request).query_rollouts(status=body.status, rollout_ids=body.rollout_ids, where=where)


@router.post("/rollouts/wait")
async def wait_for_rollouts(request: Request, body: bodies.WaitForRolloutsRequest) -> Waited:
    """Wait until all are finished, at most 20 s, and return those that are."""
    store = _store(request)
    hold_s = min(body.timeout, MAX_HOLD_S)
    rollouts = await store.wait_for_rollouts(rollout_ids=body.rollout_ids, timeout=hold_s)
    missing = set(body.rollout_ids) - {rollout.rollout_id for rollout in rollouts}
    # Of those that are not finished, unknown ones are nothing to wait for.
    known = [await store.get_rollout_by_id(rollout_id) for rollout_id in missing]
    return Waited(rollouts=rollouts, complete=all(rollout is None or is_finished(rollout) for rollout in known))


@router.post("/rollouts/delete")
async def delete_rollouts(request: Request, body: bodies.RolloutIds) -> int:
    """Delete rollouts with all that belongs to them; return how many went."""
    deleted = await _store(request).delete_rollouts(body.rollout_ids)
    write_audit("delete", _peer(request), deleted, body.rollout_ids[:100])
    return deleted


@router.post("/rollouts/prune")
async def prune(request: Request, body: bodies.PruneRequest) -> int:
    """Delete what retention no longer wants; return how many rollouts went."""
    deleted = await _store(request).prune(before=body.before, keep=body.keep)
    write_audit("prune", _peer(request), deleted, body.before, body.keep)
    return deleted


@router.get("/rollouts/newest")
async def query_newest_rollouts(
    request: Request, limit: bodies.Count = 20, offset: bodies.Count = 0, *, children: bool = False
) -> list[Rollout]:
    """Return the newest rollouts, newest first."""
    return await _store(request).query_newest_rollouts(limit, offset, children=children)


@router.get("/rollouts/find")
async def find_rollout_id(request: Request, text: str) -> str:
    """Return the id of the rollout that the text means: 'latest', an id, or the beginning of one."""
    return await _store(request).find_rollout_id(text)


@router.get("/rollouts/{rollout_id}")
async def get_rollout(request: Request, rollout_id: str) -> Rollout | None:
    """Return a rollout, or null."""
    return await _store(request).get_rollout_by_id(rollout_id)


@router.patch("/rollouts/{rollout_id}")
async def update_rollout(request: Request, rollout_id: str, body: bodies.UpdateRolloutRequest) -> Rollout:
    """Change what is given."""
    given = {name: getattr(body, name) for name in body.model_fields_set}
    return await _store(request).change_rollout(rollout_id, RolloutChange(**given))


@router.get("/rollouts/{rollout_id}/children")
async def query_child_rollouts(request: Request, rollout_id: str) -> list[Rollout]:
    """Return the rollouts that ran inside this one."""
    return await _store(request).query_child_rollouts(rollout_id)


@router.get("/rollouts/{rollout_id}/attempts")
async def query_attempts(request: Request, rollout_id: str) -> list[Attempt]:
    """Return the attempts of a rollout in their order."""
    return await _store(request).query_attempts(rollout_id)


@router.post("/rollouts/{rollout_id}/attempts")
async def start_attempt(
    request: Request, rollout_id: str, body: bodies.StartAttemptRequest | None = None
) -> AttemptedRollout:
    """Make a further attempt."""
    return await _store(request).start_attempt(rollout_id, attempt_id=body.attempt_id if body else None)


@router.patch("/rollouts/{rollout_id}/attempts/{attempt_id}")
async def update_attempt(
    request: Request, rollout_id: str, attempt_id: str, body: bodies.UpdateAttemptRequest
) -> Attempt:
    """Change what is given; 'latest' is an attempt too."""
    given = {name: getattr(body, name) for name in body.model_fields_set}
    return await _store(request).update_attempt(rollout_id, attempt_id, **given)


@router.post("/rollouts/{rollout_id}/attempts/{attempt_id}/heartbeat")
async def heartbeat(request: Request, rollout_id: str, attempt_id: str) -> Attempt:
    """Note that an attempt is alive; 409 when a later one has taken over."""
    return await _store(request).heartbeat(rollout_id, attempt_id)


@router.post("/rollouts/{rollout_id}/attempts/{attempt_id}/sequence")
async def get_next_span_sequence_id(request: Request, rollout_id: str, attempt_id: str) -> int:
    """Return a number that no span of the rollout has."""
    return await _store(request).get_next_span_sequence_id(rollout_id, attempt_id)


@router.post("/resources")
async def add_resources(request: Request, body: bodies.AddResourcesRequest) -> ResourcesUpdate:
    """Store a snapshot of resources and mark it as the latest."""
    return await _store(request).add_resources(body.resources, resources_id=body.resources_id)


@router.put("/resources/{resources_id}")
async def update_resources(request: Request, resources_id: str, body: bodies.AddResourcesRequest) -> ResourcesUpdate:
    """Store new resources under an existing id and mark it as the latest."""
    return await _store(request).update_resources(resources_id, body.resources)


@router.get("/resources/{resources_id}")
async def get_resources(request: Request, resources_id: str) -> ResourcesUpdate | None:
    """Return a snapshot, or null."""
    return await _store(request).get_resources_by_id(resources_id)


@router.get("/latest-resources")
async def get_latest_resources(request: Request, name: str | None = None) -> ResourcesUpdate | None:
    """Return the latest snapshot, or the latest that holds a resource of this name; null without one."""
    return await _store(request).get_latest_resources(name)


def _peer(request: Request) -> str | None:
    return request.client.host if request.client else None
