"""The wire protocol, asked by a plain HTTP client: what the SDK and the public API rely on."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import zlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from agentlightning.errors import SettingError, StoreFullError
from agentlightning.instrumentation.agentops_server import AgentOpsServerOptions
from agentlightning.server.access import new_token
from agentlightning.store import open_store
from agentlightning.testing.agentops import KEY, Server, otlp, serving, session

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from agentlightning.types.tracer import Span


def spans_of(server: Server, trace: int, project: str | None = None) -> list[Span]:
    """Return what the store holds of a trace."""
    store = server.store if project is None else server.store.with_project(project)
    return asyncio.run(store.query_spans(f"ro-{trace:032x}"))


def test_sign_in(server: Server) -> None:
    """Any key signs in on this machine and gets a token that says the project; no key, or no JSON, is 400."""
    answer = server.client.post("/v3/auth/token", json={"api_key": KEY}).json()
    assert answer["project_id"] == "default"
    assert answer["project_prem_status"] == "pro"
    claims = json.loads(base64.urlsafe_b64decode(answer["token"].split(".")[1] + "=="))
    assert claims["aud"] == "authenticated"
    assert KEY not in json.dumps(claims)
    for body in (b"{}", b"[]", b"no", b'{"api_key": ""}', b'{"api_key": 5}'):
        refused = server.client.post("/v3/auth/token", content=body, headers={"content-type": "application/json"})
        assert refused.status_code == 400
        assert "api_key" in refused.json()["error"]
    good = server.client.get("/v3/auth/token", headers=server.sign_in())
    assert good.json()["payload"]["project_id"] == "default"
    assert server.client.get("/v3/auth/token").status_code == 401


@pytest.mark.parametrize("path", ["/v1/traces", "/traces"])
@pytest.mark.parametrize("encoding", ["", "gzip", "deflate"])
def test_spans_arrive_whatever_the_path_and_the_compression(server: Server, path: str, encoding: str) -> None:
    """Both paths take spans plain and compressed, answer with an empty protobuf message, and store each span once."""
    body = otlp(*session(1))
    packed = {"": body, "gzip": gzip.compress(body), "deflate": zlib.compress(body)}[encoding]
    headers = {"content-encoding": encoding} if encoding else {}
    for _ in range(2):  # the exporter sends again when an answer was lost
        answer = server.send(packed, headers, path)
        assert answer.status_code == 200
        assert not ExportTraceServiceResponse.FromString(answer.content).HasField("partial_success")
    assert len(spans_of(server, 1)) == 2


def test_spans_without_a_token_are_kept_on_this_machine(server: Server) -> None:
    """SDKs from 0.4.19 send before they sign in: such spans land in the server's project, bad tokens too."""
    assert server.send(otlp(*session(1))).status_code == 200
    assert server.send(otlp(*session(2)), {"authorization": "Bearer nonsense"}).status_code == 200
    assert len(spans_of(server, 1)) == len(spans_of(server, 2)) == 2


def test_the_token_says_the_project(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project comes from the token, and what a resource claims about it is overwritten."""
    monkeypatch.setenv("AGL_AGENTOPS_PROJECTS", "key-of-red=red, key-of-blue=blue")
    store = open_store(str(isolated / "served.db"))
    with serving(AgentOpsServerOptions(), store) as server:
        for number, (key, project) in enumerate([("key-of-red", "red"), ("key-of-blue", "blue"), (KEY, "default")], 1):
            headers = server.sign_in(key)
            assert server.send(otlp(*session(number), project="mine"), headers).status_code == 200
            found = asyncio.run(store.with_project(project).query_newest_rollouts())
            assert [rollout.rollout_id for rollout in found] == [f"ro-{number:032x}"]
            assert {s.resource.attributes["agentops.project.id"] for s in spans_of(server, number)} == {project}
    store.close()


def test_sessions_are_told_apart(server: Server) -> None:
    """Sessions that run at once are one rollout each, with name, tags, end state and errors of its own."""
    first, second = session(1, tags=("blue", "nightly")), session(2, end_state="Fail", tags='["red"]')
    second[0]["error"] = "rate limited"
    third = session(3, end_state="Indeterminate")
    server.send(otlp(first[0], second[0], third[0]))
    before = asyncio.run(server.store.query_rollouts())
    assert {rollout.status for rollout in before} == {"running"}
    server.send(otlp(second[1], third[1], first[1]))
    found = {rollout.rollout_id: rollout for rollout in asyncio.run(server.store.query_rollouts())}
    shown = {number: found[f"ro-{number:032x}"] for number in (1, 2, 3)}
    assert [str(shown[number].input) for number in (1, 2, 3)] == [
        "job1 [blue, nightly] Success",
        "job2 [red] Fail",
        "job3 [a] Indeterminate",
    ]
    assert [shown[number].status for number in (1, 2, 3)] == ["succeeded", "failed", "succeeded"]
    assert (shown[2].metadata or {})["agentops"] == {"session": "job2", "tags": ["red"], "end_state": "Fail"}


@pytest.mark.parametrize("form", ["bare", "object"])
@pytest.mark.parametrize("first", ["log", "spans"])
def test_a_log_belongs_to_its_trace(server: Server, form: str, first: str) -> None:
    """Both forms of a log land under the hexadecimal id of its trace, once, before its spans or after them."""
    text = "2026-11-21 10:00:00,250 - INFO - hello\n"
    trace = 0xABCDEF
    body: Any = text if form == "bare" else {"body": text}

    def log() -> httpx.Response:
        return server.client.post("/v4/logs/upload/", json=body, headers={"Trace-Id": str(trace)})

    if first == "spans":
        server.send(otlp(*session(trace)))
    for _ in range(2):
        answer = log()
        assert answer.status_code == 200
        assert answer.json() == {"url": f"{server.url}/v4/logs/{trace:032x}", "size": len(text)}
    server.send(otlp(*session(trace)))
    messages = [span for span in spans_of(server, trace) if span.name == "agentlightning.message"]
    assert [span.attributes["message"] for span in messages] == [text]
    assert server.client.get(f"/v4/logs/{trace:032x}").text == text
    page = server.client.get("/sessions", params={"trace_id": f"{trace:032x}"}).text
    assert "hello" in page
    rollout = asyncio.run(server.store.get_rollout_by_id(f"ro-{trace:032x}"))
    assert rollout is not None
    assert rollout.status == "succeeded"
    assert rollout.end_time is not None
    assert rollout.end_time > rollout.start_time


@pytest.mark.parametrize("trace", ["", "x", "-1", "0", str(2**128), "9" * 5000, "../../etc"])
def test_a_log_needs_a_trace(server: Server, trace: str) -> None:
    """A log without a trace id, or with nonsense for one, is 400 and nothing is stored."""
    answer = server.client.post("/v4/logs/upload", json="text", headers={"Trace-Id": trace})
    assert answer.status_code == 400
    assert asyncio.run(server.store.query_rollouts()) == []


def test_objects(server: Server) -> None:
    """An object is stored under the hash of its content and can be fetched at the address that was told."""
    answer = server.client.post("/v4/objects/upload/", json={"body": "a picture"}).json()
    assert answer["size"] == 9
    assert server.client.post("/v4/objects/upload/", json="a picture").json() == answer
    assert server.client.get(answer["url"]).text == "a picture"
    assert server.client.get(f"{server.url}/v4/objects/{'0' * 32}").status_code == 404


def test_metrics_are_taken_and_not_kept(server: Server) -> None:
    """Metrics, which the SDK cannot be told to leave out, are answered with 200 and counted."""
    assert server.send(b"", path="/v1/metrics").status_code == 200
    assert server.client.post("/v1/metrics", json={}).json() == {}
    assert "agentops_metric_requests_total 2" in server.client.get("/metrics").text


def test_a_large_span(server: Server) -> None:
    """A span of 2 MB is stored whole."""
    spans = session(1)
    spans[0]["attributes"]["gen_ai.prompt.0.content"] = "word " * 400_000
    assert server.send(otlp(*spans)).status_code == 200
    stored = next(span for span in spans_of(server, 1) if span.name == "openai.chat.completion")
    assert len(str(stored.attributes["gen_ai.prompt.0.content"])) == 2_000_000


@pytest.mark.parametrize("body", [b"\xff\xff\xff", b"\x0a\xff\x01"])
def test_a_broken_message_is_400(server: Server, body: bytes) -> None:
    """What is no OTLP is the sender's mistake, and not tried again."""
    assert server.send(body).status_code == 400


def test_when_the_store_fails_the_sdk_is_asked_to_come_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with the store, spans, logs and objects are answered with 503 and Retry-After."""

    def full(*_: Any) -> None:
        raise StoreFullError("no room")

    monkeypatch.setattr(type(server.store), "write_batch", full)
    answers = [
        server.send(otlp(*session(1))),
        server.client.post("/v4/logs/upload/", json="x", headers={"Trace-Id": "5"}),
        server.client.post("/v4/objects/upload/", json="x"),
    ]
    assert [answer.status_code for answer in answers] == [503, 503, 503]
    assert all(answer.headers["retry-after"] == "1" for answer in answers)
    monkeypatch.undo()
    assert server.send(otlp(*session(1))).status_code == 200
    assert len(spans_of(server, 1)) == 2


def test_each_step_has_an_audit_line_without_secrets(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Sign-in, upload and refusal are one line each: who, what, how much; no key, no token, no content."""
    caplog.set_level(logging.INFO, "agentlightning.audit")
    headers = server.sign_in("a-very-secret-key")
    server.send(otlp(*session(1)), headers)
    server.client.post("/v4/logs/upload/", json="private words", headers={**headers, "Trace-Id": "1"})
    server.client.post("/v3/auth/token", json={})
    server.client.post("/v1/traces", content=b"x", headers={"host": "evil.example"})
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "agentlightning.audit"]
    assert [line[0] for line in lines] == ["sign-in", "upload", "upload", "sign-in refused", "refused"]
    assert lines[1][3:] == ["spans", 2]
    text = json.dumps(lines)
    for secret in ("a-very-secret-key", headers["authorization"][-20:], "private words", "question"):
        assert secret not in text


def test_secrets_in_spans_are_redacted(server: Server) -> None:
    """The SDK stores extra headers as text; credentials in them do not reach the store."""
    spans = session(1)
    spans[0]["attributes"]["gen_ai.request.headers"] = "{'Authorization': 'Bearer sk-abcdef0123456789', 'x': 'kept'}"
    server.send(otlp(*spans))
    stored = next(span for span in spans_of(server, 1) if span.name == "openai.chat.completion")
    assert "sk-abcdef" not in str(stored.attributes)
    assert "kept" in str(stored.attributes["gen_ai.request.headers"])


def test_with_a_file_of_tokens_only_its_keys_sign_in(isolated: Path) -> None:
    """Keys are tokens of 'agl store token'; one that is bound to a project sees no other; a deleted one is over."""
    path = isolated / "tokens.json"
    text, red = new_token("red", "write", project="red")
    path.write_text(json.dumps([asdict(red)]))
    path.chmod(0o600)
    store = open_store(str(isolated / "served.db"))
    with serving(AgentOpsServerOptions(host="0.0.0.0", tokens=str(path)), store) as server:
        assert server.client.post("/v3/auth/token", json={"api_key": "other"}).status_code == 403
        assert server.send(otlp(*session(1))).status_code == 401
        headers = server.sign_in(text)
        assert server.send(otlp(*session(1)), headers).status_code == 200
        assert server.client.get("/sessions", headers=headers).status_code == 200
        assert server.client.get("/sessions").status_code == 401
        assert asyncio.run(store.query_rollouts()) == []
        assert len(asyncio.run(store.with_project("red").query_rollouts())) == 1
        asyncio.run(store.start_rollout("of the project default"))
        answer = server.client.post("/v1/rollouts/query", json={}, headers=headers)
        assert [item["rollout_id"] for item in answer.json()] == [f"ro-{1:032x}"]
        path.write_text("[]")
        assert server.send(otlp(*session(2)), headers).status_code == 401
    store.close()
    with pytest.raises(SettingError, match="tokens"), serving(AgentOpsServerOptions(host="0.0.0.0"), store):
        pass


def test_require_auth(isolated: Path) -> None:
    """With --require-auth spans without a token are refused on this machine too, and those with one are stored."""
    store = open_store(str(isolated / "served.db"))
    with serving(AgentOpsServerOptions(require_auth=True), store) as server:
        assert server.send(otlp(*session(1))).status_code == 401
        assert server.send(otlp(*session(1)), server.sign_in()).status_code == 200
    store.close()


def test_a_token_is_good_after_a_restart(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK keeps its token for ever, so a restarted server knows it; a changed or foreign one says nothing."""
    monkeypatch.setenv("AGL_AGENTOPS_PROJECTS", f"{KEY}=red")
    store = open_store(str(isolated / "served.db"))
    with serving(AgentOpsServerOptions(), store) as server:
        headers = server.sign_in()
    with serving(AgentOpsServerOptions(), store) as server:
        server.send(otlp(*session(1)), headers)
        server.send(otlp(*session(2)), {"authorization": headers["authorization"][:-2]})
    assert len(asyncio.run(store.with_project("red").query_rollouts())) == 1
    assert len(asyncio.run(store.query_rollouts())) == 1
    store.close()


def test_old_and_unknown_paths(server: Server) -> None:
    """SDK 0.3 is told that its protocol is gone; a mistyped path is 404, never a 200 that loses data."""
    assert server.client.post("/v2/create_session", json={}).status_code == 410
    assert server.send(otlp(*session(1)), path="/v1/trace").status_code == 404
    assert server.client.get("/").json()["status"] == "ok"
    assert server.client.get("/health").json() == {"status": "ok", "mode": "LOCAL"}
