"""A store that may be used from any thread and event loop, around one that may not."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import TYPE_CHECKING, TypeVar

from agentlightning._internal.answer import Answer, answer_of
from agentlightning.store.forward import ForwardingStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentlightning.store.base import LightningStore
    from agentlightning.types.record import WriteBatch, WriteResult

T = TypeVar("T")


class LightningStoreThreaded(ForwardingStore):
    """Runs every call of the store inside on one thread with an event loop of its own.

    No lock is held while a call waits, so a waiter does not keep the others out; what the store does between two
    ``await`` is never interleaved with another call. Thread-safe; a forked child makes a thread of its own.
    """

    def __init__(self, store: LightningStore) -> None:
        """Make *store* usable from every thread; from now on it must be used through this one only."""
        self.store = store
        self.project = store.project
        self.url = store.url
        self._home = _Home()

    def with_project(self, project: str) -> LightningStoreThreaded:
        """Return a handle for another project on the same thread; see ``LightningStore``."""
        handle = LightningStoreThreaded(self.store.with_project(project))
        handle._home = self._home
        return handle

    async def forward(self, call: Callable[[LightningStore], Awaitable[T]]) -> T:
        """Run *call* on the store's thread and wait for it without keeping this event loop waiting."""

        async def run() -> T:
            """Make the call on the store's own loop."""
            return await call(self.store)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), self._home.loop()))

    def write_batch(self, batch: WriteBatch) -> WriteResult:
        """Write a batch on the store's thread; see ``LightningStore``."""
        done: concurrent.futures.Future[Answer[WriteResult]] = concurrent.futures.Future()

        def write() -> None:
            """Write the batch on the thread of the store's loop and hand the outcome to the caller."""
            done.set_result(answer_of(lambda: self.store.write_batch(batch)))

        self._home.loop().call_soon_threadsafe(write)
        return done.result().get()

    def after_fork(self) -> None:
        """Make the store usable in a forked child; see ``LightningStore``."""
        self.store.after_fork()
        self._home = _Home()

    def close(self) -> None:
        """Close the store inside and end its thread; a later call starts a new one."""
        self._home.stop()
        self.store.close()


class _Home:
    """A daemon thread that runs an event loop, started on first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_run, args=(self._loop,), name="agentlightning-store", daemon=True
                )
                self._thread.start()
            return self._loop

    def stop(self) -> None:
        """End the loop after what is under way, and wait for its thread."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(_cancel_all())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _cancel_all() -> None:
    pending = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
