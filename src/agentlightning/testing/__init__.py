"""Public test kit: a scripted model server, and a store that keeps what it is given.

Nothing here is loaded by a traced program. Names resolve on first use, so that importing the package is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlightning._internal.lazy import lazy_names

if TYPE_CHECKING:
    from agentlightning.testing.model_server import ModelServer, ReceivedRequest
    from agentlightning.testing.recording_store import RecordingStore
    from agentlightning.testing.reply import Fault, Reply, ToolCall, Usage
    from agentlightning.testing.request import ChatMessage, ChatRequest, Tool
    from agentlightning.testing.rule import AgentRule, Rule, echo
    from agentlightning.testing.tokenizer import token_ids

__all__ = [
    "AgentRule",
    "ChatMessage",
    "ChatRequest",
    "Fault",
    "ModelServer",
    "ReceivedRequest",
    "RecordingStore",
    "Reply",
    "Rule",
    "Tool",
    "ToolCall",
    "Usage",
    "echo",
    "token_ids",
]

_HOMES = {
    "ModelServer": "model_server",
    "ReceivedRequest": "model_server",
    "RecordingStore": "recording_store",
    "Fault": "reply",
    "Reply": "reply",
    "ToolCall": "reply",
    "Usage": "reply",
    "ChatMessage": "request",
    "ChatRequest": "request",
    "Tool": "request",
    "Rule": "rule",
    "AgentRule": "rule",
    "echo": "rule",
    "token_ids": "tokenizer",
}

__getattr__, __dir__ = lazy_names(__name__, {name: f"{__name__}.{module}" for name, module in _HOMES.items()})
