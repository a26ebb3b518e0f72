"""A store that hands every call to another one; what differs is where the call runs."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

from agentlightning.store.base import UNSET, LightningStore, Unset

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from agentlightning.types.change import ChangeCursor, Changes
    from agentlightning.types.core import (
        Attempt,
        AttemptedRollout,
        AttemptStatus,
        Rollout,
        RolloutConfig,
        RolloutMode,
        RolloutStatus,
        TaskInput,
    )
    from agentlightning.types.query import RolloutFilter, SpanRow, StoreStatistics
    from agentlightning.types.resources import NamedResources, ResourcesUpdate
    from agentlightning.types.tracer import Span

T = TypeVar("T")


class ForwardingStore(LightningStore):
    """Every coroutine of the contract, handed on; see ``LightningStore`` for the promises."""

    @abstractmethod
    async def forward(self, call: Callable[[LightningStore], Awaitable[T]]) -> T:
        """Run *call* on the store behind, where it may run, and return what it returns."""

    async def start_rollout(
        self,
        input: TaskInput,  # noqa: A002 - a name of the public API
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        *,
        rollout_id: str | None = None,
    ) -> AttemptedRollout:
        """Hand on; see ``LightningStore.start_rollout``."""
        return await self.forward(
            lambda store: store.start_rollout(input, mode, resources_id, config, metadata, rollout_id=rollout_id)
        )

    async def enqueue_rollout(
        self,
        input: TaskInput,  # noqa: A002 - a name of the public API
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        *,
        rollout_id: str | None = None,
    ) -> Rollout:
        """Hand on; see ``LightningStore.enqueue_rollout``."""
        return await self.forward(
            lambda store: store.enqueue_rollout(input, mode, resources_id, config, metadata, rollout_id=rollout_id)
        )

    async def enqueue_rollouts(
        self,
        inputs: Sequence[TaskInput],
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        *,
        rollout_ids: Sequence[str] | None = None,
    ) -> list[Rollout]:
        """Hand on; see ``LightningStore.enqueue_rollouts``."""
        return await self.forward(
            lambda store: store.enqueue_rollouts(inputs, mode, resources_id, config, metadata, rollout_ids=rollout_ids)
        )

    async def dequeue_rollout(
        self, *, worker_id: str | None = None, lease_s: float | None = None, attempt_id: str | None = None
    ) -> AttemptedRollout | None:
        """Hand on; see ``LightningStore.dequeue_rollout``."""
        return await self.forward(
            lambda store: store.dequeue_rollout(worker_id=worker_id, lease_s=lease_s, attempt_id=attempt_id)
        )

    async def start_attempt(self, rollout_id: str, *, attempt_id: str | None = None) -> AttemptedRollout:
        """Hand on; see ``LightningStore.start_attempt``."""
        return await self.forward(lambda store: store.start_attempt(rollout_id, attempt_id=attempt_id))

    async def heartbeat(self, rollout_id: str, attempt_id: str) -> Attempt:
        """Hand on; see ``LightningStore.heartbeat``."""
        return await self.forward(lambda store: store.heartbeat(rollout_id, attempt_id))

    async def wait_for_rollouts(self, *, rollout_ids: list[str], timeout: float | None = None) -> list[Rollout]:
        """Hand on; see ``LightningStore.wait_for_rollouts``."""
        return await self.forward(lambda store: store.wait_for_rollouts(rollout_ids=rollout_ids, timeout=timeout))

    async def query_rollouts(
        self,
        *,
        status: Sequence[RolloutStatus] | None = None,
        rollout_ids: Sequence[str] | None = None,
        where: RolloutFilter | None = None,
    ) -> list[Rollout]:
        """Hand on; see ``LightningStore.query_rollouts``."""
        return await self.forward(
            lambda store: store.query_rollouts(status=status, rollout_ids=rollout_ids, where=where)
        )

    async def query_newest_rollouts(self, limit: int = 20, offset: int = 0, *, children: bool = False) -> list[Rollout]:
        """Hand on; see ``LightningStore.query_newest_rollouts``."""
        return await self.forward(lambda store: store.query_newest_rollouts(limit, offset, children=children))

    async def query_child_rollouts(self, rollout_id: str) -> list[Rollout]:
        """Hand on; see ``LightningStore.query_child_rollouts``."""
        return await self.forward(lambda store: store.query_child_rollouts(rollout_id))

    async def find_rollout_id(self, text: str) -> str:
        """Hand on; see ``LightningStore.find_rollout_id``."""
        return await self.forward(lambda store: store.find_rollout_id(text))

    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | None:
        """Hand on; see ``LightningStore.get_rollout_by_id``."""
        return await self.forward(lambda store: store.get_rollout_by_id(rollout_id))

    async def query_attempts(self, rollout_id: str) -> list[Attempt]:
        """Hand on; see ``LightningStore.query_attempts``."""
        return await self.forward(lambda store: store.query_attempts(rollout_id))

    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        """Hand on; see ``LightningStore.get_latest_attempt``."""
        return await self.forward(lambda store: store.get_latest_attempt(rollout_id))

    async def update_rollout(  # noqa: PLR0913, PLR0917 - signature of the public API
        self,
        rollout_id: str,
        input: TaskInput | Unset = UNSET,  # noqa: A002 - a name of the public API
        mode: RolloutMode | Unset | None = UNSET,
        resources_id: str | Unset | None = UNSET,
        status: RolloutStatus | Unset = UNSET,
        config: RolloutConfig | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> Rollout:
        """Hand on; see ``LightningStore.update_rollout``."""
        return await self.forward(
            lambda store: store.update_rollout(rollout_id, input, mode, resources_id, status, config, metadata)
        )

    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str,
        status: AttemptStatus | Unset = UNSET,
        worker_id: str | Unset = UNSET,
        last_heartbeat_time: float | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> Attempt:
        """Hand on; see ``LightningStore.update_attempt``."""
        return await self.forward(
            lambda store: store.update_attempt(rollout_id, attempt_id, status, worker_id, last_heartbeat_time, metadata)
        )

    async def add_span(self, span: Span) -> Span:
        """Hand on; see ``LightningStore.add_span``."""
        return await self.forward(lambda store: store.add_span(span))

    async def add_spans(self, spans: Sequence[Span]) -> list[Span]:
        """Hand on; see ``LightningStore.add_spans``."""
        return await self.forward(lambda store: store.add_spans(spans))

    async def add_otel_span(
        self, rollout_id: str, attempt_id: str, readable_span: ReadableSpan, sequence_id: int | None = None
    ) -> Span:
        """Hand on; see ``LightningStore.add_otel_span``."""
        return await self.forward(lambda store: store.add_otel_span(rollout_id, attempt_id, readable_span, sequence_id))

    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        """Hand on; see ``LightningStore.get_next_span_sequence_id``."""
        return await self.forward(lambda store: store.get_next_span_sequence_id(rollout_id, attempt_id))

    async def query_spans(
        self, rollout_id: str, attempt_id: str | None = None, *, include_open: bool = False
    ) -> list[Span]:
        """Hand on; see ``LightningStore.query_spans``."""
        return await self.forward(lambda store: store.query_spans(rollout_id, attempt_id, include_open=include_open))

    async def query_span_rows(
        self, rollout_id: str, attempt_id: str | None = None, *, include_open: bool = True
    ) -> list[SpanRow]:
        """Hand on; see ``LightningStore.query_span_rows``."""
        return await self.forward(
            lambda store: store.query_span_rows(rollout_id, attempt_id, include_open=include_open)
        )

    async def query_spans_by_key(self, keys: Sequence[tuple[str, str]]) -> list[Span]:
        """Hand on; see ``LightningStore.query_spans_by_key``."""
        return await self.forward(lambda store: store.query_spans_by_key(keys))

    async def query_changes(self, after: ChangeCursor | None = None, *, wait_s: float = 0.0) -> Changes:
        """Hand on; see ``LightningStore.query_changes``."""
        return await self.forward(lambda store: store.query_changes(after, wait_s=wait_s))

    async def add_resources(self, resources: NamedResources, *, resources_id: str | None = None) -> ResourcesUpdate:
        """Hand on; see ``LightningStore.add_resources``."""
        return await self.forward(lambda store: store.add_resources(resources, resources_id=resources_id))

    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        """Hand on; see ``LightningStore.update_resources``."""
        return await self.forward(lambda store: store.update_resources(resources_id, resources))

    async def get_resources_by_id(self, resources_id: str) -> ResourcesUpdate | None:
        """Hand on; see ``LightningStore.get_resources_by_id``."""
        return await self.forward(lambda store: store.get_resources_by_id(resources_id))

    async def get_latest_resources(self, name: str | None = None) -> ResourcesUpdate | None:
        """Hand on; see ``LightningStore.get_latest_resources``."""
        return await self.forward(lambda store: store.get_latest_resources(name))

    async def find_attempt_of_trace(self, trace_id: str) -> tuple[str, str] | None:
        """Hand on; see ``LightningStore.find_attempt_of_trace``."""
        return await self.forward(lambda store: store.find_attempt_of_trace(trace_id))

    async def delete_rollouts(self, rollout_ids: Sequence[str]) -> int:
        """Hand on; see ``LightningStore.delete_rollouts``."""
        return await self.forward(lambda store: store.delete_rollouts(rollout_ids))

    async def prune(self, *, before: float | None = None, keep: int | None = None) -> int:
        """Hand on; see ``LightningStore.prune``."""
        return await self.forward(lambda store: store.prune(before=before, keep=keep))

    async def statistics(self) -> StoreStatistics:
        """Hand on; see ``LightningStore.statistics``."""
        return await self.forward(lambda store: store.statistics())
