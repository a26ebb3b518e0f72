"""A rollout as conversations: each call with what it appended, folded where it is long."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from agentlightning.cli.document import message_object
from agentlightning.cli.outline import KIND_COLOURS, error_of
from agentlightning.cli.terminal import fit, safe, safe_lines, style, width, wrapped
from agentlightning.cli.text import count, duration, money, plural
from agentlightning.types.query import SpanFacts
from agentlightning.view.messages import messages
from agentlightning.view.parts import MediaPart, OtherPart, ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from agentlightning.view.transcript import turns
from agentlightning.view.witness import Sight, witnesses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from agentlightning.types.query import SpanRow
    from agentlightning.types.tracer import Span
    from agentlightning.view.messages import Conversation, Message
    from agentlightning.view.parts import Part
    from agentlightning.view.transcript import Turn
    from agentlightning.view.tree import Node, RolloutView

    Fetch = Callable[[list[tuple[str, str]]], list[Span]]

FOLD_LINES = 12
"""A part of a message with more lines is folded."""

_HEAD, _TAIL = 7, 3
_SYSTEM_HEAD = 3
_STEP = 64
"""Spans that are read at once."""
_ROLE_COLOURS = {"system": "cyan", "developer": "cyan", "user": "green", "assistant": "magenta", "tool": "yellow"}
_NOTES = ("reward", "exception", "message", "object")


class Call(NamedTuple):
    """One call of the rollout with its place among them, from 1, and its turn."""

    number: int
    node: Node
    row: SpanRow
    turn: Turn


def calls_of(view: RolloutView) -> list[tuple[Node, SpanRow]]:
    """Return the counted LLM calls in the order of their start."""
    found = [(node, node.row) for node in view.walk() if node.row and node.counted and node.row.facts.kind == "llm"]
    return sorted(found, key=lambda item: (item[1].start_ns, item[1].sequence_id))


def agents_of(view: RolloutView) -> dict[int, Node]:
    """Return for each node, by its ``id()``, the agent above it or itself; none for what no agent did."""
    agents: dict[int, Node] = {}
    for node in view.walk():
        if node.row and node.row.facts.kind == "agent":
            agents[id(node)] = node
        if id(node) in agents:
            for child in node.children:
                agents[id(child)] = agents[id(node)]
    return agents


class Witnessed(NamedTuple):
    """A call with everything that is stored of it."""

    node: Node
    row: SpanRow
    spans: list[Span]
    """All that recorded it, its own first; see ``view.witness``."""
    below: list[Span]
    """The spans directly below it."""

    def conversation(self) -> Conversation:
        """Return what went into the call and what came out of it, as the first span says that says anything."""
        children = [child.attributes for child in self.below]
        every = [messages(span.attributes, children=children) for span in self.spans]
        return next((found for found in every if found.input or found.output), every[0])


def with_spans(view: RolloutView, fetch: Fetch) -> Iterator[Witnessed]:
    """Yield each call with its spans, read a few at a time."""
    calls = calls_of(view)
    witnessed = witnesses(view.walk(), [node for node, _ in calls], _sight)
    for start in range(0, len(calls), _STEP):
        part = calls[start : start + _STEP]
        rows = [[seen.row for seen in nodes if seen.row] for nodes in witnessed[start : start + _STEP]]
        below = [[child.row for child in node.children if child.row] for node, _ in part]
        keys = dict.fromkeys(_key(row) for group in (*rows, *below) for row in group)
        spans = {(span.trace_id, span.span_id): span for span in fetch(list(keys))}
        for (node, row), own, children in zip(part, rows, below, strict=True):
            if _key(row) in spans:
                yield Witnessed(node, row, _present(own, spans), _present(children, spans))


def _present(rows: list[SpanRow], spans: dict[tuple[str, str], Span]) -> list[Span]:
    return [spans[_key(row)] for row in rows if _key(row) in spans]


def _sight(node: Node) -> Sight:
    row = node.row
    return Sight(SpanFacts(), 0, None) if row is None else Sight(row.facts, row.start_ns, row.end_ns)


def calls_with_turns(view: RolloutView, fetch: Fetch) -> Iterator[Call]:
    """Yield every call of the rollout with its turn; attributes are held for a few calls at a time only."""
    seen: list[tuple[Node, SpanRow]] = []

    def conversations() -> Iterator[Conversation]:
        """Yield the conversation of each call, after noting whose it is."""
        for call in with_spans(view, fetch):
            seen.append((call.node, call.row))
            yield call.conversation()

    for number, turn in enumerate(turns(conversations()), 1):
        node, row = seen[-1]
        yield Call(number, node, row, turn)


def call_object(call: Call) -> dict[str, object]:
    """Return a call for ``--chat --json``."""
    turn = call.turn
    return {
        "number": call.number,
        "trace_id": call.row.trace_id,
        "span_id": call.row.span_id,
        "relation": turn.relation,
        "before": None if turn.before is None else turn.before + 1,
        "repeated": turn.repeated,
        "appended": [message_object(message) for message in turn.appended],
        "output": [message_object(message) for message in turn.conversation.output],
        "tools": [tool.name for tool in turn.conversation.tools],
    }


def chat(view: RolloutView, fetch: Fetch, *, full: bool) -> Iterator[str]:
    """Yield the lines of the conversations, with rewards and errors of other spans where they happened."""
    agents = agents_of(view)
    notes = sorted(_notes(view), key=lambda item: item[0].start_ns)
    place, agent_shown, tools_shown = 0, "", tuple[str, ...]()
    for call in calls_with_turns(view, fetch):
        while place < len(notes) and notes[place][0].start_ns < call.row.start_ns:
            yield notes[place][1]
            place += 1
        agent = agents.get(id(call.node))
        name = _agent_name(agent) if agent else ""
        if name != agent_shown:
            agent_shown = name
            yield ""
            yield style(f"agent {name}" if name else "no agent", fg="blue", bold=True)
        tools = tuple(tool.name for tool in call.turn.conversation.tools)
        yield from _call(call, tools if tools != tools_shown else (), full=full)
        tools_shown = tools or tools_shown
    for _, line in notes[place:]:
        yield line


def _agent_name(agent: Node) -> str:
    return safe((agent.row.facts.agent_name or agent.row.name) if agent.row else "")


def _notes(view: RolloutView) -> Iterator[tuple[SpanRow, str]]:
    for node in view.walk():
        row = node.row
        if row is None:
            continue
        if row.facts.kind in _NOTES:
            value = "" if row.facts.reward is None else f" {row.facts.reward:g}"
            text = f"{row.facts.kind}{value}" + (f": {error_of(row)}" if row.status_code == "ERROR" else "")
            yield row, style(text, fg=KIND_COLOURS.get(row.facts.kind, "white"))
        elif row.status_code == "ERROR" and row.facts.kind == "tool":
            yield row, style(f"✗ {safe(row.facts.tool_name or row.name)}: {error_of(row)}", fg="red")


def _call(call: Call, tools: tuple[str, ...], *, full: bool) -> Iterator[str]:
    turn, row = call.turn, call.row
    yield ""
    yield style(fit(_title(call), width()).rstrip(), bold=True)
    if row.status_code == "ERROR":
        yield style(f"  ✗ {error_of(row)}", fg="red")
    if tools:
        yield from _folded("tools: ", ", ".join(tools), full=full, dim=True)
    if turn.before is not None:
        what = {"edited": "history edited after", "branch": "begins with"}.get(turn.relation, "after")
        yield style(f"  {what} the {plural(turn.repeated, 'message')} of call {turn.before + 1}", dim=True)
    for message in turn.appended:
        yield from _message(message, full=full)
    answers = turn.conversation.output
    for number, message in enumerate(answers, 1):
        yield from _message(message, full=full, choice=f" {number}/{len(answers)}" if len(answers) > 1 else "")
    if not turn.conversation.input and not answers and row.status_code != "ERROR":
        yield style("  no messages were recorded", dim=True)


def _title(call: Call) -> str:
    row = call.row
    facts = row.facts
    parts = [f"#{call.number} {safe(facts.model or row.name)}"]
    parts.append(time.strftime("%H:%M:%S", time.localtime(row.start_ns / 1e9)))
    if row.end_ns is not None:
        parts.append(duration(row.end_ns - row.start_ns))
    else:
        parts.append(call.node.state)
    totals = call.node.own
    if totals.total_tokens:
        cached = f" ({count(totals.cache_read_tokens)} cached)" if totals.cache_read_tokens else ""
        parts.append(f"{count(totals.input_tokens)} in{cached}, {count(totals.output_tokens)} out")
    price = call.node.price
    if price is not None:
        parts.append("cost unknown" if price.usd is None else money(price.usd))
    return " · ".join(parts)


def _message(message: Message, *, full: bool, choice: str = "") -> Iterator[str]:
    role = safe(message.role or "?") + (f" {safe(message.name)}" if message.name else "") + choice
    if message.finish_reason not in ("", "stop", "tool_calls", "end_turn", "tool_use", "completed"):
        role += f" ({safe(message.finish_reason)})"
    yield "  " + style(role, fg=_ROLE_COLOURS.get(message.role, "white"), bold=True)
    head = _SYSTEM_HEAD if message.role in ("system", "developer") else _HEAD
    for part in message.parts:
        yield from _part(part, full=full, head=head)


def _part(part: Part, *, full: bool, head: int) -> Iterable[str]:
    if isinstance(part, TextPart):
        return _folded("", part.text, full=full, head=head)
    if isinstance(part, ReasoningPart):
        return _folded("thinking: ", part.text or "(hidden by the provider)", full=full, dim=True)
    if isinstance(part, ToolCallPart):
        return _folded("→ ", f"{part.name}({part.arguments})", full=full)
    if isinstance(part, ToolResultPart):
        return _folded(f"← {part.name + ' ' if part.name else ''}", part.text, full=full)
    if isinstance(part, MediaPart):
        return _folded("", f"[{_media(part)}]", full=full)
    return _folded("", _other(part), full=full)


def _media(part: MediaPart) -> str:
    words = [part.kind, part.mime, part.name]
    if part.size_bytes is not None:
        words.append(f"{count(part.size_bytes)} bytes")
    elif part.uri:
        words.append(part.uri)
    return " ".join(word for word in words if word)


def _other(part: OtherPart) -> str:
    return f"[{part.name or 'part'}] {part.json}"


def _folded(mark: str, text: str, *, full: bool, head: int = _HEAD, dim: bool = False) -> Iterator[str]:
    """Yield the lines of a text; the middle of a long one is left out and counted."""
    columns = max(20, width() - 4)
    lines = [piece for line in safe_lines(mark + text.rstrip()) for piece in (wrapped(line, columns) or [""])]
    limit = FOLD_LINES if head == _HEAD else head + 2
    if not full and len(lines) > limit:
        tail = _TAIL if head == _HEAD else 0
        left_out = f"… {plural(len(lines) - head - tail, 'more line')} (--full)"
        lines = [*lines[:head], left_out, *(lines[-tail:] if tail else [])]
    for line in lines:
        shown = line.rstrip()
        yield ("    " + (style(shown, dim=True) if dim else shown)).rstrip()


def _key(row: SpanRow) -> tuple[str, str]:
    return row.trace_id, row.span_id
