"""An instrumented Python program behind our own proxy: both record each call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentlightning.testing import AgentRule, ModelServer

EXAMPLE = Path(__file__).parents[3] / "examples" / "frameworks" / "plain_openai_agent.py"
AGL = str(Path(sys.executable).with_name("agl"))


@pytest.mark.timeout(60)
def test_the_span_of_the_proxy_lies_below_the_call_of_the_program(tmp_path: Path) -> None:
    """Every call is one branch, also a streamed one: the client's span, and the proxy's below it; it counts once."""
    with ModelServer(AgentRule()) as server:
        environment = {**os.environ, **server.environment, "AGL_STORE": str(tmp_path / "store.db")}
        command = [AGL, "run", "--proxy", "--http", sys.executable, str(EXAMPLE)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=50)
        assert done.stdout.split() == ["3.2", "3.2"]
        assert len(server.requests) == 4 + sum(request.method == "GET" for request in server.requests)
    shown = {
        kind: subprocess.run(
            [AGL, "show", "latest", kind], env=environment, capture_output=True, text=True, check=True, timeout=50
        ).stdout
        for kind in ("--raw", "--json")
    }
    spans: list[dict[str, Any]] = [json.loads(line) for line in shown["--raw"].splitlines()]
    outer = {span["span_id"] for span in spans if span["name"] == "ChatCompletion"}
    inner = [span for span in spans if span["name"] == "openai.chat.completion"]
    assert len(outer) == len(inner) == 4
    assert {span["parent_id"] for span in inner} == outer
    assert json.loads(shown["--json"])["totals"]["llm_calls"] == 4
