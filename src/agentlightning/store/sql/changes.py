"""Changes of rollouts and attempts within a transaction: reads the state, asks ``lifecycle``, writes what follows.

Used by the pipeline's writer and by the store; loads no models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agentlightning.errors import AccessError, TransitionError, UnknownIdError
from agentlightning.store import lifecycle
from agentlightning.store.lifecycle import AttemptState, Limits
from agentlightning.store.pack import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from agentlightning.store.sql.connector import Row, Transaction
    from agentlightning.types.record import AttemptEnd

_decode_limits = msgspec.json.Decoder(Limits).decode


class Found(NamedTuple):
    """An attempt with what its rollout says."""

    attempt: AttemptState
    rollout_status: str
    limits: Limits


def find_attempts(transaction: Transaction, attempt_ids: Iterable[str]) -> dict[str, Found]:
    """Return the known ones of these attempts by id."""
    rows = transaction.fetch("attempt_states", (to_json(list(attempt_ids)),))
    return {row[0]: _found(row) for row in rows}


def find_attempt(transaction: Transaction, rollout_id: str, attempt_id: str) -> Found:
    """Return an attempt of a rollout, which may be called ``latest``.

    Raises:
        UnknownIdError: No such rollout or attempt.
    """
    attempts = transaction.fetch("attempts", (rollout_id,))
    ids = [row[0] for row in attempts]
    if not ids and not transaction.fetch("rollout", (rollout_id,)):
        msg = f"there is no rollout {rollout_id!r}"
        raise UnknownIdError(msg)
    if ids and attempt_id == "latest":
        attempt_id = ids[-1]
    if attempt_id not in ids:
        msg = f"rollout {rollout_id!r} has no attempt {attempt_id!r}"
        raise UnknownIdError(msg)
    return find_attempts(transaction, [attempt_id])[attempt_id]


def present(transaction: Transaction, rollout_ids: Collection[str], project: str) -> bool:
    """Tell whether a rollout of these ids is there already, made by an earlier try of the same call.

    Raises:
        AccessError: One of them is another project's.
    """
    found = transaction.fetch("projects_of", (to_json(list(rollout_ids)),))
    if any(row[0] != project for row in found):
        msg = f"an id for a new rollout is used in another project than {project!r}"
        raise AccessError(msg)
    return bool(found)


def find_made(transaction: Transaction, attempt_id: str | None) -> Found | None:
    """Return the attempt that an earlier try of the same call made, None when there is none."""
    return None if attempt_id is None else find_attempts(transaction, [attempt_id]).get(attempt_id)


def set_attempt_status(transaction: Transaction, found: Found, status: str, now_ns: int) -> None:
    """Give an attempt *status* and pass it on to its rollout.

    Raises:
        StaleAttemptError: A later attempt exists.
        TransitionError: The attempt is over.
    """
    attempt = found.attempt
    lifecycle.check_attempt_change(attempt, status)
    changed = msgspec.structs.replace(attempt, status=status)
    if status != attempt.status:
        end_ns = now_ns if status in lifecycle.OVER else None
        due = lifecycle.deadline_ns(changed, found.limits)
        transaction.run("set_attempt_status", (attempt.attempt_id, status, end_ns, due))
    rollout_status = lifecycle.rollout_after_attempt(found.rollout_status, attempt, status, found.limits)
    if rollout_status != found.rollout_status and (status != attempt.status or status in {"preparing", "running"}):
        set_rollout_status(transaction, attempt.rollout_id, rollout_status, now_ns)


def set_rollout_status(transaction: Transaction, rollout_id: str, status: str, now_ns: int) -> None:
    """Give a rollout *status*, its end and its place in the queue; the caller has checked that it may have it."""
    end_ns = now_ns if status in lifecycle.FINISHED else None
    transaction.run("set_rollout_status", (rollout_id, status, end_ns))


def note_signs_of_life(transaction: Transaction, attempt_ids: Collection[str], now_ns: int) -> None:
    """Note that attempts were heard of now, on the store's clock; unknown ones are ignored."""
    if not attempt_ids:
        return
    for found in find_attempts(transaction, attempt_ids).values():
        attempt = found.attempt
        rollout_status, attempt_status = lifecycle.after_sign_of_life(found.rollout_status, attempt)
        if attempt_status != attempt.status:
            alive = msgspec.structs.replace(attempt, status=attempt_status, heartbeat_ns=now_ns)
            due = lifecycle.deadline_ns(alive, found.limits)
            transaction.run("set_attempt_status", (attempt.attempt_id, attempt_status, None, due))
        if rollout_status != found.rollout_status:
            set_rollout_status(transaction, attempt.rollout_id, rollout_status, now_ns)
    transaction.run("beat_attempts", (to_json(list(attempt_ids)), now_ns))


def end_attempts(transaction: Transaction, ends: Iterable[AttemptEnd], started: Collection[str] = ()) -> None:
    """Write the final statuses of a batch; one that comes too late changes no status, and the batch goes on.

    An attempt of *started*, those that the same batch made, is never late: with the copy of a whole rollout the next
    one is there already.
    """
    for end in ends:
        found = find_attempts(transaction, [end.attempt_id]).get(end.attempt_id)
        if found is None:
            continue
        state = found.attempt
        if not state.latest and state.attempt_id in started and state.status not in lifecycle.OVER:
            transaction.run("set_attempt_status", (state.attempt_id, end.status, end.end_ns, None))
            continue
        try:
            set_attempt_status(transaction, found, end.status, end.end_ns)
        except TransitionError:
            continue
        if end.metadata:
            transaction.run("add_attempt_metadata", (end.attempt_id, to_json(end.metadata)))


def retire_overdue(transaction: Transaction, now_ns: int) -> bool:
    """Mark the attempts that are overdue and pass that on; return whether any was looked at."""
    due = [_found(row) for row in transaction.fetch("due_attempts", (now_ns,))]
    for found in due:
        attempt = found.attempt
        status = lifecycle.overdue(attempt, found.limits, now_ns) if attempt.latest else None
        if status is not None:
            set_attempt_status(transaction, found, status, now_ns)
            continue
        # It was heard of since, or no longer decides anything.
        later = lifecycle.deadline_ns(attempt, found.limits) if attempt.latest else None
        transaction.run("set_attempt_deadline", (attempt.attempt_id, later))
    return bool(due)


def parent_of(metadata: Mapping[str, object] | None) -> str | None:
    """Return the rollout that metadata name as the one around; what is no text names none."""
    parent = (metadata or {}).get("parent_rollout_id")
    return parent if isinstance(parent, str) else None


class NewAttempt(NamedTuple):
    """An attempt to be made."""

    attempt_id: str
    rollout_id: str
    now_ns: int
    worker_id: str | None = None
    lease_ns: int | None = None
    process: str | None = None


def add_attempt(transaction: Transaction, new: NewAttempt, number: int, limits: Limits) -> None:
    """Make attempt *number* of a rollout; the status of the rollout is the caller's business."""
    attempt = AttemptState(
        attempt_id=new.attempt_id,
        rollout_id=new.rollout_id,
        number=number,
        latest=True,
        status="preparing",
        start_ns=new.now_ns,
        lease_ns=new.lease_ns,
    )
    metadata = to_json({"process": new.process} if new.process else None)
    due = lifecycle.deadline_ns(attempt, limits)
    transaction.run(
        "add_attempt",
        (new.attempt_id, new.rollout_id, number, new.now_ns, new.worker_id, new.lease_ns, due, metadata),
    )


def add_next_attempt(transaction: Transaction, new: NewAttempt) -> None:
    """Make the next attempt of a rollout, which leaves the queue and is ``preparing``.

    Raises:
        UnknownIdError: No such rollout.
    """
    row = transaction.fetch("rollout", (new.rollout_id,))
    if not row:
        msg = f"there is no rollout {new.rollout_id!r}"
        raise UnknownIdError(msg)
    earlier = transaction.fetch("attempts", (new.rollout_id,))
    number = earlier[-1][2] + 1 if earlier else 1
    add_attempt(transaction, new, number, limits_of(row[0]))
    set_rollout_status(transaction, new.rollout_id, "preparing", new.now_ns)


def limits_of(row: Row) -> Limits:
    """Return what a row of the query ``rollout`` says about attempts."""
    return _decode_limits(row[7])


def delete_rollouts(transaction: Transaction, rollout_ids: Iterable[str]) -> tuple[int, int]:
    """Delete rollouts with all that belongs to them and those inside them; return how many rollouts and spans went."""
    family = to_json([row[0] for row in transaction.fetch("with_children", (to_json(list(rollout_ids)),))])
    if not from_json(family):
        return 0, 0
    before = transaction.fetch("newest_places")[0]
    spans = transaction.run("delete_spans", (family,))
    transaction.run("delete_attempts", (family,))
    rollouts = transaction.run("delete_rollouts", (family,))
    after = transaction.fetch("newest_places")[0]
    if after != before:  # who follows the store would miss what gets these places next
        transaction.run("drop_rewinds", after)
        transaction.run("add_rewind", after)
    return rollouts, spans


def _found(row: Row) -> Found:
    attempt_id, rollout_id, number, latest, status, start_ns, heartbeat_ns, lease_ns, rollout_status, config = row
    attempt = AttemptState(
        attempt_id=attempt_id,
        rollout_id=rollout_id,
        number=number,
        latest=bool(latest),
        status=status,
        start_ns=start_ns,
        heartbeat_ns=heartbeat_ns,
        lease_ns=lease_ns,
    )
    return Found(attempt, rollout_status, _decode_limits(config))
