"""Agents of smolagents as the framework makes them."""

from __future__ import annotations

from ai_agents.lib.smolagents.agent import Agent, SubTaskTrackedAgent, load_smolagents, new_agent

__all__ = ["Agent", "SubTaskTrackedAgent", "load_smolagents", "new_agent"]
