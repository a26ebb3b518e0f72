"""What every runner offers."""

from __future__ import annotations

import copy
from abc import abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from agentlightning.types.core import ParallelWorkerBase

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from typing_extensions import Self

    from agentlightning.litagent.litagent import LitAgent
    from agentlightning.store.base import LightningStore
    from agentlightning.types.core import Hook, Rollout, RolloutMode
    from agentlightning.types.resources import NamedResources

T = TypeVar("T")


class StopEvent(Protocol):
    """What tells a runner to stop; every ``ExecutionEvent`` is one, and so is ``threading.Event``."""

    def is_set(self) -> bool:
        """Tell whether to stop."""
        ...


class Runner(ParallelWorkerBase, Generic[T]):
    """Runs one agent on rollouts. Lifecycle: init, init_worker, iter or step, teardown_worker, teardown."""

    def init(self, agent: LitAgent[T], **kwargs: Any) -> None:  # noqa: ANN401 - each runner has its own
        """Take the agent; in the main process."""
        super().init(agent, **kwargs)

    def init_worker(self, worker_id: int, store: LightningStore, **kwargs: Any) -> None:  # noqa: ANN401 - as in init
        """Take the store; in the worker."""
        super().init_worker(worker_id, store, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - of the base class
        """Refuse: a runner is driven by ``iter`` or ``step``.

        Raises:
            NotImplementedError: Always.
        """
        _ = args, kwargs
        msg = "await iter() to work on the queue, or step(task) for one task"
        raise NotImplementedError(msg)

    def for_worker(self) -> Self:
        """Return a runner with the same options for another worker; it shares nothing that a rollout changes."""
        return copy.copy(self)

    @contextmanager
    def run_context(
        self,
        *,
        agent: LitAgent[T],
        store: LightningStore,
        hooks: Sequence[Hook] | None = None,
        worker_id: int | None = None,
    ) -> Generator[Self]:
        """Prepare the runner for interactive use, and clean up when the block ends.

        Args:
            agent: Runs the tasks.
            store: Gets rollouts and spans.
            hooks: Called around each rollout.
            worker_id: Number of the worker; None is 0.
        """
        number = worker_id or 0
        self.init(agent, hooks=hooks)
        try:
            self.init_worker(number, store)
            try:
                yield self
            finally:
                self.teardown_worker(number)
        finally:
            self.teardown()

    @abstractmethod
    async def iter(self, *, event: StopEvent | None = None) -> None:
        """Work on the queue until *event* is set or as many rollouts as allowed were claimed."""
        raise NotImplementedError

    @abstractmethod
    async def step(
        self,
        input: T,  # noqa: A002 - a name of the public API
        *,
        resources: NamedResources | None = None,
        mode: RolloutMode | None = None,
        event: StopEvent | None = None,
    ) -> Rollout:
        """Run one task that is in no queue, and return its rollout when it is finished."""
        raise NotImplementedError
