"""The rules of the life of rollouts and attempts, as pure functions."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.errors import StaleAttemptError, TransitionError
from agentlightning.store import lifecycle
from agentlightning.store.lifecycle import AttemptState, Limits
from agentlightning.types.core import AttemptStatus, RolloutStatus

ROLLOUT = st.sampled_from(get_args(RolloutStatus))
ATTEMPT = st.sampled_from(get_args(AttemptStatus))
STATES = st.builds(
    AttemptState,
    attempt_id=st.just("at-1"),
    rollout_id=st.just("ro-1"),
    number=st.integers(1, 4),
    latest=st.booleans(),
    status=ATTEMPT,
    start_ns=st.integers(0, 100),
    heartbeat_ns=st.none() | st.integers(0, 200),
    lease_ns=st.none() | st.integers(1, 100),
)
LIMITS = st.builds(
    Limits,
    timeout_seconds=st.none() | st.sampled_from([0.0, 5e-8]),
    unresponsive_seconds=st.none() | st.sampled_from([0.0, 2e-8]),
    max_attempts=st.integers(1, 3),
    retry_condition=st.lists(ATTEMPT, max_size=3).map(tuple),
)


@given(STATES, ROLLOUT, ATTEMPT, LIMITS)
def test_only_the_latest_attempt_decides(
    attempt: AttemptState, rollout_status: str, status: str, limits: Limits
) -> None:
    """An earlier attempt moves nothing, and a finished rollout is moved by no attempt."""
    after = lifecycle.rollout_after_attempt(rollout_status, attempt, status, limits)
    alive = lifecycle.after_sign_of_life(rollout_status, attempt)
    if not attempt.latest:
        assert (after, *alive) == (rollout_status, rollout_status, attempt.status)
    if rollout_status in lifecycle.FINISHED:
        assert after == alive[0] == rollout_status


@given(STATES, ROLLOUT, ATTEMPT, LIMITS)
def test_a_retry_needs_the_condition_and_an_attempt_that_is_left(
    attempt: AttemptState, rollout_status: str, status: str, limits: Limits
) -> None:
    """A rollout is queued again exactly when the configuration names the status and attempts are left."""
    after = lifecycle.rollout_after_attempt(rollout_status, attempt, status, limits)
    open_rollout = attempt.latest and rollout_status not in lifecycle.FINISHED
    if open_rollout and status in {"failed", "timeout", "unresponsive"}:
        again = status in limits.retry_condition and attempt.number < limits.max_attempts
        assert after == ("requeuing" if again else "failed")


@given(STATES, LIMITS, st.integers(0, 400))
def test_overdue_and_deadline_agree(attempt: AttemptState, limits: Limits, now_ns: int) -> None:
    """An attempt is overdue exactly from its deadline on, and only while it is at work."""
    due = lifecycle.deadline_ns(attempt, limits)
    assert (lifecycle.overdue(attempt, limits, now_ns) is not None) == (due is not None and due <= now_ns)
    if attempt.status not in {"preparing", "running"}:
        assert due is None


@given(STATES, ATTEMPT)
def test_an_attempt_that_is_over_stays(attempt: AttemptState, status: str) -> None:
    """A status may be repeated; another one is refused when a later attempt exists or this one is over."""
    if status == attempt.status:
        lifecycle.check_attempt_change(attempt, status)
    elif not attempt.latest:
        with pytest.raises(StaleAttemptError):
            lifecycle.check_attempt_change(attempt, status)
    elif attempt.status in lifecycle.OVER:
        with pytest.raises(TransitionError):
            lifecycle.check_attempt_change(attempt, status)
    else:
        lifecycle.check_attempt_change(attempt, status)


@pytest.mark.parametrize("old", sorted(lifecycle.FINISHED))
def test_a_finished_rollout_begins_anew_only_in_the_queue(old: str) -> None:
    """From a finished status only a queueing one follows."""
    for new in get_args(RolloutStatus):
        if new == old or new in lifecycle.QUEUEING:
            lifecycle.check_rollout_change("ro-1", old, new)
        else:
            with pytest.raises(TransitionError, match="ro-1"):
                lifecycle.check_rollout_change("ro-1", old, new)
