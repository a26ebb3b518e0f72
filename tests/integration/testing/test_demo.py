from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentlightning.testing import ModelServer, Reply


def _demo(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return subprocess.run(
        [sys.executable, "-m", "agentlightning.testing.demo"],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(60)
def test_demo_shows_both_traces_with_their_cost(tmp_path: Path) -> None:
    """Without a key the demo traces both examples offline and shows a tree of each, and both in the list, with cost."""
    result = _demo(tmp_path, {})
    assert result.returncode == 0, result.stderr
    shown = re.findall(r"^\$ agl (\w+)", result.stdout, re.MULTILINE)
    assert shown == ["run", "show", "run", "show", "ls"]
    assert "4 LLM calls" in result.stdout
    assert "6 LLM calls" in result.stdout
    assert "calculator" in result.stdout
    assert result.stdout.count("$0.0") > 10
    assert (tmp_path / ".demo" / "agentlightning.db").is_file()


@pytest.mark.timeout(60)
def test_demo_uses_the_endpoint_of_the_environment_and_says_when_a_step_failed(tmp_path: Path) -> None:
    """With a key the demo talks to the named endpoint, and a step that fails there makes it end with code 1."""
    with ModelServer(lambda _: Reply("not you", status=401)) as server:
        result = _demo(tmp_path, server.environment)
        assert len(server.requests) >= 2
    assert server.url in result.stdout
    assert result.returncode == 1
    assert "2 of 5 steps failed" in result.stderr


@pytest.mark.timeout(60)
def test_reward_example_keeps_rewards_beside_the_calls(tmp_path: Path) -> None:
    """The reward example prints the same with and without agl, and under agl its rewards are in the trace."""
    example = str(Path(__file__).parents[3] / "examples" / "reward.py")
    with ModelServer(["8", "3."] * 2) as server:
        environment = {**os.environ, **server.environment, "AGL_STORE": str(tmp_path / "store.db")}

        def output(*command: str) -> str:
            done = subprocess.run(
                [sys.executable, *command], env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
            return done.stdout

        plain = output(example)
        agl = ("-m", "agentlightning.cli")
        assert plain == output(*agl, "run", example) == "How many legs has a spider? 8\nHow many moons has Mars? 3\n"
    tree = output(*agl, "show", "latest")
    assert [line.split()[2] for line in tree.splitlines() if line.startswith("reward")] == ["1", "0"]
