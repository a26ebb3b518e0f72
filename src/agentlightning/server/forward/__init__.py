"""Sending what a store has committed on to any OTLP backend."""

from __future__ import annotations

from agentlightning.server.forward.background import ForwardThread
from agentlightning.server.forward.cursor import CursorFile
from agentlightning.server.forward.delivery import ForwardCounts, ForwardOptions
from agentlightning.server.forward.forwarder import Forwarder
from agentlightning.server.forward.target import OtlpTarget

__all__ = ["CursorFile", "ForwardCounts", "ForwardOptions", "ForwardThread", "Forwarder", "OtlpTarget"]
