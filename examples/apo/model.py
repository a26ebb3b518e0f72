"""Two models made of rules, so that the example runs anywhere: one does arithmetic, the other writes prompts.

The student knows digits and the four operations, and little else: what to mind it does only where the prompt tells it
to. It gets better by a better prompt alone. The teacher knows what teachers say, but not what the student understands:
half of its advice is of no use. Which of it stays in the prompt is found out by the search.
"""

from __future__ import annotations

import random
import re
import zlib
from fractions import Fraction
from typing import TYPE_CHECKING

from agentlightning.testing import ModelServer, Reply

if TYPE_CHECKING:
    from agentlightning.testing import ChatRequest

STUDENT, TEACHER = "student", "teacher"

SKILLS = {
    "order": re.compile(r"multipl\w+ .*before", re.IGNORECASE),
    "brackets": re.compile(r"brackets? first", re.IGNORECASE),
    "negative": re.compile(r"minus sign", re.IGNORECASE),
    "decimals": re.compile(r"decimals", re.IGNORECASE),
}
"""What the student can do, by what it has to read in the prompt."""

ADVICE = {
    r"\d [-+] \d.* [*/]": ("Multiply and divide before you add and subtract.", "Take the operations as they come."),
    r"\(": ("Work out what is in brackets first.", "Brackets are round."),
    r"is -": ("A minus sign before a number belongs to the number.", "Do not be negative."),
    r"/": ("Keep the decimals of a division.", "Divide with care."),
}
"""What the teacher says where an answer to such a question was wrong; it does not know which of the two helps."""


def student(request: ChatRequest) -> str:
    """Answer a question, minding what the prompt tells to mind."""
    prompt = "\n".join(message.text for message in request.messages)
    skills = {name for name, words in SKILLS.items() if words.search(prompt)}
    found = re.findall(r"What is (.*)\?", prompt)
    tokens = re.findall(r"\d+|[-+*/()]", found[-1]) if found else []
    if "brackets" not in skills:
        tokens = [token for token in tokens if token not in "()"]
    try:
        value = expression(tokens, skills)
    except (IndexError, ValueError, ZeroDivisionError):
        return "I do not know."
    return f"{float(value):g}" if "decimals" in skills else str(int(value))


def expression(tokens: list[str], skills: set[str]) -> Fraction:
    """Take an expression off the front of *tokens*, to the bracket that closes it, and return its value."""
    values, operators = [number(tokens, skills)], list[str]()
    while tokens and tokens[0] != ")":
        operator, right = tokens.pop(0), number(tokens, skills)
        if operator in "*/" and "order" in skills:
            values.append(apply(operator, values.pop(), right))
        else:
            operators.append(operator)
            values.append(right)
    result = values[0]
    for operator, value in zip(operators, values[1:], strict=True):
        result = apply(operator, result, value)
    return result


def number(tokens: list[str], skills: set[str]) -> Fraction:
    """Take a number, or an expression in brackets, off the front of *tokens*."""
    token = tokens.pop(0)
    if token == "-":
        return number(tokens, skills) * (-1 if "negative" in skills else 1)
    if token == "(":
        value = expression(tokens, skills)
        tokens.pop(0)
        return value
    return Fraction(int(token))


def apply(operator: str, left: Fraction, right: Fraction) -> Fraction:
    """Return what the operation makes of two numbers."""
    operations = {"+": left.__add__, "-": left.__sub__, "*": left.__mul__, "/": left.__truediv__}
    return operations[operator](right)


def teacher(request: ChatRequest) -> str:
    """Write a prompt: the one that is shown, with one more piece of advice that fits what went wrong."""
    shown = request.last_text
    prompt, examples = shown.split("```")[1].strip(), shown.split("# Example")[1:]
    wrong = "\n".join(example for example in examples if "the answer was" in example)
    fitting = [advice for mark, both in ADVICE.items() if re.search(mark, wrong) for advice in both]
    left = [advice for advice in fitting if advice not in prompt] or ["Be careful."]
    advice = random.Random(zlib.crc32(shown.encode())).choice(left)
    return f"Let us try this.\n```\n{advice} {prompt}\n```"


def answer(request: ChatRequest) -> Reply:
    """Be the model that the request names."""
    return Reply(teacher(request) if request.model == TEACHER else student(request))


def serve() -> ModelServer:
    """Return a server of both, to be used in a ``with`` block."""
    return ModelServer(answer)
