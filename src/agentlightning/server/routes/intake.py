"""What routes do with what comes from outside: read it, take credentials out, flag what cannot be true.

The work for a large body is done on a helper thread: a loop that parses 20 MiB answers nobody else for seconds.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import msgspec
from fastapi import HTTPException

from agentlightning.errors import StoreError
from agentlightning.store import wire
from agentlightning.view.integrity import flag

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from fastapi import Request

    from agentlightning.server.routes.state import ServerState
    from agentlightning.types.record import RolloutStart, SpanRecord

    T = TypeVar("T")

_LARGE_BYTES = 2**16
"""Bodies from which on a thread pays: the way to it and back takes as long as some kilobytes of spans."""
_LARGE_COUNT = 100


async def beside(body: bytes, work: Callable[[], T]) -> T:
    """Do *work* that takes the longer the larger *body* is, on a helper thread unless it is small."""
    return work() if len(body) < _LARGE_BYTES else await asyncio.to_thread(work)


def content_type_of(request: Request) -> str:
    """Return the content type of a request without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def decoded(decode: Callable[[bytes], T], request: Request) -> T:
    """Return what the body of *request* holds as MessagePack.

    Raises:
        HTTPException: 415 for another content type, 400 with the reason for a body that is damaged.
    """
    if content_type_of(request) != wire.MSGPACK:
        raise HTTPException(415, f"this wants {wire.MSGPACK}")
    body = await request.body()
    try:
        return await beside(body, lambda: decode(body))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body cannot be read: {error}") from None


async def redact(state: ServerState, spans: list[SpanRecord], starts: Sequence[RolloutStart] = ()) -> None:
    """Take credentials out of spans and inputs that no client of ours has redacted, on a helper thread."""

    def work() -> None:
        """Redact inputs, metadata and spans in place. On a thread of the server's pool."""
        with state.redacting:
            if not all(state.redactor.redact_all(spans)):
                msg = "a span could not be redacted; nothing of this batch was written"
                raise StoreError(msg)
            for start in starts:
                start.input = state.redactor.value(start.input)
                start.metadata = cast("dict[str, Any]", state.redactor.value(start.metadata))

    await asyncio.to_thread(work)


async def flag_all(state: ServerState, spans: list[SpanRecord]) -> None:
    """Flag spans that break a rule of ``view.integrity``, and count them."""

    def work() -> int:
        """Flag the spans in place and return how many were."""
        return sum(flag(span) for span in spans)

    state.count("spans_flagged", work() if len(spans) < _LARGE_COUNT else await asyncio.to_thread(work))
