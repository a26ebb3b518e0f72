"""Tools for agents, by name."""

from __future__ import annotations

from ai_agents.tools.registry import get_tool, get_tools, tool_names

__all__ = ["get_tool", "get_tools", "tool_names"]
