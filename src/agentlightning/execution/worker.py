"""Worker processes: started, watched, replaced when they die, and stopped."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from agentlightning.errors import StoreError
from agentlightning.execution.base import MOST_EMPTY_DEATHS, ExecutionError
from agentlightning.execution.events import MultiprocessingEvent

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

    from agentlightning.execution.base import AlgorithmBundle, RunnerBundle
    from agentlightning.store.base import LightningStore

log = logging.getLogger("agentlightning.execution")

_LOOK_S = 0.2


def context_for(*bundles: object) -> BaseContext:
    """Return the way to start processes for *bundles*: fresh ones where everything can be pickled, else forks.

    A fresh process shares no locks and threads with this one, and so no accident with them.

    Raises:
        ExecutionError: Something cannot be pickled, and this system has no fork.
    """
    try:
        pickle.dumps(bundles)
    except Exception as error:
        if "fork" in multiprocessing.get_all_start_methods():
            log.info("worker processes are forked, because the agent cannot be pickled: %s", type(error).__name__)
            return multiprocessing.get_context("fork")
        msg = f"the agent cannot be sent to a worker process ({error}); define it at the top of an importable module"
        raise ExecutionError(msg) from error
    return multiprocessing.get_context("spawn")


class _OrphanEvent:
    """The event of the parent, which counts as set when the parent is gone."""

    def __init__(self, event: MultiprocessingEvent, parent: int) -> None:
        self._event = event
        self._parent = parent

    def set(self) -> None:
        """Ask all who share the event to stop."""
        self._event.set()

    def clear(self) -> None:
        """Take the request to stop back; the end of the parent stays one."""
        self._event.clear()

    def is_set(self) -> bool:
        """Tell whether to stop: it was asked for, or the parent has gone."""
        return self._event.is_set() or os.getppid() != self._parent

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most *timeout* seconds (None: for ever) until it is time to stop; tell whether it is."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self.is_set() and (until is None or time.monotonic() < until):
            self._event.wait(_LOOK_S)
        return self.is_set()


def work_as_runner(
    bundle: RunnerBundle, store: LightningStore, worker_id: int, event: MultiprocessingEvent, parent: int
) -> None:
    """Be a runner: what a worker process runs. Ctrl+C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(bundle(store, worker_id, _OrphanEvent(event, parent)))


def work_as_algorithm(bundle: AlgorithmBundle, store: LightningStore, event: MultiprocessingEvent, parent: int) -> None:
    """Be the algorithm in a process of its own; everybody stops when it is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(bundle(store, _OrphanEvent(event, parent)))
    finally:
        event.set()


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    empty_deaths: int = 0
    """How often in a row it died without having claimed anything."""


class WorkerPool:
    """Runner processes; a thread of this process watches them."""

    def __init__(self, bundle: RunnerBundle, store: LightningStore, count: int, context: BaseContext) -> None:
        """Prepare *count* runners that reach *store*, which has to be one that can be sent to another process."""
        self.event = MultiprocessingEvent(ctx=context)
        self.failure: ExecutionError | None = None
        """Why a runner is not replaced any more."""
        self._bundle = bundle
        self._store = store
        self._context: Any = context
        self._workers = [_Worker(number, self._start(number)) for number in range(count)]
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="agentlightning-workers", daemon=True)
        self._watcher.start()

    def _start(self, number: int) -> BaseProcess:
        arguments = (self._bundle, self._store, number, self.event, os.getpid())
        process: BaseProcess = self._context.Process(
            target=work_as_runner, args=arguments, name=f"agentlightning-runner-{number}", daemon=False
        )
        process.start()
        return process

    def _watch(self) -> None:
        while self._workers and not self._stopping.is_set():
            wait([worker.process.sentinel for worker in self._workers], timeout=_LOOK_S)
            for worker in [found for found in self._workers if not found.process.is_alive()]:
                self._replace(worker)
        self.event.set()  # nobody is left who could work for the algorithm

    def _replace(self, worker: _Worker) -> None:
        code, pid = worker.process.exitcode, worker.process.pid
        if code == 0 or self._stopping.is_set() or self.event.is_set():
            self._workers.remove(worker)
            return
        lost = self._mark_lost(pid, code)
        worker.empty_deaths = 0 if lost else worker.empty_deaths + 1
        if worker.empty_deaths >= MOST_EMPTY_DEATHS:
            self._workers.remove(worker)
            self.failure = ExecutionError(
                f"runner {worker.number} ended {worker.empty_deaths} times with status {code} before it had claimed "
                "anything; see its standard error"
            )
            return
        log.warning("runner %d (process %s) ended with status %s and is replaced", worker.number, pid, code)
        worker.process = self._start(worker.number)

    def _mark_lost(self, pid: int | None, code: int | None) -> int:
        """Mark the attempts that a dead process held as failed, so that they are retried at once; return how many."""
        try:
            return asyncio.run(mark_lost(self._store, pid, code))
        except StoreError as error:
            log.warning("the attempts of process %s cannot be marked now, their leases run out: %s", pid, error)
            return 0

    def stop(self, graceful_s: float, terminate_s: float) -> None:
        """Stop all runners: ask, then terminate, then kill; what a killed one held is marked."""
        self._stopping.set()
        self.event.set()
        self._watcher.join()
        until = time.monotonic() + graceful_s
        for worker in self._workers:
            worker.process.join(max(0.0, until - time.monotonic()))
        forced = [worker.process for worker in self._workers if worker.process.is_alive()]
        for process in forced:
            process.terminate()
        until = time.monotonic() + terminate_s
        for process in forced:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            self._mark_lost(process.pid, process.exitcode)


async def mark_lost(store: LightningStore, pid: int | None, code: int | None) -> int:
    """Mark what the runner process *pid* of this machine had claimed as failed; return how many attempts that were."""
    count = 0
    for rollout in await store.query_rollouts(status=["preparing", "running"]):
        attempt = await store.get_latest_attempt(rollout.rollout_id)
        if attempt is None or not (attempt.worker_id or "").endswith(f"/{pid}"):
            continue
        if attempt.status in ("preparing", "running", "unresponsive"):
            metadata = {**(attempt.metadata or {}), "exit_status": code}
            await store.update_attempt(rollout.rollout_id, attempt.attempt_id, status="failed", metadata=metadata)
            count += 1
    return count
