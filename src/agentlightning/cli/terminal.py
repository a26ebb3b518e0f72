"""The terminal: colour, width, wide characters, pager; plain text when the output is no terminal."""

from __future__ import annotations

import os
import re
import shutil
import sys
from typing import TYPE_CHECKING

import click
from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_PLAIN_WIDTH = 120
"""Columns when the output is a file or a pipe."""


def has_colour() -> bool:
    """Tell whether to use colour: on a terminal, unless NO_COLOR or a dumb one says otherwise."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def style(text: str, **how: bool | str) -> str:
    """Return *text* in a colour or weight of ``click.style``, or as it is where there is no colour."""
    return click.style(text, **how) if has_colour() else text  # type: ignore[arg-type] - fg, bold and dim only


def width() -> int:
    """Return how many columns there are."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _PLAIN_WIDTH


def draws_lines() -> bool:
    """Tell whether the output's encoding has box drawing characters."""
    try:
        "├└│─…·✗".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def safe(text: str) -> str:
    """Return *text* on one line, with control characters shown as escapes: a span's name must not drive a terminal."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def fit(text: str, columns: int) -> str:
    """Return *text* cut or padded to *columns* cells; wide characters take two."""
    if cell_len(text) <= columns:
        return set_cell_size(text, columns)
    mark = "…" if draws_lines() else "~"
    return set_cell_size(text, max(0, columns - 1)) + mark


def show(lines: Iterable[str]) -> None:
    """Print *lines*, through the user's pager when they do not fit on the terminal."""
    if not sys.stdout.isatty():
        for line in lines:
            click.echo(line)
        return
    height = shutil.get_terminal_size().lines
    iterator = iter(lines)
    first = [line for line, _ in zip(iterator, range(height - 1), strict=False)]
    rest = next(iterator, None)
    if rest is None:
        click.echo("\n".join(first))
        return
    os.environ.setdefault("LESS", "-RFX")
    click.echo_via_pager(_with_ends(first, rest, iterator), color=has_colour())


def _with_ends(first: list[str], following: str, rest: Iterator[str]) -> Iterator[str]:
    for line in first:
        yield line + "\n"
    yield following + "\n"
    for line in rest:
        yield line + "\n"
