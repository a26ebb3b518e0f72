"""Unmodified programs of the AgentOps SDK under ``agl run``, read back from the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from agentlightning import semconv
from agentlightning.testing import AgentRule, ModelServer, Reply, token_ids
from agentlightning.view.facts import facts
from agentlightning.view.messages import messages, tool_call_below

if TYPE_CHECKING:
    from agentlightning import Span
    from agentlightning.testing import ChatRequest

# The programs start with a loaded SDK and openai, on a busy machine.
pytestmark = pytest.mark.timeout(120)

PROGRAMS = Path(__file__).with_name("programs")
TEXT = "hi there my friend"
NO_IDS = {"embedding", "response", "failing"}


def answer(request: ChatRequest) -> Reply | str:
    """Fail when asked to, use the tool when asked to, else say the text."""
    if request.last_text == "fail":
        return Reply("injected", status=500)
    return AgentRule()(request) if "use add" in json.dumps(request.body) else TEXT


class Recorded:
    """The spans of one program, by the trace that it opened."""

    def __init__(self, spans: list[Span]) -> None:
        self.spans = spans
        self._by_id = {span.span_id: span for span in spans}

    def below(self, name: str) -> list[Span]:
        """Return the spans under the root that is called *name*, in the order of their start."""
        found = [span for span in self.spans if self.root(span).name == name and span.parent_id]
        return sorted(found, key=lambda span: span.start_time or 0)

    def root(self, span: Span) -> Span:
        """Return the outermost span above *span*."""
        while span.parent_id in self._by_id:
            span = self._by_id[span.parent_id]
        return span

    def parent(self, span: Span) -> Span | None:
        """Return the span above *span*."""
        return self._by_id.get(span.parent_id or "")

    def calls(self, name: str) -> list[Span]:
        """Return the calls of models under a root."""
        return [span for span in self.below(name) if kind(span) in {"llm", "embedding"}]


def kind(span: Span) -> str:
    """Return the kind that the view gives a span."""
    return facts(span.name, span.attributes).kind


def test_every_call_of_an_unmodified_program_has_one_span_with_its_ids(sdk: Any) -> None:
    """All forms of a call, an error, a tool, decorators: everything is in the store, once, and nothing is sent away."""
    with ModelServer(answer, token_ids="vllm") as model:
        sdk.environment.update(model.environment)
        sdk.run((PROGRAMS / "everything.py").read_text(), traced=True, patience_s=100).check()
        asked = len(model.requests)
    recorded = Recorded(sdk.spans())
    cells = sorted({recorded.root(span).name.removesuffix(".session") for span in recorded.spans})
    calls = {cell: recorded.calls(f"{cell}.session") for cell in cells}
    assert sum(len(found) for found in calls.values()) == asked, {name: len(found) for name, found in calls.items()}
    for cell, found in calls.items():
        for span in found:
            parent = recorded.parent(span)
            assert parent is not None, cell
            assert kind(parent) not in {"llm", "embedding"}, f"{cell}: a call inside a call"
            check_call(cell, span)
    check_tool(recorded)
    check_decorators(recorded)


def check_call(cell: str, span: Span) -> None:
    """Check what the span of one call holds."""
    if cell == "failing":
        assert span.status.status_code == "ERROR"
        return
    assert span.status.status_code in {"OK", "UNSET"}, cell
    if cell in NO_IDS:
        return
    assert span.attributes[semconv.PROMPT_TOKEN_IDS], cell
    if cell in {"left", "left_in_block"}:
        assert span.attributes[semconv.STREAM_STATE] == "closed_early"
        return
    assert semconv.STREAM_STATE not in span.attributes, cell
    if cell == "tool" or "completion" in cell:
        assert span.attributes[semconv.RESPONSE_TOKEN_IDS], cell
        return
    assert span.attributes[semconv.RESPONSE_TOKEN_IDS] == token_ids(TEXT), cell
    assert len(list(cast("list[float]", span.attributes[semconv.LOGPROBS]))) == len(token_ids(TEXT)), cell
    if cell == "two":
        assert span.attributes[f"{semconv.RESPONSE_TOKEN_IDS}.1"]
    assert messages(span.attributes).output[0].text == TEXT, cell


def check_tool(recorded: Recorded) -> None:
    """Check that the view finds the tool that the model asked for, whichever way the release writes it."""
    first, _second = recorded.calls("tool.session")
    children = [span.attributes for span in recorded.spans if span.parent_id == first.span_id]
    (said,) = messages(first.attributes, children=children).output
    (call,) = said.tool_calls
    assert (call.name, json.loads(str(call.arguments))) == ("add", {"a": 1})
    assert len([child for child in children if tool_call_below(child)]) <= 1


def check_decorators(recorded: Recorded) -> None:
    """Check that decorated functions and classes are there, nested."""
    names = {span.name: span for span in recorded.below("decorated.session")}
    assert set(names) == {"Worker.agent", "compute.task"}
    tagged = next(span for span in recorded.spans if span.name == "plain.session")
    assert "everything" in str(tagged.attributes["agentops.tags"])


def test_ids_of_other_servers(sdk: Any) -> None:
    """Ids of old vLLM and of LiteLLM are found in plain and raw answers, and LiteLLM's in streams too."""
    with ModelServer([TEXT] * 3, token_ids="vllm-old") as old, ModelServer([TEXT] * 3, token_ids="litellm") as litellm:
        urls = {"URL_vllm-old": old.url, "URL_litellm": litellm.url, "OPENAI_API_KEY": "sk-testing"}
        sdk.run((PROGRAMS / "dialect.py").read_text(), traced=True, patience_s=100, **urls).check()
    recorded = Recorded(sdk.spans())
    for dialect in ("vllm-old", "litellm"):
        plain, raw, stream = recorded.calls(f"{dialect}.session")
        for span in (plain, raw) if dialect == "vllm-old" else (plain, raw, stream):
            assert span.attributes[semconv.RESPONSE_TOKEN_IDS] == token_ids(TEXT)
            assert span.attributes[semconv.PROMPT_TOKEN_IDS]
