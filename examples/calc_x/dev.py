"""The decorated agent in a trainer: every task runs once, four at a time, and the rewards are printed.

pip install openai agentlightning
export OPENAI_API_KEY=...          # OPENAI_BASE_URL and MODEL are optional
python examples/calc_x/dev.py
"""

from __future__ import annotations

import asyncio

from agent import TASKS, calc_agent, default_llm

from agentlightning import LightningStore, Trainer, find_final_reward


async def print_rewards(store: LightningStore) -> None:
    """Print task, status and reward of each rollout."""
    for found in await store.query_rollouts():
        spans = await store.query_spans(found.rollout_id, "latest")
        print(found.input["question"], found.status, find_final_reward(spans))


if __name__ == "__main__":
    trainer = Trainer(n_runners=4, initial_resources={"main": default_llm()})
    trainer.dev(calc_agent, TASKS)
    asyncio.run(print_rewards(trainer.store))
