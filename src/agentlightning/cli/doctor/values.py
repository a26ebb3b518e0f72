"""``agl doctor --settings``: every setting, its value and where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from agentlightning import settings
from agentlightning.cli import document
from agentlightning.cli.terminal import folded, folds, safe, style, width, write
from agentlightning.errors import AgentLightningError
from agentlightning.store.url import shown_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.settings import Setting

_SECRETS = {settings.STORE_TOKEN, settings.REDACT_KEY, settings.AGENTOPS_API_KEY, settings.AGENTOPS_PROJECTS}
_VALUE = 30
"""Columns of a value; a longer one moves its source to the right."""


class Value(NamedTuple):
    """A setting as it holds now."""

    variable: str
    value: bool | float | str | None
    """None for one that cannot be used; ``(set)`` for a secret, because this output is what people paste."""
    source: str
    """``environment``, ``configure`` or ``default``."""
    error: str
    """What is wrong with it and what to set; empty when nothing is."""


def show(*, as_json: bool) -> int:
    """Print all settings; return 0, or 2 when one cannot be used."""
    values = [_value_of(setting) for setting in settings.all_settings()]
    if as_json:
        body: document.Document = {"version": document.VERSION, "type": "settings"}
        body["settings"] = [{**each._asdict(), "error": each.error or None} for each in values]
        write(document.dumps(body))
    else:
        column = max(len(each.variable) for each in values)
        for each in values:
            for line in _lines(each, column):
                write(line)
    for each in values:
        if each.error:
            click.echo(f"agl: {safe(each.error)}", err=True)
    return 2 if any(each.error for each in values) else 0


def _value_of(setting: Setting[Any]) -> Value:
    try:
        value, source = settings.lookup(setting)
    except AgentLightningError as error:
        return Value(setting.variable, None, "environment", str(error))
    if source == setting.variable:
        source = "environment"
    if value and setting in _SECRETS:
        value = "(set)"
    elif setting is settings.STORE:
        value = shown_url(str(value))
    return Value(setting.variable, value, source, "")


def _lines(each: Value, column: int) -> Iterator[str]:
    shown = safe(_text(each))
    line = f"{each.variable:<{column}} {shown:<{_VALUE}} {each.source}"
    if not folds() or len(line) <= width():
        yield line
        return
    yield style(each.variable, bold=True)
    yield from folded(f"{shown} ({each.source})".strip(), "  ")


def _text(each: Value) -> str:
    """Return a value as its variable would be set."""
    if each.error:
        return "(wrong)"
    if isinstance(each.value, bool):
        return str(int(each.value))
    if each.variable == settings.STORE.variable and not each.value:
        return "(the user's data directory)"
    return str(each.value)
