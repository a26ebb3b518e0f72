"""Watches a stream of the OpenAI client on its way to the user, without changing what it is.

The stream and its HTTP response stay the same objects. What is replaced: the private iterator that every way of reading
a ``Stream`` takes its items from, on every release since 1.0, and ``close`` (``aclose``) of this one response, which
every way of leaving a stream calls: ``stream.close()``, ``with``, and the helpers of ``.stream()``.
"""

from __future__ import annotations

import inspect
import weakref
from typing import TYPE_CHECKING, Any, Protocol, cast

from agentlightning._internal.failing import Telling
from agentlightning._internal.guard import guard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator


class Listener(Protocol):
    """Who is told. Each method but ``item`` may be called more than once; only the first call of all counts."""

    def item(self, item: object) -> None:
        """The user is about to get *item*."""

    def ended(self) -> None:
        """The user has read to the end."""

    def failed(self, error: BaseException) -> None:
        """Reading failed; the user gets *error*."""

    def closed(self) -> Awaitable[object] | None:
        """The user has left the stream; what comes back is awaited where the stream is asynchronous."""

    def dropped(self) -> None:
        """The stream is gone; called by the garbage collector, so anything may be locked."""


def tap(stream: Any, listener: Listener) -> None:  # noqa: ANN401 - openai.Stream or openai.AsyncStream
    """Tell *listener* what becomes of *stream*. Raises ``AttributeError`` when it is no stream that is known."""
    inner = stream._iterator  # noqa: SLF001 - see the module's docstring
    items = _AsyncItems if hasattr(inner, "__anext__") else _Items
    stream._iterator = items(inner, listener, _CloseWatch(stream.response, listener))  # noqa: SLF001
    # A stream is part of a cycle: one that is dropped halfway is found late, at the end of the program at the latest.
    weakref.finalize(stream, listener.dropped)


class _CloseWatch:
    """Tells the listener when the response is closed by the user, and not by reading on."""

    def __init__(self, response: Any, listener: Listener) -> None:  # noqa: ANN401 - of httpx or httpx2
        self.is_reading = False
        self._attributes = cast("dict[str, object]", vars(response))
        self._listener = listener
        close, aclose = response.close, response.aclose

        def closing() -> None:
            """Close the stream; a listener is told when nobody was reading."""
            close()
            if not self.is_reading:
                self.release()
                with guard("openai.close"):
                    listener.closed()

        async def aclosing() -> None:
            """As ``closing``, for the async client."""
            await aclose()
            if not self.is_reading:
                self.release()
                with guard("openai.close"):
                    rest = listener.closed()
                    if inspect.isawaitable(rest):
                        await rest

        self._ours = {"close": closing, "aclose": aclosing}
        self._attributes.update(self._ours)

    def release(self) -> None:
        """Let the response be as it was: what we set holds it in a cycle, with its body."""
        for name, ours in self._ours.items():
            if self._attributes.get(name) is ours:
                del self._attributes[name]

    def ended(self, error: BaseException) -> None:
        """Tell the listener that reading came to its end with *error*, which may be that of an iterator's end."""
        self.release()
        with guard("openai.stream"):
            if isinstance(error, (StopIteration, StopAsyncIteration)):
                self._listener.ended()
            else:
                self._listener.failed(error)


class _Items:
    """The items of a synchronous stream."""

    def __init__(self, inner: Iterator[object], listener: Listener, watch: _CloseWatch) -> None:
        self._inner = inner
        self._listener = listener
        self._watch = watch

    def __iter__(self) -> _Items:
        return self

    def __next__(self) -> object:
        self._watch.is_reading = True
        try:
            with Telling(self._watch.ended):
                item = next(self._inner)
        finally:
            self._watch.is_reading = False
        with guard("openai.stream"):
            self._listener.item(item)
        return item

    def __getattr__(self, name: str) -> object:
        # The original is a generator: ``close`` and the like are its own.
        return getattr(self._inner, name)


class _AsyncItems:
    """The items of an asynchronous stream."""

    def __init__(self, inner: AsyncIterator[object], listener: Listener, watch: _CloseWatch) -> None:
        self._inner = inner
        self._listener = listener
        self._watch = watch

    def __aiter__(self) -> _AsyncItems:
        return self

    async def __anext__(self) -> object:
        self._watch.is_reading = True
        try:
            with Telling(self._watch.ended):
                item = await self._inner.__anext__()
        finally:
            self._watch.is_reading = False
        with guard("openai.stream"):
            self._listener.item(item)
        return item

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)
