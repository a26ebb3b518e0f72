"""What the spans of smolagents hold: agent runs, model calls and tool calls. Works on releases 1.15 to 1.26.

Everything is read by attribute and never by class, as user classes may be anything that smolagents accepts.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, cast

from agentlightning import semconv
from agentlightning.instrumentation import registry
from agentlightning.instrumentation.attribute import (
    AGENT_NAME,
    COMPLETION_TOKENS,
    LLM_INPUT_MESSAGES,
    LLM_INVOCATION,
    LLM_MODEL,
    LLM_OUTPUT_MESSAGES,
    LLM_TOOLS,
    PROMPT_TOKENS,
    TOOL_DESCRIPTION,
    TOOL_NAME,
    TOOL_PARAMETERS,
    TOTAL_TOKENS,
    ToolCall,
    count,
    first_of,
    input_attributes,
    json_text,
    message_attributes,
    output_attributes,
)
from agentlightning.instrumentation.operation import Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry.trace import Tracer

    from agentlightning.instrumentation.attribute import Attributes
    from agentlightning.types.record import JsonObject

AGENT_STATE = "smolagents.state"
"""``max_steps_error`` on the span of an agent run that was stopped by its limit of steps."""

PLANNING = "planning"
"""Name of the span of a planning step."""

AGENT_CLASS = "smolagents.agent_class"
"""Class of the agent, on its span."""


class AgentRun(Operation):
    """``MultiStepAgent.run``: the whole work on one task."""

    _output: object = None

    def name(self) -> str:
        """Return the agent's name, or its class, and what it does."""
        return f"{_agent_name(self.owner)}.run"

    def request_attributes(self) -> Attributes:
        """Return name and task."""
        return {
            semconv.OPENINFERENCE_KIND: "AGENT",
            AGENT_NAME: _agent_name(self.owner),
            AGENT_CLASS: type(self.owner).__name__,
            **input_attributes(_argument(self, 0, "task")),
        }

    def result_attributes(self, result: object) -> Attributes:
        """Return the answer; of a full ``RunResult`` its output only, as the steps have spans of their own."""
        if type(result).__name__ == "RunResult":
            result = first_of(result, "output")
        return {**output_attributes(result), **self._state()}

    def note_item(self, item: object) -> None:
        """Keep the final answer of a streamed run."""
        if type(item).__name__ == "FinalAnswerStep":
            self._output = first_of(item, "output", "final_answer")

    def stream_attributes(self) -> Attributes:
        """Return the answer, if the run came to one."""
        return {} if self._output is None else {**output_attributes(self._output), **self._state()}

    def _state(self) -> Attributes:
        steps = getattr(getattr(self.owner, "memory", None), "steps", None) or [None]
        error = getattr(steps[-1], "error", None)
        return {AGENT_STATE: "max_steps_error"} if type(error).__name__ == "AgentMaxStepsError" else {}


class PlanningStep(Operation):
    """A planning step of an agent: the model call that makes the plan lies in it."""

    is_part = True

    def name(self) -> str:
        """Return what it is."""
        return PLANNING

    def request_attributes(self) -> Attributes:
        """Return the kind."""
        return {semconv.OPENINFERENCE_KIND: "CHAIN"}

    def result_attributes(self, result: object) -> Attributes:
        """Return nothing: the plan is the output of the model call."""
        del result
        return {}


class ToolUse(Operation):
    """``Tool.__call__``: one use of a tool."""

    def name(self) -> str:
        """Return the tool's name: the class of every function tool is ``SimpleTool``."""
        return str(first_of(self.owner, "name") or type(self.owner).__name__)

    def request_attributes(self) -> Attributes:
        """Return what the tool is and its arguments by name."""
        attributes: Attributes = {semconv.OPENINFERENCE_KIND: "TOOL", TOOL_NAME: self.name()}
        description = first_of(self.owner, "description")
        if isinstance(description, str):
            attributes[TOOL_DESCRIPTION] = description
        inputs: object = first_of(self.owner, "inputs")
        if isinstance(inputs, dict):
            attributes[TOOL_PARAMETERS] = json_text(cast("object", inputs))
        attributes.update(input_attributes(self._arguments(list(cast("dict[str, object]", inputs or {})))))
        return attributes

    def _arguments(self, names: list[str]) -> object:
        given = {key: value for key, value in self.kwargs.items() if key != "sanitize_inputs_outputs"}
        if not self.args:
            return given
        if len(self.args) == 1 and not given and isinstance(self.args[0], dict):
            return cast("object", self.args[0])
        if len(self.args) > len(names):
            return [*self.args, given] if given else list(self.args)
        return {**dict(zip(names, self.args, strict=False)), **given}

    def result_attributes(self, result: object) -> Attributes:
        """Return the result."""
        return output_attributes(result)


class ModelCall(Operation):
    """``generate`` or ``generate_stream`` of a model.

    Where the model asks through a client of OpenAI that writes a span of its own, messages and tools are on that one,
    inside this, and not on both; of a call that fails they are on both, as it may not have come as far as the client.
    """

    def __init__(self, tracer: Tracer, owner: object, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Start with nothing received."""
        super().__init__(tracer, owner, args, kwargs)
        self._text: list[str] = []
        self._calls: dict[int, _StreamedCall] = {}
        self._tokens: tuple[int, int] | None = None
        self._is_in_client = _asks_through_client(owner)

    def name(self) -> str:
        """Return the model's class and what it does."""
        return f"{type(self.owner).__name__}.generate"

    def request_attributes(self) -> Attributes:
        """Return model, messages, tools and parameters."""
        attributes: Attributes = {semconv.OPENINFERENCE_KIND: "LLM"}
        model = first_of(self.owner, "model_id")
        if isinstance(model, str):
            attributes[LLM_MODEL] = model
        if not self._is_in_client:
            attributes.update(self._asked())
        defaults = cast("dict[str, object]", first_of(self.owner, "kwargs") or {})
        parameters: dict[str, object] = {
            key: value
            for key, value in {**defaults, **self.kwargs}.items()
            if key not in {"messages", "tools_to_call_from"} and value is not None
        }
        if parameters:
            attributes[LLM_INVOCATION] = json_text(parameters)
        return attributes

    def _asked(self) -> Attributes:
        """Return messages and tools."""
        attributes: Attributes = {}
        messages = _argument(self, 0, "messages")
        for index, message in enumerate(cast("Iterable[object]", messages or ())):
            attributes.update(_message(f"{LLM_INPUT_MESSAGES}.{index}", message))
        for index, tool in enumerate(cast("Iterable[object]", self.kwargs.get("tools_to_call_from") or ())):
            attributes[f"{LLM_TOOLS}.{index}.tool.json_schema"] = _tool_schema(tool)
        return attributes

    def fail(self, error: BaseException, attributes: Callable[[], Attributes] = dict) -> None:
        """End the span with *error* and with what was asked, if that is not on it yet."""
        asked = self._asked if self._is_in_client else dict
        super().fail(error, lambda: {**asked(), **attributes()})

    def shorten(self, attributes: Attributes, space: int) -> Attributes:
        """Put all messages into one attribute, and keep as many of their own as there is space for."""
        messages = [_plain_message(message) for message in cast("Iterable[object]", _argument(self, 0, "messages"))]
        kept = {key: value for key, value in attributes.items() if not key.startswith(LLM_INPUT_MESSAGES)}
        kept.update(input_attributes(messages))
        for key, value in attributes.items():
            if len(kept) >= space:
                break
            kept.setdefault(key, value)
        return kept

    def result_attributes(self, result: object) -> Attributes:
        """Return the message and the tokens that were counted for it; counts that are missing stay missing."""
        attributes: Attributes = {} if self._is_in_client else dict(_message(f"{LLM_OUTPUT_MESSAGES}.0", result))
        usage = first_of(result, "token_usage")
        if not hasattr(result, "token_usage"):
            # Releases below 1.18 leave the counts of the last call on the model; later ones warn about these names.
            usage = _LastCall(self.owner)
        prompt, completion = count(first_of(usage, "input_tokens")), count(first_of(usage, "output_tokens"))
        attributes.update(_tokens(prompt, completion))
        return attributes

    def note_item(self, item: object) -> None:
        """Add a delta the way smolagents adds them up: text is joined, token counts are summed."""
        text = first_of(item, "content")
        if isinstance(text, str):
            self._text.append(text)
        for position, delta in enumerate(cast("Iterable[object]", first_of(item, "tool_calls") or ())):
            index = first_of(delta, "index")
            self._calls.setdefault(position if index is None else index, _StreamedCall()).add(delta)
        usage = first_of(item, "token_usage")
        if usage is not None:
            before = self._tokens or (0, 0)
            self._tokens = (before[0] + (usage.input_tokens or 0), before[1] + (usage.output_tokens or 0))

    def stream_attributes(self) -> Attributes:
        """Return the message that the deltas make up so far."""
        calls = [call.finish() for _, call in sorted(self._calls.items())]
        content = "".join(self._text) if self._text or not calls else None
        prefix = f"{LLM_OUTPUT_MESSAGES}.0"
        message = () if self._is_in_client else message_attributes(prefix, "assistant", content, calls)
        attributes: Attributes = dict(message)
        attributes.update(_tokens(*(self._tokens or (None, None))))
        return attributes


class _StreamedCall:
    """A tool call that comes in pieces."""

    def __init__(self) -> None:
        self._id: str | None = None
        self._name: str | None = None
        self._arguments: list[str] = []

    def add(self, delta: object) -> None:
        """Take in the next piece."""
        self._id = first_of(delta, "id") or self._id
        function = first_of(delta, "function")
        self._name = first_of(function, "name") or self._name
        piece: object = first_of(function, "arguments")
        if piece:
            self._arguments.append(piece if isinstance(piece, str) else json_text(piece))

    def finish(self) -> ToolCall:
        """Return the call as far as it came."""
        return ToolCall(self._id, self._name, "".join(self._arguments))


class _LastCall:
    """Token counts of a model's last call, as smolagents below 1.18 keeps them."""

    def __init__(self, model: object) -> None:
        self.input_tokens: object = first_of(model, "last_input_token_count")
        self.output_tokens: object = first_of(model, "last_output_token_count")


def _asks_through_client(model: object) -> bool:
    """Tell whether a model is one of the library's own that asks a client of OpenAI whose calls are recorded."""
    library = sys.modules.get("openai")
    if library is None or "openai" not in registry.active():
        return False
    generate = inspect.unwrap(getattr(type(model), "generate", _asks_through_client))
    return generate.__module__ == "smolagents.models" and isinstance(getattr(model, "client", None), library.OpenAI)


def _agent_name(agent: object) -> str:
    return str(first_of(agent, "name") or type(agent).__name__)


def _argument(operation: Operation, place: int, name: str) -> object:
    """Return an argument that may be given by place or by name."""
    return operation.args[place] if len(operation.args) > place else operation.kwargs.get(name)


def _tokens(prompt: int | None, completion: int | None) -> Attributes:
    attributes: Attributes = {}
    if prompt is not None:
        attributes[PROMPT_TOKENS] = prompt
    if completion is not None:
        attributes[COMPLETION_TOKENS] = completion
    if prompt is not None and completion is not None:
        attributes[TOTAL_TOKENS] = prompt + completion
    return attributes


def _message(prefix: str, message: object) -> Iterator[tuple[str, str]]:
    """Yield the attributes of a message."""
    role, content, calls = _fields(message)
    yield from message_attributes(prefix, role, content, calls)


def _plain_message(message: object) -> dict[str, object]:
    """Return a message as plain data."""
    role, content, calls = _fields(message)
    return {"role": role, "content": content, **({"tool_calls": [call._asdict() for call in calls]} if calls else {})}


def _fields(message: object) -> tuple[str | None, object, list[ToolCall]]:
    """Return role, content and calls of a message: a ``ChatMessage``, or a dict in releases below 1.20."""
    if isinstance(message, dict):
        fields = cast("JsonObject", message)
        role, content, calls = fields.get("role"), fields.get("content"), fields.get("tool_calls")
    else:
        role, content = getattr(message, "role", None), getattr(message, "content", None)
        calls = getattr(message, "tool_calls", None)
    role = getattr(role, "value", role)
    return None if role is None else str(role), content, [_tool_call(call) for call in calls or ()]


def _tool_call(call: object) -> ToolCall:
    """Read a tool call: an object, or a dict in releases below 1.20."""
    if isinstance(call, dict):
        fields = cast("JsonObject", call)
        function = cast("JsonObject", fields.get("function") or {})
        return ToolCall(fields.get("id"), function.get("name"), function.get("arguments"))
    function = first_of(call, "function")
    return ToolCall(first_of(call, "id"), first_of(function, "name"), first_of(function, "arguments"))


def _tool_schema(tool: object) -> str:
    """Return a tool in the form in which models are told about it."""
    function = {"name": first_of(tool, "name"), "description": first_of(tool, "description")}
    inputs: object = first_of(tool, "inputs") or {}
    return json_text({"type": "function", "function": {**function, "parameters": {"properties": inputs}}})
