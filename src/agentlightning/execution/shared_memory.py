"""Algorithm and runners in threads of one process, sharing the store object."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, Literal

from agentlightning.execution.base import (
    INTERRUPT_S,
    MOST_EMPTY_DEATHS,
    ExecutionError,
    ExecutionStrategy,
    resolve_managed_store_flag,
    run_until_stopped,
)
from agentlightning.execution.events import ThreadingEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning.execution.base import AlgorithmBundle, RunnerBundle
    from agentlightning.store.base import LightningStore

log = logging.getLogger("agentlightning.execution")


class SharedMemoryExecutionStrategy(ExecutionStrategy):
    """Each participant has a thread and an event loop; one of them is the main thread. Good for agents that wait."""

    alias = "shm"

    def __init__(
        self,
        n_runners: int = 1,
        main_thread: Literal["algorithm", "runner"] = "runner",
        join_timeout: float = 15.0,
        graceful_delay: float = 5.0,
        poll_interval: float = 0.05,
        managed_store: bool | None = None,  # noqa: FBT001 - signature of the API sheet
    ) -> None:
        """Make it.

        Args:
            n_runners: Runners, each in a thread, at least 1.
            main_thread: What runs in the main thread; ``runner`` only with one runner.
            join_timeout: Seconds that a thread gets to end at last; then it is left behind.
            graceful_delay: Seconds that an algorithm gets to end by itself when the runners are done.
            poll_interval: Seconds between two looks at the stop event.
            managed_store: Wrap the store in ``LightningStoreThreaded`` unless it is thread-safe; None: the setting.

        Raises:
            ValueError: An argument is out of range.
        """
        if n_runners < 1 or poll_interval <= 0:
            msg = "n_runners has to be at least 1, and poll_interval above 0"
            raise ValueError(msg)
        if main_thread == "runner" and n_runners > 1:
            msg = f"one runner fits into the main thread, not {n_runners}; use main_thread='algorithm'"
            raise ValueError(msg)
        self.n_runners = n_runners
        self.main_thread = main_thread
        self.join_timeout = join_timeout
        self.graceful_delay = graceful_delay
        self.poll_interval = poll_interval
        self.managed_store = resolve_managed_store_flag(managed_store)

    def execute(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        """Run to the end; see ``ExecutionStrategy``."""
        _Execution(self, algorithm, runner, self._shared(store)).run()

    def _shared(self, store: LightningStore) -> LightningStore:
        from agentlightning.store.client import LightningStoreClient  # noqa: PLC0415 - loads the HTTP machinery
        from agentlightning.store.sql.manager import SqlLightningStore  # noqa: PLC0415
        from agentlightning.store.threading import LightningStoreThreaded  # noqa: PLC0415

        # Ours are thread-safe; one more thread in between would only cost.
        safe = (SqlLightningStore, LightningStoreThreaded, LightningStoreClient)
        return store if isinstance(store, safe) or not self.managed_store else LightningStoreThreaded(store)


class _Execution:
    """One run of the strategy."""

    def __init__(
        self,
        strategy: SharedMemoryExecutionStrategy,
        algorithm: AlgorithmBundle,
        runner: RunnerBundle,
        store: LightningStore,
    ) -> None:
        self._strategy = strategy
        self._algorithm = algorithm
        self._runner = runner
        self._store = store
        self._event = ThreadingEvent()
        self._failure: BaseException | None = None
        self._runners_left = strategy.n_runners
        self._lock = threading.Lock()

    def run(self) -> None:
        """Run algorithm and runners until both are done or one failed; raise what failed."""
        strategy = self._strategy
        runners = [self._thread(self._run_runner, number) for number in range(strategy.n_runners)]
        threads = runners if strategy.main_thread == "algorithm" else [self._thread(self._run_algorithm)]
        for thread in threads:
            thread.start()
        join_s = strategy.join_timeout
        try:
            if strategy.main_thread == "algorithm":
                self._run_algorithm()
            else:
                self._run_runner(0)
        except KeyboardInterrupt:
            join_s = min(join_s, INTERRUPT_S)
            raise
        finally:
            self._event.set()
            self._join(threads, join_s)
        if self._failure is not None:
            raise self._failure

    @staticmethod
    def _thread(target: Callable[..., None], *args: int) -> threading.Thread:
        return threading.Thread(target=target, args=args, name=f"agentlightning-{target.__name__[5:]}", daemon=True)

    @staticmethod
    def _join(threads: list[threading.Thread], timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        alive = [thread.name for thread in threads if thread.is_alive()]
        if alive:
            log.warning("%d threads did not end within %g s and are left behind: %s", len(alive), timeout_s, alive)

    def _run_algorithm(self) -> None:
        work = self._algorithm(self._store, self._event)
        try:
            asyncio.run(run_until_stopped(work, self._event, delay_s=self._strategy.graceful_delay))
        except Exception as error:  # noqa: BLE001 - the user's algorithm, on a thread of ours: raised by the main thread
            self._failure = self._failure or error
        finally:
            self._event.set()

    def _run_runner(self, number: int) -> None:
        """Run a worker, again when it dies, until it ends by itself."""
        deaths = 0
        while not self._event.is_set():
            try:
                asyncio.run(self._runner(self._store, number, self._event))
                break
            except Exception as error:
                log.exception("runner %d died and is replaced", number)
                deaths += 1
                if deaths >= MOST_EMPTY_DEATHS:
                    self._failure = ExecutionError(f"runner {number} died {deaths} times; the last error was {error!r}")
                    break
                self._event.wait(self._strategy.poll_interval)
        with self._lock:
            self._runners_left -= 1
            if self._runners_left == 0:
                self._event.set()  # nobody is left who could work for the algorithm
