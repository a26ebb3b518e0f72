"""``agl sessions``: what sessions there are and what is in them."""

from __future__ import annotations

import click


@click.group()
def command() -> None:
    """Show, compare and export the sessions of agents."""
