"""Rules: functions that answer a request without a script, among them one that drives real agents."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from agentlightning.testing.json_value import Json, JsonObject, as_list, as_object, as_text
from agentlightning.testing.reply import Reply, ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning.testing.request import ChatMessage, ChatRequest

Rule: TypeAlias = "Callable[[ChatRequest], Reply | str]"
"""Answers one request; called from many threads at once. A text stands for ``Reply(text)``."""

_FINAL_ANSWER = "final_answer"
_CODE_TAG = re.compile(r"must be opened with '([^']+)', and closed with '([^']+)'")
_OLD_CODE_MARK = "must end with '<end_code>'"
"""How smolagents below 1.18 asks for code, which it then wants between the tags below."""
_OLD_CODE_TAGS = ("Code:\n```py", "```<end_code>")
_OBSERVATION = re.compile(r"Observation:\n(.*)", re.DOTALL)
_TEAM_MEMBER = re.compile(r"^- (\w+): ", re.MULTILINE)
"""A managed agent, which smolagents below 1.19 does not offer as a tool."""
_CODE_FUNCTION = re.compile(r"^def (\w+)\(", re.MULTILINE)


def echo(request: ChatRequest) -> Reply:
    """Answer with the text of the last message."""
    return Reply(request.last_text)


@dataclass(frozen=True)
class AgentRule:
    """Drive an agent to its end: call tools one after the other, then give the final answer.

    It works with any client that offers tools, and with ``ToolCallingAgent`` and ``CodeAgent`` of smolagents, which
    write a call into the text and end with ``final_answer``. It keeps no state: how far an agent has come is read from
    the conversation, so that many may use one server at once.
    """

    plan: tuple[ToolCall, ...] = ()
    """Calls to make, in this order, of those that the request offers; so one plan serves several agents. When empty:
    each tool whose name is in the task, in the order of the task, with the arguments written there
    (``add(a=1, b=2)``), else with arguments that fit its schema."""
    code: tuple[str, ...] = ()
    """What a ``CodeAgent`` shall run instead, one snippet a step; one that calls ``final_answer`` ends it."""
    answer: str = ""
    """The final answer; when empty, the last result."""

    def __call__(self, request: ChatRequest) -> Reply:
        """Return the next step."""
        if "<end_plan>" in as_list(request.body.get("stop")):
            return Reply("1. Use the tools.\n2. Give the final answer.\n<end_plan>")
        tags = _code_tags(request)
        done = sum(_is_step(message, tags) for message in request.messages)
        answer = self.answer or _last_result(request)
        plan = self._calls(request)
        if tags is not None:
            snippets = [*(self.code or map(_code_for, plan)), f"final_answer({answer!r})"]
            return Reply(_code_step(snippets[min(done, len(snippets) - 1)], tags))
        if done < len(plan):
            return Reply(tool_calls=(plan[done],))
        if _FINAL_ANSWER in request.tool_names:
            return Reply(tool_calls=(ToolCall(_FINAL_ANSWER, {"answer": answer}),))
        return Reply(answer)

    def _calls(self, request: ChatRequest) -> tuple[ToolCall, ...]:
        schemas = _offered(request)
        return tuple(call for call in self.plan if call.name in schemas) or _plan_from_task(request, schemas)


def _code_tags(request: ChatRequest) -> tuple[str, str] | None:
    """Return how a ``CodeAgent`` wants its code marked, None for any other client."""
    prompt = "" if request.tools else request.messages[0].text
    found = _CODE_TAG.search(prompt)
    if found:
        return found[1], found[2]
    return _OLD_CODE_TAGS if _OLD_CODE_MARK in prompt else None


def _is_step(message: ChatMessage, tags: tuple[str, str] | None) -> bool:
    # smolagents writes the calls of a ToolCallingAgent back as text, and keeps the code of a CodeAgent as it was.
    if message.role != "assistant":
        return False
    marks = ("Calling tools:", *(tags or ())[:1])
    return bool(message.tool_calls) or any(mark in message.text for mark in marks)


def _code_for(call: ToolCall) -> str:
    arguments: JsonObject = as_object(json.loads(call.arguments_text))
    written = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"result = {call.name}({written})\nprint(result)"


def _code_step(code: str, tags: tuple[str, str]) -> str:
    return f"Thought: This is the next step.\n{tags[0]}\n{code}\n{tags[1]}"


def _last_result(request: ChatRequest) -> str:
    """Return what the last tool said, else the last text of all."""
    for message in reversed(request.messages):
        if message.role == "tool":
            return message.text
        # The prompt of smolagents holds examples of observations.
        found = None if message.role == "system" else _OBSERVATION.search(message.text)
        if found:
            return found[1].removeprefix("Execution logs:\n").split("\nLast output from code snippet:")[0].strip()
    return request.last_text


def _offered(request: ChatRequest) -> dict[str, JsonObject]:
    """Return name and schema of what can be called: the tools, and what only the prompt names, with no schema."""
    prompt = request.messages[0].text
    names: list[str] = []
    if _code_tags(request):
        names = _CODE_FUNCTION.findall(prompt)
    elif "team members" in prompt:
        names = _TEAM_MEMBER.findall(prompt)
    offered: dict[str, JsonObject] = {name: {} for name in names}
    offered.update({tool.name: tool.parameters for tool in request.tools})
    offered.pop(_FINAL_ANSWER, None)
    return offered


def _plan_from_task(request: ChatRequest, schemas: dict[str, JsonObject]) -> tuple[ToolCall, ...]:
    task = next((message.text for message in request.messages if message.role == "user"), "")
    found = {name: re.search(rf"\b{re.escape(name)}\b", task) for name in schemas if name}
    places = sorted((match.start(), name) for name, match in found.items() if match)
    return tuple(ToolCall(name, _arguments(name, schemas[name], task)) for _, name in places)


def _arguments(name: str, schema: JsonObject, task: str) -> JsonObject:
    written = re.search(rf"\b{re.escape(name)}\(([^()]*)\)", task)
    if written:
        return _written_arguments(written[1], [*as_object(schema.get("properties"))])
    return as_object(sample(schema))


def _written_arguments(text: str, names: list[str]) -> JsonObject:
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call):
            return {}
        result: JsonObject = dict(zip(names, map(ast.literal_eval, call.args), strict=False))
        result.update({word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg})
    except (SyntaxError, ValueError):
        return {}
    return result


def sample(schema: JsonObject) -> Json:
    """Return a value that fits a simple JSON schema: the required properties, each the plainest of its type."""
    choices = as_list(schema.get("enum"))
    if choices:
        return choices[0]
    kind = as_text(schema.get("type"))
    if kind == "object" or "properties" in schema:
        properties = as_object(schema.get("properties"))
        required = as_list(schema.get("required")) if "required" in schema else [*properties]
        return {name: sample(as_object(properties[name])) for name in map(as_text, required) if name in properties}
    plain: dict[str, Json] = {"integer": 1, "number": 1.5, "boolean": True, "array": [], "null": None}
    return plain.get(kind, "text")
