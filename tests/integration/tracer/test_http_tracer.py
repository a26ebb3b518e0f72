"""``HttpTracer`` and ``agl run --http``."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.testing import ModelServer
from agentlightning.tracer import HttpTracer, OtelTracer

if TYPE_CHECKING:
    import pytest

ASKED: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "count"}]}
AGL = str(Path(sys.executable).with_name("agl"))
KEY = "ghp_" + "x7Qd9LmB2vTz5KcR8nWy3HjF6sGp" + "4AeUoXiZ"


def ask(url: str, **headers: str) -> str:
    """Ask as a program does that has no client of the model's."""
    answer = httpx.post(url + "/chat/completions", json=ASKED, headers=headers)
    return answer.json()["choices"][0]["message"]["content"]


def recorded(tracer: OtelTracer, url: str, **headers: str) -> list[Any]:
    """Return the spans of one call in a context of *tracer*."""
    store = InMemoryLightningStore()
    with tracer.trace_context(store=store):
        ask(url, **headers)
    (rollout,) = asyncio.run(store.query_rollouts())
    return list(asyncio.run(store.query_spans(rollout.rollout_id)))


def test_it_records_where_the_other_tracer_does_not() -> None:
    """Only ``HttpTracer`` sees a call of a bare HTTP client."""
    with ModelServer() as server:
        assert recorded(OtelTracer(), server.url) == []
        (span,) = recorded(HttpTracer(), server.url)
    assert span.name == "openai.chat.completion"
    assert not [name for name in span.attributes if name.startswith("http.re") and not name.endswith("status_code")]


def test_headers_and_bodies_on_request() -> None:
    """They are kept where that was asked for, and credentials never."""
    with ModelServer() as server:
        tracer = HttpTracer(include_headers=True, include_body=True)
        (span,) = recorded(tracer, server.url, authorization="Bearer " + KEY, **{"x-team": "a"})
    assert span.attributes["http.request.header.x-team"] == "a"
    assert span.attributes["http.response.header.content-type"].startswith("application/json")
    assert json.loads(span.attributes["http.request.body"])["model"] == "gpt-4o-mini"
    assert json.loads(span.attributes["http.response.body"])["choices"]
    assert KEY not in str(span.attributes)


def test_bodies_are_redacted_and_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential in a message is replaced, and a long text is cut and marked."""
    monkeypatch.setenv("AGL_MAX_VALUE_BYTES", "4096")
    monkeypatch.setitem(ASKED, "messages", [{"role": "user", "content": KEY + " " + "count " * 5000}])
    with ModelServer(["yes"]) as server:
        (span,) = recorded(HttpTracer(include_body=True), server.url)
    assert KEY not in str(span.attributes)
    assert all(len(str(value)) <= 5000 for value in span.attributes.values())
    assert any("redact" in name for name in span.attributes)


def test_requests_of_our_own_clients() -> None:
    """They are left out unless asked for."""
    with ModelServer() as server:
        own = {"x-agentlightning-client": "1"}
        assert recorded(HttpTracer(), server.url, **own) == []
    assert {"x-agentlightning-client"} == HttpTracer.AGENTLIGHTNING_HEADERS


def test_own_clients_on_request() -> None:
    """They are recorded where that was asked for."""
    with ModelServer() as server:
        own = {"x-agentlightning-client": "1"}
        assert len(recorded(HttpTracer(include_agentlightning_requests=True), server.url, **own)) == 1


def test_agl_run(tmp_path: Path) -> None:
    """``agl run --http`` records the call of a bare client in the program; without it, nothing is recorded."""
    program = tmp_path / "program.py"
    program.write_text(
        "import httpx, os\nprint(httpx.post(os.environ['OPENAI_BASE_URL'] + '/chat/completions', "
        f"json={ASKED!r}).json()['choices'][0]['message']['content'])\n"
    )
    seen: list[int] = []
    with ModelServer(["hello", "hello"]) as server:
        environment = {**os.environ, **server.environment, "AGL_STORE": str(tmp_path / "store.db")}
        for options in ([], ["--http"]):
            command = [AGL, "run", *options, sys.executable, str(program)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
            assert done.stdout == "hello\n"
            shown = subprocess.run(
                [AGL, "show", "latest", "--raw"],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            )
            seen.append(len(shown.stdout.splitlines()))
    assert seen == [0, 1]
