"""Commands: ``python -m ai_agents`` runs agents, and ``agl sessions`` shows what their sessions hold."""
