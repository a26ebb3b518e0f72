from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import openai
import pytest
from openai import OpenAI

from agentlightning.testing import ChatRequest, ModelServer, Reply
from agentlightning.testing.json_value import as_object

if TYPE_CHECKING:
    from collections.abc import Callable

    from openai.types.chat import ChatCompletionMessageParam

    from agentlightning.testing.reply import Fault

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "one two three four five"}]


def _ask(client: OpenAI) -> str | None:
    return client.chat.completions.create(model="m", messages=MESSAGES).choices[0].message.content


def test_rate_limit_is_retried(connect: Callable[..., OpenAI]) -> None:
    """The client obeys Retry-After of a 429 and succeeds the second time."""
    server = ModelServer([Reply("slow down", status=429, headers={"Retry-After": "0.01"}), "ok"])
    assert _ask(connect(server, max_retries=1)) == "ok"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, openai.AuthenticationError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_status_becomes_the_error_of_the_client(
    connect: Callable[..., OpenAI], status: int, error: type[openai.APIStatusError]
) -> None:
    """Each injected status reaches the caller as the client's own error, with the message of the reply."""
    client = connect(ModelServer([Reply("as you wish", status=status)]))
    with pytest.raises(error, match="as you wish"):
        _ask(client)


@pytest.mark.parametrize("fault", ["drop", "half"])
def test_broken_transport_is_a_connection_error(connect: Callable[..., OpenAI], fault: Fault) -> None:
    """A connection that is dropped before or within the answer is an error, and the next request works."""
    client = connect(ModelServer([Reply("text", fault=fault), "ok"]))
    with pytest.raises(openai.APIConnectionError):
        _ask(client)
    assert _ask(client) == "ok"


def test_a_hanging_server_ends_with_the_client_or_the_server(connect: Callable[..., OpenAI]) -> None:
    """A hang lasts until the client's timeout, and closing the server ends those that still wait."""
    server = ModelServer([Reply(fault="hang"), Reply(fault="hang"), Reply(delay_s=60)])
    client = connect(server)
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="m", messages=MESSAGES, timeout=0.1)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(_ask, client) for _ in range(2)]
        while len(server.requests) < 3:
            time.sleep(0.005)
        server.close()
        assert all(isinstance(call.exception(10), openai.APIConnectionError) for call in waiting)


@pytest.mark.parametrize("count", [0, 3])
def test_stream_breaks_after_so_many_chunks(connect: Callable[..., OpenAI], count: int) -> None:
    """A stream that is cut gives exactly the chunks before the cut, then an error."""
    client = connect(ModelServer([Reply("one two three four five", break_after_chunks=count)]))
    seen: list[object] = []
    with pytest.raises(Exception, match=r"Connection error|closed connection"):
        seen.extend(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    assert len(seen) == count


def test_stream_left_early_harms_nothing(connect: Callable[..., OpenAI]) -> None:
    """A client that closes a stream in the middle can go on with the same server."""
    client = connect(ModelServer(["one two three four five", "ok"]))
    with client.chat.completions.create(model="m", messages=MESSAGES, stream=True) as stream:
        next(stream)
    assert _ask(client) == "ok"


def test_malformed_answer(connect: Callable[..., OpenAI]) -> None:
    """A body that is no JSON reaches the client as such, whole and in a stream."""
    client = connect(ModelServer([Reply(malformed="{no json"), Reply(malformed="{no json")]))
    with pytest.raises((json.JSONDecodeError, openai.APIError)):
        _ask(client)
    with pytest.raises((json.JSONDecodeError, openai.APIError)):
        list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))


def test_delays(connect: Callable[..., OpenAI]) -> None:
    """An answer comes no sooner than told, and neither does each chunk."""
    client = connect(ModelServer([Reply("x", delay_s=0.1), Reply("x", chunk_delay_s=0.05)]))
    begin = time.monotonic()
    _ask(client)
    middle = time.monotonic()
    assert middle - begin >= 0.1
    assert len(list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))) == 3
    assert time.monotonic() - middle >= 0.15


def test_script_that_is_used_up_says_so(connect: Callable[..., OpenAI]) -> None:
    """A request after the last reply is an error that is not retried and says what happened."""
    server = ModelServer(["only"])
    client = connect(server, max_retries=3)
    _ask(client)
    with pytest.raises(openai.BadRequestError, match="the script has 1 replies, and this is request 2"):
        _ask(client)
    assert len(server.requests) == 2


def test_rule_that_raises_is_a_server_error(connect: Callable[..., OpenAI]) -> None:
    """An error in a rule is an answer with status 500 and its message, and the server goes on."""

    def rule(request: ChatRequest) -> str:
        if request.number == 1:
            raise LookupError("no idea")
        return "ok"

    client = connect(ModelServer(rule))
    with pytest.raises(openai.InternalServerError, match="no idea"):
        _ask(client)
    assert _ask(client) == "ok"


GARBAGE = [
    ("POST", "/v1/chat/completions", b"{", 400),
    ("POST", "/v1/chat/completions", b"\xff\xfe", 400),
    ("POST", "/v1/chat/completions", b"[" * 100_000, 400),
    ("POST", "/v1/chat/completions", b"[]", 400),
    ("POST", "/v1/chat/completions", b"", 400),
    ("POST", "/v1/chat/completions", b'{"model": "m", "messages": 3}', 400),
    ("POST", "/v1/completions", b'{"model": "m", "prompt": [1, 2]}', 400),
    ("POST", "/v1/responses", b'{"model": "m", "input": 3}', 400),
    ("POST", "/v1/embeddings", b'{"model": "m", "input": []}', 400),
    ("POST", "/v1/nothing", b"{}", 404),
    ("GET", "/v1/chat/completions", b"", 404),
    ("DELETE", "/v1/models", b"", 501),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), GARBAGE)
def test_garbage_is_refused_in_json(method: str, path: str, body: bytes, status: int) -> None:
    """What is no request of the API gets an error object, and a proper request after it an answer."""
    with ModelServer() as server:
        host = server.url.split("/")[2]
        for sent, expected in (((method, path, body), status), (("GET", "/v1/models", b""), 200)):
            connection = http.client.HTTPConnection(host, timeout=5)
            connection.request(*sent)
            response = connection.getresponse()
            answer = json.loads(response.read())
            connection.close()
            assert response.status == expected
            assert ("error" in answer) == (expected != 200)


def test_bytes_that_are_no_http_are_refused_in_json() -> None:
    """Even where the request line makes no sense the answer is JSON with status 400, and the connection ends."""
    with ModelServer() as server:
        address = ("127.0.0.1", int(server.url.split(":")[2].split("/")[0]))
        with socket.create_connection(address, timeout=5) as connection:
            connection.sendall(b"\x16\x03\x01 what is this\r\n\r\n")
            received = b"".join(iter(lambda: connection.recv(4096), b""))
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert as_object(json.loads(body)["error"])["type"] == "invalid_request_error"


def test_body_without_length_is_refused() -> None:
    """A chunked request body is refused with status 411 instead of being read as the next request."""
    with ModelServer() as server:
        connection = http.client.HTTPConnection(server.url.split("/")[2], timeout=5)
        connection.putrequest("POST", "/v1/responses")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()  # and no body: the server answers, and hangs up, before it came
        assert connection.getresponse().status == 411
        connection.close()
        assert server.requests == ()


def test_close_may_be_repeated_and_comes_without_start() -> None:
    """A server that was never started, or was closed already, closes without an error."""
    server = ModelServer()
    server.close()
    server.close()


def test_stands_alone() -> None:
    """Started as a program it prints its URL first, answers, and ends with code 0 on SIGTERM."""
    command = [sys.executable, "-m", "agentlightning.testing.model_server", "--token-ids", "vllm"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        with OpenAI(base_url=url, api_key="x", max_retries=0) as client:
            assert _ask(client) == "one two three four five"
        process.terminate()
        assert process.wait(60) == 0
