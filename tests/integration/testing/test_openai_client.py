from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from agentlightning.testing import ModelServer, Reply, ToolCall, Usage, token_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello big world"}]
TOOLS: list[ChatCompletionToolParam] = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
ADD = Reply("Let me add.", tool_calls=(ToolCall("add", {"a": 1, "b": 22}), ToolCall("add", {"a": 3}, "mine")))


class City(BaseModel):
    name: str
    people: int


def test_chat_counts_its_own_usage(connect: Callable[..., OpenAI]) -> None:
    """A plain answer has fixed ids and times, and usage that adds up."""
    client = connect(ModelServer(["Good day."]))
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    assert answer.choices[0].message.content == "Good day."
    assert (answer.id, answer.created, answer.model) == ("chatcmpl-000001", 1_700_000_001, "gpt-4o-mini")
    assert answer.usage
    assert answer.usage.completion_tokens == len(token_ids("Good day."))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_usage_is_what_the_reply_says(connect: Callable[..., OpenAI]) -> None:
    """Every count of the usage can be set, and the usage can be absent."""
    given = Usage(1000, 50, cached_tokens=600, cache_write_tokens=100, reasoning_tokens=30)
    client = connect(ModelServer([Reply("a", usage=given), Reply("b", usage=None)]))
    usage = client.chat.completions.create(model="m", messages=MESSAGES).usage
    assert usage
    assert usage.prompt_tokens_details
    assert usage.completion_tokens_details
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (1000, 50, 1050)
    assert usage.prompt_tokens_details.cached_tokens == 600
    assert usage.prompt_tokens_details.to_dict()["cache_write_tokens"] == 100
    assert usage.completion_tokens_details.reasoning_tokens == 30
    assert client.chat.completions.create(model="m", messages=MESSAGES).usage is None


def test_reasoning_is_sent_and_counted(connect: Callable[..., OpenAI]) -> None:
    """Thinking is beside the text, whole and streamed, and counted as reasoning tokens."""
    client = connect(ModelServer([Reply("four", reasoning="two and two")] * 2))
    answer = client.chat.completions.create(model="m", messages=MESSAGES)
    assert answer.choices[0].message.to_dict()["reasoning_content"] == "two and two"
    assert answer.usage
    assert answer.usage.completion_tokens_details
    assert (answer.usage.completion_tokens, answer.usage.completion_tokens_details.reasoning_tokens) == (4, 3)
    deltas = [
        chunk.choices[0].delta for chunk in client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    ]
    assert "".join(str(delta.to_dict().get("reasoning_content", "")) for delta in deltas) == "two and two"


def test_stream_gives_the_text_in_pieces_and_the_usage_last(connect: Callable[..., OpenAI]) -> None:
    """The pieces of a stream are the text, and the usage comes on a last chunk of its own when it was asked for."""
    client = connect(ModelServer())
    for asked in (True, False):
        chunks = list(
            client.chat.completions.create(
                model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": asked}
            )
        )
        texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
        assert "".join(texts) == "hello big world"
        assert chunks[-1].choices == [] if asked else chunks[-1].choices[0].finish_reason == "stop"
        assert [chunk.usage is not None for chunk in chunks].count(True) == asked


def test_tool_calls_are_the_same_whole_and_streamed(connect: Callable[..., OpenAI]) -> None:
    """Names, ids and arguments of calls arrive alike in an answer and in the deltas of a stream."""
    client = connect(ModelServer([ADD, ADD]))
    whole = client.chat.completions.create(model="m", messages=MESSAGES, tools=TOOLS).choices[0]
    assert whole.finish_reason == "tool_calls"
    calls = [call for call in whole.message.tool_calls or [] if call.type == "function"]
    assert [call.id for call in calls] == ["call_000001_0", "mine"]
    assert [json.loads(call.function.arguments) for call in calls] == [{"a": 1, "b": 22}, {"a": 3}]
    with client.chat.completions.stream(model="m", messages=MESSAGES, tools=TOOLS) as stream:
        streamed = stream.get_final_completion().choices[0].message
    assert streamed.content == whole.message.content == "Let me add."
    assert [call.function.arguments for call in streamed.tool_calls or []] == [c.function.arguments for c in calls]


def test_several_choices_whole_and_streamed(connect: Callable[..., OpenAI]) -> None:
    """With n = 3 there are three different answers, whose chunks take turns in a stream."""
    client = connect(ModelServer([Reply("a b c", alternatives=("d",))] * 2))
    answer = client.chat.completions.create(model="m", messages=MESSAGES, n=3)
    texts = [choice.message.content for choice in answer.choices]
    assert texts == ["a b c", "d", "a b c (2)"]
    streamed = ["", "", ""]
    order: list[int] = []
    for chunk in client.chat.completions.create(model="m", messages=MESSAGES, n=3, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
            order.append(choice.index)
    assert streamed == texts
    assert order[:6] == [0, 1, 2, 0, 1, 2]


def test_logprobs_have_the_shape_of_openai(connect: Callable[..., OpenAI]) -> None:
    """Log-probabilities, one for each token of the text, come with the candidates that were asked for."""
    client = connect(ModelServer(["fine day"] * 2))
    choice = client.chat.completions.create(model="m", messages=MESSAGES, logprobs=True, top_logprobs=1).choices[0]
    assert choice.logprobs
    whole = choice.logprobs.content or []
    assert [entry.token for entry in whole] == ["fine", " day"]
    assert [len(entry.top_logprobs) for entry in whole] == [1, 1]
    streamed = [
        entry.logprob
        for chunk in client.chat.completions.create(model="m", messages=MESSAGES, logprobs=True, stream=True)
        for part in chunk.choices
        if part.logprobs
        for entry in part.logprobs.content or []
    ]
    assert streamed == [entry.logprob for entry in whole]


def test_logprobs_can_hold_nan(connect: Callable[..., OpenAI]) -> None:
    """A server that sends NaN, which is no JSON, reaches the client as NaN, once for each choice."""
    client = connect(ModelServer(nan_logprobs=True))
    choice = client.chat.completions.create(model="m", messages=MESSAGES, logprobs=True).choices[0]
    assert choice.logprobs
    assert [math.isnan(entry.logprob) for entry in choice.logprobs.content or []] == [True, False, False]
    text = client.completions.create(model="m", prompt="two words", logprobs=1).choices[0]
    assert text.logprobs
    assert [math.isnan(value) for value in text.logprobs.token_logprobs or []] == [True, False]


def test_parse_reads_a_typed_answer(connect: Callable[..., OpenAI]) -> None:
    """An answer that fits a schema is parsed by the client."""
    client = connect(ModelServer(['{"name": "Oslo", "people": 700000}'] * 2))
    parsed = client.chat.completions.parse(model="m", messages=MESSAGES, response_format=City).choices[0].message.parsed
    assert parsed == City(name="Oslo", people=700_000)
    assert client.responses.parse(model="m", input="x", text_format=City).output_parsed == parsed


def test_completions_whole_and_streamed(connect: Callable[..., OpenAI]) -> None:
    """The old completions endpoint answers alike in one piece and in many."""
    client = connect(ModelServer())
    whole = client.completions.create(model="m", prompt="one two", n=2, logprobs=1)
    assert [choice.text for choice in whole.choices] == ["one two", "one two (1)"]
    assert whole.choices[0].logprobs
    assert whole.choices[0].logprobs.text_offset == [0, 3]
    texts = ["", ""]
    for chunk in client.completions.create(
        model="m", prompt="one two", n=2, stream=True, stream_options={"include_usage": True}
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == ["one two", "one two (1)"]


def test_responses_whole_and_streamed(connect: Callable[..., OpenAI]) -> None:
    """A response holds text, calls and usage, and the events of its stream lead to the same response."""
    client = connect(ModelServer([ADD, ADD]))
    whole = client.responses.create(model="m", input="add", include=["message.output_text.logprobs"])
    assert whole.output_text == "Let me add."
    assert [item.type for item in whole.output] == ["message", "function_call", "function_call"]
    assert whole.usage
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    with client.responses.stream(model="m", input="add", include=["message.output_text.logprobs"]) as stream:
        events = list(stream)
        streamed = stream.get_final_response()
    assert [event.sequence_number for event in events if event.type != "response.queued"] == sorted(
        event.sequence_number for event in events
    )
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Let me add."
    assert [item.type for item in streamed.output] == [item.type for item in whole.output]
    assert streamed.usage == whole.usage


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_and_models(connect: Callable[..., OpenAI], encoding: str) -> None:
    """Embeddings have the asked size in both encodings; every model name exists."""
    client = connect(ModelServer())
    plain = client.embeddings.create(model="e", input=["a", "b"], dimensions=5)
    assert [len(entry.embedding) for entry in plain.data] == [5, 5]
    assert plain.data[0].embedding != plain.data[1].embedding
    raw = client.embeddings.create(
        model="e", input="a", dimensions=5, encoding_format="base64" if encoding == "base64" else "float"
    )
    assert isinstance(raw.data[0].embedding, str if encoding == "base64" else list)
    assert "gpt-4o-mini" in [model.id for model in client.models.list().data]
    assert client.models.retrieve("anything").id == "anything"


async def test_async_client(connect: Callable[..., OpenAI]) -> None:
    """The asynchronous client gets the same, whole and streamed."""
    server = ModelServer()
    connect(server)
    async with AsyncOpenAI(base_url=server.url, api_key="x", max_retries=0) as client:
        whole = await client.chat.completions.create(model="m", messages=MESSAGES)
        assert whole.choices[0].message.content == "hello big world"
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        texts = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
    assert "".join(texts) == "hello big world"


def test_a_script_is_used_up_once_by_many_threads(connect: Callable[..., OpenAI]) -> None:
    """Each reply of a script goes to exactly one of many requests at once."""
    count = 60
    server = ModelServer([str(number) for number in range(count)])
    client = connect(server)

    def ask(_: int) -> str:
        return client.chat.completions.create(model="m", messages=MESSAGES).choices[0].message.content or ""

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(count)))
    assert sorted(map(int, answers)) == list(range(count))
    assert len(server.requests) == count


def test_requests_are_recorded(connect: Callable[..., OpenAI]) -> None:
    """A test can see what was sent: path, headers and body, in order."""
    server = ModelServer(["a", "b"])
    client = connect(server)
    client.chat.completions.create(model="one", messages=MESSAGES, extra_headers={"X-Tag": "t"})
    client.responses.create(model="two", input="x")
    first, second = server.requests
    assert (first.method, first.path, second.path) == ("POST", "/v1/chat/completions", "/v1/responses")
    assert (first.headers["x-tag"], first.headers["authorization"]) == ("t", "Bearer sk-testing")
    assert isinstance(second.body, dict)
    assert second.body["model"] == "two"
