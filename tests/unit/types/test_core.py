"""Rollouts, attempts, resources and the small types around them."""

from __future__ import annotations

import asyncio
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from agentlightning.types import (
    LLM,
    Attempt,
    AttemptedRollout,
    AttemptStatus,
    Dataset,
    GenericResponse,
    Hook,
    NamedResources,
    ParallelWorkerBase,
    PromptTemplate,
    ProxyLLM,
    ResourcesUpdate,
    Rollout,
    RolloutConfig,
    RolloutStatus,
    Task,
    TaskIfAny,
    Triplet,
)

ROLLOUT = {"rollout_id": "ro-1", "input": {"q": 1}, "start_time": 1.0}
ATTEMPT = {"rollout_id": "ro-1", "attempt_id": "at-1", "sequence_id": 1, "start_time": 1.0}


def test_a_rollout_starts_in_the_queue() -> None:
    """Without more a rollout is queuing, unfinished, tried once; ``id`` is its id."""
    rollout = Rollout.model_validate(ROLLOUT)
    assert rollout.id == rollout.rollout_id == "ro-1"
    assert (rollout.status, rollout.end_time, rollout.config.max_attempts) == ("queuing", None, 1)
    assert "id" not in rollout.model_dump()


@pytest.mark.parametrize("status", get_args(RolloutStatus))
def test_every_status_of_a_rollout_is_taken(status: str) -> None:
    """All seven statuses are valid."""
    assert Rollout.model_validate({**ROLLOUT, "status": status}).status == status


@pytest.mark.parametrize("status", get_args(AttemptStatus))
def test_every_status_of_an_attempt_is_taken(status: str) -> None:
    """All six statuses are valid, also as a condition to try again."""
    assert Attempt.model_validate({**ATTEMPT, "status": status}).status == status
    assert RolloutConfig(retry_condition=[status]).retry_condition == [status]  # type: ignore[list-item] - checked here


def test_a_wrong_status_is_refused_also_later() -> None:
    """A status that does not exist is refused when a model is made and when it is changed."""
    rollout, attempt = Rollout.model_validate(ROLLOUT), Attempt.model_validate(ATTEMPT)
    with pytest.raises(ValidationError, match="status"):
        Rollout.model_validate({**ROLLOUT, "status": "timeout"})
    with pytest.raises(ValidationError, match="status"):
        rollout.status = "done"  # type: ignore[assignment] - the point of the test
    with pytest.raises(ValidationError, match="status"):
        attempt.status = "cancelled"  # type: ignore[assignment] - the point of the test
    assert (rollout.status, attempt.status) == ("queuing", "preparing")


@pytest.mark.parametrize(
    "config", [{"max_attempts": 0}, {"timeout_seconds": -1}, {"unresponsive_seconds": float("nan")}]
)
def test_a_config_out_of_range_is_refused(config: dict[str, Any]) -> None:
    """There is at least one attempt, and no time runs backwards."""
    with pytest.raises(ValidationError, match=next(iter(config))):
        RolloutConfig.model_validate(config)


def test_an_attempt_of_another_rollout_is_refused() -> None:
    """A rollout and its attempt carry one rollout id."""
    attempted = AttemptedRollout.model_validate({**ROLLOUT, "attempt": ATTEMPT})
    assert attempted.attempt.attempt_id == "at-1"
    with pytest.raises(ValidationError, match="belongs to ro-2"):
        AttemptedRollout.model_validate({**ROLLOUT, "attempt": {**ATTEMPT, "rollout_id": "ro-2"}})
    attempted.status = "running"
    assert attempted.model_dump()["status"] == "running"


def test_models_do_not_share_defaults() -> None:
    """Each model has a metadata, a config and a list of its own."""
    first, second = Triplet(prompt=1, response=2), Triplet(prompt=1, response=2)
    first.metadata["a"] = 1
    assert second.metadata == {}
    RolloutConfig().retry_condition.append("timeout")
    assert RolloutConfig().retry_condition == []


def test_small_models_have_their_defaults() -> None:
    """Tasks and answers need only what has no sensible default."""
    assert TaskIfAny(is_available=True, task=Task(rollout_id="ro", input=[1])).model_dump()["task"]["input"] == [1]
    assert GenericResponse().status == "success"


def test_a_list_is_a_dataset() -> None:
    """Anything with a length and tasks by index will do."""

    def first(dataset: Dataset[int]) -> tuple[int, int]:
        return dataset[0], len(dataset)

    assert first([4, 5]) == (4, 2)


def test_a_worker_knows_its_number_while_it_works() -> None:
    """The number is set between ``init_worker`` and ``teardown_worker``."""
    worker = ParallelWorkerBase()
    worker.init()
    assert worker.worker_id is None
    worker.init_worker(3)
    assert worker.worker_id == 3
    assert worker.run() is None
    worker.teardown_worker(3)
    worker.teardown()
    assert worker.worker_id is None


def test_a_hook_does_nothing_until_it_is_overridden() -> None:
    """All four callbacks can be awaited on the base class."""
    hook, rollout = Hook(), Rollout.model_validate(ROLLOUT)

    async def run() -> None:
        await hook.on_rollout_start(agent=None, runner=None, rollout=rollout)
        await hook.on_trace_start(agent=None, runner=None, tracer=None, rollout=rollout)
        await hook.on_trace_end(agent=None, runner=None, tracer=None, rollout=rollout)
        await hook.on_rollout_end(agent=None, runner=None, rollout=rollout, spans=[])

    asyncio.run(run())


def test_resources_are_told_apart_when_they_are_read_back() -> None:
    """A snapshot of each kind of resource comes back as the classes that went in."""
    resources: NamedResources = {
        "llm": LLM(endpoint="http://h/v1", model="m"),
        "proxy": ProxyLLM(endpoint="http://h/v1", model="m", sampling_parameters={"temperature": 0}),
        "prompt": PromptTemplate(template="{q}", engine="f-string"),
    }
    update = ResourcesUpdate(resources_id="rs-1", resources=resources)
    again = ResourcesUpdate.model_validate_json(update.model_dump_json())
    assert again == update
    assert [type(value) for value in again.resources.values()] == [LLM, ProxyLLM, PromptTemplate]
    with pytest.raises(ValidationError, match="resource_type"):
        TypeAdapter(NamedResources).validate_python({"x": {"resource_type": "tool"}})


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://h:1/v1", "http://h:1/rollout/ro-1/attempt/at-1/v1"),
        ("http://h:1/v1/", "http://h:1/rollout/ro-1/attempt/at-1/v1"),
        ("http://h:1", "http://h:1/rollout/ro-1/attempt/at-1"),
        ("http://h/proxy/", "http://h/proxy/rollout/ro-1/attempt/at-1"),
    ],
)
def test_a_proxied_model_has_a_url_for_each_attempt(endpoint: str, url: str) -> None:
    """The ids go before the version; an attempted rollout gives a plain model at that URL."""
    proxy = ProxyLLM(endpoint=endpoint, model="m", api_key="k", sampling_parameters={"n": 1})
    assert proxy.get_base_url("ro-1", "at-1") == url
    assert proxy.get_base_url(None, None) == endpoint
    llm = proxy.with_attempted_rollout(AttemptedRollout.model_validate({**ROLLOUT, "attempt": ATTEMPT}))
    assert type(llm) is LLM
    assert (llm.endpoint, llm.model, llm.api_key, llm.sampling_parameters) == (url, "m", "k", {"n": 1})
    with pytest.raises(ValueError, match="both"):
        proxy.get_base_url("ro-1", None)


def test_a_plain_model_has_one_url() -> None:
    """A model without a proxy ignores the ids, so that callers need not tell the two apart."""
    assert LLM(endpoint="http://h/v1", model="m").get_base_url("ro-1", "at-1") == "http://h/v1"


def test_a_template_is_filled() -> None:
    """An f-string template takes its values by name."""
    template = PromptTemplate(template="{a} and {b}", engine="f-string")
    assert template.format(a=1, b="x") == "1 and x"
    with pytest.raises(KeyError):
        template.format(a=1)
