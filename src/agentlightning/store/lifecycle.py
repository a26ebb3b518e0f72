"""The life of rollouts and attempts: which status follows which, as pure functions that every backend uses.

::

    rollout   queuing → preparing → running → succeeded | failed | cancelled
                 ↑          ↑___________|          |
                 |__________|  requeuing ←─────────┘  when the attempt is tried again
    attempt   preparing → running → succeeded | failed | timeout
                              ↑↓
                          unresponsive

A finished rollout stays finished unless somebody queues it again or asks for a further attempt. An attempt that is
over (``succeeded``, ``failed``, ``timeout``) stays as it is. Once a later attempt exists, an earlier one decides
nothing: the attempt is the fencing token. Times are nanoseconds since the epoch, durations nanoseconds.
"""

from __future__ import annotations

from typing import Final

import msgspec

from agentlightning._internal.clock import NS_PER_S
from agentlightning.errors import StaleAttemptError, TransitionError

FINISHED: Final = frozenset({"succeeded", "failed", "cancelled"})
"""Statuses of a rollout that waits for nothing any more."""

QUEUEING: Final = frozenset({"queuing", "requeuing"})
"""Statuses of a rollout that is in the queue; it is there exactly once, in every other status not at all."""

OVER: Final = frozenset({"succeeded", "failed", "timeout"})
"""Statuses of an attempt that never change again."""

_NEVER_NS: Final = 2**63 - 1
"""Latest time that a store can keep."""

_COPIED: Final = frozenset({"preparing", "running", "succeeded"})
"""Statuses of the latest attempt that its rollout takes over as they are."""


class Limits(msgspec.Struct, frozen=True):
    """The part of a rollout's configuration that decides about its attempts; decoded without the public model."""

    timeout_seconds: float | None = None
    unresponsive_seconds: float | None = None
    max_attempts: int = 1
    retry_condition: tuple[str, ...] = ()


class AttemptState(msgspec.Struct, frozen=True):
    """What decides about an attempt."""

    attempt_id: str
    rollout_id: str
    number: int
    """Place among the attempts of the rollout, from 1."""
    latest: bool
    """Whether no later attempt exists."""
    status: str
    start_ns: int
    heartbeat_ns: int | None = None
    lease_ns: int | None = None
    """Longest time without a heartbeat that its claim allows."""


def after_sign_of_life(rollout_status: str, attempt: AttemptState) -> tuple[str, str]:
    """Return the statuses of rollout and attempt after a span or heartbeat of *attempt*."""
    if not attempt.latest:
        return rollout_status, attempt.status
    revived = attempt.status in {"preparing", "unresponsive"}
    attempt_status = "running" if revived else attempt.status
    # An attempt that is over cannot take its rollout out of the queue: that one waits for the next attempt.
    if attempt_status == "running" and rollout_status in {"preparing", "queuing", "requeuing"}:
        return "running", attempt_status
    return rollout_status, attempt_status


def check_not_stale(attempt: AttemptState) -> None:
    """Make sure that *attempt* still decides about its rollout.

    Raises:
        StaleAttemptError: A later attempt exists.
    """
    if not attempt.latest:
        msg = f"attempt {attempt.attempt_id} was followed by a later one and decides nothing now; stop working on it"
        raise StaleAttemptError(msg)


def check_attempt_change(attempt: AttemptState, status: str) -> None:
    """Allow *attempt* to get *status*; a status that it has already is always allowed, so that calls can be repeated.

    Raises:
        StaleAttemptError: A later attempt exists.
        TransitionError: The attempt is over.
    """
    if attempt.status == status:
        return
    check_not_stale(attempt)
    if attempt.status in OVER:
        msg = f"attempt {attempt.attempt_id} is {attempt.status} and cannot become {status}"
        raise TransitionError(msg)


def check_rollout_change(rollout_id: str, old: str, new: str) -> None:
    """Allow a rollout to go from *old* to *new*: a finished one stays so, or is queued again.

    Raises:
        TransitionError: The rollout is finished, and *new* is another status.
    """
    if old in FINISHED and new != old and new not in QUEUEING:
        msg = f"rollout {rollout_id} is {old} and cannot become {new}; only 'queuing' or 'requeuing' begin it anew"
        raise TransitionError(msg)


def rollout_after_attempt(rollout_status: str, attempt: AttemptState, status: str, limits: Limits) -> str:
    """Return the status of the rollout after *attempt* got *status*; a finished rollout stays finished."""
    if not attempt.latest or rollout_status in FINISHED:
        return rollout_status
    if status in _COPIED:
        return status
    if status in limits.retry_condition and attempt.number < limits.max_attempts:
        return "requeuing"
    return "failed"


def deadline_ns(attempt: AttemptState, limits: Limits) -> int | None:
    """Return when *attempt* becomes overdue if nothing is heard of it; None: never."""
    if attempt.status not in {"preparing", "running"}:
        return None
    last = attempt.start_ns if attempt.heartbeat_ns is None else attempt.heartbeat_ns
    moments: list[int] = []
    if limits.timeout_seconds is not None:
        moments.append(attempt.start_ns + _span_ns(limits.timeout_seconds))
    if limits.unresponsive_seconds is not None:
        moments.append(last + _span_ns(limits.unresponsive_seconds))
    if attempt.lease_ns is not None:
        moments.append(last + attempt.lease_ns)
    return min((*moments, _NEVER_NS)) if moments else None


def _span_ns(seconds: float) -> int:
    return round(min(seconds * NS_PER_S, _NEVER_NS))


def overdue(attempt: AttemptState, limits: Limits, now_ns: int) -> str | None:
    """Return ``timeout`` or ``unresponsive`` when *attempt* is overdue at *now_ns*, else None."""
    due = deadline_ns(attempt, limits)
    if due is None or due > now_ns:
        return None
    whole = limits.timeout_seconds
    timed_out = whole is not None and attempt.start_ns + _span_ns(whole) <= now_ns
    return "timeout" if timed_out else "unresponsive"
