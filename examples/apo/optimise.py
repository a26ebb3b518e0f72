"""Find a better prompt for an agent that does arithmetic, and see what it is worth on tasks that were held back.

    pip install 'agentlightning[apo,openai,plot]'
    python examples/apo/optimise.py --plot rewards.png

Needs no key and no network: both models are made of rules, see ``model.py``. With models of your own, put their
endpoint and names into the two ``LLM`` below.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from typing import TYPE_CHECKING, TypedDict

from model import STUDENT, TEACHER, serve

from agentlightning import (
    APO,
    LLM,
    LitAgent,
    NamedResources,
    PromptTemplate,
    Rollout,
    Trainer,
    emit_message,
    find_final_reward,
)
from agentlightning.algorithm import APOBudget, Baseline

if TYPE_CHECKING:
    from agentlightning import LightningStore

FIRST_PROMPT = "Answer with a number. {question}"
FORMS = ("{a} + {b}", "{a} + {b} * {c}", "({a} + {b}) * {c}", "-{a} + {b}", "{a} / {d}", "-{a} * ({b} - {c} / {d})")


class CalcTask(TypedDict):
    """A question with its answer."""

    question: str
    result: float


class CalcAgent(LitAgent[CalcTask]):
    """Asks the model once; 1.0 when the answer is right. What was wrong is said in a message, to be learnt from."""

    def rollout(self, task: CalcTask, resources: NamedResources, rollout: Rollout) -> float:  # noqa: ARG002 - of the base
        """Answer one question."""
        prompt, llm = resources["prompt"], resources["llm"]
        assert isinstance(prompt, PromptTemplate)
        assert isinstance(llm, LLM)
        answer = llm.generate(prompt.format(question=task["question"]))
        if is_right(answer, task["result"]):
            return 1.0
        emit_message(f"the answer was {answer}, right is {task['result']:g}")
        return 0.0


def is_right(answer: str, expected: float) -> bool:
    """Tell whether *answer* is the number that was expected."""
    try:
        return abs(float(answer) - expected) < 1e-4 * max(1.0, abs(expected))
    except ValueError:
        return False


def make_tasks(count: int) -> list[CalcTask]:
    """Return questions of every form in turn, no two alike."""
    source = random.Random(7)
    found: dict[str, CalcTask] = {}
    while len(found) < count:
        a, b, c = (source.randint(2, 60) for _ in range(3))
        text = FORMS[len(found) % len(FORMS)].format(a=a, b=b, c=c, d=source.choice((4, 8)))
        found[text] = {"question": f"What is {text}?", "result": float(eval(text))}
    return [*found.values()]


def held_back_reward(tasks: list[CalcTask], resources: NamedResources, strategy: str) -> tuple[float, int]:
    """Run every task once and return the sum of the rewards and how many rollouts have one."""

    async def read(store: LightningStore) -> list[float | None]:
        return [
            find_final_reward(await store.query_spans(rollout.rollout_id, "latest"))
            for rollout in await store.query_rollouts()
        ]

    baseline = Baseline(train_split=0, polling_interval=0.5, max_queue_length=8)
    trainer = Trainer(algorithm=baseline, n_runners=2, initial_resources=resources, strategy=strategy)
    trainer.dev(CalcAgent(), tasks)
    rewards = [reward for reward in asyncio.run(read(trainer.store)) if reward is not None]
    return sum(rewards), len(rewards)


def main() -> None:
    """Search, and compare the first prompt with the best one on tasks that the search has never seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=24, help="how many to learn from, compare by, and hold back, each")
    parser.add_argument("--rollouts", type=int, default=400, help="how many the search may take")
    parser.add_argument("--strategy", choices=("shm", "cs"), default="shm", help="threads, or processes")
    parser.add_argument("--plot", help="file for a picture of the reward over the iterations")
    options = parser.parse_args()
    tasks = make_tasks(3 * options.tasks)
    train, val, held_back = (tasks[part * options.tasks : (part + 1) * options.tasks] for part in range(3))
    with serve() as server:
        student, teacher = (LLM(endpoint=server.url, model=name) for name in (STUDENT, TEACHER))
        first: NamedResources = {"prompt": PromptTemplate(template=FIRST_PROMPT, engine="f-string"), "llm": student}
        apo = APO(teacher, budget=APOBudget(max_rollouts=options.rollouts), minibatch_size=6)
        trainer = Trainer(algorithm=apo, n_runners=2, initial_resources=first, strategy=options.strategy)
        before = held_back_reward(held_back, first, options.strategy)
        trainer.fit(CalcAgent(), train, val_dataset=val)
        result = apo.result
        assert result is not None
        best = {**first, "prompt": PromptTemplate(template=result.prompts["prompt"], engine="f-string")}
        after = held_back_reward(held_back, best, options.strategy)
    for step in result.steps:
        tried = "no candidate" if step.reward is None else f"candidate {step.reward:.2f}"
        print(f"iteration {step.iteration:2}: {tried}, best {step.best_reward:.2f}, {step.rollout_count} rollouts")
    print(f"ended by {result.stop_reason}; {result.failed_count} of {result.rollout_count} rollouts failed")
    print(f"prompt: {result.prompts['prompt']}")
    for name, (reward, count) in {"before": before, "after": after}.items():
        print(f"held-back reward {name}: {reward:g}/{count} = {reward / count:.2f}")
    if options.plot:
        result.plot(options.plot)


if __name__ == "__main__":
    main()
