"""Agents that follow a procedure and have others work for them."""

from __future__ import annotations

from ai_agents.supervisor_agents.base_supervisor_agent import BaseSupervisorAgent
from ai_agents.supervisor_agents.repo_analysis_supervisor_agent import RepoAnalysisSupervisorAgent

__all__ = ["BaseSupervisorAgent", "RepoAnalysisSupervisorAgent"]
