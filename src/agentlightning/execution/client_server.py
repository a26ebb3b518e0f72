"""Algorithm and runners in processes of their own, on one machine or on several, with the store behind HTTP."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from agentlightning import settings
from agentlightning.errors import SettingError
from agentlightning.execution.base import (
    INTERRUPT_S,
    ExecutionStrategy,
    resolve_managed_store_flag,
    run_until_stopped,
)
from agentlightning.execution.events import ThreadingEvent
from agentlightning.execution.worker import WorkerPool, context_for, work_as_algorithm

if TYPE_CHECKING:
    from collections.abc import Generator

    from agentlightning.execution.base import AlgorithmBundle, RunnerBundle
    from agentlightning.execution.events import ExecutionEvent
    from agentlightning.store.base import LightningStore

log = logging.getLogger("agentlightning.execution")

Role = Literal["algorithm", "runner", "both"]


class ClientServerExecutionStrategy(ExecutionStrategy):
    """Runners are processes; they reach the store over HTTP.

    With the role ``both`` one call starts everything on this machine. With the roles ``algorithm`` and ``runner`` each
    is started for itself, where ``server_host`` and ``server_port`` say where the algorithm's server is. To let other
    machines in, run ``agl store serve`` with tokens there, give ``LightningStoreClient`` as the store, and set
    ``managed_store=False``.
    """

    alias = "cs"

    def __init__(  # noqa: PLR0913, PLR0917 - signature of the API sheet
        self,
        role: Role | None = None,
        server_host: str | None = None,
        server_port: int | None = None,
        n_runners: int = 1,
        graceful_timeout: float = 5.0,
        terminate_timeout: float = 5.0,
        main_process: Literal["algorithm", "runner"] = "algorithm",
        managed_store: bool | None = None,  # noqa: FBT001 - signature of the API sheet
    ) -> None:
        """Make it.

        Args:
            role: What this process does; None: the setting ``current_role``.
            server_host: Where the server listens, or is; None: the setting ``server_host``.
            server_port: Its port; None: with the role ``both`` any free one, else the setting ``server_port``.
            n_runners: Runner processes, at least 1.
            graceful_timeout: Seconds that a runner gets to end by itself.
            terminate_timeout: Seconds after SIGTERM before it is killed.
            main_process: What runs in this process; ``runner`` only with one runner.
            managed_store: Put a server before the store; None: the setting ``managed_store``. False: the store is one
                that every process can reach by itself.

        Raises:
            ValueError: An argument is out of range.
            SettingError: A setting is.
        """
        wanted = settings.get(settings.CURRENT_ROLE).lower() if role is None else role
        if wanted not in ("algorithm", "runner", "both"):
            msg = f"role is {wanted!r}; use 'algorithm', 'runner' or 'both'"
            raise SettingError(msg)
        if n_runners < 1:
            msg = "n_runners has to be at least 1"
            raise ValueError(msg)
        if main_process == "runner" and n_runners > 1:
            msg = f"one runner fits into the main process, not {n_runners}; use main_process='algorithm'"
            raise ValueError(msg)
        self.role: Role = wanted
        self.server_host = settings.get(settings.SERVER_HOST) if server_host is None else server_host
        default_port = 0 if self.role == "both" else settings.get(settings.SERVER_PORT)
        self.server_port = default_port if server_port is None else server_port
        self.n_runners = n_runners
        self.graceful_timeout = graceful_timeout
        self.terminate_timeout = terminate_timeout
        self.main_process = main_process
        self.managed_store = resolve_managed_store_flag(managed_store)

    def execute(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        """Run what this process's role says, to the end; see ``ExecutionStrategy``."""
        if self.role == "runner":
            self._execute_runners(runner, self._remote(store))
            return
        with self._served(store) as served:
            if self.role == "algorithm":
                asyncio.run(algorithm(served, ThreadingEvent()))
            elif self.main_process == "algorithm":
                self._execute_both(algorithm, runner, served)
            else:
                self._execute_runner_here(algorithm, runner, served)

    @contextmanager
    def _served(self, store: LightningStore) -> Generator[LightningStore]:
        """Give a handle on *store* that can be sent to other processes."""
        if not self.managed_store:
            yield store
            return
        from agentlightning.store import LightningStoreServer  # noqa: PLC0415 - loads the web server

        server: Any = LightningStoreServer(store, self.server_host, self.server_port)
        asyncio.run(server.start())
        try:
            yield server
        finally:
            asyncio.run(server.stop())

    def _remote(self, store: LightningStore) -> LightningStore:
        if not self.managed_store:
            return store
        from agentlightning.store.client import LightningStoreClient  # noqa: PLC0415 - loads the HTTP machinery

        return LightningStoreClient(f"http://{self.server_host}:{self.server_port}", project=store.project)

    def _execute_both(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        pool = WorkerPool(runner, store, self.n_runners, context_for(runner, store))
        with self._stopping(pool):
            work = algorithm(store, pool.event)
            asyncio.run(run_until_stopped(work, pool.event, delay_s=self.graceful_timeout))
        if pool.failure is not None:
            raise pool.failure

    def _execute_runners(self, runner: RunnerBundle, store: LightningStore) -> None:
        """Run runners alone, until they have done what they may or Ctrl+C."""
        if self.n_runners == 1:
            asyncio.run(runner(store, 0, ThreadingEvent()))
            return
        pool = WorkerPool(runner, store, self.n_runners, context_for(runner, store))
        with self._stopping(pool):
            pool.event.wait()
        if pool.failure is not None:
            raise pool.failure

    @contextmanager
    def _stopping(self, pool: WorkerPool) -> Generator[None]:
        """Stop *pool* when the block ends, faster after Ctrl+C."""
        graceful_s, terminate_s = self.graceful_timeout, self.terminate_timeout
        try:
            yield
        except KeyboardInterrupt:
            graceful_s, terminate_s = min(graceful_s, INTERRUPT_S - 0.5), min(terminate_s, 0.5)
            raise
        finally:
            pool.stop(graceful_s, terminate_s)

    def _execute_runner_here(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        from agentlightning.execution.events import MultiprocessingEvent  # noqa: PLC0415 - only for this arrangement

        context: Any = context_for(algorithm, store)
        event = MultiprocessingEvent(ctx=context)
        process = context.Process(target=work_as_algorithm, args=(algorithm, store, event, os.getpid()))
        process.start()
        watcher = threading.Thread(target=_set_when_over, args=(process, event), daemon=True)
        watcher.start()
        try:
            asyncio.run(runner(store, 0, event))
        finally:
            event.set()
            process.join(self.graceful_timeout)
            if process.is_alive():
                process.terminate()
                process.join(self.terminate_timeout)
            watcher.join()
        if process.exitcode:
            msg = f"the algorithm's process ended with status {process.exitcode}; see its standard error"
            raise RuntimeError(msg)


def _set_when_over(process: Any, event: ExecutionEvent) -> None:  # noqa: ANN401 - a process of any context
    process.join()
    event.set()
