"""A scripted model on loopback for ``record.py``: OpenAI chat, responses and embeddings, Anthropic messages.

Standard library only, because it runs inside environments that hold nothing but the library that is recorded.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

ANSWER = "It is 21 degrees in Paris."
USAGE: dict[str, Any] = {
    "prompt_tokens": 50,
    "completion_tokens": 12,
    "total_tokens": 62,
    "prompt_tokens_details": {"cached_tokens": 20},
    "completion_tokens_details": {"reasoning_tokens": 4},
}


@contextmanager
def model_stub() -> Generator[str]:
    """Serve on a free port of 127.0.0.1 until the block ends; yields the base address without a path."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _arguments(tool: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = tool.get("parameters") or tool.get("input_schema") or {}
    values = {"string": "Paris", "integer": 3, "number": 3.5, "boolean": True}
    return {
        name: values.get(spec.get("type", "string"), "Paris") for name, spec in schema.get("properties", {}).items()
    }


def _wanted_tool(body: dict[str, Any]) -> dict[str, Any] | None:
    """Return the tool to call: the first one, until a tool has answered; then smolagents' ``final_answer``, or none."""
    offered: list[dict[str, Any]] = body.get("tools") or []
    tools: list[dict[str, Any]] = [tool.get("function", tool) for tool in offered]
    messages: Any = body.get("messages") or body.get("input") or []
    said: list[Any] = [messages] if isinstance(messages, str) else messages
    text = json.dumps([item for item in said if "role" not in item or item["role"] != "system"])
    answered = (
        '"tool_call_id"' in text or '"tool_result"' in text or "Observation:" in text or "function_call_output" in text
    )
    if not answered:
        return tools[0] if tools else None
    return next((tool for tool in tools if tool.get("name") == "final_answer"), None)


def _chat(body: dict[str, Any]) -> dict[str, Any]:
    tool = _wanted_tool(body)
    choices: list[dict[str, Any]] = []
    for index in range(body.get("n") or 1):
        message: dict[str, Any] = {"role": "assistant", "content": None if tool else ANSWER, "refusal": None}
        if tool:
            call = {"name": tool["name"], "arguments": json.dumps(_arguments(tool))}
            message["tool_calls"] = [{"id": f"call_{index}", "type": "function", "function": call}]
        choice: dict[str, Any] = {"index": index, "message": message, "finish_reason": "tool_calls" if tool else "stop"}
        if body.get("logprobs"):
            tokens = [{"token": "It", "logprob": -0.25, "bytes": [73, 116], "top_logprobs": []}]
            choice["logprobs"] = {"content": tokens, "refusal": None}
        if body.get("return_token_ids"):
            choice["token_ids"] = [7, 8, 9 + index]
        choices.append(choice)
    answer: dict[str, Any] = {
        "id": "chatcmpl-abc123",
        "object": "chat.completion",
        "created": 1763700000,
        "model": f"{body['model']}-2024-07-18",
        "choices": choices,
        "usage": USAGE,
        "system_fingerprint": "fp_1",
    }
    if body.get("return_token_ids"):
        answer["prompt_token_ids"] = [1, 2, 3, 4]
    return answer


def _chunks(answer: dict[str, Any]) -> list[dict[str, Any]]:
    head = {key: answer[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    message = answer["choices"][0]["message"]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if message["content"]:
        deltas += [{"content": piece} for piece in (message["content"][:10], message["content"][10:])]
    for call in message.get("tool_calls", ()):
        deltas.append({"tool_calls": [{"index": 0, **call}]})
    chunks: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    finish = answer["choices"][0]["finish_reason"]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append({**head, "choices": [], "usage": answer["usage"]})
    if "prompt_token_ids" in answer:
        chunks[0]["prompt_token_ids"] = answer["prompt_token_ids"]
        chunks[1]["choices"][0]["token_ids"] = answer["choices"][0]["token_ids"]
    return chunks


def _responses(body: dict[str, Any]) -> dict[str, Any]:
    tool = _wanted_tool(body)
    text: dict[str, Any] = {"type": "output_text", "text": ANSWER, "annotations": []}
    item: dict[str, Any] = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [text],
    }
    if tool:
        item = {"type": "function_call", "id": "fc_1", "call_id": "call_0", "name": tool["name"], "status": "completed"}
        item["arguments"] = json.dumps(_arguments(tool))
    thought = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Look at a map."}]}
    return {
        "id": "resp_abc123",
        "object": "response",
        "created_at": 1763700000,
        "model": f"{body['model']}-2024-07-18",
        "status": "completed",
        "output": [thought, item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": body.get("tools") or [],
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "metadata": {},
        "usage": {
            "input_tokens": 50,
            "input_tokens_details": {"cached_tokens": 20},
            "output_tokens": 12,
            "output_tokens_details": {"reasoning_tokens": 4},
            "total_tokens": 62,
        },
    }


def _anthropic(body: dict[str, Any]) -> dict[str, Any]:
    tool = _wanted_tool(body)
    content: list[dict[str, Any]] = [{"type": "thinking", "thinking": "Look at a map.", "signature": "sig"}]
    if tool:
        content.append({"type": "tool_use", "id": "toolu_1", "name": tool["name"], "input": _arguments(tool)})
    else:
        content.append({"type": "text", "text": ANSWER})
    return {
        "id": "msg_abc123",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": "tool_use" if tool else "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 30,
            "cache_read_input_tokens": 20,
            "cache_creation_input_tokens": 5,
            "output_tokens": 12,
        },
    }


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "object": "list",
        "model": body["model"],
        "data": [{"object": "embedding", "index": 0, "embedding": [0.25, 0.5]}],
        "usage": {"prompt_tokens": 6, "total_tokens": 6},
    }


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        if self.path.endswith("/chat/completions"):
            answer = _chat(body)
            if body.get("stream"):
                events = [f"data: {json.dumps(chunk)}\n\n" for chunk in _chunks(answer)]
                return self._send("".join([*events, "data: [DONE]\n\n"]), "text/event-stream")
        elif self.path.endswith("/responses"):
            answer = _responses(body)
        elif self.path.endswith("/embeddings"):
            answer = _embeddings(body)
        elif self.path.endswith("/messages"):
            answer = _anthropic(body)
        else:  # AgentOps signs in and uploads here
            answer = {"token": "none", "project_id": "p", "api_key": "k"}
        return self._send(json.dumps(answer), "application/json")

    def _send(self, text: str, kind: str) -> None:
        data = text.encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""
