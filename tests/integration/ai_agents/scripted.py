"""Scripted models, tools and agents that run the same on every supported release of smolagents."""

from __future__ import annotations

import inspect
import threading
import time
from typing import TYPE_CHECKING, Any

import smolagents.models as models_module
from smolagents import local_python_executor, tool  # pyright: ignore[reportUnknownVariableType] - the library has no types there
from smolagents.agents import CodeAgent, ToolCallingAgent
from smolagents.models import Model
from smolagents.tools import Tool

if TYPE_CHECKING:
    from collections.abc import Iterator

models: Any = models_module
HAS_USAGE = "token_usage" in getattr(models.ChatMessage, "__dataclass_fields__", {})

CALLS_IN_PARALLEL = "max_tool_threads" in inspect.signature(ToolCallingAgent).parameters
"""Older releases make the first of several calls only."""

HAS_TIMEOUT = "timeout_seconds" in inspect.signature(local_python_executor.LocalPythonExecutor).parameters


def code(text: str) -> str:
    """Return the answer of a model that wants code run, in the form that every release understands."""
    return f"Thought: go on\nCode:\n```py\n{text}\n```<end_code>"


def calls(*wanted: tuple[str, dict[str, Any]]) -> list[Any]:
    """Return tool calls, each a name with its arguments."""
    function = getattr(models, "ChatMessageToolCallFunction", None) or models.ChatMessageToolCallDefinition
    return [
        models.ChatMessageToolCall(id=f"call_{place}", type="function", function=function(name=name, arguments=given))
        for place, (name, given) in enumerate(wanted)
    ]


class Scripted(Model):
    """A model that answers from a list: text, tool calls, or an error to raise; defined before instrumenting."""

    def __init__(self, *answers: Any, usage: bool = True) -> None:
        parent: Any = super()
        parent.__init__()
        self.model_id = "gpt-4o-mini"
        self.answers = list(answers)
        self.usage = usage
        self.lock = threading.Lock()

    def generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the next answer."""
        with self.lock:
            answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        given: dict[str, Any] = {"role": models.MessageRole.ASSISTANT}
        given.update({"content": answer} if isinstance(answer, str) else {"content": None, "tool_calls": answer})
        if HAS_USAGE and self.usage:
            given["token_usage"] = models.TokenUsage(input_tokens=100, output_tokens=20)
        elif self.usage:
            self.last_input_token_count, self.last_output_token_count = 100, 20
        return models.ChatMessage(**given)


class Calling(Scripted):
    """A model whose ``generate`` calls that of its parent class."""

    def generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what the parent class answers."""
        return super().generate(messages, *args, **kwargs)


class Streaming(Scripted):
    """A model that can stream as well: words, with the token count on the last one."""

    def generate_stream(self, messages: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Yield the next answer word by word."""
        with self.lock:
            answer = self.answers.pop(0)
        for word in answer.split(" "):
            yield models.ChatMessageStreamDelta(content=word + " ")
        if HAS_USAGE and self.usage:
            usage = models.TokenUsage(input_tokens=100, output_tokens=20)
            yield models.ChatMessageStreamDelta(content="", token_usage=usage)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The one.
        b: The other.
    """
    return a + b


@tool
def fail(reason: str) -> str:
    """Fail.

    Args:
        reason: Why.
    """
    raise ValueError(reason)


@tool
def slow(seconds: float) -> str:
    """Sleep.

    Args:
        seconds: How long.
    """
    time.sleep(seconds)
    return "slept"


class Shouting(Tool):
    """A tool with a ``__call__`` of its own."""

    name = "shout"
    description = "Shouts."
    inputs = {"text": {"type": "string", "description": "What."}}  # noqa: RUF012 - as the library has it
    output_type = "string"

    def forward(self, text: str) -> str:
        """Shout."""
        return text.upper()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Shout louder."""
        parent: Any = super()
        return parent.__call__(*args, **kwargs) + "!"


def coder(*answers: Any, tools: tuple[Any, ...] = (add,), model: Any = None, **options: Any) -> Any:
    """Return an agent that runs code."""
    return CodeAgent(tools=list(tools), model=model or Scripted(*answers), verbosity_level=-1, **options)


def caller(*answers: Any, tools: tuple[Any, ...] = (add, fail, slow), model: Any = None, **options: Any) -> Any:
    """Return an agent that calls tools."""
    return ToolCallingAgent(tools=list(tools), model=model or Scripted(*answers), verbosity_level=-1, **options)
