"""One attempt at a rollout, from its hooks to its final status."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentlightning import settings
from agentlightning._internal.answer import Answer, run_in_thread
from agentlightning._internal.clock import now_ns
from agentlightning.emitter import emit_exception
from agentlightning.errors import StoreError, TransitionError
from agentlightning.litagent.result import record_result
from agentlightning.pipeline.process import account, get_pipeline
from agentlightning.runner.alert import Health
from agentlightning.runner.resource import ResourceCache
from agentlightning.types.core import Task
from agentlightning.types.record import AttemptEnd

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from agentlightning.litagent.litagent import LitAgent
    from agentlightning.store.base import LightningStore
    from agentlightning.tracer.base import Tracer
    from agentlightning.types.core import AttemptedRollout, AttemptStatus, Hook
    from agentlightning.types.resources import NamedResources

log = logging.getLogger("agentlightning.runner")

_CANCEL_WAIT_S = 1.0
"""Longest time that an agent whose time is over gets to clean up."""


class AttemptTimeoutError(Exception):
    """An attempt took longer than ``timeout_seconds`` of its rollout's configuration."""


@dataclass(frozen=True)
class Workplace:
    """What all attempts of a runner share."""

    runner: object
    agent: LitAgent[Any]
    tracer: Tracer
    store: LightningStore
    hooks: Sequence[Hook] = ()
    health: Health = field(default_factory=Health)
    resources: ResourceCache = field(default_factory=ResourceCache)


class AttemptRun:
    """Runs the agent for one attempt; used once, in one event loop."""

    def __init__(self, place: Workplace, rollout: AttemptedRollout) -> None:
        """Prepare to run *rollout*'s attempt at *place*."""
        self._place = place
        self.rollout = rollout
        self.error: BaseException | None = None
        """What the agent raised."""
        self.status: AttemptStatus | None = None
        """Final status, None before the end and for an attempt that was given back."""

    async def run(self) -> None:
        """Run hooks and agent, record what came of it, and return when it can be read from the store.

        Raises nothing of the agent's; it is in ``error``.

        Raises:
            StoreError: The final status could not be written.
        """
        place, rollout = self._place, self.rollout
        tracer = place.tracer
        common = {"agent": place.agent, "runner": place.runner, "rollout": rollout}
        await self._hooks("on_rollout_start", common)
        await self._agent_hook(place.agent.on_rollout_start, self._task(), place.runner, tracer)
        lost, started = account().total_lost, time.monotonic()
        ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
        async with tracer.trace_context(store=place.store, **ids) as processor:
            await self._hooks("on_trace_start", {**common, "tracer": tracer})
            status = await self._work()
            await self._hooks("on_trace_end", {**common, "tracer": tracer})
            place.health.check(time.monotonic() - started)
            announced = self._announce(status)
            leaving = time.monotonic()
        in_time = time.monotonic() - leaving < settings.get(settings.FLUSH_TIMEOUT_S)
        if not announced:
            await self._write_status(status)
        self.status = status
        place.health.note(traced=in_time and account().total_lost == lost, failed=status != "succeeded")
        spans = processor.spans() if hasattr(processor, "spans") else tracer.get_last_trace()
        await self._hooks("on_rollout_end", {**common, "spans": spans})
        await self._agent_hook(place.agent.on_rollout_end, self._task(), rollout, place.runner, tracer)

    async def _work(self) -> AttemptStatus:
        """Run the agent and record its result or error; return the status of the attempt."""
        place = self._place
        try:
            answer: Answer[object] = await self._limited(
                self._call_agent(await place.resources.get(place.store, self.rollout))
            )
            if answer.error is None:
                await self._record(answer.value)
        except AttemptTimeoutError as error:
            self.error = error
            emit_exception(error)
            return "timeout"
        except Exception as error:  # noqa: BLE001 - the agent's resources or result; the runner goes on
            answer = Answer(error=error)
        self.error = answer.error
        if answer.error is None:
            return "succeeded"
        emit_exception(answer.error)
        log.warning("rollout %s: the agent raised %s", self.rollout.rollout_id, type(answer.error).__qualname__)
        return "failed"

    async def _call_agent(self, resources: NamedResources) -> Answer[object]:
        agent, rollout = self._place.agent, self.rollout
        if not agent.is_async():
            return await run_in_thread(lambda: agent.rollout(rollout.input, resources, rollout), "agentlightning-agent")
        try:
            return Answer(await agent.rollout_async(rollout.input, resources, rollout))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - user code; cancelling and Ctrl+C pass
            return Answer(error=error)

    async def _limited(self, work: Awaitable[Answer[object]]) -> Answer[object]:
        """Await *work* as long as the attempt may take.

        Raises:
            AttemptTimeoutError: It took longer; an async agent was cancelled, a plain one is left behind.
        """
        limit = self.rollout.config.timeout_seconds
        if limit is None:
            return await work
        task = asyncio.ensure_future(work)
        left = self.rollout.attempt.start_time + limit - time.time()
        try:
            await asyncio.wait({task}, timeout=max(0.0, left))
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_WAIT_S)
        msg = f"the attempt took longer than timeout_seconds={limit:g} of its rollout's configuration"
        raise AttemptTimeoutError(msg)

    async def _record(self, value: object) -> None:
        rollout_id, attempt_id = self.rollout.rollout_id, self.rollout.attempt.attempt_id
        name = str(getattr(self._place.agent, "__name__", type(self._place.agent).__name__))

        def record() -> None:
            """Write the result's rewards and spans; blocks until they are stored."""
            writer = self._place.store
            record_result(value, agent=name, rollout_id=rollout_id, attempt_id=attempt_id, writer=writer)

        if isinstance(value, (list, tuple)):
            await asyncio.to_thread(record)  # spans are written to the store at once
        else:
            record()

    def _announce(self, status: AttemptStatus) -> bool:
        """Hand the final status to the pipeline, which writes it with the last spans; False where nothing is traced."""
        if not settings.get(settings.ENABLED):
            return False
        pipeline = get_pipeline()
        attempt = self.rollout.attempt
        # For a tracer of another kind, whose context does not say where the attempt belongs.
        pipeline.adopt_attempt(attempt.attempt_id, self._place.store)
        pipeline.end_attempt(
            AttemptEnd(rollout_id=attempt.rollout_id, attempt_id=attempt.attempt_id, status=status, end_ns=now_ns())
        )
        return True

    async def _write_status(self, status: AttemptStatus) -> None:
        attempt = self.rollout.attempt
        try:
            await self._place.store.update_attempt(attempt.rollout_id, attempt.attempt_id, status=status)
        except TransitionError as error:
            log.warning("rollout %s: %s", attempt.rollout_id, error)

    async def give_back(self) -> None:
        """Put the rollout back into the queue, as if this attempt did not count; errors of the store are logged."""
        store, rollout, attempt = self._place.store, self.rollout, self.rollout.attempt
        config = rollout.config
        retry = config.model_copy(
            update={"max_attempts": attempt.sequence_id + 1, "retry_condition": [*config.retry_condition, "failed"]}
        )
        try:
            # A retry that the configuration allows, so that nobody ever sees the rollout as failed.
            await store.update_rollout(rollout.rollout_id, config=retry)
            await store.update_attempt(
                rollout.rollout_id, attempt.attempt_id, status="failed", metadata={"returned": True}
            )
            await store.update_rollout(rollout.rollout_id, config=config)
        except StoreError as error:
            log.warning("rollout %s could not be returned to the queue: %s", rollout.rollout_id, error)

    def _task(self) -> Task:
        rollout = self.rollout
        return Task(
            rollout_id=rollout.rollout_id,
            input=rollout.input,
            mode=rollout.mode,
            resources_id=rollout.resources_id,
            create_time=rollout.start_time,
            last_claim_time=rollout.attempt.start_time,
            num_claims=rollout.attempt.sequence_id,
            metadata=rollout.metadata or {},
        )

    async def _hooks(self, name: str, arguments: Mapping[str, object]) -> None:
        for hook in self._place.hooks:
            await self._agent_hook(getattr(hook, name), **arguments)

    async def _agent_hook(self, hook: Callable[..., object], *args: object, **kwargs: object) -> None:
        try:
            result = hook(*args, **kwargs)
            if inspect.isawaitable(result):
                await result
        except Exception:
            name = getattr(hook, "__qualname__", type(hook).__qualname__)
            log.exception("rollout %s: the hook %s failed; the rollout goes on", self.rollout.rollout_id, name)
