"""What a call of a store asks for, as one object: packed once by the contract, passed on by every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentlightning._internal.ids import new_rollout_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentlightning.types.core import AttemptStatus, RolloutConfig, RolloutMode, RolloutStatus, TaskInput
    from agentlightning.types.record import Metadata


class Unset:
    """Type of ``UNSET``, the default of arguments for which None is a real value."""

    def __repr__(self) -> str:
        """Return ``UNSET``."""
        return "UNSET"

    def __bool__(self) -> bool:
        """Return False."""
        return False


UNSET: Final = Unset()
"""Argument that was not given: leave the field as it is."""


@dataclass(frozen=True)
class NewRollouts:
    """New rollouts: what they have in common, and the input of each."""

    inputs: Sequence[TaskInput]
    mode: RolloutMode | None = None
    resources_id: str | None = None
    """None: the project's latest resources."""
    config: RolloutConfig | None = None
    metadata: Metadata | None = None
    given_ids: Sequence[str] | None = None
    """Ids that the caller made, one for each input; None: nobody did."""

    def ids(self) -> list[str]:
        """Return an id for each input: those that were given, else new ones at every call.

        Raises:
            ValueError: Those that were given are not as many as the inputs, or not all different.
        """
        ids = [new_rollout_id() for _ in self.inputs] if self.given_ids is None else list(self.given_ids)
        if len(set(ids)) != len(self.inputs):
            msg = f"{len(self.inputs)} inputs need as many different rollout ids, not {len(set(ids))}"
            raise ValueError(msg)
        return ids


@dataclass(frozen=True)
class _Change:
    def given(self) -> dict[str, Any]:
        """Return the fields that were given, by name."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, Unset)}


@dataclass(frozen=True)
class RolloutChange(_Change):
    """New values of a rollout's fields."""

    input: TaskInput | Unset = UNSET
    mode: RolloutMode | Unset | None = UNSET
    resources_id: str | Unset | None = UNSET
    status: RolloutStatus | Unset = UNSET
    config: RolloutConfig | Unset = UNSET
    metadata: Metadata | Unset | None = UNSET
    attempt_count: int | Unset = UNSET
    """Attempts that the caller knows of: where there are others, the status is not changed. Who queues a rollout again
    and repeats that after a lost answer must not take it away from whom has claimed it in between."""


@dataclass(frozen=True)
class AttemptChange(_Change):
    """New values of an attempt's fields."""

    status: AttemptStatus | Unset = UNSET
    worker_id: str | Unset = UNSET
    last_heartbeat_time: float | Unset = UNSET
    """Seconds since the epoch."""
    metadata: Metadata | Unset | None = UNSET
