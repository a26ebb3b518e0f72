"""What every strategy offers, and what it runs."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

from agentlightning import settings
from agentlightning.errors import AgentLightningError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from agentlightning.execution.events import ExecutionEvent
    from agentlightning.store.base import LightningStore

log = logging.getLogger("agentlightning.execution")

MOST_EMPTY_DEATHS = 5
"""A runner that dies so often in a row before it has claimed anything is not replaced any more."""

INTERRUPT_S = 3.5
"""Longest time that everything gets to end after Ctrl+C."""


class ExecutionError(AgentLightningError):
    """Runners cannot be kept alive; what went wrong with them is in the log and on their standard error."""


class AlgorithmBundle(Protocol):
    """An algorithm, ready to run. Has to be picklable where it shall run in a process of its own."""

    async def __call__(self, store: LightningStore, event: ExecutionEvent) -> None:
        """Run to the end; *event* is set when it shall stop early."""
        ...


class RunnerBundle(Protocol):
    """A runner with its agent, ready to run. Has to be picklable where it shall run in a process of its own."""

    async def __call__(self, store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        """Run as worker *worker_id* until *event* is set or there is nothing more to do."""
        ...


class ExecutionStrategy(ABC):
    """Runs one algorithm and some runners against one store, and stops them all when the algorithm is done."""

    @abstractmethod
    def execute(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        """Run to the end. Blocking; call it from the main thread, so that Ctrl+C is seen.

        Raises:
            ExecutionError: Runners die again and again before they have claimed anything.
            KeyboardInterrupt: Ctrl+C; everything has been stopped, unfinished rollouts are back in the queue.
            Exception: What the algorithm raised; everything has been stopped.
        """


def resolve_managed_store_flag(value: bool | None) -> bool:  # noqa: FBT001 - signature of the API sheet
    """Return whether a strategy puts the store behind a wrapper or server of its own; None asks the settings."""
    return settings.get(settings.MANAGED_STORE) if value is None else value


async def run_until_stopped(
    work: Coroutine[Any, Any, None], event: ExecutionEvent, *, delay_s: float, poll_s: float = 0.05
) -> None:
    """Await *work*; once *event* is set, cancel it when *delay_s* seconds are over."""
    task = asyncio.ensure_future(work)
    left: float | None = None
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=poll_s)
            if event.is_set():
                left = delay_s if left is None else left - poll_s
                if left <= 0 and not task.done():
                    task.cancel()
                    await asyncio.wait({task}, timeout=1.0)
                    return
        task.result()
    finally:
        task.cancel()
