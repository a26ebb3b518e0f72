"""The base of every agent."""
