"""Every form in which a program can ask for a chat completion, and a server that sends token ids."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, cast

import openai
import pytest
from openai.resources.chat import Completions

from agentlightning.instrumentation.openai import OpenAIInstrumentor
from agentlightning.testing import ModelServer, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEXT = "one two three four"
ASKED: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "count"}],
    "logprobs": True,
    "extra_body": {"return_token_ids": True},
}
NEWER = "newer releases of the library have it"
needs_stream_helper = pytest.mark.skipif(not hasattr(Completions, "stream"), reason=NEWER)
needs_parse = pytest.mark.skipif(not hasattr(Completions, "parse"), reason=NEWER)


class Served:
    """A server and its clients, which do not try again."""

    def __init__(self, server: ModelServer, client: openai.OpenAI) -> None:
        self.server = server
        self.client: Any = client

    def asynchronous(self) -> Any:
        """Return the asynchronous client; it is to be closed by ``async with``."""
        return openai.AsyncOpenAI(base_url=self.server.url, api_key="none", max_retries=0)


@pytest.fixture
def text() -> str:
    """What the server answers."""
    return TEXT


@pytest.fixture
def asked() -> dict[str, Any]:
    """Arguments of a chat completion that asks for token ids and log-probabilities."""
    return dict(ASKED)


@pytest.fixture(autouse=True)
def instrumented(spans: Any) -> Iterator[OpenAIInstrumentor]:
    """The library, instrumented."""
    instrumentor = OpenAIInstrumentor()
    instrumentor.instrument(spans.provider)
    yield instrumentor
    instrumentor.uninstrument()
    for cls in (openai.OpenAI, openai.AsyncOpenAI):
        if "request" in vars(cls):  # OpenInference, where a test used it, leaves the inherited method as an own one
            del cls.request
    gc.collect()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Start a server that answers with the given replies, by default with vLLM's token ids."""
    started: list[Served] = []

    def start(*replies: Reply | str, token_ids: Any = "vllm", nan_logprobs: bool = False) -> Served:
        server = ModelServer(list(replies), token_ids=token_ids, nan_logprobs=nan_logprobs).start()
        started.append(Served(server, openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)))
        return started[-1]

    yield start
    for served in started:
        served.client.close()
        served.server.close()


def joined(chunks: Any) -> str:
    """Return the text of a stream's chunks."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def plain(c: Any, asked: dict[str, Any]) -> str:
    """Ask plainly."""
    return c.chat.completions.create(**asked).choices[0].message.content


def raw(c: Any, asked: dict[str, Any]) -> str:
    """Ask for the raw response."""
    return c.chat.completions.with_raw_response.create(**asked).parse().choices[0].message.content


def unread(c: Any, asked: dict[str, Any]) -> str:
    """Ask for the unread response, and parse it."""
    with c.chat.completions.with_streaming_response.create(**asked) as response:
        assert not response.http_response.is_stream_consumed
        return response.parse().choices[0].message.content


def unread_bytes(c: Any, asked: dict[str, Any]) -> str:
    """Ask for the unread response, and read it."""
    with c.chat.completions.with_streaming_response.create(**asked) as response:
        assert not response.http_response.is_stream_consumed
        assert response.read()
        return response.json()["choices"][0]["message"]["content"]


def parse(c: Any, asked: dict[str, Any]) -> str:
    """Ask with the typed helper."""
    return c.chat.completions.parse(**asked).choices[0].message.content


def stream(c: Any, asked: dict[str, Any]) -> str:
    """Ask for a stream."""
    return joined(c.chat.completions.create(stream=True, **asked))


def stream_in_block(c: Any, asked: dict[str, Any]) -> str:
    """Ask for a stream and read it in a block."""
    with c.chat.completions.create(stream=True, **asked) as chunks:
        return joined(chunks)


def raw_stream(c: Any, asked: dict[str, Any]) -> str:
    """Ask for the raw response of a stream."""
    return joined(c.chat.completions.with_raw_response.create(stream=True, **asked).parse())


def unread_stream(c: Any, asked: dict[str, Any]) -> str:
    """Ask for the unread response of a stream."""
    with c.chat.completions.with_streaming_response.create(stream=True, **asked) as response:
        return joined(response.parse())


def stream_helper(c: Any, asked: dict[str, Any]) -> str:
    """Ask with the helper for streams."""
    with c.chat.completions.stream(**asked) as events:
        return events.get_final_completion().choices[0].message.content or ""


async def a_plain(c: Any, asked: dict[str, Any]) -> str:
    """Ask plainly."""
    return (await c.chat.completions.create(**asked)).choices[0].message.content


async def a_raw(c: Any, asked: dict[str, Any]) -> str:
    """Ask for the raw response."""
    return (await c.chat.completions.with_raw_response.create(**asked)).parse().choices[0].message.content


async def a_unread(c: Any, asked: dict[str, Any]) -> str:
    """Ask for the unread response, and parse it."""
    async with c.chat.completions.with_streaming_response.create(**asked) as response:
        return (await response.parse()).choices[0].message.content


async def a_parse(c: Any, asked: dict[str, Any]) -> str:
    """Ask with the typed helper."""
    return (await c.chat.completions.parse(**asked)).choices[0].message.content


async def a_stream(c: Any, asked: dict[str, Any]) -> str:
    """Ask for a stream."""
    chunks = await c.chat.completions.create(stream=True, **asked)
    assert isinstance(cast("object", chunks), openai.AsyncStream)
    return joined([chunk async for chunk in chunks])


async def a_unread_stream(c: Any, asked: dict[str, Any]) -> str:
    """Ask for the unread response of a stream."""
    async with c.chat.completions.with_streaming_response.create(stream=True, **asked) as response:
        return joined([chunk async for chunk in await response.parse()])


async def a_stream_helper(c: Any, asked: dict[str, Any]) -> str:
    """Ask with the helper for streams."""
    async with c.chat.completions.stream(**asked) as events:
        return (await events.get_final_completion()).choices[0].message.content or ""


WHOLE = [plain, raw, unread, unread_bytes, pytest.param(parse, marks=needs_parse)]
STREAMED = [stream, stream_in_block, raw_stream, unread_stream, pytest.param(stream_helper, marks=needs_stream_helper)]
ASYNC = [
    a_plain,
    a_raw,
    a_unread,
    pytest.param(a_parse, marks=needs_parse),
    a_stream,
    a_unread_stream,
    pytest.param(a_stream_helper, marks=needs_stream_helper),
]


@pytest.fixture(params=WHOLE + STREAMED)
def call(request: pytest.FixtureRequest) -> Any:
    """Each synchronous form; takes a client and arguments, returns the text that the program gets."""
    return request.param


@pytest.fixture(params=WHOLE)
def whole_call(request: pytest.FixtureRequest) -> Any:
    """Each synchronous form that is no stream."""
    return request.param


@pytest.fixture(params=ASYNC)
def async_call(request: pytest.FixtureRequest) -> Any:
    """Each asynchronous form."""
    return request.param


@pytest.fixture
def read() -> Any:
    """Read the attributes of a span, with tuples as lists."""

    def attributes(span: Any) -> dict[str, Any]:
        found: dict[str, Any] = dict(span.attributes)
        return {key: list(cast("Any", value)) if isinstance(value, tuple) else value for key, value in found.items()}

    return attributes
