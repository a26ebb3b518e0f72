"""LangChain after ``instrument_agentops_langchain`` alone; no callback is passed anywhere."""

# Only the environment of the tests has the SDK.
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import asyncio
import warnings

from agentlightning.instrumentation.agentops_langchain import (
    instrument_agentops_langchain,
    uninstrument_agentops_langchain,
)

warnings.simplefilter("ignore")
instrument_agentops_langchain()

from langchain.agents import create_agent  # noqa: E402 - after it, as the sample has it
from langchain_classic.chains import LLMChain  # noqa: E402
from langchain_core.prompts import PromptTemplate  # noqa: E402
from langchain_openai import ChatOpenAI  # noqa: E402

model = ChatOpenAI(model="gpt-4o-mini", extra_body={"return_token_ids": True})
chain = LLMChain(llm=model, prompt=PromptTemplate.from_template("say {what}"), tags=["seed"])
assert chain.invoke({"what": "hello"})["text"]


def add(a: int) -> int:
    """Add something."""
    return a + 1


agent = create_agent(model, tools=[add])


def task(name: str) -> dict:
    """Return the input of a run."""
    return {"messages": [{"role": "user", "content": f"{name}: use add"}]}


agent.invoke(task("plain"))


async def at_once() -> None:
    """Run two agents at once."""
    await asyncio.gather(agent.ainvoke(task("one")), agent.ainvoke(task("two")))


asyncio.run(at_once())
uninstrument_agentops_langchain()
chain.invoke({"what": "nothing"})  # leaves no span of a chain
