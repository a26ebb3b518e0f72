"""Say how good an answer was: the reward is kept beside the model call that earned it.

    pip install openai agentlightning
    export OPENAI_API_KEY=...          # OPENAI_BASE_URL and MODEL are optional
    agl run python examples/reward.py
    agl show latest

Without ``agl run``, ``emit_reward`` does nothing, and the program runs as before.
"""

from __future__ import annotations

import os

from openai import OpenAI

from agentlightning import emit_reward

MODEL = os.environ.get("MODEL", "gpt-4o-mini")
QUESTIONS = {"How many legs has a spider?": "8", "How many moons has Mars?": "2"}


def ask(client: OpenAI, question: str) -> str:
    """Return the answer of the model, a number if it does as it is told."""
    completion = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": "Answer with one number."}, {"role": "user", "content": question}],
    )
    return (completion.choices[0].message.content or "").strip(" .")


if __name__ == "__main__":
    openai_client = OpenAI()
    for asked, expected in QUESTIONS.items():
        answer = ask(openai_client, asked)
        emit_reward(1.0 if answer == expected else 0.0)
        print(f"{asked} {answer}")
