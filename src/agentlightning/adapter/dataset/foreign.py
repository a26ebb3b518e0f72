"""A trajectory that another program wrote, as a rollout."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from agentlightning import semconv
from agentlightning._internal.clock import now_ns
from agentlightning.adapter.dataset.call import Recorded
from agentlightning.types.core import Attempt, Rollout
from agentlightning.types.tracer import Span
from agentlightning.view.loose import as_dict, as_list, as_text, encoded, first_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning.types.record import JsonObject

_STEP_S = 1e-3
"""Steps without a time follow each other so far apart."""


def rollout_from(raw: JsonObject) -> Recorded:
    """Return the rollout of a trajectory; read twice, the same trajectory gives the same ids.

    Raises:
        ValueError: It has no steps.
    """
    if not as_list(raw.get("steps")):
        msg = "the trajectory has no steps"
        raise ValueError(msg)
    identity = as_text(raw.get("session_id")) or as_text(raw.get("trajectory_id")) or json.dumps(raw, sort_keys=True)
    digest = hashlib.blake2b(identity.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()
    rollout_id, attempt_id = f"ro-{digest[:12]}", f"at-{digest[12:20]}"
    builder = _Builder(rollout_id, attempt_id, digest)
    builder.add(raw, None, _start(raw))
    spans = builder.spans
    start = min(span.start_time or 0.0 for span in spans)
    end = max(span.end_time or 0.0 for span in spans)
    rollout = Rollout(
        rollout_id=rollout_id,
        input=_task(raw),
        start_time=start,
        end_time=end,
        status="succeeded",
        metadata={"imported_from": as_text(raw.get("schema_version")), "session_id": raw.get("session_id")},
    )
    attempt = Attempt(
        rollout_id=rollout_id, attempt_id=attempt_id, sequence_id=1, start_time=start, end_time=end, status="succeeded"
    )
    return Recorded(rollout, [attempt], spans)


class _Builder:
    def __init__(self, rollout_id: str, attempt_id: str, digest: str) -> None:
        self.spans: list[Span] = []
        self._ids = (rollout_id, attempt_id, digest)

    def add(self, raw: JsonObject, parent_id: str | None, at: float) -> None:
        """Add the agent of a trajectory with its steps; trajectories inside it are below it."""
        agent = as_dict(raw.get("agent"))
        name = as_text(agent.get("name")) or "agent"
        tools = as_list(agent.get("tool_definitions"))
        root = self._span(f"agent {name}", parent_id, at, {semconv.OPENINFERENCE_KIND: "AGENT", "agent.name": name})
        history: list[JsonObject] = []
        for step in map(as_dict, as_list(raw.get("steps"))):
            at = max(at + _STEP_S, _seconds(step) or 0.0)
            self._step(step, root.span_id, at, history, {"model": agent.get("model_name"), "tools": tools})
        root.end_time = at
        root.end_time_ns = None
        for inner in map(as_dict, as_list(raw.get("subagent_trajectories"))):
            self.add(inner, root.span_id, _start(inner))

    def _step(
        self, step: JsonObject, parent_id: str, at: float, history: list[JsonObject], agent: Mapping[str, object]
    ) -> None:
        text = _text(step.get("message"))
        source = as_text(step.get("source"))
        if source != "agent":
            history.append(_message(source if source == "system" else "user", text))
            return
        said = _message("assistant", text, step)
        # A step without a model call (a fixed dispatch), or of an earlier trajectory, is history and no call.
        if step.get("llm_call_count") != 0 and not step.get("is_copied_context"):
            attributes = _call_attributes(step, agent)
            attributes["gen_ai.input.messages"] = json.dumps(history)
            attributes["gen_ai.output.messages"] = json.dumps([said])
            self._span(f"chat {attributes.get('gen_ai.request.model', '')}".strip(), parent_id, at, attributes)
            reward = as_dict(step.get("extra")).get("reward")
            if isinstance(reward, (int, float)) and not isinstance(reward, bool):
                self._span(semconv.SpanNames.REWARD.value, parent_id, at, {semconv.REWARD: float(reward)})
        history.append(said)
        names = {call["id"]: call["name"] for call in said["parts"] if call["type"] == "tool_call"}
        for result in map(as_dict, as_list(as_dict(step.get("observation")).get("results"))):
            call_id = as_text(result.get("source_call_id"))
            content = _text(result.get("content"))
            if call_id in names:
                self._span(
                    f"tool {names[call_id]}",
                    parent_id,
                    at,
                    {semconv.OPENINFERENCE_KIND: "TOOL", "tool.name": names[call_id], "output.value": content},
                )
            part = {"type": "tool_call_response", "id": call_id, "result": content}
            history.append({"role": "tool", "parts": [part]})

    def _span(self, name: str, parent_id: str | None, at: float, attributes: JsonObject) -> Span:
        rollout_id, attempt_id, digest = self._ids
        place = len(self.spans) + 1
        span_id = hashlib.blake2b(f"{digest}/{place}".encode(), digest_size=8).hexdigest()
        span = Span.from_attributes(
            attributes={key: value for key, value in attributes.items() if value is not None},
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            sequence_id=place,
            name=name,
            trace_id=digest,
            span_id=span_id,
            parent_id=parent_id,
            start_time=at,
            end_time=at,
        )
        self.spans.append(span)
        return span


def _call_attributes(step: JsonObject, agent: Mapping[str, object]) -> JsonObject:
    metrics = as_dict(step.get("metrics"))
    found: JsonObject = {
        semconv.OPENINFERENCE_KIND: "LLM",
        "gen_ai.request.model": first_text(step, "model_name") or agent["model"],
        "gen_ai.usage.input_tokens": _count(metrics.get("prompt_tokens")),
        "gen_ai.usage.output_tokens": _count(metrics.get("completion_tokens")),
        "gen_ai.usage.cache_read.input_tokens": _count(metrics.get("cached_tokens")),
        "gen_ai.tool.definitions": json.dumps(agent["tools"]) if agent["tools"] else None,
        semconv.PROMPT_TOKEN_IDS: _numbers(metrics.get("prompt_token_ids")),
        semconv.RESPONSE_TOKEN_IDS: _numbers(metrics.get("completion_token_ids")),
        semconv.LOGPROBS: _numbers(metrics.get("logprobs")),
    }
    cost = metrics.get("cost_usd")
    if isinstance(cost, (int, float)) and not isinstance(cost, bool):
        found["llm.cost.total"] = float(cost)
    return found


def _message(role: str, text: str, step: JsonObject | None = None) -> JsonObject:
    parts: list[JsonObject] = []
    thought = as_text((step or {}).get("reasoning_content"))
    if thought:
        parts.append({"type": "reasoning", "content": thought})
    if text:
        parts.append({"type": "text", "content": text})
    for call in map(as_dict, as_list((step or {}).get("tool_calls"))):
        name = as_text(call.get("function_name"))
        arguments = call.get("arguments")
        parts.append(
            {"type": "tool_call", "id": as_text(call.get("tool_call_id")), "name": name, "arguments": arguments}
        )
    return {"role": role, "parts": parts}


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    texts = [first_text(as_dict(part), "text") or encoded(part) for part in as_list(content)]
    return "\n".join(texts)


def _task(raw: JsonObject) -> str:
    """Return the first thing that a user said."""
    steps = [as_dict(step) for step in as_list(raw.get("steps"))]
    return next((_text(step.get("message")) for step in steps if step.get("source") == "user"), "")


def _start(raw: JsonObject) -> float:
    times = [_seconds(as_dict(step)) for step in as_list(raw.get("steps"))]
    return next((at for at in times if at is not None), now_ns() / 1e9) - _STEP_S


def _seconds(step: JsonObject) -> float | None:
    try:
        read = datetime.fromisoformat(as_text(step.get("timestamp")).replace("Z", "+00:00"))
    except ValueError:
        return None
    return (read if read.tzinfo else read.replace(tzinfo=timezone.utc)).timestamp()


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _numbers(value: object) -> list[object] | None:
    items = as_list(value)
    is_good = items and all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in items)
    return items if is_good else None
