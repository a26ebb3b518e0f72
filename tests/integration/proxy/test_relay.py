"""What the proxy does with the bytes: servers that write HTTP in odd ways, streams in odd pieces, paths as sent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from agentlightning import open_store
from agentlightning.semconv import REDACTED, REDACTED_RULES
from agentlightning.server.proxy import LLMProxy
from agentlightning.testing import ModelServer

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

ASKED: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "count"}]}
CHUNK = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@contextlib.contextmanager
def raw_server(*answers: Sequence[bytes]) -> Generator[tuple[str, list[bytes]]]:
    """Serve *answers*, each in the pieces that it has, one connection for each; give the URL and what was asked."""
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for pieces in answers:
            client = listener.accept()[0]
            with client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                asked.append(client.recv(65_536))
                for piece in pieces:
                    client.sendall(piece)
                    go_on.wait(0.05)  # so that each piece is a packet of its own

    go_on = threading.Event()
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", asked
        go_on.set()
        thread.join(5)


def proxy_of(url: str) -> LLMProxy:
    """Return a proxy of the server at *url*, with a store of its own."""
    return LLMProxy({"endpoint": url, "token_ids": False}, store=open_store("memory://"))


def through(url: str, **more: Any) -> tuple[httpx.Response, dict[str, Any]]:
    """Ask the server at *url* through a proxy; return the answer and the attributes of the span."""
    store = open_store("memory://")
    with LLMProxy({"endpoint": url, "token_ids": False}, store=store) as proxy:
        answer = httpx.post(f"{proxy.url}/chat/completions", json={**ASKED, **more}, timeout=10)
    (rollout,) = asyncio.run(store.query_rollouts())
    (span,) = asyncio.run(store.query_spans(rollout.rollout_id))
    return answer, dict(span.attributes)


@pytest.mark.parametrize(
    "answer",
    [
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"],
        [b"HTTP/1.1 200 OK\ncontent-length: 2\n\n{}"],
        [b"HTTP/1.1 200 OK\r\nx-empty:\r\n\r\n", b"{", b"}"],
        [b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n", b"{}"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n", b"{}"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n", b"1\r\n}\r\n0\r\nx: 1\r\n\r\n"],
        [b"HTTP", b"/1.1 200 O", b"K\r\nconte", b"nt-length: 2\r\n\r\n{}"],
    ],
    ids=[
        "informs first",
        "bare line feeds",
        "ends with the connection",
        "1.0",
        "another encoding",
        "trailers",
        "head in pieces",
    ],
)
def test_answers_as_servers_write_them(answer: list[bytes]) -> None:
    """All that clients take for an answer is passed on."""
    with raw_server(answer) as (url, _):
        got, _ = through(url)
    assert (got.status_code, got.content) == (200, b"{}")
    assert got.headers.get("x-empty", "") == ""


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [b"rubbish\r\n\r\n"],
        [b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"],
        [b"HTTP/1.1 999 No\r\ncontent-length: 2\r\n\r\n{}"],
    ],
    ids=["nothing", "no HTTP", "another protocol", "two lengths", "no status"],
)
def test_what_is_no_answer_is_502(answer: list[bytes]) -> None:
    """The program is told that there was none, and so is the span."""
    with raw_server(answer) as (url, _):
        got, _ = through(url)
    assert got.status_code == 502
    assert got.json()["error"]["type"] == "backend_unreachable"


def test_an_answer_that_ends_by_a_reset_is_not_whole() -> None:
    """An answer without a length ends with its connection; one that is torn down has not ended."""
    go_on, got = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client = listener.accept()[0]
            client.recv(65_536)
            client.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + CHUNK)
            got.wait(10)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            go_on.set()

        threading.Thread(target=serve, daemon=True).start()
        store = open_store("memory://")
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        with LLMProxy({"endpoint": url, "token_ids": False}, store=store) as proxy, httpx.Client() as client:
            asked = client.build_request("POST", f"{proxy.url}/chat/completions", json={**ASKED, "stream": True})
            parts = client.send(asked, stream=True).iter_raw()
            assert next(parts) == CHUNK
            got.set()
            with pytest.raises(httpx.RemoteProtocolError):
                list(parts)
    (rollout,) = asyncio.run(store.query_rollouts())
    (span,) = asyncio.run(store.query_spans(rollout.rollout_id))
    assert span.status.status_code == "ERROR"


def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers close what is idle, often after 5 s: a request on such a connection would be lost on its way."""
    monkeypatch.setattr("agentlightning.server.proxy.upstream._MOST_IDLE_S", 0.0)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:  # once on each connection, and none is closed
            for number in range(2):
                client = stack.enter_context(listener.accept()[0])
                client.recv(65_536)
                client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n[%d]" % number)

        threading.Thread(target=serve, daemon=True).start()
        proxy = stack.enter_context(proxy_of(f"http://127.0.0.1:{listener.getsockname()[1]}/v1"))
        got = [httpx.post(f"{proxy.url}/chat/completions", json=ASKED).json() for _ in range(2)]
    assert got == [[0], [1]]


def test_an_answer_has_one_date() -> None:
    """The backend's date is passed on, and no other is added."""
    with raw_server([b"HTTP/1.1 200 OK\r\ndate: then\r\ncontent-length: 2\r\n\r\n{}"]) as (url, _):
        got, _ = through(url)
    assert got.headers.get_list("date") == ["then"]


def test_a_connection_that_says_more_than_it_was_asked_is_not_used_again() -> None:
    """An answer nobody asked for is never the answer to the next request."""
    good = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"
    with raw_server([good + b"[1]" + good + b"[9]"], [good + b"[2]"]) as (url, _), proxy_of(url) as proxy:
        got = [httpx.post(f"{proxy.url}/chat/completions", json=ASKED).json() for _ in range(2)]
    assert got == [[1], [2]]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_stream_in_any_pieces_is_the_same_stream(size: int) -> None:
    """Wherever it is cut, also in the middle of what says that it is over, bytes and span are the same."""
    sent = CHUNK * 3 + b"data: [DONE]\n\n"
    parts = [sent[place : place + size] for place in range(0, len(sent), size)]
    pieces = [STREAM, *(b"%x\r\n%b\r\n" % (len(part), part) for part in parts), b"0\r\n\r\n"]
    if size == 1:  # not a packet for each: two hundred
        pieces = [STREAM + b"".join(pieces[1:-10]), *pieces[-10:]]
    with raw_server(pieces) as (url, _):
        got, attributes = through(url, stream=True)
    assert got.content == sent
    assert attributes["llm.output_messages.0.message.content"] == "aaa"


def test_words_that_look_like_the_end_hold_nothing_up() -> None:
    """A model that says what ends a stream does not end it: what follows is passed on before the span is durable."""
    said = b'data: {"choices": [{"index": 0, "delta": {"content": "data: [DONE]"}}]}\n\n'
    sent = said + CHUNK
    pieces = [STREAM, *(b"%x\r\n%b\r\n" % (len(part), part) for part in (said, CHUNK))]
    got = b""
    with raw_server(pieces) as (url, _), proxy_of(url) as proxy, httpx.Client() as client:
        asked = client.build_request("POST", f"{proxy.url}/chat/completions", json={**ASKED, "stream": True})
        parts = client.send(asked, stream=True).iter_raw()
        with contextlib.suppress(httpx.RemoteProtocolError):  # the server leaves before the end
            for part in parts:
                got += part
    assert got == sent


def test_paths_and_headers_go_on_as_they_were_sent() -> None:
    """What is escaped in a path stays escaped, and a header that comes twice comes twice."""
    good = b"HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 2\r\n\r\n{}"
    with raw_server([good]) as (url, asked), proxy_of(url) as proxy:
        headers = [("x-twice", "1"), ("x-twice", "2")]
        got = httpx.get(f"{proxy.url}/files/a%2Fb%20c?x=%20y", headers=headers)
    line, *sent = asked[0].split(b"\r\n")
    assert line == b"GET /v1/files/a%2Fb%20c?x=%20y HTTP/1.1"
    assert [header for header in sent if header.startswith(b"x-twice")] == [b"x-twice: 1", b"x-twice: 2"]
    assert got.headers.get_list("set-cookie") == ["a=1", "b=2"]


def test_a_request_that_is_not_sent_to_its_end_goes_nowhere() -> None:
    """A program that dies while it asks does not cost a call of half a prompt."""
    with ModelServer() as server, proxy_of(server.url) as proxy:
        port = int(proxy.url.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 99\r\n\r\n{}")
        httpx.post(f"{proxy.url}/chat/completions", json=ASKED)
        assert [request.body for request in server.requests] == [ASKED]


def test_a_call_that_goes_wrong_has_a_span() -> None:
    """A header that cannot be passed on ends the call with an error of ours, which the span says."""
    with raw_server([b"HTTP/1.1 200 OK\r\nx(y: 1\r\ncontent-length: 2\r\n\r\n{}"]) as (url, _):
        store = open_store("memory://")
        with LLMProxy({"endpoint": url, "token_ids": False}, store=store) as proxy:
            assert httpx.post(f"{proxy.url}/chat/completions", json=ASKED).status_code >= 500
    (rollout,) = asyncio.run(store.query_rollouts())
    (span,) = asyncio.run(store.query_spans(rollout.rollout_id))
    assert span.status.status_code == "ERROR"


def test_a_call_that_the_proxys_end_breaks_has_a_span(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that stops does not wait for an answer for ever, and the span says why there is none."""
    monkeypatch.setattr("agentlightning.server.launcher._STOP_TIMEOUT_S", 1)
    store = open_store("memory://")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        proxy = proxy_of(url)
        proxy.store = store
        proxy.start()

        def ask() -> None:
            with contextlib.suppress(httpx.HTTPError):
                httpx.post(f"{proxy.url}/chat/completions", json=ASKED, timeout=30)

        asking = threading.Thread(target=ask)
        asking.start()
        client = stack.enter_context(listener.accept()[0])
        assert client.recv(65_536)
        proxy.stop()
        asking.join(20)
    (rollout,) = asyncio.run(store.query_rollouts())
    (span,) = asyncio.run(store.query_spans(rollout.rollout_id))
    assert span.status.description == "the proxy was stopped"


def test_marks_of_question_and_answer_are_joined() -> None:
    """A credential in what was asked and one in what was answered are both gone from the span, and both are named."""
    secret = "ghp_" + "q7Rk2ZxVb9LmT4wYc8NfHs1JdPe6GuAo3iKe"
    with ModelServer([f"it was {secret}"]) as server:
        _, attributes = through(server.url, messages=[{"role": "user", "content": f"my key is {secret}"}])
    assert secret not in str(attributes)
    assert {"llm.input_messages.0.message.content", "llm.output_messages.0.message.content"} <= set(
        attributes[REDACTED]
    )
    (rule,) = attributes[REDACTED_RULES]
    assert int(rule.rpartition(":")[2]) >= 4
