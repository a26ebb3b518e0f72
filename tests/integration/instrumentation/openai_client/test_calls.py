from __future__ import annotations

import asyncio
import importlib.util
from typing import Any

import openai
import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from agentlightning import semconv
from agentlightning.testing import Reply, ToolCall, Usage, token_ids

needs_responses = pytest.mark.skipif(
    importlib.util.find_spec("openai.resources.responses") is None, reason="newer releases of the library have it"
)


def check_call(found: dict[str, Any], text: str) -> None:
    """Check what holds for every good call."""
    assert found[semconv.OPENINFERENCE_KIND] == "LLM"
    assert found["llm.input_messages.0.message.content"] == "count"
    assert found["llm.output_messages.0.message.content"] == text
    assert found[semconv.RESPONSE_TOKEN_IDS] == token_ids(text)
    assert len(found[semconv.PROMPT_TOKEN_IDS]) > 1
    assert len(found[semconv.LOGPROBS]) == len(token_ids(text))
    assert semconv.STREAM_STATE not in found
    assert "token_ids" not in found[semconv.OUTPUT_VALUE]


def test_every_form_of_a_call_is_one_span(
    call: Any, serve: Any, spans: Any, read: Any, asked: dict[str, Any], text: str
) -> None:
    """One LLM span under the current one, with messages, token ids and log-probabilities, and the program's answer."""
    served = serve(text)
    with spans.provider.get_tracer("test").start_as_current_span("parent") as parent:
        assert call(served.client, asked) == text
        assert trace.get_current_span() is parent
    assert len(served.server.requests) == 1
    assert len(spans.all()) == 2
    span = spans.all()[1]
    assert span.parent.span_id == parent.get_span_context().span_id
    assert span.status.status_code is StatusCode.OK
    check_call(read(span), text)


async def test_every_asynchronous_form_is_one_span(
    async_call: Any, serve: Any, spans: Any, read: Any, asked: dict[str, Any], text: str
) -> None:
    """The same for the asynchronous client."""
    with spans.provider.get_tracer("test").start_as_current_span("parent") as parent:
        async with serve(text).asynchronous() as c:
            assert await async_call(c, asked) == text
    assert len(spans.all()) == 2
    span = spans.all()[1]
    assert span.parent.span_id == parent.get_span_context().span_id
    assert span.status.status_code is StatusCode.OK
    check_call(read(span), text)


def test_tokens_are_counted_once_as_reported(
    whole_call: Any, serve: Any, spans: Any, read: Any, asked: dict[str, Any], text: str
) -> None:
    """The counts are the provider's, cached and reasoning tokens included."""
    whole_call(serve(Reply(text, usage=Usage(100, 50, cached_tokens=30, reasoning_tokens=20))).client, asked)
    found = read(spans.one())
    assert found["llm.token_count.prompt"] == 100
    assert found["llm.token_count.completion"] == 50
    assert found["llm.token_count.prompt_details.cache_read"] == 30
    assert found["llm.token_count.completion_details.reasoning"] == 20


def test_an_answer_without_usage_has_no_counts(
    call: Any, serve: Any, spans: Any, read: Any, asked: dict[str, Any], text: str
) -> None:
    """A count that nobody reported is absent and never 0."""
    call(serve(Reply(text, usage=None)).client, asked)
    assert not [key for key in read(spans.one()) if key.startswith("llm.token_count")]


@pytest.mark.parametrize("unread", [False, True])
def test_usage_of_a_stream_is_counted_where_it_was_asked_for(
    unread: bool, serve: Any, spans: Any, read: Any, asked: dict[str, Any], text: str
) -> None:
    """The usage chunk at the end of a stream gives the counts; without being asked we never ask for it."""
    served = serve(text, text)
    asked["stream"] = True
    for options in ({"stream_options": {"include_usage": True}}, {}):
        if unread:
            with served.client.chat.completions.with_streaming_response.create(**asked, **options) as response:
                list(response.parse())
        else:
            list(served.client.chat.completions.create(**asked, **options))
    with_usage, without = spans.all()
    assert read(with_usage)["llm.token_count.completion"] == len(token_ids(text))
    assert "llm.token_count.completion" not in read(without)
    assert "stream_options" not in served.server.requests[1].body


@pytest.mark.parametrize("reply", [Reply("no", status=400), Reply("no", status=429), Reply(fault="drop")])
def test_a_failed_request_is_recorded_and_raised(
    call: Any, reply: Reply, serve: Any, spans: Any, asked: dict[str, Any]
) -> None:
    """The error is the library's own, and the span holds it once."""
    with pytest.raises(openai.APIError) as info:
        call(serve(reply).client, asked)
    span = spans.one()
    assert span.status.status_code is StatusCode.ERROR
    assert type(info.value).__name__ in span.status.description
    assert [event.name for event in span.events] == ["exception"]


async def test_a_cancelled_call_ends_its_span(serve: Any, spans: Any, asked: dict[str, Any]) -> None:
    """Cancelling a task that waits for the answer ends the span as an error and raises CancelledError."""
    served = serve(Reply(fault="hang"))
    async with served.asynchronous() as c:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(c.chat.completions.create(**asked), 0.5)
    assert spans.one().status.status_code is StatusCode.ERROR


def test_tool_calls_are_recorded_whole_and_streamed(
    call: Any, serve: Any, spans: Any, read: Any, asked: dict[str, Any]
) -> None:
    """Name and arguments of a tool call are the same from a whole answer and from a stream."""
    function: dict[str, Any] = {"name": "add", "strict": True, "parameters": {"type": "object", "properties": {}}}
    asked["tools"] = [{"type": "function", "function": function}]
    call(serve(Reply(tool_calls=(ToolCall("add", {"a": 1, "b": 2}, call_id="call_7"),))).client, asked)
    found = read(spans.one())
    start = "llm.output_messages.0.message.tool_calls.0.tool_call."
    assert found[start + "function.name"] == "add"
    assert found[start + "function.arguments"] == '{"a": 1, "b": 2}'
    assert "add" in found["llm.tools.0.tool.json_schema"]


@pytest.mark.parametrize("streaming", [False, True])
def test_completions(streaming: bool, serve: Any, spans: Any, read: Any, text: str) -> None:
    """The completions endpoint: one span, ids and log-probabilities of the choice."""
    extra = {"return_token_ids": True}
    create = serve(text).client.completions.create
    answer = create(model="m", prompt="count", logprobs=1, extra_body=extra, stream=streaming)
    if streaming:
        list(answer)
    found = read(spans.one())
    assert found["llm.choices.0.completion.text"] == text
    assert found["llm.prompts.0.prompt.text"] == "count"
    assert found[semconv.RESPONSE_TOKEN_IDS] == token_ids(text)
    assert found[semconv.PROMPT_TOKEN_IDS]
    assert len(found[semconv.LOGPROBS]) == len(token_ids(text))


@needs_responses
@pytest.mark.parametrize("streaming", [False, True])
def test_responses(streaming: bool, serve: Any, spans: Any, read: Any, text: str) -> None:
    """The responses endpoint: one span, counts, and log-probabilities once."""
    include = ["message.output_text.logprobs"]
    answer = serve(text).client.responses.create(model="m", input="count", include=include, stream=streaming)
    if streaming:
        list(answer)
    span = spans.one()
    found = read(span)
    assert span.status.status_code is StatusCode.OK
    assert len(found[semconv.LOGPROBS]) == len(token_ids(text))
    assert found["llm.token_count.completion"] == len(token_ids(text))
    assert text in str([value for key, value in found.items() if key.startswith("llm.output_messages.0")])


@needs_responses
def test_a_response_that_is_left_keeps_what_came(serve: Any, spans: Any, read: Any, text: str) -> None:
    """OpenInference keeps nothing of a response that was not completed; we keep the text so far."""
    events = serve(text).client.responses.create(model="m", input="count", stream=True)
    for event in events:
        if event.type == "response.output_text.delta":
            break
    events.close()
    found = read(spans.one())
    assert found[semconv.STREAM_STATE] == "closed_early"
    assert found["llm.output_messages.0.message.content"] == "one"


def test_embeddings_are_no_llm_call_and_management_is_no_span(serve: Any, spans: Any, read: Any) -> None:
    """An embedding is of its own kind; listing models leaves no span."""
    c = serve().client
    c.models.list()
    c.embeddings.create(model="text-embedding-3-small", input="hello")
    assert read(spans.one())[semconv.OPENINFERENCE_KIND] == "EMBEDDING"
