from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING, Any, cast

import openai
import pytest
from openai.resources.chat import Completions
from opentelemetry.trace import StatusCode

from agentlightning import semconv
from agentlightning.testing import Reply, token_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning.instrumentation.openai import OpenAIInstrumentor

needs_stream_helper = pytest.mark.skipif(not hasattr(Completions, "stream"), reason="newer releases have it")


def take(chunks: Any, number: int = 3) -> None:
    """Read some chunks."""
    for _ in range(number):
        next(chunks)


def close(c: Any, asked: dict[str, Any]) -> None:
    """Close the stream."""
    chunks = c.chat.completions.create(stream=True, **asked)
    take(chunks)
    chunks.close()


def leave_block(c: Any, asked: dict[str, Any]) -> None:
    """Leave the block of the stream."""
    with c.chat.completions.create(stream=True, **asked) as chunks:
        for number, _chunk in enumerate(chunks):
            if number == 2:
                break


def leave_block_by_error(c: Any, asked: dict[str, Any]) -> None:
    """Leave the block of the stream by an error of the program's own."""
    with contextlib.suppress(KeyError), c.chat.completions.create(stream=True, **asked) as chunks:
        take(chunks)
        raise KeyError


def close_response(c: Any, asked: dict[str, Any]) -> None:
    """Close the HTTP response below the stream."""
    chunks = c.chat.completions.create(stream=True, **asked)
    take(chunks)
    chunks.response.close()


def close_raw(c: Any, asked: dict[str, Any]) -> None:
    """Close the stream of a raw response."""
    chunks = c.chat.completions.with_raw_response.create(stream=True, **asked).parse()
    take(chunks)
    chunks.close()


def leave_unread(c: Any, asked: dict[str, Any]) -> None:
    """Leave the block of an unread response."""
    with c.chat.completions.with_streaming_response.create(stream=True, **asked) as response:
        take(response.parse())


@pytest.mark.parametrize("leave", [close, leave_block, leave_block_by_error, close_response, close_raw, leave_unread])
def test_a_stream_that_is_left_keeps_what_came(
    leave: Callable[..., None], serve: Any, spans: Any, read: Any, asked: dict[str, Any], text: str
) -> None:
    """The span ends when the stream is left: no error, marked, with the text and the ids so far."""
    leave(serve(text).client, asked)
    span = spans.one()
    found = read(span)
    assert span.status.status_code is StatusCode.OK
    assert found[semconv.STREAM_STATE] == "closed_early"
    came = found["llm.output_messages.0.message.content"]
    assert came
    assert came != text
    assert text.startswith(came)
    assert found[semconv.RESPONSE_TOKEN_IDS] == token_ids(text)[: len(token_ids(came))]
    assert found[semconv.PROMPT_TOKEN_IDS]
    assert found["llm.input_messages.0.message.content"] == "count"


@needs_stream_helper
def test_a_stream_helper_that_is_left_ends_its_span(
    serve: Any, spans: Any, read: Any, asked: dict[str, Any], text: str
) -> None:
    """The helper of ``.stream()`` closes the HTTP response and not the stream; the span ends all the same."""
    with serve(text).client.chat.completions.stream(**asked) as events:
        next(iter(events))
    assert read(spans.one())[semconv.STREAM_STATE] == "closed_early"
    del events


async def test_an_asynchronous_stream_that_is_left_keeps_what_came(
    serve: Any, spans: Any, read: Any, asked: dict[str, Any], text: str
) -> None:
    """Closing an asynchronous stream, or leaving its block, ends its span."""
    async with serve(text, text).asynchronous() as c:
        chunks = await c.chat.completions.create(stream=True, **asked)
        for _ in range(3):
            await chunks.__anext__()
        await chunks.close()
        assert read(spans.one())[semconv.STREAM_STATE] == "closed_early"
        spans.clear()
        async with await c.chat.completions.create(stream=True, **asked) as chunks:
            await chunks.__anext__()
    assert read(spans.one())[semconv.STREAM_STATE] == "closed_early"


@needs_stream_helper
async def test_an_asynchronous_stream_helper_that_is_left_ends_its_span(
    serve: Any, spans: Any, read: Any, asked: dict[str, Any], text: str
) -> None:
    """The asynchronous helper closes the HTTP response as well."""
    async with serve(text).asynchronous() as c:
        async with c.chat.completions.stream(**asked) as events:
            await events.__anext__()
        assert read(spans.one())[semconv.STREAM_STATE] == "closed_early"
        del events


def test_a_stream_that_is_dropped_ends_its_span(
    serve: Any, spans: Any, read: Any, asked: dict[str, Any], text: str
) -> None:
    """A stream that nobody closes ends once it was collected, at the latest with the next request."""
    c = serve(text, text).client
    for _chunk in c.chat.completions.create(stream=True, **asked):
        break
    gc.collect()
    c.chat.completions.create(**asked)
    assert len(spans.all()) == 2
    assert read(spans.all()[0])[semconv.STREAM_STATE] == "closed_early"


@pytest.mark.parametrize("form", ["plain", "raw", "unread"])
def test_a_stream_that_breaks_is_an_error_with_what_came(  # noqa: PLR0917 - fixtures
    form: str,
    instrumented: OpenAIInstrumentor,
    serve: Any,
    spans: Any,
    read: Any,
    asked: dict[str, Any],
    text: str,
) -> None:
    """The program gets the library's own error, the span the same one, the text and ids so far, and a mark."""

    def work(completions: Any) -> None:
        if form == "plain":
            list(completions.create(stream=True, **asked))
        elif form == "raw":
            list(completions.with_raw_response.create(stream=True, **asked).parse())
        else:
            with completions.with_streaming_response.create(stream=True, **asked) as response:
                list(response.parse())

    broken = Reply(text, break_after_chunks=3)
    c = serve(broken, broken).client
    with pytest.raises(Exception) as traced:
        work(c.chat.completions)
    instrumented.uninstrument()
    with pytest.raises(Exception) as bare:
        work(c.chat.completions)
    assert type(traced.value) is type(bare.value)
    span = spans.one()
    found = read(span)
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events].count("exception") == 1
    assert found[semconv.STREAM_STATE] == "failed"
    assert text.startswith(found["llm.output_messages.0.message.content"])
    assert found[semconv.RESPONSE_TOKEN_IDS]


def test_a_stream_is_what_it_was(
    instrumented: OpenAIInstrumentor, serve: Any, asked: dict[str, Any], text: str
) -> None:
    """A stream is a ``Stream`` with its response, can be read by ``next`` and ``for`` in turns, and ends as ever."""
    c = serve(text, text).client
    seen: list[list[str]] = []
    for traced in (True, False):
        if not traced:
            instrumented.uninstrument()
        chunks = c.chat.completions.create(stream=True, **asked)
        assert isinstance(cast("object", chunks), openai.Stream)
        assert chunks.response.status_code == 200
        assert iter(chunks)
        first = next(chunks)
        rest = list(chunks)
        with pytest.raises(StopIteration):
            next(chunks)
        chunks.close()
        assert chunks.response.is_closed
        seen.append([chunk.choices[0].delta.content for chunk in [first, *rest]])
    assert seen[0] == seen[1]
