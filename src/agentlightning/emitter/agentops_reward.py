"""``@reward`` by the operation decorator of the AgentOps SDK, where its client is initialised.

The span is then one that the AgentOps service shows too: its output is the JSON text of a ``RewardSpanData``. Whether
the client is initialised is asked at each call, in the process that makes it.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, cast

from agentlightning import settings
from agentlightning._internal.failing import Telling
from agentlightning._internal.guard import guard
from agentlightning.semconv import SpanNames

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    Value = Callable[[object], "float | None"]


class SdkOperation(Protocol):
    """The SDK's ``operation``."""

    def __call__(self, fn: Callable[[], object], /, *, name: str) -> Callable[[], object]:
        """Return *fn* with a span around each call; awaitable where *fn* is."""
        ...


def sdk_operation() -> SdkOperation | None:
    """Return the SDK's ``operation`` decorator if its client is initialised in this process, else None."""
    if "agentops" not in sys.modules:
        return None
    with guard("emitter.reward"):
        if not settings.get(settings.ENABLED):
            return None
        from agentlightning.tracer.agentops_client import client  # noqa: PLC0415 - where the SDK is

        found: SdkOperation | None = getattr(sys.modules.get("agentops.sdk.decorators"), "operation", None)
        return found if client() is not None else None
    return None


class _Outcome(AbstractContextManager[None]):
    """What the user's function did, however the SDK goes about it; a block around the SDK's call."""

    def __init__(self, value: Value) -> None:
        self._value = value
        self.has_run = False
        self.result: object = None
        self.error: BaseException | None = None

    def __enter__(self) -> None:
        """Begin; nothing is set up."""

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> bool:
        """Swallow the function's own error, which ``get`` raises; an error of the SDK's goes on."""
        return exc is not None and exc is self.error

    def failed(self, error: BaseException) -> None:
        """Keep what the function raised for the caller."""
        self.error = error

    def data(self, result: object) -> dict[str, object]:
        """Keep *result* for the caller, and return the span's output: type, and value or None where it is no reward."""
        self.result = result
        return {"type": "reward", "value": self._value(result)}

    def get(self) -> object:
        """Return what the function returned, or raise what it raised, the same object."""
        if self.error is not None:
            raise self.error
        return self.result


def call_sync(operation: SdkOperation, function: Callable[[], object], value: Value) -> object:
    """Call *function* as an operation whose output is the reward that *value* reads from its result.

    Result and error are the function's own; an error of the SDK's is counted, and the function runs all the same.
    """
    outcome = _Outcome(value)

    def run() -> dict[str, object]:
        """Call the function within the SDK's span, and note what it came to."""
        outcome.has_run = True
        with Telling(outcome.failed):
            result = function()
        return outcome.data(result)

    with guard("emitter.reward"), outcome:
        operation(run, name=SpanNames.REWARD.value)()
    return outcome.get() if outcome.has_run else function()


async def call_async(operation: SdkOperation, function: Callable[[], Awaitable[object]], value: Value) -> object:
    """Do what ``call_sync`` does with a function that is awaited."""
    outcome = _Outcome(value)

    async def run() -> dict[str, object]:
        """Await the function within the SDK's span, and note what it came to."""
        outcome.has_run = True
        with Telling(outcome.failed):
            result = await function()
        return outcome.data(result)

    with guard("emitter.reward"), outcome:
        await cast("Awaitable[object]", operation(run, name=SpanNames.REWARD.value)())
    return outcome.get() if outcome.has_run else await function()
