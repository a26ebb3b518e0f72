"""An ordinary program of the SDK that knows nothing of us: every form of a call, tools, errors, decorators."""

# Only the environment of the tests has the SDK.
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import asyncio
import gc

import agentops
import openai
from agentops.sdk.decorators import agent, operation, session

agentops.init(api_key="11111111-1111-4111-8111-111111111111", auto_start_session=False)
client = openai.OpenAI()
chat = client.chat.completions
ASK = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "hi there my friend"}],
    "extra_body": {"return_token_ids": True},
    "logprobs": True,
}
TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}


def left() -> None:
    """Leave a stream without closing it."""
    for _ in chat.create(stream=True, **ASK):
        break
    gc.collect()


def left_in_block() -> None:
    """Leave a stream by the end of its block."""
    with chat.create(stream=True, **ASK) as stream:
        for _ in stream:
            break


def unread() -> None:
    """Read the body late."""
    with chat.with_streaming_response.create(**ASK) as response:
        response.parse()


async def later() -> None:
    """Make a plain and a streamed call of the asynchronous client."""
    async with openai.AsyncOpenAI() as asynchronous:
        await asynchronous.chat.completions.create(**ASK)
        async for _ in await asynchronous.chat.completions.create(stream=True, **ASK):
            pass


def failing() -> None:
    """Get an error of the server."""
    try:
        client.with_options(max_retries=0).chat.completions.create(
            **{**ASK, "messages": [{"role": "user", "content": "fail"}]}
        )
    except openai.InternalServerError:
        return
    raise AssertionError


def tool() -> None:
    """Let the model ask for a tool, and answer."""
    answer = chat.create(**{**ASK, "messages": [{"role": "user", "content": "use add"}], "tools": [TOOL]})
    (call,) = answer.choices[0].message.tool_calls
    said = [{"role": "user", "content": "use add"}, answer.choices[0].message.model_dump(exclude_none=True)]
    chat.create(**{**ASK, "messages": [*said, {"role": "tool", "tool_call_id": call.id, "content": "3"}]})


@operation
def compute(number: int) -> int:
    """Run as an operation."""
    return number + 1


@agent
class Worker:
    """Run as an agent."""

    def work(self) -> int:
        """Call the operation."""
        return compute(1)


@session
def decorated() -> None:
    """Run as a session."""
    assert Worker().work() == 2


CELLS = {
    "plain": lambda: chat.create(**ASK),
    "raw": lambda: chat.with_raw_response.create(**ASK).parse(),
    "parse": lambda: chat.parse(**ASK),
    "stream": lambda: list(chat.create(stream=True, **ASK)),
    "two": lambda: chat.create(n=2, **ASK),
    "completion": lambda: client.completions.create(model="m", prompt="say it", extra_body=ASK["extra_body"]),
    "streamed completion": lambda: list(
        client.completions.create(model="m", prompt="say it", stream=True, extra_body=ASK["extra_body"])
    ),
    "left": left,
    "after": lambda: chat.create(**ASK),
    "left_in_block": left_in_block,
    "unread": unread,
    "later": lambda: asyncio.run(later()),
    "embedding": lambda: client.embeddings.create(model="text-embedding-3-small", input="a"),
    "response": lambda: client.responses.create(model="gpt-4o-mini", input="a"),
    "beta": lambda: (client.beta, chat.create(**ASK)),
    "failing": failing,
    "tool": tool,
}
for name, cell in CELLS.items():
    trace = agentops.start_trace(name, tags=[name, "everything"])
    cell()
    agentops.end_trace(trace, "Success")
decorated()
print("done")
