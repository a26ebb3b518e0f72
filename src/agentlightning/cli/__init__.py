"""The command ``agl``: one module per subcommand, loaded when it is called."""

from __future__ import annotations

from agentlightning.cli.main import main

__all__ = ["main"]
