"""One traced block: it makes or adopts a rollout, and its end is the rollout's end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from agentlightning import settings
from agentlightning._internal.clock import now_ns
from agentlightning._internal.context import RunningRollout, home_rollout, running
from agentlightning._internal.guard import guard
from agentlightning._internal.ids import new_attempt_id, new_rollout_id, new_trace_id
from agentlightning.pipeline.process import get_pipeline
from agentlightning.pipeline.sampling import rate_of_rollout
from agentlightning.tracer.processor import LightningSpanProcessor
from agentlightning.tracer.provider import get_provider, providers
from agentlightning.types.record import AttemptEnd, RolloutStart

if TYPE_CHECKING:
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.sdk.trace import ReadableSpan

    from agentlightning.pipeline.process import Pipeline
    from agentlightning.types.protocol import SpanWriter

log = logging.getLogger("agentlightning.tracer")


class _LastTrace:
    """The spans of the context that was closed last."""

    def __init__(self) -> None:
        self.here: ContextVar[list[ReadableSpan] | None] = ContextVar("agentlightning_last_trace", default=None)
        self.in_process: list[ReadableSpan] = []

    def keep(self, spans: list[ReadableSpan]) -> None:
        """Remember the spans of a trace that was left, for this context and for the process."""
        self.here.set(spans)
        self.in_process = spans

    def get(self) -> list[ReadableSpan]:
        """Return the spans of the last trace of this context, else of the process, as a new list."""
        here = self.here.get()
        return list(self.in_process if here is None else here)


class _Unreleased:
    """Attempts that ended and whose stores are still kept for spans on their way."""

    def __init__(self) -> None:
        self._ids: list[str] = []

    def flush(self, attempt_id: str, pipeline: Pipeline) -> bool:
        """Flush, and release this attempt and all that ended before it; False when the store did not answer in time."""
        self._ids.append(attempt_id)
        before = list(self._ids)
        if not pipeline.flush(settings.get(settings.FLUSH_TIMEOUT_S)):
            return False
        for released in before:
            pipeline.release_attempt(released)
        self._ids = [kept for kept in self._ids if kept not in before]
        return True


_unreleased = _Unreleased()

last_trace = _LastTrace()
"""The last trace of this process and of the current context."""


class TraceContext(AbstractContextManager[LightningSpanProcessor], AbstractAsyncContextManager[LightningSpanProcessor]):
    """See ``Tracer.trace_context``. Enter it once."""

    def __init__(
        self,
        name: str | None = None,
        *,
        store: SpanWriter | None = None,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
    ) -> None:
        """Prepare the context; nothing happens before it is entered.

        Raises:
            ValueError: Only one of the two ids is given.
        """
        if (rollout_id is None) != (attempt_id is None):
            msg = "give rollout_id and attempt_id together, or neither to make a new rollout"
            raise ValueError(msg)
        self._name = name
        self._store = store
        self._makes_rollout = rollout_id is None
        self._ids = (rollout_id or new_rollout_id(), attempt_id or new_attempt_id())
        self._processor = LightningSpanProcessor()
        self._token: Token[RunningRollout | None] | None = None
        self._pid = 0

    def __enter__(self) -> LightningSpanProcessor:
        """Begin; every span that starts now in this thread or task belongs to the rollout."""
        with guard("trace_context.enter"):
            if settings.get(settings.ENABLED):
                self._begin()
        return self._processor

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """End the rollout, ``failed`` when the block raised, and wait until its spans can be read."""
        if self._end(exc):
            self._flush()

    async def __aenter__(self) -> LightningSpanProcessor:
        """Begin, as ``with`` does."""
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """End, as ``with`` does, without blocking the event loop."""
        if self._end(exc):
            await asyncio.to_thread(self._flush)

    def _begin(self) -> None:
        rollout_id, attempt_id = self._ids
        get_provider()
        outer = running.get() or home_rollout()
        pipeline = get_pipeline()
        url = self._store.url if self._store is not None else None
        if self._makes_rollout:
            metadata = {"parent_rollout_id": outer.rollout_id} if outer else {}
            start = RolloutStart(
                rollout_id=rollout_id,
                attempt_id=attempt_id,
                project=getattr(self._store, "project", None) or settings.get(settings.PROJECT),
                input=self._name,
                start_ns=now_ns(),
                metadata=metadata,
            )
            pipeline.start_rollout(start, self._store)
        else:
            pipeline.adopt_attempt(attempt_id, self._store)
        providers.collectors[attempt_id] = self._processor
        self._pid = os.getpid()
        rate = rate_of_rollout(given=not self._makes_rollout)
        rollout = RunningRollout(rollout_id, attempt_id, new_trace_id(), store_url=url, sample_rate=rate)
        self._token = running.set(rollout)

    def _end(self, exc: BaseException | None) -> bool:
        """Stop stamping and announce the end; tell whether anything was begun."""
        if self._token is None:
            return False
        with contextlib.suppress(ValueError):  # left in another task than entered, as fixtures of pytest do
            running.reset(self._token)
        self._token = None
        if self._pid != os.getpid():
            return False  # a forked child leaves the block too; the rollout is the parent's to end
        last_trace.keep(self._processor.spans())
        with guard("trace_context.exit"):
            providers.collectors.pop(self._ids[1], None)
            if self._makes_rollout:
                well = exc is None or (isinstance(exc, SystemExit) and exc.code in (None, 0))
                status = "succeeded" if well else "failed"
                end = AttemptEnd(rollout_id=self._ids[0], attempt_id=self._ids[1], status=status, end_ns=now_ns())
                get_pipeline().end_attempt(end)
        return True

    def _flush(self) -> None:
        with guard("trace_context.flush"):
            pipeline = get_pipeline()
            if not _unreleased.flush(self._ids[1], pipeline):
                waiting = pipeline.ledger.account().waiting
                log.warning(
                    "rollout %s: %d spans are not in the store yet; they are still on their way",
                    *self._ids[:1],
                    waiting,
                )
