"""A tracer that manages the SDK: twice in one process, and everything is put back."""

# Only the environment of the tests has the SDK.
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import asyncio
import builtins
import json
import logging
import os
import threading

import openai
from opentelemetry import trace

from agentlightning import AgentOpsTracer, reward

messages: list[str] = []


class Kept(logging.Handler):
    """Keep what the tracer logs."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        messages.append(record.getMessage())


logging.getLogger("agentlightning.agentops").addHandler(Kept())
logging.getLogger("agentlightning.agentops").setLevel(logging.INFO)
ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}


def state() -> tuple:
    """Return what the SDK changes in a process."""
    create = openai.resources.chat.completions.Completions.create
    return builtins.print, builtins.__import__, dict(os.environ), hasattr(create, "__wrapped__")


@reward
def judge() -> float:
    """Return a reward."""
    return 0.5


def one(tracer: AgentOpsTracer, name: str) -> None:
    """Make a call in a rollout of its own."""
    with tracer.trace_context(name):
        openai.OpenAI().chat.completions.create(**ASK)


async def two(tracer: AgentOpsTracer) -> None:
    """Make two rollouts at once."""

    async def run(name: str) -> None:
        async with tracer.trace_context(name):
            await client.chat.completions.create(**ASK)
            judge()

    async with openai.AsyncOpenAI() as client:
        await asyncio.gather(run("task-1"), run("task-2"))


before, rounds = state(), []
before_provider = type(trace.get_tracer_provider()).__name__
for number in range(2):
    tracer = AgentOpsTracer()
    tracer.init()
    tracer.init_worker(0)
    url = os.environ["AGENTOPS_API_ENDPOINT"]
    one(tracer, f"first-{number}")
    last = [span.name for span in tracer.get_last_trace()]
    threads = [threading.Thread(target=one, args=(tracer, f"thread-{place}")) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(two(tracer))
    server = tracer._manager.server_process
    tracer.teardown_worker(0)
    tracer.teardown()
    same = [after == was for after, was in zip(state(), before, strict=True)]
    rounds.append({"url": url, "last": last, "same": same, "server": server.is_alive()})
print(json.dumps({"rounds": rounds, "log": [text for text in messages if "records with" in text]}))
