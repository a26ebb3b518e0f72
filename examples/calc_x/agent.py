"""The same agent with one decorator: each call is a rollout with its reward.

pip install openai agentlightning
export OPENAI_API_KEY=...          # OPENAI_BASE_URL and MODEL are optional
python examples/calc_x/agent.py
agl ls                             # one rollout for each task
"""

from __future__ import annotations

import os
from typing import TypedDict

from calc import MODEL, solve
from openai import OpenAI

from agentlightning import LLM, rollout


class CalcTask(TypedDict):
    """A question with its answer."""

    question: str
    result: str


TASKS: list[CalcTask] = [
    {"question": "What is 12 * (3 + 4)?", "result": "84"},
    {"question": "What is 100 - 7 * 9?", "result": "37"},
    {"question": "What is 81 / 4?", "result": "20.25"},
    {"question": "What is 2 * 2 * 2 * 2 - 1?", "result": "15"},
]


def is_right(answer: str, expected: str) -> bool:
    """Tell whether *answer* is the number that was expected, however it is written."""
    try:
        return abs(float(answer.rstrip(".")) - float(expected)) < 1e-6
    except ValueError:
        return False


@rollout
def calc_agent(task: CalcTask, llm: LLM) -> float:
    """Answer one question; 1.0 when the answer is right."""
    client = OpenAI(base_url=llm.endpoint, api_key=llm.api_key or os.environ.get("OPENAI_API_KEY", "none"))
    return 1.0 if is_right(solve(client, llm.model, task["question"]), task["result"]) else 0.0


def default_llm() -> LLM:
    """Return the model that the environment names."""
    return LLM(endpoint=os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"), model=MODEL)


if __name__ == "__main__":
    for one in TASKS:
        print(one["question"], calc_agent(one, default_llm()))
