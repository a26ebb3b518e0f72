"""``python -m agentlightning.cli`` is ``agl``."""

from __future__ import annotations

from agentlightning.cli.main import main

main()
