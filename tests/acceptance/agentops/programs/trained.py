"""A trainer with ``AgentOpsTracer``: workers as threads and as processes."""

# Only the environment of the tests has the SDK.
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import json
import os

from agentlightning import LLM, AgentOpsTracer, Trainer, algo, open_store, reward, rollout


@reward
def judge() -> float:
    """Return a reward."""
    return 0.5


@rollout
def agent(task: str, llm: LLM) -> None:
    """Make one call and judge it."""
    import openai

    ask = {"model": llm.model, "messages": [{"role": "user", "content": task}]}
    openai.OpenAI(base_url=llm.endpoint).chat.completions.create(**ask, extra_body={"return_token_ids": True})
    judge()


@algo
async def train(store, train_dataset, initial_resources) -> None:  # noqa: ANN001 - as an algorithm is written
    """Run every task once."""
    update = await store.add_resources(initial_resources)
    queued = [await store.enqueue_rollout(task, resources_id=update.resources_id) for task in train_dataset]
    done = await store.wait_for_rollouts(rollout_ids=[one.rollout_id for one in queued], timeout=60)
    found = {}
    for one in done:
        spans = await store.query_spans(one.rollout_id)
        found[one.input] = sorted([span.name, "response_token_ids" in span.attributes] for span in spans)
    print(json.dumps([strategy, {one.input: one.status for one in done}, found]), flush=True)


if __name__ == "__main__":
    for strategy in os.environ["STRATEGIES"].split():
        resources: dict = {"main": LLM(endpoint=os.environ["OPENAI_BASE_URL"], model="m")}
        store = open_store(f"{strategy}.db")
        trainer = Trainer(
            algorithm=train,
            initial_resources=resources,
            store=store,
            strategy=strategy,
            n_runners=2,
            tracer=AgentOpsTracer(),
        )
        trainer.fit(agent, [f"{strategy}-{number}" for number in range(4)])
