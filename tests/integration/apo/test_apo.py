"""The search for prompts: what it posts, counts, and does when something goes wrong."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from agentlightning import (
    APO,
    LLM,
    LitAgent,
    MissingExtraError,
    PromptTemplate,
    RolloutConfig,
    TraceToMessages,
    Trainer,
    emit_message,
    find_final_reward,
    open_store,
    rollout,
)
from agentlightning.algorithm import APOBudget, ReflectionError
from agentlightning.server.proxy import LLMProxy
from agentlightning.store import InMemoryLightningStore
from agentlightning.testing import ModelServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agentlightning import LightningStore, NamedResources

WORDS = ("alpha", "beta", "gamma")
FIRST = "Answer {question}"
TASKS = [{"question": str(number), "needs": [*WORDS[: number % 4]]} for number in range(8)]
RESOURCES: NamedResources = {"prompt": PromptTemplate(template=FIRST, engine="f-string")}


@rollout
def agent(task: Any, prompt_template: PromptTemplate) -> float:
    """Be worth as much of what the task needs as the prompt says."""
    prompt = prompt_template.format(question=task["question"])
    missing = [word for word in task["needs"] if word not in prompt]
    emit_message(f"missing: {' '.join(missing)}")
    return 0.0 if missing else 1.0


def teach(shown: str) -> str:
    """Write the shown prompt with the first word that the feedback says is missing."""
    missing = re.findall(r"missing: (\w+)", shown)
    prompt = shown.split("```")[1].strip()
    return f"Like this:\n```\n{' '.join([prompt, *missing[:1]])}\n```"


def search(worker: LitAgent[Any], apo: APO, store: LightningStore | None = None, **options: Any) -> Any:
    """Run a search and return what it found."""
    options.setdefault("initial_resources", RESOURCES)
    Trainer(algorithm=apo, store=store, **options).fit(worker, TASKS)
    return apo.result


def latest(store: LightningStore) -> str:
    """Return the prompt of the latest resources."""
    found = asyncio.run(store.get_latest_resources())
    assert found is not None
    prompt = found.resources["prompt"]
    assert isinstance(prompt, PromptTemplate)
    return prompt.template


def test_the_best_prompt_is_found_and_posted() -> None:
    """The search ends at the target; its rollouts, rewards and resources are in the store, the best is the latest."""
    store = InMemoryLightningStore()
    result = search(agent, APO(teach), store, n_runners=2)
    assert result.stop_reason == "target_reward"
    assert (result.first_reward, result.reward) == (0.25, 1.0)
    assert set(result.prompts["prompt"].split()) == {"Answer", "{question}", *WORDS}
    assert latest(store) == result.prompts["prompt"]
    posted = asyncio.run(store.get_latest_resources())
    assert posted is not None
    assert posted.resources_id == result.resources_id
    rollouts = asyncio.run(store.query_rollouts())
    assert len(rollouts) == result.rollout_count == result.steps[-1].rollout_count
    last = [one for one in rollouts if one.resources_id == result.resources_id and one.mode == "val"]
    spans = [asyncio.run(store.query_spans(one.rollout_id, "latest")) for one in last]
    assert [find_final_reward(found) for found in spans] == [1.0] * len(TASKS)


def test_a_candidate_that_is_worse_on_validation_tasks_is_not_the_best() -> None:
    """What helps train tasks alone is noted in its step; the best stays, and is the latest again."""

    @rollout
    def misled(task: str, prompt_template: PromptTemplate) -> float:
        return float((task == "train") == ("alpha" in prompt_template.template))

    store = InMemoryLightningStore()
    apo = APO(lambda _: "```\n{question} alpha\n```", budget=APOBudget(max_iterations=1, target_reward=None))
    Trainer(algorithm=apo, store=store, initial_resources=RESOURCES).fit(misled, ["train"], val_dataset=["val"])
    assert apo.result is not None
    assert [(step.reward, step.best_reward) for step in apo.result.steps] == [(1.0, 1.0), (0.0, 1.0)]
    assert latest(store) == apo.result.prompts["prompt"] == FIRST


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (APOBudget(max_rollouts=30), "rollouts"),
        (APOBudget(max_iterations=0), "iterations"),
        (APOBudget(max_iterations=3), "iterations"),
        (APOBudget(target_reward=0.5), "target_reward"),
        (APOBudget(patience=2, target_reward=None), "patience"),
    ],
)
def test_every_bound_ends_the_search(budget: APOBudget, reason: str) -> None:
    """Each bound of the budget ends the search, and is its reason; no more rollouts are made than are allowed."""
    result = search(agent, APO(teach, budget=budget))
    assert result.stop_reason == reason
    assert result.rollout_count <= budget.max_rollouts
    if budget.max_iterations is not None:
        assert result.steps[-1].iteration == budget.max_iterations


def test_time_ends_a_search_that_waits() -> None:
    """When the time is over, rollouts that still run or wait are given up, and those that wait are cancelled."""
    store, released = InMemoryLightningStore(), threading.Event()

    @rollout
    def slow(task: Any, prompt_template: PromptTemplate) -> float:
        released.wait(10)
        return 1.0

    apo = APO(teach, budget=APOBudget(max_seconds=0.5))
    timer = threading.Timer(1.0, released.set)
    timer.start()
    result = search(slow, apo, store)
    timer.join()
    assert (result.stop_reason, result.steps, result.reward) == ("seconds", (), None)
    statuses = [one.status for one in asyncio.run(store.query_rollouts())]
    assert statuses.count("cancelled") == len(TASKS) - 1
    assert latest(store) == FIRST


def test_failures_are_counted_never_silent(caplog: pytest.LogCaptureFixture) -> None:
    """A rollout that fails, or has no finite reward, scores the stated value, is counted and is logged."""

    @rollout
    def moody(task: Any, prompt_template: PromptTemplate) -> float | None:
        number = int(task["question"])
        if number == 0:
            raise ValueError("no mood")
        return {1: None, 2: math.nan, 3: math.inf}.get(number, 1.0)

    budget = APOBudget(max_iterations=0, target_reward=None)
    with caplog.at_level(logging.WARNING, "agentlightning.algorithm"):
        result = search(moody, APO(teach, budget=budget, failure_reward=-1.0))
    assert (result.failed_count, result.unrewarded_count, result.rollout_count) == (1, 3, 8)
    assert result.reward == (4 - 4) / 8
    logged = [record.getMessage().partition(":")[0] for record in caplog.records if record.name.endswith("algorithm")]
    assert logged == ["1 of 8 rollouts failed and count as -1", "3 of 8 rollouts have no finite reward and count as -1"]


def test_without_any_reward_there_is_nothing_to_search_by() -> None:
    """A search in which no first rollout has a reward ends at once with an error that says so."""

    @rollout
    def silent(task: Any, prompt_template: PromptTemplate) -> None:
        return None

    apo = APO(teach)
    with pytest.raises(RuntimeError, match=r"none of the first 8 rollouts has a reward \(0 failed, 8 without one\)"):
        search(silent, apo)
    assert apo.result is not None
    assert (apo.result.stop_reason, apo.result.unrewarded_count) == ("error", 8)


def test_what_was_said_is_shown_to_the_reflection_model() -> None:
    """The reflection model sees prompt, holes, task, conversation, reward, messages and exceptions of rollouts."""
    shown: list[str] = []

    class Asking(LitAgent[Any]):
        def rollout(self, task: Any, resources: NamedResources, rollout: Any) -> float:
            prompt, llm = resources["prompt"], resources["llm"]
            assert isinstance(prompt, PromptTemplate)
            assert isinstance(llm, LLM)
            if task["question"] == "2":
                raise LookupError("lost the page")
            llm.generate(prompt.format(question=task["question"]))
            emit_message("look closer")
            return 0.5

    def see(text: str) -> str:
        shown.append(text)
        return "```\nAnswer well: {question}\n```"

    with ModelServer(lambda request: f"echo of {request.last_text}") as server:
        resources: NamedResources = {**RESOURCES, "llm": LLM(endpoint=server.url, model="m")}
        apo = APO(see, minibatch_size=8, budget=APOBudget(max_iterations=1))
        search(Asking(), apo, initial_resources=resources, n_runners=2)
    (text,) = shown
    for part in (
        f"```\n{FIRST}\n```", "add no other: question", '{"question": "5", "needs": ["alpha"]}',
        "user: Answer 5\nassistant: echo of Answer 5", "reward 0.5\nlook closer",
        "the run failed; no reward, counts as 0", "LookupError: lost the page", "(no model call was recorded)",
    ):  # fmt: skip
        assert part in text


def test_templates_that_cannot_be_used_are_refused() -> None:
    """An answer that loses a hole is refused and said so; the next try is taken, and nothing is run with the first."""
    answers = iter(["```\nNo hole.\n```", "```\nAnswer {question} with alpha beta gamma\n```"])
    shown: list[str] = []

    def model(text: str) -> str:
        shown.append(text)
        return next(answers)

    store = InMemoryLightningStore()
    result = search(agent, APO(model, minibatch_size=8), store)
    assert (result.reward, result.refused_proposal_count, len(shown)) == (1.0, 1, 2)
    assert shown[1].endswith("An answer before this one could not be used: it lacks question.")
    assert all(one.status == "succeeded" for one in asyncio.run(store.query_rollouts()))


def test_a_reflection_model_that_fails_ends_the_search() -> None:
    """One failure is passed over; three in a row end the search with an error, and the best prompt stays the latest."""
    answers = iter(["fail", "```\nAnswer {question} alpha\n```", *["fail"] * 3])

    def model(_: str) -> str:
        answer = next(answers)
        if answer == "fail":
            raise ConnectionError(answer)
        return answer

    store, apo = InMemoryLightningStore(), APO(model, minibatch_size=8)
    with pytest.raises(ReflectionError, match="3 times in a row") as caught:
        search(agent, apo, store)
    assert isinstance(caught.value.__cause__, ConnectionError)
    result = apo.result
    assert result is not None
    assert (result.stop_reason, result.reflection_error_count, result.reward) == ("error", 4, 0.5)
    assert latest(store) == "Answer {question} alpha"


@pytest.mark.parametrize(("answer", "count"), [(MissingExtraError("openai", "it"), 0), (b"bytes", 3)])
def test_a_reflection_model_that_cannot_work_ends_the_search(answer: Any, count: int) -> None:
    """A package that is missing ends the search at once, what is no text after three times; none is passed over."""

    def model(_: str) -> str:
        if isinstance(answer, Exception):
            raise answer
        return answer

    apo = APO(model, minibatch_size=8)
    with pytest.raises((MissingExtraError, ReflectionError), match=r"agentlightning\[openai\]|not bytes"):
        search(agent, apo)
    assert apo.result is not None
    assert (apo.result.stop_reason, apo.result.reflection_error_count) == ("error", count)


async def _async_model(_: str) -> str:
    return ""


def test_cancelling_keeps_the_best_prompt_and_the_next_search_goes_on_from_it(tmp_path: Path) -> None:
    """A search that is cancelled makes the best prompt the latest and cancels what waits; the next one begins there."""
    path = str(tmp_path / "store.db")

    async def interrupted(store: LightningStore) -> APO:
        apo = APO(teach, minibatch_size=8)
        apo.set_store(store)
        apo.set_initial_resources(RESOURCES)
        running = asyncio.ensure_future(apo.run(TASKS))
        while True:  # be the runner, until the second candidate is tried out
            claimed = await store.dequeue_rollout()
            if claimed is None:
                await asyncio.sleep(0.005)
                continue
            assert claimed.resources_id is not None
            found = await store.get_resources_by_id(claimed.resources_id)
            assert found is not None
            prompt = found.resources["prompt"]
            assert isinstance(prompt, PromptTemplate)
            if "beta" in prompt.template:
                break
            await _work(store, claimed, prompt)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return apo

    store = open_store(path)
    first = asyncio.run(interrupted(store)).result
    assert first is not None
    assert (first.stop_reason, first.reward, latest(store)) == ("interrupted", 0.5, "Answer {question} alpha")
    assert first.prompts == {"prompt": latest(store)}
    waiting = [one for one in asyncio.run(store.query_rollouts()) if one.status in ("queuing", "requeuing")]
    assert waiting == []
    second = search(agent, APO(teach), store, initial_resources=None)
    assert (second.first_reward, second.reward) == (0.5, 1.0)
    store.close()


async def _work(store: LightningStore, claimed: Any, prompt: PromptTemplate) -> None:
    """Do what the agent would do."""
    from agentlightning import Span

    missing = [word for word in claimed.input["needs"] if word not in prompt.template]
    ids = {"rollout_id": claimed.rollout_id, "attempt_id": claimed.attempt.attempt_id}
    message: dict[str, Any] = {"message": f"missing: {' '.join(missing)}"}
    spans = [
        Span.from_attributes(attributes=message, name="agentlightning.message", **ids),
        Span.from_attributes(attributes={"reward": 0.0 if missing else 1.0}, name="agentlightning.reward", **ids),
    ]
    for span in spans:
        await store.add_span(span)
    await store.update_attempt(claimed.rollout_id, "latest", status="succeeded")


def test_the_reflection_model_may_be_the_proxy(tmp_path: Path) -> None:
    """Without a reflection model the trainer's proxy is asked, and its calls are recorded like those of agents."""
    store = open_store(str(tmp_path / "store.db"))
    with ModelServer(lambda request: teach(request.last_text)) as server:
        proxy = LLMProxy({"endpoint": server.url, "model": "teacher"}, store=store)
        result = search(agent, APO(), store, llm_proxy=proxy)
    assert result.reward == 1.0
    rollouts = asyncio.run(store.query_rollouts())
    calls = [
        call for one in rollouts for call in TraceToMessages().adapt(asyncio.run(store.query_spans(one.rollout_id)))
    ]
    proposals = [call["messages"][-1]["content"] for call in calls]
    assert result.prompts["prompt"] in proposals[-1]
    store.close()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: APO(teach, minibatch_size=0), ValueError, "minibatch_size"),
        (lambda: APO(teach, prompt_names=[]), ValueError, "prompt_names is empty"),
        (lambda: APO("gpt"), TypeError, "reflection is str"),  # type: ignore[arg-type] - on purpose
        (lambda: APO(cast("Any", _async_model)), TypeError, "reflection is async"),
        (lambda: APOBudget(max_rollouts=0, patience=0), ValueError, "max_rollouts .*; patience"),
        (lambda: search(agent, APO(teach, budget=APOBudget(max_rollouts=7))), ValueError, "takes 8 rollouts"),
        (lambda: Trainer(algorithm=APO(teach)).fit(agent, []), ValueError, "needs tasks"),
        (lambda: search(agent, APO(teach), initial_resources={}), ValueError, "no PromptTemplate any"),
        (lambda: search(agent, APO(teach, prompt_names=["other"])), ValueError, "no PromptTemplate other"),
        (lambda: search(agent, APO()), ValueError, "no model that writes prompts"),
        (
            lambda: search(agent, APO(teach), initial_resources={"p": PromptTemplate(template="{", engine="f-string")}),
            ValueError,
            "the prompt p to begin with",
        ),
    ],
)
def test_what_cannot_work_is_refused(make: Callable[[], object], error: type[Exception], message: str) -> None:
    """Arguments, data and resources that a search cannot use are refused by one sentence, before anything runs."""
    with pytest.raises(error, match=message):
        make()


def test_overdue_rollouts_count_as_failed() -> None:
    """``rollout_timeout_s`` is the longest time of an attempt, kept by the store."""
    store = InMemoryLightningStore()
    search(agent, APO(teach, budget=APOBudget(max_iterations=0, rollout_timeout_s=7.5)), store)
    configs = [one.config for one in asyncio.run(store.query_rollouts())]
    assert configs == [RolloutConfig(timeout_seconds=7.5)] * len(TASKS)
