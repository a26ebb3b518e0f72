"""Trajectories in the Agent Trajectory Interchange Format: ``atif``.

The format is that of Harbor (https://harborframework.com/docs/agents/trajectory-format), version 1.7, which added
trajectories inside trajectories. Its steps are what was said; the whole rollout, every span of it, is in ``extra`` of
the root, so that nothing is lost on the way back.
"""

from __future__ import annotations

import math
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, cast

from agentlightning._internal.version import __version__
from agentlightning.adapter.dataset.call import note_exported
from agentlightning.adapter.dataset.exact import dumps, exact, model_object, span_object
from agentlightning.adapter.messages import one_answer
from agentlightning.view.cost import price
from agentlightning.view.loose import as_dict, decoded
from agentlightning.view.messages import Message
from agentlightning.view.parts import MediaPart, TextPart, ToolCallPart, ToolResultPart
from agentlightning.view.transcript import Turn, turns

if TYPE_CHECKING:
    from agentlightning.adapter.dataset.call import Call, Recorded
    from agentlightning.adapter.dataset.coverage import Coverage
    from agentlightning.types.record import JsonObject

SCHEMA = "ATIF-v1.7"
OURS = "agentlightning"
"""Key in ``extra`` of the root that holds the rollout, its attempts and its spans."""


def trajectory(recorded: Recorded, calls: list[Call], coverage: Coverage) -> JsonObject:
    """Return a rollout as one trajectory; conversations beside the first one are trajectories inside it."""
    for call in calls:
        note_exported(call, coverage)
    conversations = _conversations(calls)
    rollout_id = recorded.rollout.rollout_id
    made = [_trajectory(pairs, rollout_id, place) for place, pairs in enumerate(conversations)]
    if not made:
        said = (
            recorded.rollout.input if isinstance(recorded.rollout.input, str) else dumps(exact(recorded.rollout.input))
        )
        step: JsonObject = {
            "step_id": 1,
            "source": "user",
            "message": said,
            "timestamp": _time(recorded.rollout.start_time),
        }
        made = [{"schema_version": SCHEMA, "agent": {"name": "agent", "version": __version__}, "steps": [step]}]
    root: JsonObject = {**made[0], "session_id": rollout_id, "trajectory_id": rollout_id}
    if len(made) > 1:
        root["subagent_trajectories"] = made[1:]
    root["final_metrics"] = _final(calls, len(root["steps"]))
    root["extra"] = {
        OURS: {
            "rollout": model_object(recorded.rollout),
            "attempts": [model_object(attempt) for attempt in recorded.attempts],
            "spans": [span_object(span) for span in recorded.spans],
        }
    }
    return root


def _conversations(calls: list[Call]) -> list[list[tuple[Call, Turn]]]:
    """Return the calls of each conversation in their order."""
    found: list[list[tuple[Call, Turn]]] = []
    home: dict[int, int] = {}
    every = turns((call.conversation for call in calls), (call.agent for call in calls))
    for place, (call, turn) in enumerate(zip(calls, every, strict=True)):
        if turn.before is None:
            home[place] = len(found)
            found.append([])
        else:
            home[place] = home[turn.before]
        found[home[place]].append((call, turn))
    return found


def _trajectory(pairs: list[tuple[Call, Turn]], rollout_id: str, place: int) -> JsonObject:
    first = pairs[0][0]
    agent: JsonObject = {"name": first.agent if first.agent != "*" else "agent", "version": __version__}
    if first.node.facts.model:
        agent["model_name"] = first.node.facts.model
    if first.tools:
        agent["tool_definitions"] = exact(first.tools)
    steps: list[JsonObject] = []
    for call, turn in pairs:
        for message in turn.appended:
            _add_message(steps, message, call.span.start_time)
        steps.append(_answer(call))
    for number, step in enumerate(steps, 1):
        step["step_id"] = number
    return {
        "schema_version": SCHEMA,
        "trajectory_id": f"{rollout_id}/{place}",
        "agent": agent,
        "steps": steps,
    }


def _add_message(steps: list[JsonObject], message: Message, at: float | None) -> None:
    """Add what was sent: results of tools to the step that asked for them, all else as a step."""
    rest = [part for part in message.parts if not isinstance(part, ToolResultPart) or not _add_result(steps, part)]
    texts = [part.text for part in rest if isinstance(part, (TextPart, ToolResultPart))]
    texts += [f"[{part.kind}: {part.uri[:200] or part.name}]" for part in rest if isinstance(part, MediaPart)]
    if not rest and message.parts:
        return
    if message.role == "assistant":  # said before the recording began, or by another agent
        step = _agent_step(Message("assistant", tuple(rest)), at)
        steps.append({**step, "is_copied_context": True})
        return
    source = "system" if message.role in ("system", "developer") else "user"
    steps.append({"source": source, "message": "\n".join(texts), **_timestamp(at)})


def _add_result(steps: list[JsonObject], result: ToolResultPart) -> bool:
    for step in reversed(steps):
        if any(call["tool_call_id"] == result.call_id for call in step.get("tool_calls", ())):
            results = step.setdefault("observation", {"results": []})["results"]
            results.append({"source_call_id": result.call_id, "content": result.text})
            return True
    return False


def _answer(call: Call) -> JsonObject:
    output = one_answer(list(call.conversation.output))
    step = _agent_step(output[0] if output else Message("assistant"), call.span.end_time)
    if call.node.facts.model:
        step["model_name"] = call.node.facts.model
    metrics = _metrics(call)
    if metrics:
        step["metrics"] = metrics
    extra: JsonObject = {"span_id": call.span.span_id, "trace_id": call.span.trace_id}
    if call.reward is not None:
        extra["reward"] = exact(call.reward)
    return {**step, "llm_call_count": 1, "extra": extra}


def _agent_step(message: Message, at: float | None) -> JsonObject:
    step: JsonObject = {"source": "agent", "message": message.text, **_timestamp(at)}
    if message.reasoning:
        step["reasoning_content"] = message.reasoning
    calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
    if calls:
        step["tool_calls"] = [
            {"tool_call_id": part.id or f"call-{place}", "function_name": part.name, "arguments": _arguments(part)}
            for place, part in enumerate(calls)
        ]
    return step


def _arguments(part: ToolCallPart) -> JsonObject:
    value = decoded(part.arguments)
    if isinstance(value, dict):
        return cast("JsonObject", exact(as_dict(cast("object", value))))
    return {"arguments": part.arguments} if part.arguments else {}


def _metrics(call: Call) -> JsonObject:
    facts, tokens = call.node.facts, call.tokens
    answer = next((choice for choice in tokens.choices if choice.index == 0), None)
    sent = [facts.fresh_tokens, facts.cache_read_tokens, facts.cache_write_tokens]
    usd = price(facts, call.node.start_ns).usd
    found: JsonObject = {
        "prompt_tokens": None if facts.fresh_tokens is None else sum(number or 0 for number in sent),
        "completion_tokens": facts.output_tokens,
        "cached_tokens": facts.cache_read_tokens,
        "cost_usd": None if usd is None else float(usd),
        "prompt_token_ids": list(tokens.prompt) if tokens.prompt else None,
        "completion_token_ids": list(answer.ids) if answer and answer.ids else None,
    }
    if answer and answer.logprobs and all(map(math.isfinite, answer.logprobs)):
        found["logprobs"] = list(answer.logprobs)
    return {name: value for name, value in found.items() if value is not None}


def _final(calls: list[Call], steps: int) -> JsonObject:
    facts = [call.node.facts for call in calls]
    prices = [price(call.node.facts, call.node.start_ns).usd for call in calls]
    found: JsonObject = {
        "total_prompt_tokens": sum(
            (item.fresh_tokens or 0) + (item.cache_read_tokens or 0) + (item.cache_write_tokens or 0) for item in facts
        ),
        "total_completion_tokens": sum(item.output_tokens or 0 for item in facts),
        "total_cached_tokens": sum(item.cache_read_tokens or 0 for item in facts),
        "total_steps": steps,
    }
    if all(usd is not None for usd in prices):  # a sum with something unknown in it would look like a total
        found["total_cost_usd"] = float(sum((usd for usd in prices if usd is not None), Decimal(0)))
    return found


def _timestamp(at: float | None) -> JsonObject:
    return {} if at is None else {"timestamp": _time(at)}


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).isoformat()
