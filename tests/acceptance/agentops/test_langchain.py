"""LangChain by the handler of the real SDK."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning import semconv
from agentlightning.testing import AgentRule, ModelServer
from agentlightning.view.facts import facts

if TYPE_CHECKING:
    from agentlightning import Span

pytestmark = pytest.mark.timeout(120)

PROGRAMS = Path(__file__).with_name("programs")


def test_chains_agents_and_tools_are_traced_with_no_callback_passed(sdk: Any) -> None:
    """After one call a chain and agents, two at once, are trees: chains, models, tools, calls with their ids."""
    with ModelServer(AgentRule(), token_ids="vllm") as model:
        sdk.environment.update(model.environment)
        end = sdk.run((PROGRAMS / "langchain.py").read_text(), traced=True, patience_s=100).check()
        asked = len(model.requests)
    assert "Traceback" not in end.stderr
    spans = sorted(sdk.spans(), key=lambda span: span.start_time or 0)
    by_id = {span.span_id: span for span in spans}
    parents = {span.parent_id for span in spans}
    calls = [span for span in spans if kind(span) == "llm" and span.span_id not in parents]
    assert len(calls) == asked
    assert all(span.attributes[semconv.RESPONSE_TOKEN_IDS] for span in calls)
    roots = [span for span in spans if span.parent_id not in by_id]
    trees = [sorted(kind(span) for span in spans if top(by_id, span) is root) for root in roots]
    # Chain and model of LangChain, and the call of OpenAI; an agent has a chain for itself and each of its steps.
    agent = sorted(["chain"] * 4 + ["llm"] * 4 + ["tool"])
    assert trees == [["chain", "llm", "llm"], agent, agent, agent, ["llm"]]


def kind(span: Span) -> str:
    """Return the kind that the view gives a span."""
    return facts(span.name, span.attributes).kind


def top(by_id: dict[str, Span], span: Span) -> Span:
    """Return the outermost span above *span*."""
    while span.parent_id in by_id:
        span = by_id[span.parent_id]
    return span
