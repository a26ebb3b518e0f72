"""Ask for the price of a coffee with LiteLLM, once whole and once as a stream.

    pip install 'litellm<=1.106.2' openinference-instrumentation-litellm mcp
    export OPENAI_API_KEY=...          # OPENAI_BASE_URL and MODEL are optional
    agl run python examples/frameworks/litellm_agent.py

Nothing here knows of Agent Lightning; ``agl show latest`` shows the run as a trace.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false, reportMissingTypeStubs=false
# (the frameworks are not installed where types are checked)

from __future__ import annotations

import json
import os

import litellm

QUESTION = "Use get_price(product='coffee') and tell me what it costs."
MODEL = os.environ.get("MODEL", "gpt-4o-mini")
PRODUCT = {"type": "object", "properties": {"product": {"type": "string"}}, "required": ["product"]}
TOOLS = [{"type": "function", "function": {"name": "get_price", "parameters": PRODUCT}}]


def get_price(product: str) -> float:
    """Return the price of a product in euros."""
    return {"coffee": 3.2}[product]


def ask(question: str, *, stream: bool = False) -> str:
    """Let the model call the tool until it has an answer, and return that."""
    messages = [{"role": "system", "content": "You know prices."}, {"role": "user", "content": question}]
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    while True:
        answer = litellm.completion("openai/" + MODEL, messages, tools=TOOLS, num_retries=0, max_retries=0, **options)
        if stream:
            answer = litellm.stream_chunk_builder(list(answer), messages=messages)
        message = answer.choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls:
            result = str(get_price(**json.loads(call.function.arguments)))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


if __name__ == "__main__":
    print(ask(QUESTION))
    print(ask(QUESTION, stream=True))
