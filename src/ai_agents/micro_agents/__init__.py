"""Agents for one kind of work each, as classes and from YAML."""

from __future__ import annotations

from ai_agents.micro_agents.base_micro_agent import BaseMicroAgent
from ai_agents.micro_agents.search_agent import SearchAgent
from ai_agents.micro_agents.yaml_agent import YamlAgentFactory, create_agent_from_yaml

__all__ = ["BaseMicroAgent", "SearchAgent", "YamlAgentFactory", "create_agent_from_yaml"]
