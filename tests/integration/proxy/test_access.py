"""Who may use the proxy, and which credentials go where: each key to its own server and no other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from agentlightning import open_store
from agentlightning._internal.ids import implicit_ids
from agentlightning.server.access import TokenFile, new_token
from agentlightning.server.gate import Hall, RefusedError, Room
from agentlightning.server.proxy import LLMProxy
from agentlightning.store import LightningStoreClient, SqliteLightningStore
from agentlightning.testing import ModelServer
from agentlightning.testing.store_contract_spans import record_of
from agentlightning.types.record import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from agentlightning.store import LightningStore

ASKED: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "count"}]}


@contextlib.contextmanager
def guarded(backend: Any, store: LightningStore, project: str | None = None) -> Generator[tuple[LLMProxy, str]]:
    """Serve a proxy that asks for a token, and give one that is bound to *project*."""
    text, token = new_token("test", "write", project=project)
    with LLMProxy(backend, store=store, tokens=TokenFile(tokens=[token])) as proxy:
        yield proxy, text


@pytest.mark.parametrize("api_key", [None, "sk-backend"])
@pytest.mark.parametrize("is_anthropic", [False, True])
def test_a_token_of_ours_goes_to_no_model_server(api_key: str | None, *, is_anthropic: bool) -> None:
    """Where tokens are asked for, the token and the project stay here; a server with a key gets that one alone."""
    path = "messages" if is_anthropic else "chat/completions"
    with ModelServer() as server:
        root = server.url.removesuffix("/v1") if is_anthropic else server.url
        backend = {"endpoint": root, "api_key": api_key, "anthropic": is_anthropic, "token_ids": False}
        with guarded(backend, open_store("memory://")) as (proxy, token):
            headers = {"authorization": f"Bearer {token}", "x-agl-project": "default", "x-api-key": "sk-program"}
            headers["api-key"] = "sk-program"  # Azure's
            httpx.post(f"{proxy.url}/{path}", json=ASKED, headers=headers)
        (sent,) = [request.headers for request in server.requests]
    assert token not in str(sent)
    assert "x-agl-project" not in sent
    keys = {name: value for name, value in sent.items() if name in {"authorization", "x-api-key", "api-key"}}
    if api_key is None:
        assert keys == {"x-api-key": "sk-program", "api-key": "sk-program"}
    else:
        assert keys == ({"x-api-key": api_key} if is_anthropic else {"authorization": f"Bearer {api_key}"})


def test_what_is_for_anthropic_goes_to_no_other_server() -> None:
    """Requests as Anthropic's clients send them go to its own server, also where OpenAI has the same path."""
    paths = ["/models", "/messages/batches", "/files/a"]
    with ModelServer() as openai_server, ModelServer() as anthropic_server:
        backends = [
            {"endpoint": openai_server.url},
            {"endpoint": anthropic_server.url.removesuffix("/v1"), "anthropic": True},
        ]
        headers = {"x-api-key": "sk-ant-program", "anthropic-version": "2023-06-01"}
        with LLMProxy(backends, store=open_store("memory://")) as proxy:
            for path in paths:
                httpx.get(proxy.url + path, headers=headers)
            httpx.post(f"{proxy.url}/messages/batches", json={"requests": []}, headers={"x-api-key": "sk-ant-program"})
            httpx.get(f"{proxy.url}/models", headers={"authorization": "Bearer sk-program"})
        assert [request.path for request in openai_server.requests] == ["/v1/models"]
        assert [request.path for request in anthropic_server.requests] == [
            "/v1/models", "/v1/messages/batches", "/v1/files/a", "/v1/messages/batches",
        ]  # fmt: skip


def test_a_bound_token_records_in_its_own_project(tmp_path: Path) -> None:
    """Neither by its ids nor by its trace does a call get into a rollout of another project; its own goes in."""
    store = SqliteLightningStore(tmp_path / "store.db", project="a")
    other = store.with_project("b")
    trace = "c" * 32
    made = asyncio.run(other.start_rollout("secret"))
    other.write_batch(WriteBatch(spans=[record_of(*implicit_ids(trace), 1)], project="b"))
    own = asyncio.run(store.start_rollout("own"))
    with ModelServer() as server, guarded(server.url, store, "a") as (proxy, token):
        root = proxy.url.removesuffix("/v1")

        def ask(rollout: str, attempt: str, **more: str) -> int:
            path = f"/rollout/{rollout}/attempt/{attempt}" if rollout else ""
            headers = {"authorization": f"Bearer {token}", **more}
            return httpx.post(f"{root}{path}/v1/chat/completions", json=ASKED, headers=headers).status_code

        theirs = made.rollout_id, made.attempt.attempt_id
        assert [ask(*theirs), ask("ro-new", theirs[1]), ask(own.rollout_id, theirs[1])] == [403] * 3
        assert ask("", "", traceparent=f"00-{trace}-{'d' * 16}-01") == 403
        assert not server.requests
        assert [ask(own.rollout_id, own.attempt.attempt_id), ask("", "")] == [200, 200]
    assert asyncio.run(other.query_spans(made.rollout_id)) == []
    assert len(asyncio.run(store.query_rollouts())) == 2
    store.close()


def test_a_token_of_another_project_than_the_stores_is_refused() -> None:
    """The spans of its calls would go into a project that it may not write."""
    store = open_store("memory://", "b")
    with ModelServer() as server, guarded(server.url, store, "a") as (proxy, token):
        headers = {"authorization": f"Bearer {token}"}
        assert httpx.post(f"{proxy.url}/chat/completions", json=ASKED, headers=headers).status_code == 403
        assert not server.requests


def test_what_is_the_stores_goes_to_the_store() -> None:
    """A client of the store writes its batches through the proxy; a path that only begins like a model's is none."""
    with ModelServer() as server, LLMProxy(server.url, store=open_store("memory://")) as proxy:
        root = proxy.url.removesuffix("/v1")
        client = LightningStoreClient(root)
        made = asyncio.run(client.start_rollout("task"))
        ids = made.rollout_id, made.attempt.attempt_id
        assert client.write_batch(WriteBatch(spans=[record_of(*ids, 1)], project=client.project)).stored == 1
        assert len(asyncio.run(client.query_spans(made.rollout_id))) == 1
        client.close()
        assert httpx.get(f"{proxy.url}/models-of-mine").status_code == 404
        assert not server.requests
        httpx.post(f"{proxy.url}/batches", json={"input_file_id": "file-1"})
        assert [request.path for request in server.requests] == ["/v1/batches"]


def refusals(caplog: pytest.LogCaptureFixture) -> list[int]:
    """Return the status in each audit line."""
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "agentlightning.audit"]
    return [line[-2] for line in lines if line[0] == "refused"]


def test_a_refusal_closes_the_connection_and_is_audited(caplog: pytest.LogCaptureFixture) -> None:
    """What follows a head that is refused is not read as another request, and the audit has a line."""
    with guarded("http://127.0.0.1:9/v1", open_store("memory://")) as (proxy, _):
        answer = httpx.post(f"{proxy.url}/chat/completions", json=ASKED)
    assert (answer.status_code, answer.headers["connection"]) == (401, "close")
    assert refusals(caplog) == [401]


def test_a_body_that_does_not_go_on_is_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A program that stops in the middle of its request does not keep its room for ever."""
    monkeypatch.setattr("agentlightning.server.proxy.request.PART_TIMEOUT_S", 0.1)
    with LLMProxy("http://127.0.0.1:9/v1", store=open_store("memory://")) as proxy:
        port = int(proxy.url.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"POST /v1/files HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 99\r\n\r\n{}")
            assert client.recv(65_536) == b""
    assert refusals(caplog) == [400]


def test_bodies_are_bounded_together() -> None:
    """A request that is alone may take any room, and what is under way with others has a bound."""
    hall = Hall(10, "too much is under way")
    first, second = Room(hall), Room(hall)
    first.grow(20)
    with pytest.raises(RefusedError) as info:
        second.grow(1)
    assert (info.value.status, info.value.retry_after_s) == (503, 1)
    first.leave()
    second.grow(5)
    first.grow(5)
    with pytest.raises(RefusedError):
        first.grow(6)
    first.leave()
    second.leave()
    assert hall.taken == 0


def test_a_body_of_too_many_bytes_is_refused_before_it_is_read() -> None:
    """A length that nobody sends is answered at once."""
    with LLMProxy("http://127.0.0.1:9/v1", store=open_store("memory://")) as proxy:
        port = int(proxy.url.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"POST /v1/files HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 999999999\r\n\r\n")
            assert client.recv(65_536).startswith(b"HTTP/1.1 413 ")


def test_calls_without_ids_go_to_the_project_of_the_store(tmp_path: Path) -> None:
    """A rollout that a call begins is in the project of the store that the proxy was given."""
    store = SqliteLightningStore(tmp_path / "store.db", project="p")
    with ModelServer() as server, LLMProxy(server.url, store=store) as proxy:
        httpx.post(f"{proxy.url}/chat/completions", json=ASKED)
    assert len(asyncio.run(store.query_rollouts())) == 1
    store.close()
