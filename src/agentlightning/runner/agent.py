"""The default runner: claims rollouts, many at once in one event loop, and runs a ``LitAgent`` on each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from agentlightning._internal.context import home_rollout, running
from agentlightning._internal.ids import host_name
from agentlightning.errors import StaleAttemptError, StoreError
from agentlightning.runner.alert import Health
from agentlightning.runner.attempt import AttemptRun, Workplace
from agentlightning.runner.base import Runner
from agentlightning.runner.resource import ResourceCache

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from typing_extensions import Self

    from agentlightning.litagent.litagent import LitAgent
    from agentlightning.runner.alert import Alert
    from agentlightning.runner.base import StopEvent
    from agentlightning.store.base import LightningStore
    from agentlightning.tracer.base import Tracer
    from agentlightning.types.core import AttemptedRollout, Hook, Rollout, RolloutMode
    from agentlightning.types.resources import NamedResources

T = TypeVar("T")

log = logging.getLogger("agentlightning.runner")

_FIRST_PAUSE_S = 0.01
_LOOK_S = 0.05
"""How often the stop event is looked at."""
_BEAT_LOOK_S = 0.1
_MOST_HELPERS = 128
_MOST_CLAIMS = 8
_LEASE_BEATS = 3
"""A claim is lost after so many heartbeats that did not come."""


class LitAgentRunner(Runner[T]):
    """Runs a ``LitAgent`` on the rollouts of a store, up to *concurrency* of them at once.

    Async agents share the event loop, plain ones get a thread each. An agent that raises, or takes longer than its
    rollout allows, costs its attempt and nothing else. Use one runner in one event loop.
    """

    def __init__(  # noqa: PLR0913 - signature of the API sheet and what only this runner has, by keyword
        self,
        tracer: Tracer,
        max_rollouts: int | None = None,
        poll_interval: float = 5.0,
        *,
        concurrency: int = 1,
        heartbeat_interval: float = 10.0,
        graceful_timeout: float = 2.0,
        on_alert: Callable[[Alert], None] | None = None,
    ) -> None:
        """Make a runner; nothing happens before ``init``.

        Args:
            tracer: Traces the rollouts.
            max_rollouts: ``iter`` ends after claiming so many; None: no bound.
            poll_interval: Longest time in seconds between two looks at an empty queue; the first ones are shorter.
            concurrency: Rollouts at once, at least 1.
            heartbeat_interval: Seconds between two signs of life of an attempt, above 0; more often where
                ``unresponsive_seconds`` of the rollout wants it.
            graceful_timeout: Seconds that a stopped ``iter`` gives the rollouts it holds to finish; afterwards they go
                back into the queue.
            on_alert: Called with each alert.

        Raises:
            ValueError: An argument is out of range.
        """
        super().__init__()
        if concurrency < 1 or poll_interval <= 0 or heartbeat_interval <= 0:
            msg = "concurrency has to be at least 1, poll_interval and heartbeat_interval above 0"
            raise ValueError(msg)
        self._tracer = tracer
        self._max_rollouts = max_rollouts
        self._poll_interval = poll_interval
        self._concurrency = concurrency
        self._heartbeat_interval = heartbeat_interval
        self._graceful_timeout = graceful_timeout
        self._health = Health(on_alert)
        self._agent: LitAgent[T] | None = None
        self._store: LightningStore | None = None
        self._hooks: Sequence[Hook] = ()
        self._held: dict[asyncio.Task[None], AttemptRun] = {}
        self._resources = ResourceCache()
        self._beaten = 0
        """How many ``iter`` and ``step`` want heartbeats; they share one task."""
        self._beating: asyncio.Task[None] | None = None

    def for_worker(self) -> Self:
        """Return a runner with the same options and success rates, which holds nothing; see ``Runner``."""
        runner = super().for_worker()
        vars(runner).update(_held={}, _resources=ResourceCache(), _beaten=0, _beating=None)
        return runner

    def init(self, agent: LitAgent[T], *, hooks: Sequence[Hook] | None = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Take the agent and the hooks, and prepare the tracer."""
        super().init(agent, **kwargs)
        self._agent = agent
        self._hooks = tuple(hooks or ())
        agent.set_runner(self)
        self._tracer.init()

    def init_worker(self, worker_id: int, store: LightningStore, **kwargs: Any) -> None:  # noqa: ANN401 - of the base
        """Take the store."""
        super().init_worker(worker_id, store, **kwargs)
        self._store = store
        if self._agent is not None:
            self._agent.set_runner(self)  # in a process of its own the agent has come without
        self._tracer.init_worker(worker_id)

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - of the base
        """Let go of the store, and write what the tracer holds."""
        self._store = None
        self._tracer.teardown_worker(worker_id)
        super().teardown_worker(worker_id, *args, **kwargs)

    def teardown(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - of the base
        """Let go of agent and hooks."""
        self._agent, self._hooks = None, ()
        self._tracer.teardown()
        super().teardown(*args, **kwargs)

    @property
    def tracer(self) -> Tracer:
        """The tracer."""
        return self._tracer

    @property
    def health(self) -> Health:
        """Success rates of this runner."""
        return self._health

    def get_agent(self) -> LitAgent[T]:
        """Return the agent.

        Raises:
            RuntimeError: ``init`` was not called.
        """
        if self._agent is None:
            msg = "the runner has no agent; use run_context(agent=..., store=...) or call init(agent)"
            raise RuntimeError(msg)
        return self._agent

    def get_store(self) -> LightningStore:
        """Return the store.

        Raises:
            RuntimeError: ``init_worker`` was not called.
        """
        if self._store is None:
            msg = "the runner has no store; use run_context(agent=..., store=...) or call init_worker(0, store)"
            raise RuntimeError(msg)
        return self._store

    def get_worker_id(self) -> str:
        """Return the name under which this runner claims rollouts: number, machine and process."""
        return f"worker-{0 if self.worker_id is None else self.worker_id}@{host_name()}/{os.getpid()}"

    async def step(
        self,
        input: T,  # noqa: A002 - a name of the public API
        *,
        resources: NamedResources | None = None,
        mode: RolloutMode | None = None,
        event: StopEvent | None = None,
    ) -> Rollout:
        """Run one task that is in no queue, and return its rollout as the store has it then.

        Args:
            input: The task.
            resources: Stored as the latest resources and used for this rollout; None: the latest that are there.
            mode: What the result is used for.
            event: Stops the agent when it is set.

        Raises:
            Exception: What the agent raised; the attempt is recorded as failed before.
            StoreError: The store cannot be written.
        """
        store = self.get_store()
        resources_id = (await store.add_resources(resources)).resources_id if resources is not None else None
        outer = running.get() or home_rollout()
        metadata = {"parent_rollout_id": outer.rollout_id} if outer else None
        attempted = await store.start_rollout(input, mode, resources_id, metadata=metadata)
        async with self._heartbeats():
            task = self._begin(attempted)
            run = self._held[task]
            try:
                await self._finish(task, event)
            finally:
                if run.status is None:
                    task.cancel()
                    await store.update_rollout(attempted.rollout_id, status="cancelled")
        if run.error is not None:
            raise run.error
        return await store.get_rollout_by_id(attempted.rollout_id) or attempted

    async def iter(self, *, event: StopEvent | None = None) -> None:
        """Work on the queue until *event* is set or ``max_rollouts`` were claimed, then finish what is held.

        What is not finished ``graceful_timeout`` seconds after *event* was set goes back into the queue. Errors of the
        store are logged, and the queue is asked again.
        """
        _make_room_for_waiting(self._concurrency)
        claimed, at_once, pause = 0, 1, _FIRST_PAUSE_S
        async with self._heartbeats():
            try:
                while not _is_set(event) and (self._max_rollouts is None or claimed < self._max_rollouts):
                    room = self._concurrency - len(self._held)
                    if self._max_rollouts is not None:
                        room = min(room, self._max_rollouts - claimed)
                    if room <= 0:
                        await self._wait(_LOOK_S)
                        continue
                    wanted = min(room, at_once)
                    found = await self._claim_some(wanted)
                    claimed += found
                    # More at once while the queue gives what it is asked for: over HTTP each claim is a round trip.
                    at_once = min(2 * at_once, _MOST_CLAIMS) if found == wanted else 1
                    if found:
                        pause = _FIRST_PAUSE_S
                    else:
                        await self._idle(pause, event)
                        pause = min(1.5 * pause, self._poll_interval)
                await self._drain(event)
            finally:
                await self._return_all()

    async def _claim_some(self, count: int) -> int:
        """Claim up to *count* rollouts and begin each at once; return how many it were."""

        async def claim_one() -> bool:
            """Begin with the next rollout of the queue; tell whether there was one."""
            attempted = await self._claim()
            if attempted is not None:
                self._begin(attempted)
            return attempted is not None

        return await claim_one() if count == 1 else sum(await asyncio.gather(*(claim_one() for _ in range(count))))

    async def _claim(self) -> AttemptedRollout | None:
        store = self.get_store()
        try:
            return await store.dequeue_rollout(
                worker_id=self.get_worker_id(), lease_s=_LEASE_BEATS * self._heartbeat_interval
            )
        except StoreError as error:
            log.warning("the queue cannot be read now: %s", error)
            return None

    def _begin(self, attempted: AttemptedRollout) -> asyncio.Task[None]:
        place = Workplace(
            self, self.get_agent(), self._tracer, self.get_store(), self._hooks, self._health, self._resources
        )
        run = AttemptRun(place, attempted)
        task = asyncio.create_task(run.run())
        self._held[task] = run
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        run = self._held.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("rollout %s could not be recorded: %s", run.rollout.rollout_id, error)

    async def _wait(self, timeout_s: float) -> None:
        """Wait until one of the held rollouts is done, at most *timeout_s*."""
        if self._held:
            await asyncio.wait(list(self._held), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(timeout_s)

    async def _idle(self, pause_s: float, event: StopEvent | None) -> None:
        """Wait before the queue is asked again: *pause_s*, or until a rollout is done or *event* is set."""
        until = time.monotonic() + pause_s
        while (left := until - time.monotonic()) > 0 and not _is_set(event):
            held = len(self._held)
            await self._wait(min(left, _LOOK_S))
            if len(self._held) < held:
                return

    async def _finish(self, task: asyncio.Task[None], event: StopEvent | None) -> None:
        """Wait for *task*; once *event* is set, for ``graceful_timeout`` at most."""
        deadline: float | None = None
        while not task.done():
            if deadline is None and _is_set(event):
                deadline = time.monotonic() + self._graceful_timeout
            if deadline is not None and time.monotonic() >= deadline:
                return
            await asyncio.wait({task}, timeout=_LOOK_S)

    async def _drain(self, event: StopEvent | None) -> None:
        """Wait until nothing is held; once *event* is set, for ``graceful_timeout`` at most."""
        deadline: float | None = None
        while self._held:
            if deadline is None and _is_set(event):
                deadline = time.monotonic() + self._graceful_timeout
            if deadline is not None and time.monotonic() >= deadline:
                await self._return_all()
                return
            await self._wait(_LOOK_S)

    async def _return_all(self) -> None:
        """Cancel what is held and put it back into the queue."""
        held = dict(self._held)
        if not held:
            return
        for task in held:
            task.cancel()
        await asyncio.wait(list(held), timeout=1.0)
        unfinished = [run for run in held.values() if run.status is None]
        await asyncio.gather(*(run.give_back() for run in unfinished))

    @contextlib.asynccontextmanager
    async def _heartbeats(self) -> AsyncGenerator[None]:
        self._beaten += 1
        if self._beaten == 1:
            self._beating = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            self._beaten -= 1
            if self._beaten == 0 and self._beating is not None:
                self._beating.cancel()

    async def _beat(self) -> None:
        """Renew the leases of what is held; stop working on what somebody else has taken over."""
        last: dict[AttemptRun, float] = {}
        while True:
            await asyncio.sleep(_BEAT_LOOK_S)
            now = time.monotonic()
            last = {run: last.get(run, now) for run in self._held.values()}
            for task, run in list(self._held.items()):
                if now - last[run] >= self._beat_interval(run):
                    last[run] = now
                    await self._beat_one(task, run)

    def _beat_interval(self, run: AttemptRun) -> float:
        bound = run.rollout.config.unresponsive_seconds
        return self._heartbeat_interval if bound is None else min(self._heartbeat_interval, bound / _LEASE_BEATS)

    async def _beat_one(self, task: asyncio.Task[None], run: AttemptRun) -> None:
        attempt = run.rollout.attempt
        try:
            await self.get_store().heartbeat(attempt.rollout_id, attempt.attempt_id)
        except StaleAttemptError as error:
            log.warning("%s", error)
            task.cancel()
        except StoreError as error:
            log.warning("rollout %s: no heartbeat: %s", attempt.rollout_id, error)


def _make_room_for_waiting(concurrency: int) -> None:
    """Give the event loop enough helper threads, unless somebody gave it some.

    Each rollout that ends holds one while its spans are written; with asyncio's own few, claims would stand in line
    behind them.
    """
    loop = asyncio.get_running_loop()
    if getattr(loop, "_default_executor", None) is None:
        loop.set_default_executor(ThreadPoolExecutor(min(4 + concurrency, _MOST_HELPERS), "agentlightning-helper"))


def _is_set(event: StopEvent | None) -> bool:
    return event is not None and event.is_set()
