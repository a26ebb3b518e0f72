"""Record what happens inside an agent: messages, rewards, objects, exceptions, events of any type, operations.

Every function hangs its span under the current one, works without any tracer, and never changes what the program
does. The names are bound here at once, not on first use: ``reward`` is a function and a module, and
``from agentlightning.emitter import reward`` must give the function.
"""

from __future__ import annotations

from agentlightning.emitter.annotation import emit_annotation
from agentlightning.emitter.emit import emit_event
from agentlightning.emitter.event import (
    CustomEvent,
    EventFactory,
    create_event,
    event_factory,
    get_supported_types,
    register_event_type,
)
from agentlightning.emitter.exception import ExceptionEvent, emit_exception
from agentlightning.emitter.handler import add_event_handler, finish_handlers, remove_event_handler
from agentlightning.emitter.message import MessageEvent, emit_message
from agentlightning.emitter.object import ObjectEvent, emit_object
from agentlightning.emitter.operation import operation
from agentlightning.emitter.reward import (
    RewardEvent,
    RewardSpanData,
    emit_reward,
    find_final_reward,
    find_reward_spans,
    get_reward_value,
    get_reward_values,
    get_target,
    is_reward_span,
    reward,
)
from agentlightning.emitter.serialization import EventDataError, SerializationEngine
from agentlightning.emitter.utils import get_tracer
from agentlightning.pipeline.receipt import Outcome, Receipt

__all__ = [
    "CustomEvent",
    "EventDataError",
    "EventFactory",
    "ExceptionEvent",
    "MessageEvent",
    "ObjectEvent",
    "Outcome",
    "Receipt",
    "RewardEvent",
    "RewardSpanData",
    "SerializationEngine",
    "add_event_handler",
    "create_event",
    "emit_annotation",
    "emit_event",
    "emit_exception",
    "emit_message",
    "emit_object",
    "emit_reward",
    "event_factory",
    "find_final_reward",
    "find_reward_spans",
    "finish_handlers",
    "get_reward_value",
    "get_reward_values",
    "get_supported_types",
    "get_target",
    "get_tracer",
    "is_reward_span",
    "operation",
    "register_event_type",
    "remove_event_handler",
    "reward",
]
