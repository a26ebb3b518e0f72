"""Record what happens inside an agent: messages, rewards, objects and exceptions, each as one span.

Every function hangs its span under the current one, works without any tracer, and never changes what the program
does. The names are bound here at once, not on first use: ``reward`` is a function and a module, and
``from agentlightning.emitter import reward`` must give the function.
"""

from __future__ import annotations

from agentlightning.emitter.exception import emit_exception
from agentlightning.emitter.message import emit_message
from agentlightning.emitter.object import emit_object
from agentlightning.emitter.reward import (
    RewardSpanData,
    emit_reward,
    find_final_reward,
    find_reward_spans,
    get_reward_value,
    is_reward_span,
    reward,
)
from agentlightning.emitter.utils import get_tracer

__all__ = [
    "RewardSpanData",
    "emit_exception",
    "emit_message",
    "emit_object",
    "emit_reward",
    "find_final_reward",
    "find_reward_spans",
    "get_reward_value",
    "get_tracer",
    "is_reward_span",
    "reward",
]
