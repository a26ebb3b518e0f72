"""Ask for the price of a coffee with the plain OpenAI client, once whole and once as a stream.

    pip install openai
    export OPENAI_API_KEY=...          # OPENAI_BASE_URL and MODEL are optional
    agl run python examples/frameworks/plain_openai_agent.py

Nothing here knows of Agent Lightning; ``agl show latest`` shows the run as a trace.
"""

from __future__ import annotations

import json
import os
from typing import Any

from openai import OpenAI

QUESTION = "Use get_price(product='coffee') and tell me what it costs."
MODEL = os.environ.get("MODEL", "gpt-4o-mini")
PRODUCT = {"type": "object", "properties": {"product": {"type": "string"}}, "required": ["product"]}
TOOLS: Any = [{"type": "function", "function": {"name": "get_price", "parameters": PRODUCT}}]


def get_price(product: str) -> float:
    """Return the price of a product in euros."""
    return {"coffee": 3.2}[product]


def ask(question: str, *, stream: bool = False) -> str:
    """Let the model call the tool until it has an answer, and return that."""
    client = OpenAI(max_retries=0)
    message: Any
    messages: Any = [{"role": "system", "content": "You know prices."}, {"role": "user", "content": question}]
    while True:
        if stream:
            message = streamed(client, messages)
        else:
            completion = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
            message = completion.choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls:
            result = str(get_price(**json.loads(call.function.arguments)))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def streamed(client: OpenAI, messages: Any) -> Any:  # noqa: ANN401 - the messages are plain dicts
    """Return the message that the chunks of a stream come to."""
    with client.chat.completions.stream(
        model=MODEL, messages=messages, tools=TOOLS, stream_options={"include_usage": True}
    ) as events:
        return events.get_final_completion().choices[0].message


if __name__ == "__main__":
    print(ask(QUESTION))
    print(ask(QUESTION, stream=True))
