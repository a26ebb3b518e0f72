"""The programs of ``examples/frameworks`` under plain ``agl run``: nothing in them knows of it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentlightning.testing import AgentRule, ModelServer

ROOT = Path(__file__).parents[3]
AGL = str(Path(sys.executable).with_name("agl"))
NEEDS = {
    "plain_openai": "openai",
    "smolagents": "smolagents",
    "langchain": "langchain",
    "openai_agents": "agents",
    "autogen": "autogen_agentchat",
    "litellm": "litellm",
}


@pytest.mark.timeout(120)  # some frameworks take long to import
@pytest.mark.parametrize("name", sorted(NEEDS))
def test_an_example_is_one_rollout_with_its_calls(name: str, tmp_path: Path) -> None:
    """The program prints its answers, and the rollout has every call once, below its agent, with tokens and cost."""
    if importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    environment = {**os.environ, "AGL_STORE": str(tmp_path / "store.db"), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    program = str(ROOT / "examples" / "frameworks" / f"{name}_agent.py")
    if name == "openai_agents":  # its own processor would try to reach OpenAI
        (tmp_path / "quiet.py").write_text(
            "import agents, runpy, sys\nagents.set_trace_processors([])\n"
            "from agentlightning.instrumentation import registry\nregistry.stop('openai_agents')\n"
            "registry.start('openai_agents')\nrunpy.run_path(sys.argv[1], run_name='__main__')\n"
        )
        command = [AGL, "run", sys.executable, str(tmp_path / "quiet.py"), program]
    else:
        command = [AGL, "run", sys.executable, program]
    with ModelServer(AgentRule()) as server:
        environment |= server.environment
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("3.2") >= 2  # smolagents shows what it streams
        asked = len(server.requests)
    shown = subprocess.run(
        [AGL, "show", "latest", "--json"], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    totals: dict[str, Any] = json.loads(shown.stdout)["totals"]
    assert totals["llm_calls"] == asked
    assert totals["errors"] == 0
    assert totals["input_tokens"] > 0
    assert totals["output_tokens"] > 0
