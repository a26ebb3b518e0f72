"""The rollout of the process itself, handed down by ``agl run`` or by a parent process."""

from __future__ import annotations

import functools

from agentlightning._internal.context import RunningRollout, rollout_from_environment


@functools.lru_cache(maxsize=1)
def home_rollout() -> RunningRollout | None:
    """Return the rollout that this process was started for, or None. Read once: children get their own."""
    return rollout_from_environment()
