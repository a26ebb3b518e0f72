"""The model proxy: what the program sees is the backend's, and a span says what happened."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from agentlightning import LlmProxyTraceToTriplet, open_store
from agentlightning.errors import SettingError
from agentlightning.semconv import RESPONSE_TOKEN_IDS, STREAM_STATE
from agentlightning.server.proxy import Backend, LLMProxy
from agentlightning.server.proxy.backend import Pool, backends_of
from agentlightning.testing import ModelServer, Reply, ToolCall, token_ids
from agentlightning.types import LLM, ProxyLLM

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from agentlightning.store import LightningStore
    from agentlightning.types import Span

ASKED: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "count"}]}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LightningStore]:
    """An empty store."""
    opened = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    yield opened
    opened.close()


class Attempt:
    """An attempt with the address of its model."""

    def __init__(self, store: LightningStore, proxy: LLMProxy) -> None:
        self._store = store
        made = asyncio.run(store.start_rollout("task"))
        self.rollout_id = made.rollout_id
        self.resource = proxy.as_resource(made.rollout_id, made.attempt.attempt_id)
        self.url = self.resource.endpoint

    def client(self) -> Any:
        """Return OpenAI's client, which does not try again."""
        return openai.OpenAI(base_url=self.url, api_key="sk-program", max_retries=0)

    def spans(self) -> list[Span]:
        """Return the spans that are stored now."""
        return asyncio.run(self._store.query_spans(self.rollout_id))

    def span(self) -> Span:
        """Return the only span, once it is there."""
        for _ in range(200):
            found = self.spans()
            if found:
                assert len(found) == 1
                return found[0]
            time.sleep(0.02)  # a program that left does not wait for the span
        pytest.fail("no span")


@pytest.fixture
def serve(store: LightningStore) -> Iterator[Callable[..., Attempt]]:
    """Give what starts a proxy in front of the given backends and returns an attempt."""
    proxies: list[LLMProxy] = []

    def start(backends: Any) -> Attempt:
        proxies.append(LLMProxy(backends, store=store).start())
        return Attempt(store, proxies[-1])

    yield start
    for proxy in proxies:
        proxy.stop()


def test_a_call_is_the_backends_and_its_span_is_there_when_it_returns(serve: Any) -> None:
    """Text, tokens and ids of the answer are in the attempt's span before the program goes on."""
    with ModelServer(["one two"], token_ids="vllm") as server:
        attempt = serve({"endpoint": server.url, "token_ids": True})
        answer = attempt.client().chat.completions.create(**ASKED)
        (span,) = attempt.spans()
    assert answer.choices[0].message.content == "one two"
    assert span.attributes["llm.output_messages.0.message.content"] == "one two"
    assert list(span.attributes[RESPONSE_TOKEN_IDS]) == token_ids("one two")
    (triplet,) = LlmProxyTraceToTriplet().adapt([span])
    assert triplet.response["token_ids"] == token_ids("one two")
    assert len(triplet.response["logprobs"]) == 2


def test_a_stream_passes_as_it_comes(serve: Any) -> None:
    """The first words arrive while the backend still waits before the next; the span has the whole text."""
    with ModelServer([Reply("a b c d", chunk_delay_s=0.2)]) as server:
        attempt = serve(server.url)
        start, arrived = time.monotonic(), list[float]()
        for _ in attempt.client().chat.completions.create(**ASKED, stream=True):
            arrived.append(time.monotonic() - start)
        (span,) = attempt.spans()
    assert arrived[-1] - arrived[0] > 0.5
    assert span.attributes["llm.output_messages.0.message.content"] == "a b c d"
    assert STREAM_STATE not in span.attributes


def test_tools_and_other_forms(serve: Any) -> None:
    """Tool calls, completions, responses and embeddings, each one span; the list of models passes without any."""
    with ModelServer([Reply(tool_calls=(ToolCall("add", {"a": 1}),)), "two", "three"]) as server:
        attempt = serve(server.url)
        client = attempt.client()
        tools: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
        assert client.chat.completions.create(**ASKED, tools=tools).choices[0].message.tool_calls
        assert client.completions.create(model="gpt-4o-mini", prompt="x").choices[0].text == "two"
        assert client.responses.create(model="gpt-5-mini", input="x").output_text == "three"
        assert client.embeddings.create(model="text-embedding-3-small", input="x").data
        assert client.models.list().data
    assert [span.name.partition(".")[2] for span in attempt.spans()] == [
        "chat.completion", "completion", "response", "embeddings",
    ]  # fmt: skip


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_an_error_is_passed_on_as_it_is(serve: Any, status: int) -> None:
    """Status, headers and body of an error are the backend's; the span says which."""
    with ModelServer([Reply("no", status=status, headers={"Retry-After": "7", "X-Own": "yes"})] * 2) as server:
        attempt = serve(server.url)
        direct = httpx.post(f"{server.url}/chat/completions", json=ASKED)
        through = httpx.post(f"{attempt.url}/chat/completions", json=ASKED)
    assert (through.status_code, through.content) == (direct.status_code, direct.content)
    assert {name: through.headers[name] for name in ("retry-after", "x-own", "content-type")} == {
        name: direct.headers[name] for name in ("retry-after", "x-own", "content-type")
    }
    span = attempt.span()
    assert span.status.status_code == "ERROR"
    assert span.attributes["http.response.status_code"] == status
    assert str(status) in (span.status.description or "")


def test_a_backend_that_is_down(serve: Any) -> None:
    """The program gets 502 with the reason, in the form of the API, and a span says so."""
    attempt = serve("http://127.0.0.1:9/v1")
    with pytest.raises(openai.InternalServerError, match="cannot be reached") as info:
        attempt.client().chat.completions.create(**ASKED)
    assert info.value.status_code == 502
    assert "127.0.0.1:9" in (attempt.span().status.description or "")


def test_the_next_backend_is_tried(serve: Any) -> None:
    """One that is down and one that is overloaded are passed over; the span has what was tried."""
    with ModelServer([Reply("busy", status=503)]) as busy, ModelServer(["good"]) as good:
        attempt = serve([
            {"endpoint": "http://127.0.0.1:9/v1", "weight": 1e9},
            {"endpoint": busy.url, "weight": 1e4},
            {"endpoint": good.url, "weight": 0},
        ])  # fmt: skip
        assert attempt.client().chat.completions.create(**ASKED).choices[0].message.content == "good"
        span = attempt.span()
        assert span.attributes["server.address"] == good.url
    tried = [event.attributes["server.address"] for event in span.events if event.name == "agentlightning.proxy.retry"]
    assert tried == ["http://127.0.0.1:9/v1", busy.url]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_breaks_off_breaks_off(serve: Any, stream: bool) -> None:
    """The program sees a broken answer and no complete one; the span says that it broke."""
    reply = Reply("a b c d", break_after_chunks=2) if stream else Reply("a b c d", fault="half")
    with ModelServer([reply]) as server:
        attempt = serve(server.url)
        client = attempt.client()
        with pytest.raises((openai.APIConnectionError, httpx.HTTPError)):
            list(client.chat.completions.create(**ASKED, stream=stream))
        span = attempt.span()
    assert span.status.status_code == "ERROR"
    assert "broke off" in (span.status.description or "")
    assert not stream or span.attributes[STREAM_STATE] == "failed"


def test_rubbish_is_passed_on(serve: Any) -> None:
    """An answer that is no JSON reaches the program as it is."""
    with ModelServer([Reply(malformed="<html>busy</html>")]) as server:
        attempt = serve(server.url)
        assert httpx.post(f"{attempt.url}/chat/completions", json=ASKED).text == "<html>busy</html>"
    span = attempt.span()
    assert span.status.description == "the answer is no JSON"
    assert span.attributes["output.value"] == "<html>busy</html>"


def test_a_program_that_leaves(serve: Any) -> None:
    """When nobody waits any more the backend is left too, and the span has what came."""
    with ModelServer([Reply("a b c d e f", chunk_delay_s=0.3)]) as server:
        attempt = serve(server.url)
        with httpx.stream("POST", f"{attempt.url}/chat/completions", json={**ASKED, "stream": True}) as answer:
            next(answer.iter_lines())
        span = attempt.span()
    assert span.status.status_code == "ERROR"
    assert span.attributes[STREAM_STATE] == "closed_early"


def test_what_is_sent_is_what_the_program_sent(serve: Any) -> None:
    """Body, key and own headers go on unchanged; only a backend's own key replaces the program's."""
    with ModelServer() as server:
        attempt = serve(server.url)
        body = json.dumps(ASKED, indent=3).encode()
        headers = {"authorization": "Bearer sk-program", "x-own": "1", "content-type": "application/json"}
        httpx.post(f"{attempt.url}/chat/completions", content=body, headers=headers)
        keyed = serve({"endpoint": server.url, "api_key": "sk-backend", "token_ids": True})
        httpx.post(f"{keyed.url}/chat/completions", content=body, headers=headers)
        asked = [request for request in server.requests if request.path.endswith("/chat/completions")]
    first, second = asked
    assert first.body == ASKED
    assert (first.headers["authorization"], first.headers["x-own"]) == ("Bearer sk-program", "1")
    assert second.headers["authorization"] == "Bearer sk-backend"
    assert second.body == {"return_token_ids": True, "logprobs": True, **ASKED}


def test_servers_that_know_token_ids_are_found_out() -> None:
    """Servers of vLLM and SGLang name themselves in their list of models; others are not asked."""
    asked: list[dict[str, Any]] = []
    with _stub(asked, owner="vllm") as url:
        pool = open_store("memory://")
        with LLMProxy(url, store=pool) as proxy:
            for _ in range(2):
                httpx.post(f"{proxy.url}/chat/completions", json=ASKED)
    assert [body.get("return_token_ids") for body in asked] == [True, True]
    asked.clear()
    with _stub(asked, owner="openai") as url, LLMProxy(url, store=open_store("memory://")) as proxy:
        httpx.post(f"{proxy.url}/chat/completions", json=ASKED)
    assert "return_token_ids" not in asked[0]


def test_a_server_that_was_not_ready_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that starts, or that wants a key, is asked again later, with the key of the request."""
    monkeypatch.setattr("agentlightning.server.proxy.probe.AGAIN_S", 0.0)
    asked: list[dict[str, Any]] = []
    keys: list[str | None] = []
    headers = {"authorization": "Bearer sk-program"}
    stub = _stub(asked, owner="vllm", models=[503, 401], keys=keys)
    with stub as url, LLMProxy(url, store=open_store("memory://")) as proxy:
        for _ in range(4):
            httpx.post(f"{proxy.url}/chat/completions", json=ASKED, headers=headers)
    assert [body.get("return_token_ids") for body in asked] == [None, None, True, True]
    assert keys == ["Bearer sk-program"] * 3


def test_a_server_that_was_not_ready_is_not_asked_each_time() -> None:
    """While it is down no request waits for its list of models, and one that has none is not asked again."""
    for status in (503, 404):
        keys: list[str | None] = []
        with _stub([], models=[status] * 3, keys=keys) as url, LLMProxy(url, store=open_store("memory://")) as proxy:
            for _ in range(3):
                httpx.post(f"{proxy.url}/chat/completions", json=ASKED)
        assert len(keys) == 1


@contextmanager
def _stub(
    asked: list[dict[str, Any]],
    owner: str = "",
    events: list[dict[str, Any]] | None = None,
    models: Sequence[int] = (),
    keys: list[str | None] | None = None,
) -> Generator[str]:
    """Serve a list of models of *owner*, and an answer, or a stream of *events*, to every POST.

    The first questions for the list are answered with the statuses *models*; *keys* gets what all of them show.
    """
    refused = list(models)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if keys is not None:
                keys.append(self.headers["authorization"])
            if refused:
                self.send_error(refused.pop(0))
                return
            self._send(json.dumps({"data": [{"id": "m", "owned_by": owner}]}).encode(), "application/json")

        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            if events is None:
                self._send(b'{"choices": []}', "application/json")
                return
            lines = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
            self._send(lines.encode(), "text/event-stream")

        def _send(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


def test_messages_of_anthropic(serve: Any) -> None:
    """A stream of Anthropic's API: text, a tool and its tokens, those of the cache included."""
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "msg_1", "role": "assistant", "model": "claude-sonnet-4-5",
         "content": [], "usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "I add."}},
        {"type": "content_block_start", "index": 1,
         "content_block": {"type": "tool_use", "id": "t1", "name": "add", "input": {}}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a":'}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": " 2}"}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]  # fmt: skip
    from agentlightning.view.facts import facts
    from agentlightning.view.messages import messages

    with _stub([], events=events) as url:
        attempt = serve(Backend(url.removesuffix("/v1"), anthropic=True))
        root = attempt.url.removesuffix("/v1")
        body: Any = {"model": "claude-sonnet-4-5", "stream": True, "messages": [{"role": "user", "content": "2+2"}]}
        assert "message_stop" in httpx.post(f"{root}/v1/messages", json=body).text
    span = attempt.span()
    found = facts(span.name, span.attributes)
    assert (found.fresh_tokens, found.cache_read_tokens, found.output_tokens) == (10, 5, 9)
    conversation = messages(span.attributes)
    assert conversation.input[0].text == "2+2"
    assert conversation.output[0].text == "I add."
    assert conversation.output[0].tool_calls[0].arguments == '{"a": 2}'
    assert STREAM_STATE not in span.attributes


def test_secrets_are_redacted_in_the_span_only(serve: Any) -> None:
    """The backend gets the prompt as it is; the store does not get the credential in it."""
    secret = "ghp_" + "q7Rk2ZxVb9LmT4wYc8NfHs1JdPe6GuAo3iKe"
    with ModelServer() as server:
        attempt = serve(server.url)
        asked = {**ASKED, "messages": [{"role": "user", "content": f"my key is {secret}"}]}
        answer = httpx.post(f"{attempt.url}/chat/completions", json=asked)
        assert secret in json.dumps(server.requests[-1].body)
    assert secret in answer.text
    assert secret not in attempt.span().model_dump_json()


async def test_rollouts_at_once_keep_their_spans(store: LightningStore) -> None:
    """Forty rollouts call at the same time; each has its own spans and no other."""
    with ModelServer() as server, LLMProxy(server.url, store=store) as proxy:
        made = [await store.start_rollout(number) for number in range(40)]

        async def call(client: httpx.AsyncClient, rollout: Any) -> None:
            url = proxy.as_resource(rollout.rollout_id, rollout.attempt.attempt_id).endpoint
            for _ in range(2):
                said = [{"role": "user", "content": rollout.rollout_id}]
                answer = await client.post(f"{url}/chat/completions", json={**ASKED, "messages": said})
                assert answer.json()["choices"][0]["message"]["content"] == rollout.rollout_id

        async with httpx.AsyncClient(timeout=15) as client:
            await asyncio.gather(*(call(client, rollout) for rollout in made))
        for rollout in made:
            spans = await store.query_spans(rollout.rollout_id)
            assert [rollout.rollout_id in str(span.attributes["input.value"]) for span in spans] == [True, True]


def test_a_call_without_ids_goes_by_its_trace(store: LightningStore) -> None:
    """Its span continues the trace that the program names, in a rollout of its own."""
    trace, parent = "a" * 32, "b" * 16
    with ModelServer() as server, LLMProxy(server.url, store=store) as proxy:
        httpx.post(f"{proxy.url}/chat/completions", json=ASKED, headers={"traceparent": f"00-{trace}-{parent}-01"})
        assert httpx.get(proxy.url.removesuffix("/v1") + "/health").status_code == 200
    (rollout,) = asyncio.run(store.query_rollouts())
    (span,) = asyncio.run(store.query_spans(rollout.rollout_id))
    assert (span.trace_id, span.parent_id) == (trace, parent)


def test_a_resource_for_an_algorithm(store: LightningStore) -> None:
    """Without ids it becomes the address of an attempt later, with both it is one; one alone is an error."""
    proxy = LLMProxy([{"endpoint": "http://127.0.0.1:9/v1", "model": "qwen"}], store=store)
    assert not proxy.is_running()
    with proxy:
        assert proxy.is_running()
        assert proxy.start() is proxy
        plain, own = proxy.as_resource(), proxy.as_resource("ro-1", "at-1")
        assert isinstance(plain, ProxyLLM)
        assert (plain.model, own.endpoint) == ("qwen", plain.get_base_url("ro-1", "at-1"))
        with pytest.raises(ValueError, match="both"):
            proxy.as_resource("ro-1")
    assert not proxy.is_running()
    proxy.stop()


@pytest.mark.parametrize(
    "given",
    [
        [],
        "ftp://x",
        "http://x:99999/v1",
        "http://",
        5,
        [None],
        {"url": "http://x"},
        {"endpoint": "http://x", "weight": -1},
    ],
)
def test_a_bad_backend_is_named(given: Any) -> None:
    """One sentence that says what a backend is."""
    with pytest.raises((SettingError, TypeError)):
        backends_of(given)


def test_requests_are_shared_by_weight_and_model() -> None:
    """Three of four go to the heavier one; a model that a backend names goes there; all are tried in the end."""
    backends = backends_of([
        {"endpoint": "http://a", "weight": 3}, {"endpoint": "http://b"}, LLM(endpoint="http://c", model="m"),
    ])  # fmt: skip
    pool = Pool(backends, seed=1)
    firsts = [pool.candidates("other", anthropic=False)[0].endpoint for _ in range(4000)]
    assert 0.70 < firsts.count("http://a") / len(firsts) < 0.80
    assert [backend.endpoint for backend in pool.candidates("m", anthropic=False)] == ["http://c"]
    assert len(pool.candidates(None, anthropic=False)) == 2
    assert pool.candidates(None, anthropic=True) == []


def test_another_address_than_loopback_needs_tokens(store: LightningStore) -> None:
    """A proxy that others can reach would let them spend the keys behind it."""
    with pytest.raises(SettingError):
        LLMProxy("http://127.0.0.1:9/v1", store=store, host="0.0.0.0")


def test_a_foreign_page_is_refused(serve: Any) -> None:
    """A page in a browser cannot use the proxy."""
    attempt = serve("http://127.0.0.1:9/v1")
    answer = httpx.post(f"{attempt.url}/chat/completions", json=ASKED, headers={"origin": "http://evil.example"})
    assert answer.status_code == 403
