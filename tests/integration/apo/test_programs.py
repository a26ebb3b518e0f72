"""The search for prompts in programs: the example, and Ctrl+C."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentlightning import PromptTemplate, open_store

EXAMPLE = Path(__file__).parents[3] / "examples/apo"
PROGRAM = """
import logging, re, sys, time
from agentlightning import APO, PromptTemplate, Trainer, emit_message, open_store, rollout

@rollout
def agent(task, prompt_template):
    if "beta" in prompt_template.template:
        print("slow", flush=True)
        time.sleep(60)
    missing = [word for word in ("alpha", "beta")[:task] if word not in prompt_template.template]
    emit_message(f"missing: {' '.join(missing)}")
    return 0.0 if missing else 1.0

def teach(shown):
    prompt = shown.split("```")[1].strip()
    return f"```\\n{prompt} {re.search('missing: ([a-z]+)', shown)[1]}\\n```"

if __name__ == "__main__":
    apo = APO(teach, minibatch_size=6)
    resources = {"prompt": PromptTemplate(template="Go.", engine="jinja")}
    trainer = Trainer(
        algorithm=apo, initial_resources=resources, strategy=sys.argv[1], n_runners=2, store=open_store("own.db")
    )
    try:
        trainer.fit(agent, [0, 1, 2, 0, 1, 2])
    except KeyboardInterrupt:
        print(apo.result.stop_reason, apo.result.reward, apo.result.prompts, flush=True)
"""


def test_the_example_gets_better_on_tasks_it_has_not_seen() -> None:
    """The reward on held-back tasks rises, by a prompt that was found and not written down."""
    command = [sys.executable, "optimise.py", "--tasks", "18"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=EXAMPLE)
    assert done.returncode == 0, done.stderr
    rewards = {
        name: (float(reward), int(count))
        for name, reward, count in re.findall(r"held-back reward (\w+): ([\d.]+)/(\d+) =", done.stdout)
    }
    (before, seen_before), (after, seen_after) = rewards["before"], rewards["after"]
    assert seen_before == seen_after == 18
    assert after >= before + 6
    found = re.findall(r"prompt: (.*)", done.stdout)[0]
    assert found not in (EXAMPLE / "model.py").read_text() + (EXAMPLE / "optimise.py").read_text()


@pytest.mark.parametrize("strategy", ["shm", pytest.param("cs", marks=pytest.mark.slow)])
def test_ctrl_c_leaves_the_best_prompt(tmp_path: Path, strategy: str) -> None:
    """After Ctrl+C in the middle of an evaluation the store's latest prompt is the best until then, and so is told."""
    (tmp_path / "program.py").write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, "program.py", strategy], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "slow\n"
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert out.splitlines()[-1] == f"interrupted {4 / 6} {{'prompt': 'Go. alpha'}}", err

    async def read() -> tuple[str, set[str]]:
        store = open_store(str(tmp_path / "own.db"))
        latest = await store.get_latest_resources()
        assert latest is not None
        prompt = latest.resources["prompt"]
        assert isinstance(prompt, PromptTemplate)
        waiting = [one.status for one in await store.query_rollouts() if one.status in ("queuing", "requeuing")]
        store.close()
        return prompt.template, set(waiting)

    template, waiting = asyncio.run(read())
    assert template == "Go. alpha"
    assert waiting <= {"requeuing"}  # only what was running when it was stopped
