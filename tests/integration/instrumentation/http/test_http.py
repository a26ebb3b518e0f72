"""Model calls at the HTTP layer, over real HTTP."""

from __future__ import annotations

import gc
import importlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning import semconv
from agentlightning.instrumentation.http import CLIENTS
from agentlightning.instrumentation.openai import OpenAIInstrumentor
from agentlightning.testing import ModelServer, Reply
from agentlightning.view.facts import facts
from agentlightning.view.messages import messages
from agentlightning.view.tokens import token_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ASKED: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "count"}],
    "stream_options": {"include_usage": True},
}
PLAIN = {key: value for key, value in ASKED.items() if key != "stream_options"}


def seen(span: Any) -> Any:
    """Return the facts of a span."""
    return facts(span.name, dict(span.attributes), scope=span.instrumentation_scope.name)


def test_a_call_is_one_span_with_messages_and_tokens(way: Any, spans: Any) -> None:
    """Request, answer, model, tokens and token ids are on the span, and the program gets the answer."""
    with ModelServer(["one two"], token_ids="vllm-old") as server:
        assert "one two" in way.whole(server.url + "/chat/completions", PLAIN)
    span = spans.one()
    found = seen(span)
    assert (span.name, found.kind, found.model) == ("openai.chat.completion", "llm", "gpt-4o-mini")
    assert found.fresh_tokens
    assert found.output_tokens
    said = messages(dict(span.attributes))
    assert [message.role for message in said.input] == ["user"]
    assert "one two" in str(said.output[0].parts)
    assert token_ids(dict(span.attributes))
    assert span.attributes["http.response.status_code"] == 200
    assert span.status.is_ok


def test_a_stream_is_recorded_as_it_is_read(way: Any, spans: Any, texts: Callable[[str], str]) -> None:
    """The program reads every line, and the span has the text, the tokens, and when the first part came."""
    with ModelServer(["one two three"]) as server:
        assert texts(way.streamed(server.url + "/chat/completions", ASKED)) == "one two three"
    span = spans.one()
    assert seen(span).output_tokens
    assert "one two three" in str(messages(dict(span.attributes)).output[0].parts)
    assert [event.name for event in span.events] == ["First Token Stream Event"]
    assert semconv.STREAM_STATE not in span.attributes
    assert span.status.is_ok


def test_a_stream_is_passed_on_at_once(way: Any, spans: Any, canned: str) -> None:
    """The first line is there while the server still waits; a stream that is left is marked, and is no error."""
    _Canned.is_left.clear()
    assert way.left(canned + "/slow/v1/chat/completions", ASKED).startswith("data: ")
    _Canned.is_left.set()
    span = spans.one()
    assert span.attributes[semconv.STREAM_STATE] == "closed_early"
    assert not span.status.description
    assert not _Canned.waited_in_vain


def test_a_stream_that_breaks_is_an_error(way: Any, spans: Any) -> None:
    """The program gets its client's own exception, and the span says that the stream failed."""
    broken = Reply("a b c d e", break_after_chunks=2)
    with ModelServer([broken]) as server, pytest.raises(Exception, match=r".*"):
        way.streamed(server.url + "/chat/completions", ASKED)
    span = spans.one()
    assert span.attributes[semconv.STREAM_STATE] == "failed"
    assert not span.status.is_ok
    assert span.status.description
    assert "'a'" in str(messages(dict(span.attributes)).output)


def test_a_stream_that_is_dropped_is_left(spans: Any) -> None:
    """An answer that nobody reads or closes is ended with the next request, with the time at which it was dropped."""
    httpx: Any = importlib.import_module("httpx")
    instrumentor = CLIENTS["httpx"]()
    instrumentor.instrument(spans.provider)
    try:
        with ModelServer(["one", "two"]) as server, httpx.Client() as client:
            request = client.build_request("POST", server.url + "/chat/completions", json={**ASKED, "stream": True})
            response = client.send(request, stream=True)
            assert response.status_code == 200
            assert spans.all() == []
            response.stream = None  # as the collector does
            del response
            gc.collect()
            client.post(server.url + "/chat/completions", json=PLAIN)
    finally:
        instrumentor.uninstrument()
    states = [dict(span.attributes).get(semconv.STREAM_STATE) for span in spans.all()]
    assert states == ["closed_early", None]


def test_many_at_once_are_apart(way: Any, spans: Any) -> None:
    """Calls in threads have each their own span, with their own text."""
    with ModelServer() as server, ThreadPoolExecutor(8) as pool:
        bodies = [{**PLAIN, "messages": [{"role": "user", "content": f"call {number}!"}]} for number in range(16)]
        asked = [pool.submit(way.whole, server.url + "/chat/completions", body) for body in bodies]
        answers = [answer.result() for answer in asked]
    assert all(f"call {number}!" in answers[number] for number in range(16))
    found = [messages(dict(span.attributes)) for span in spans.all()]
    assert sorted(str(one.input[0].parts) for one in found) == sorted(str(one.output[0].parts) for one in found)
    assert len({str(one.input[0].parts) for one in found}) == 16


def test_a_refusal_is_an_error(way: Any, spans: Any) -> None:
    """The program gets the refusal, and the span has its status and text."""
    with ModelServer([Reply("no such model", status=404)]) as server:
        assert "no such model" in way.whole(server.url + "/chat/completions", PLAIN)
    span = spans.one()
    assert not span.status.is_ok
    assert "404" in (span.status.description or "")
    assert "no such model" in (span.status.description or "")


def test_a_server_that_is_away_is_an_error(way: Any, spans: Any) -> None:
    """The program gets its client's own exception, and the span has it."""
    with ModelServer([]) as server:
        url = server.url
    with pytest.raises(Exception, match=r".*"):
        way.whole(url + "/chat/completions", PLAIN)
    span = spans.one()
    assert span.events[0].name == "exception"
    assert span.status.description


def test_other_requests_are_none_of_ours(way: Any, spans: Any) -> None:
    """What does not look like a model's API is not recorded: another path, another body, another method."""
    with ModelServer([]) as server:
        way.whole(server.url + "/messages", {"to": "a friend", "messages": ["hello"]})
        way.whole(server.url + "/orders", PLAIN)
        way.whole(server.url.replace("/v1", "") + "/rollout/ro-1/attempt/at-1/chat/completions", PLAIN)
    assert spans.all() == []


def test_uninstrument_restores(way: Any, spans: Any) -> None:
    """After it the client is as it was, and writes nothing."""
    assert way.attributes() != way.before
    way.instrumentor.uninstrument()
    assert way.attributes() == way.before
    with ModelServer(["one"]) as server:
        assert "one" in way.whole(server.url + "/chat/completions", PLAIN)
    assert spans.all() == []


def test_an_instrumented_client_is_not_recorded_twice(way: Any, spans: Any) -> None:
    """OpenAI's client makes its requests by one of these: its own span is the only one."""
    openai: Any = importlib.import_module("openai")
    instrumentor = OpenAIInstrumentor()
    instrumentor.instrument(spans.provider)
    try:
        with ModelServer(["one", "one two"]) as server, openai.OpenAI(base_url=server.url, api_key="none") as client:
            assert client.chat.completions.create(**PLAIN)
            assert list(client.chat.completions.create(**ASKED, stream=True))
    finally:
        instrumentor.uninstrument()
    assert [span.name for span in spans.all()] == ["ChatCompletion", "ChatCompletion"]
    assert way.instrumentor.is_active


class _Canned(BaseHTTPRequestHandler):
    """Answers by its path."""

    is_left = threading.Event()
    waited_in_vain = False

    def do_POST(self) -> None:
        """Answer."""
        self.rfile.read(int(self.headers["content-length"]))
        if self.path.startswith("/slow"):
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.wfile.write(_events({"choices": [{"index": 0, "delta": {"content": "one"}}]}))
            self.wfile.flush()
            type(self).waited_in_vain = not self.is_left.wait(5)
            return
        body, kind = ANSWERS[self.path.partition("?")[0]]
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - of the base
        """Say nothing."""


def _events(*parts: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts)


_USED = {"promptTokenCount": 7, "candidatesTokenCount": 2, "thoughtsTokenCount": 3, "totalTokenCount": 12}
_HALVES = [{"candidates": [{"content": {"parts": [{"text": text}], "role": "model"}}]} for text in ("It is ", "sunny.")]
_LAST: dict[str, Any] = {
    "candidates": [{"content": {"parts": []}, "finishReason": "STOP"}],
    "usageMetadata": _USED,
    "responseId": "r1",
}
ANSWERS = {
    "/v1beta/models/gemini-2.5-flash:generateContent": (
        json.dumps({
            "candidates": [{
                "content": {"parts": [{"functionCall": {"name": "add", "args": {"a": 1}}}], "role": "model"},
                "finishReason": "STOP",
            }],
            "usageMetadata": _USED,
            "modelVersion": "gemini-2.5-flash",
        }).encode(),
        "application/json",
    ),
    "/v1beta/models/gemini-2.5-flash:streamGenerateContent": (_events(*_HALVES, _LAST), "text/event-stream"),
    "/v1/messages": (
        json.dumps({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5",
            "content": [{"type": "text", "text": "Hello."}], "stop_reason": "end_turn",
            "usage": {"input_tokens": 5, "output_tokens": 2},
        }).encode(),
        "application/json",
    ),
}  # fmt: skip


@pytest.fixture
def canned() -> Iterator[str]:
    """A server with the answers above."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Canned)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_gemini(way: Any, spans: Any, canned: str) -> None:
    """Google's API: messages, a tool call, thinking among the output tokens; the stream as one answer."""
    body = {"contents": [{"role": "user", "parts": [{"text": "weather?"}]}]}
    way.whole(canned + "/v1beta/models/gemini-2.5-flash:generateContent?key=none", body)
    way.streamed(canned + "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", body)
    called, streamed = spans.all()
    for span in (called, streamed):
        found = seen(span)
        assert (found.kind, found.model) == ("llm", "gemini-2.5-flash")
        assert (found.fresh_tokens, found.output_tokens, found.reasoning_tokens) == (7, 5, 3)
        assert messages(dict(span.attributes)).input[0].role == "user"
        assert "key" not in str(span.attributes.get("url.path"))
    assert "add" in str(messages(dict(called.attributes)).output)
    assert "It is sunny." in str(messages(dict(streamed.attributes)).output)
    assert semconv.STREAM_STATE not in streamed.attributes


def test_anthropic(way: Any, spans: Any, canned: str) -> None:
    """Anthropic's API."""
    body = {"model": "claude-sonnet-4-5", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}
    way.whole(canned + "/v1/messages", body)
    found = seen(spans.one())
    assert (found.kind, found.model, found.fresh_tokens, found.output_tokens) == ("llm", "claude-sonnet-4-5", 5, 2)
    assert "Hello." in str(messages(dict(spans.one().attributes)).output)
