"""Client and server of a store over HTTP, and the bodies of their requests.

``LightningStoreServer`` is resolved on first use: it lies in ``agentlightning.server``, above the stores.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, model_validator

from agentlightning.store.request import NewRollouts
from agentlightning.types.core import (
    AttemptStatus,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
)
from agentlightning.types.record import Metadata
from agentlightning.types.resources import NamedResources

if TYPE_CHECKING:
    from typing_extensions import Self

    from agentlightning.store.client import LightningStoreClient

__all__ = [
    "AddResourcesRequest",
    "DequeueRequest",
    "EnqueueRequest",
    "LightningStoreClient",
    "PruneRequest",
    "QueryRolloutsRequest",
    "RolloutIds",
    "RolloutRequest",
    "StartAttemptRequest",
    "UpdateAttemptRequest",
    "UpdateRolloutRequest",
    "WaitForRolloutsRequest",
]


_NewId = Annotated[str, Field(pattern=r"^[0-9A-Za-z_.:-]{1,128}$")]
"""Id that the caller has made for what is to be created."""
_MOST_S = 9e9
"""As nanoseconds, more does not fit into a store: some 285 years."""
Seconds = Annotated[float, Field(allow_inf_nan=False, ge=-_MOST_S, le=_MOST_S)]
"""A time since the epoch, or a duration; NaN, which is neither below nor above a limit, is none."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
"""How many."""


class RolloutRequest(BaseModel):
    """Arguments of ``start_rollout``."""

    rollout_id: _NewId | None = None
    input: Any = None
    mode: RolloutMode | None = None
    resources_id: str | None = None
    config: RolloutConfig | None = None
    metadata: Metadata | None = None


class EnqueueRequest(BaseModel):
    """Arguments of ``enqueue_rollouts``."""

    inputs: list[Any]
    rollout_ids: list[_NewId] | None = None
    mode: RolloutMode | None = None
    resources_id: str | None = None
    config: RolloutConfig | None = None
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _has_an_id_for_each(self) -> Self:
        NewRollouts(self.inputs, given_ids=self.rollout_ids).ids()
        return self


class DequeueRequest(BaseModel):
    """Arguments of ``dequeue_rollout``."""

    worker_id: str | None = None
    lease_s: Seconds | None = Field(default=None, gt=0)
    attempt_id: _NewId | None = None


class StartAttemptRequest(BaseModel):
    """Arguments of ``start_attempt``."""

    attempt_id: _NewId | None = None


class RolloutFilterRequest(BaseModel):
    """A ``RolloutFilter``."""

    modes: list[str] | None = None
    start_after: Seconds | None = None
    start_before: Seconds | None = None
    metadata: Metadata | None = None
    text: str | None = None
    limit: Count | None = None
    offset: Count = 0
    newest_first: bool = False


class QueryRolloutsRequest(BaseModel):
    """Arguments of ``query_rollouts``."""

    status: list[RolloutStatus] | None = None
    rollout_ids: list[str] | None = None
    where: RolloutFilterRequest | None = None


class WaitForRolloutsRequest(BaseModel):
    """Arguments of ``wait_for_rollouts``; the server holds the request for at most 20 s."""

    rollout_ids: list[str]
    timeout: Seconds = 0.0


class RolloutIds(BaseModel):
    """Several rollouts."""

    rollout_ids: list[str]


class PruneRequest(BaseModel):
    """Arguments of ``prune``."""

    before: Seconds | None = None
    keep: Count | None = None


class AddResourcesRequest(BaseModel):
    """Named resources, and the id of a new snapshot."""

    resources_id: _NewId | None = None
    resources: NamedResources


class UpdateRolloutRequest(BaseModel):
    """What to change of a rollout; what is not given stays."""

    input: Any = None
    mode: RolloutMode | None = None
    resources_id: str | None = None
    status: RolloutStatus = "queuing"
    config: RolloutConfig = Field(default_factory=RolloutConfig)
    metadata: Metadata | None = None
    attempt_count: Count = 0


class UpdateAttemptRequest(BaseModel):
    """What to change of an attempt; what is not given stays."""

    status: AttemptStatus = "preparing"
    worker_id: str = ""
    last_heartbeat_time: Seconds = 0.0
    metadata: Metadata | None = None


_HOMES = {
    "LightningStoreClient": "agentlightning.store.client",  # which loads an HTTP client that a server does not need
    "LightningStoreServer": "agentlightning.server.launcher",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - one of two classes
    """Resolve client and server on first use."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
