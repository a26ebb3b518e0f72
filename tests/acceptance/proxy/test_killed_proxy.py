"""The proxy in a process of its own: killed after an answer, and under agl run with a program that is not Python."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx

from agentlightning import open_store
from agentlightning.testing import ModelServer

if TYPE_CHECKING:
    from pathlib import Path

ASKED = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "count"}]}
PROXY = """
import sys
from agentlightning import open_store
from agentlightning.server.proxy import LLMProxy
with LLMProxy(sys.argv[2], store=open_store(sys.argv[1])) as proxy:
    print(proxy.url, flush=True)
    sys.stdin.read()
"""
# What a program in another language does, as far as we can see it: Python without our bootstrap.
FOREIGN = """
import json, os, sys, urllib.request
body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "2+2"}]}).encode()
head = {"content-type": "application/json", "authorization": "Bearer sk-program"}
asked = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body, head)
print(json.load(urllib.request.urlopen(asked))["choices"][0]["message"]["content"])
sys.exit(3)
"""


def test_a_proxy_that_is_killed_after_an_answer_has_its_span(tmp_path: Path) -> None:
    """Three times: the answer is there, the proxy is killed at once, and the span is in the store."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    stored = 0
    with ModelServer() as server:
        for number in range(3):
            command = [sys.executable, "-c", PROXY, url, server.url]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                address = process.stdout.readline().strip()
                stream = number == 1
                answer = httpx.post(f"{address}/chat/completions", json={**ASKED, "stream": stream}, timeout=15)
                process.send_signal(signal.SIGKILL)
                assert answer.status_code == 200
    store = open_store(url)
    for rollout in asyncio.run(store.query_rollouts()):
        stored += len(asyncio.run(store.query_spans(rollout.rollout_id)))
    store.close()
    assert stored == 3


def test_a_program_that_is_not_python_is_traced(tmp_path: Path) -> None:
    """Its output and exit code are its own, and its call is in the rollout of the run."""
    with ModelServer(["four"]) as server:
        environment = {
            **os.environ,
            "AGL_STORE": f"sqlite:///{tmp_path / 'store.db'}",
            "OPENAI_BASE_URL": server.url,
        }
        done = subprocess.run(
            [sys.executable, "-m", "agentlightning.cli", "run", "--proxy", sys.executable, "-I", "-c", FOREIGN],
            env=environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert server.requests[-1].headers["authorization"] == "Bearer sk-program"
    assert (done.stdout, done.returncode) == ("four\n", 3), done.stderr
    assert "1 LLM call" in done.stderr
    assert "not traced" not in done.stderr
    shown: Any = json.loads(
        subprocess.run(
            [sys.executable, "-m", "agentlightning.cli", "show", "latest", "--chat", "--json"],
            env=environment, capture_output=True, text=True, check=True, timeout=60,
        ).stdout
    )  # fmt: skip
    assert "four" in json.dumps(shown)
