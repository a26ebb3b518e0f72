"""Plan a walk with the plain OpenAI client: the model calls two tools, then streams an invitation.

    pip install openai
    export OPENAI_API_KEY=...          # OPENAI_BASE_URL and MODEL are optional
    python examples/openai_agent.py Lisbon

Nothing here knows of Agent Lightning. To see the run as a trace: ``agl run python examples/openai_agent.py``, then
``agl show latest``.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from openai import OpenAI

if TYPE_CHECKING:
    from openai.types.chat import (
        ChatCompletionMessageFunctionToolCall,
        ChatCompletionMessageFunctionToolCallParam,
        ChatCompletionMessageParam,
        ChatCompletionToolParam,
    )

MODEL = os.environ.get("MODEL", "gpt-4o-mini")
WEATHER = {"Lisbon": "18 degrees, sunny", "Oslo": "2 degrees, snow"}
SIGHTS = {"Lisbon": "Alfama, Belem Tower", "Oslo": "Opera House, Vigeland Park"}


def get_weather(city: str) -> str:
    """Weather in a city now."""
    return WEATHER.get(city, "unknown")


def get_sights(city: str) -> str:
    """Sights of a city, separated by commas."""
    return SIGHTS.get(city, "none known")


TOOLS = {"get_weather": get_weather, "get_sights": get_sights}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL_PARAMS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": name, "description": function.__doc__ or "", "parameters": {**CITY}}}
    for name, function in TOOLS.items()
]


def as_param(call: ChatCompletionMessageFunctionToolCall) -> ChatCompletionMessageFunctionToolCallParam:
    """Return a call of the model in the form in which it goes back to the model."""
    function = call.function
    return {"id": call.id, "type": "function", "function": {"name": function.name, "arguments": function.arguments}}


def plan_walk(client: OpenAI, city: str) -> str:
    """Let the model call tools until it has a plan, and return the plan."""
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "You plan short city walks. Look up weather and sights first."},
        {"role": "user", "content": f"Plan a walk in {city} for this afternoon."},
    ]
    while True:
        message = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOL_PARAMS).choices[0].message
        calls = [call for call in message.tool_calls or [] if call.type == "function"]
        if not calls:
            return message.content or ""
        messages.append({"role": "assistant", "content": message.content, "tool_calls": [as_param(c) for c in calls]})
        for call in calls:
            result = TOOLS[call.function.name](**json.loads(call.function.arguments))
            print(f"{call.function.name}({call.function.arguments}) -> {result}")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def print_invitation(client: OpenAI, plan: str) -> None:
    """Turn the plan into a short invitation, printed while the model writes it."""
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": f"Write an invitation of two sentences for this walk: {plan}"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    openai_client = OpenAI()
    print_invitation(openai_client, plan_walk(openai_client, sys.argv[1] if len(sys.argv) > 1 else "Lisbon"))
