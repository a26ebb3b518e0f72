"""Agents of smolagents as the framework makes them."""

from __future__ import annotations

from ai_agents.lib.smolagents.agent import SubTaskTrackedAgent, load_smolagents, new_agent

__all__ = ["SubTaskTrackedAgent", "load_smolagents", "new_agent"]
