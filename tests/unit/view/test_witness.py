"""Whatever recorded a call: somebody has its messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentlightning.cli.chat import calls_with_turns, chat
from agentlightning.types.query import SpanRow
from agentlightning.types.tracer import Span
from agentlightning.view.facts import facts
from agentlightning.view.tree import RolloutView, build

CORPUS = Path(__file__).parent / "corpus"
NAMES = sorted(path.stem for path in CORPUS.glob("*.json"))

WITHOUT_INPUT = {("openinference_litellm", "1"), ("openinference_litellm", "2"), ("openllmetry_openai", "2")}
"""Calls of which these libraries recorded the answer only, and nobody else anything."""


class Stored:
    """A recording as a rollout."""

    def __init__(self, name: str) -> None:
        items: list[dict[str, Any]] = msgspec.json.decode((CORPUS / f"{name}.json").read_bytes())["spans"]
        self.spans = {
            str(item["number"]): Span.from_attributes(
                attributes=item["attributes"],
                rollout_id="r",
                attempt_id="a",
                sequence_id=item["number"],
                name=item["name"],
                trace_id="t",
                span_id=str(item["number"]),
                start_time=item["start_ns"] / 1e9,
                end_time=item["end_ns"] / 1e9,
            )
            for item in items
        }
        self.rows = [self._row(item) for item in items]

    @staticmethod
    def _row(item: dict[str, Any]) -> SpanRow:
        return SpanRow(
            trace_id="t",
            span_id=str(item["number"]),
            parent_id=None if item["parent"] is None else str(item["parent"]),
            rollout_id="r",
            attempt_id="a",
            sequence_id=item["number"],
            name=item["name"],
            start_ns=item["start_ns"],
            end_ns=item["end_ns"],
            status_code=item["status"],
            status_description=None,
            process="p",
            facts=facts(item["name"], item["attributes"], scope=item["scope"]),
        )

    def view(self) -> RolloutView:
        """Return its tree."""
        return build(self.rows)

    def fetch(self, keys: list[tuple[str, str]]) -> list[Span]:
        """Read spans as a store does."""
        return [self.spans[span_id] for _, span_id in keys]


@pytest.mark.parametrize("name", NAMES)
def test_every_answered_call_shows_what_was_said(name: str) -> None:
    """``agl show --chat`` has the messages of a call also where only an outer library's span holds them."""
    stored = Stored(name)
    view = stored.view()
    calls = list(calls_with_turns(view, stored.fetch))
    assert calls
    for call in calls:
        assert call.turn.conversation.input or (name, call.row.span_id) in WITHOUT_INPUT, call.row.span_id
        if call.row.status_code != "ERROR":
            assert call.turn.conversation.output, call.row.name
    assert not any("no messages were recorded" in line for line in chat(view, stored.fetch, full=True))
