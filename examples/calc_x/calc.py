"""Answer questions of arithmetic with the plain OpenAI client: the model calls a calculator until it knows.

    pip install openai
    export OPENAI_API_KEY=...          # OPENAI_BASE_URL and MODEL are optional
    python examples/calc_x/calc.py "What is 12 * (3 + 4)?"

Nothing here knows of Agent Lightning. To see the run as a trace: ``agl run python examples/calc_x/calc.py``, then
``agl show latest``.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from typing import TYPE_CHECKING

from openai import OpenAI

if TYPE_CHECKING:
    from collections.abc import Callable

    from openai.types.chat import (
        ChatCompletionMessageFunctionToolCall,
        ChatCompletionMessageFunctionToolCallParam,
        ChatCompletionMessageParam,
        ChatCompletionToolParam,
    )

MODEL = os.environ.get("MODEL", "gpt-4o-mini")
MOST_STEPS = 8
OPERATORS: dict[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
}
TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "calculate",
            "description": "Return the value of an arithmetic expression such as 2 * (3 + 4).",
            "parameters": {
                "type": "object",
                "properties": {"expression": {"type": "string"}},
                "required": ["expression"],
            },
        },
    }
]


def value_of(node: ast.AST) -> float:
    """Return the value of a parsed expression of numbers, brackets, + - * and /."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](value_of(node.left), value_of(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -value_of(node.operand)
    raise ValueError("only numbers, brackets, + - * and / are known")


def calculate(expression: str) -> str:
    """Return the value of *expression*, or what is wrong with it, as the model gets it."""
    try:
        return f"{value_of(ast.parse(expression, mode='eval').body):g}"
    except (ValueError, SyntaxError, ZeroDivisionError) as error:
        return f"error: {error}"


def as_param(call: ChatCompletionMessageFunctionToolCall) -> ChatCompletionMessageFunctionToolCallParam:
    """Return a call of the model in the form in which it goes back to the model."""
    function = call.function
    return {"id": call.id, "type": "function", "function": {"name": function.name, "arguments": function.arguments}}


def solve(client: OpenAI, model: str, question: str) -> str:
    """Let the model use the calculator until it answers *question*, and return the answer."""
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "Use the calculator. Then answer with the number alone."},
        {"role": "user", "content": question},
    ]
    for _ in range(MOST_STEPS):
        message = client.chat.completions.create(model=model, messages=messages, tools=TOOLS).choices[0].message
        calls = [call for call in message.tool_calls or [] if call.type == "function"]
        if not calls:
            return (message.content or "").strip()
        messages.append({"role": "assistant", "content": message.content, "tool_calls": [as_param(c) for c in calls]})
        for call in calls:
            result = calculate(str(json.loads(call.function.arguments).get("expression", "")))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return ""


if __name__ == "__main__":
    print(solve(OpenAI(), MODEL, sys.argv[1] if len(sys.argv) > 1 else "What is 12 * (3 + 4)?"))
