from __future__ import annotations

import math
from typing import Any

import pytest
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentlightning import semconv
from agentlightning.instrumentation.openai import OpenAIInstrumentor
from agentlightning.testing import Reply, token_ids

BODY = (
    '{"id": "x", "object": "chat.completion", "created": 1, "model": "m", %s "choices": '
    '[{"index": 0, "finish_reason": "stop", %s "message": {"role": "assistant", "content": "%s"}}]}'
)


@pytest.mark.parametrize("dialect", ["vllm-old", "vllm", "litellm", "sglang", "sglang-sglext"])
def test_token_ids_of_every_dialect(  # noqa: PLR0917 - fixtures
    dialect: str, call: Any, serve: Any, spans: Any, read: Any, asked: dict[str, Any], text: str
) -> None:
    """Prompt and response ids are found wherever the server put them."""
    streaming = "stream" in call.__name__
    if streaming and dialect in {"vllm-old", "sglang"}:
        pytest.skip("this server sends no ids in a stream")
    if dialect == "sglang-sglext":
        asked["extra_body"] = {"return_input_ids_in_sglext": True, "return_output_ids_in_sglext": True}
    call(serve(text, token_ids=dialect.removesuffix("-sglext")).client, asked)
    found = read(spans.one())
    assert found[semconv.RESPONSE_TOKEN_IDS] == token_ids(text)
    assert len(found[semconv.PROMPT_TOKEN_IDS]) > 1
    assert semconv.INVALID not in found


def test_all_choices_have_their_ids(serve: Any, spans: Any, read: Any, asked: dict[str, Any], text: str) -> None:
    """Choice N > 0 has its number in the name; whole and streamed answers agree."""
    reply = Reply(text, alternatives=("five six",))
    asked["n"] = 2
    completions = serve(reply, reply, reply).client.chat.completions
    completions.create(**asked)
    list(completions.create(stream=True, **asked))
    with completions.with_streaming_response.create(stream=True, **asked) as response:
        list(response.parse())
    assert len(spans.all()) == 3
    for span in spans.all():
        found = read(span)
        assert found[semconv.RESPONSE_TOKEN_IDS] == token_ids(text)
        assert found[f"{semconv.RESPONSE_TOKEN_IDS}.1"] == token_ids("five six")
        assert len(found[f"{semconv.LOGPROBS}.1"]) == 2
        assert found["llm.output_messages.1.message.content"] == "five six"
        assert f"{semconv.PROMPT_TOKEN_IDS}.1" not in found


def test_ids_are_never_dropped_by_the_limit_of_a_joined_provider(
    instrumented: OpenAIInstrumentor, call: Any, serve: Any, read: Any, asked: dict[str, Any], text: str
) -> None:
    """A conversation of any length leaves room for them, and the SDK has nothing to drop and to warn about."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(span_limits=SpanLimits(max_attributes=64))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumented.uninstrument()
    instrumentor = OpenAIInstrumentor()
    instrumentor.instrument(provider)
    asked["messages"] = [{"role": "user", "content": f"message {number}"} for number in range(100)]
    try:
        call(serve(text).client, asked)
    finally:
        instrumentor.uninstrument()
    (span,) = exporter.get_finished_spans()
    found = read(span)
    assert found[semconv.RESPONSE_TOKEN_IDS] == token_ids(text)
    assert found[semconv.PROMPT_TOKEN_IDS]
    assert found[semconv.OPENINFERENCE_KIND] == "LLM"
    assert "message 99" in found[semconv.INPUT_VALUE]
    assert span.dropped_attributes == 0


def test_nan_is_kept(call: Any, serve: Any, spans: Any, read: Any, asked: dict[str, Any], text: str) -> None:
    """A log-probability that is NaN stays one."""
    call(serve(text, nan_logprobs=True).client, asked)
    logprobs = read(spans.one())[semconv.LOGPROBS]
    assert math.isnan(logprobs[0])
    assert not math.isnan(logprobs[1])


@pytest.mark.parametrize("ids", ['["a", 1]', '"text"', "[1.5]", "[true]", "{}", "[99999999999999999999]"])
def test_arrays_of_the_wrong_type_are_ignored_and_marked(
    whole_call: Any, ids: str, serve: Any, spans: Any, read: Any, asked: dict[str, Any]
) -> None:
    """What is no list of 64-bit integers is left out and named, and the program gets its answer."""
    body = BODY % ('"prompt_token_ids": [1, 2],', f'"token_ids": {ids},', "hi")
    assert whole_call(serve(Reply(malformed=body)).client, asked) == "hi"
    found = read(spans.one())
    assert semconv.RESPONSE_TOKEN_IDS not in found
    assert found[semconv.PROMPT_TOKEN_IDS] == [1, 2]
    assert found[semconv.INVALID] == [semconv.RESPONSE_TOKEN_IDS]


def test_lone_surrogates_reach_the_program(whole_call: Any, serve: Any, spans: Any, asked: dict[str, Any]) -> None:
    """Half a character is the program's to handle, as without us, and leaves one span."""
    assert whole_call(serve(Reply(malformed=BODY % ("", "", "\\ud800"))).client, asked) == "\ud800"
    assert len(spans.all()) == 1


def test_a_body_that_is_no_json_fails_as_it_does_without_us(
    whole_call: Any, instrumented: OpenAIInstrumentor, serve: Any, spans: Any, asked: dict[str, Any]
) -> None:
    """The error is the library's own, and there is one span."""
    half = Reply(malformed='{"choices": [')
    c = serve(half, half).client
    with pytest.raises(Exception) as traced:
        whole_call(c, asked)
    instrumented.uninstrument()
    with pytest.raises(Exception) as bare:
        whole_call(c, asked)
    assert type(traced.value) is type(bare.value)
    assert len(spans.all()) == 1
