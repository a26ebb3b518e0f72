"""The terminal: colour, width, wide characters, pager; plain text when the output is no terminal."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from itertools import islice
from typing import TYPE_CHECKING

import click
from rich.cells import cell_len, chop_cells, set_cell_size

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

# C0 and C1 controls, line separators, lone surrogates, and what turns the direction of writing.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_PLAIN_WIDTH = 120
"""Columns when the output is a file or a pipe."""
_LEAST_WIDTH = 20
_TAB = "    "
_WORD = re.compile(r"\S+\s*|\s+")
_ASCII = str.maketrans(
    {"·": "-", "µ": "u", "…": "~", "✗": "x", "→": ">", "←": "<", "─": "-", "├": "|", "└": "`", "│": "|"}
)


def has_colour() -> bool:
    """Tell whether to use colour: on a terminal, unless NO_COLOR or a dumb one says otherwise."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def style(text: str, **how: bool | str) -> str:
    """Return *text* in a colour or weight of ``click.style``, or as it is where there is no colour."""
    return click.style(text, **how) if has_colour() else text  # type: ignore[arg-type] - fg, bold and dim only


def width() -> int:
    """Return how many columns there are; COLUMNS sets them for a file or a pipe too."""
    if folds():
        return max(_LEAST_WIDTH, shutil.get_terminal_size().columns)
    return _PLAIN_WIDTH


def draws_lines() -> bool:
    """Tell whether the output's encoding has box drawing characters."""
    try:
        "├└│─…·✗→←µ".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def safe(text: str) -> str:
    """Return *text* on one line, with control characters shown as escapes: a span's name must not drive a terminal."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def safe_lines(text: str) -> list[str]:
    """Return *text* as lines that are safe as ``safe`` makes them; tabs become spaces."""
    return [safe(line.replace("\t", _TAB)) for line in text.replace("\r\n", "\n").split("\n")]


def fit(text: str, columns: int) -> str:
    """Return *text* cut or padded to *columns* cells; wide characters take two."""
    if text.isascii():
        if len(text) <= columns:
            return text.ljust(columns)
    elif cell_len(text) <= columns:
        return set_cell_size(text, columns)
    return set_cell_size(text, max(0, columns - 1)) + "…"


def wrapped(line: str, columns: int) -> list[str]:
    """Return *line* broken into lines of at most *columns* cells, between words where that is possible."""
    if line.isascii():
        if len(line) <= columns:
            return [line]
        return textwrap.wrap(line, columns, drop_whitespace=False, replace_whitespace=False, break_on_hyphens=False)
    if cell_len(line) <= columns:
        return [line]
    pieces = [""]
    for word in _WORD.findall(line):
        joined = pieces[-1] + word
        if cell_len(joined) <= columns:
            pieces[-1] = joined
        elif len(word) == cell_len(word) <= columns:
            pieces.append(word)
        else:  # wide characters may be broken anywhere
            pieces[-1:] = chop_cells(joined, columns)
    return pieces


def folds() -> bool:
    """Tell whether somebody says how wide the output is: a terminal, or COLUMNS."""
    return sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()


def folded(text: str, indent: str = "") -> list[str]:
    """Return *text* as indented lines that fit, or as one line where nobody says how wide the output is."""
    if not folds():
        return [indent + text]
    pieces = wrapped(text, max(_LEAST_WIDTH, width() - len(indent)))
    return [indent + piece.strip() for piece in pieces]


def write(line: str) -> None:
    """Print one line at once; characters that the output's encoding lacks are replaced or escaped."""
    click.echo(_encodable(line))


def _encodable(line: str) -> str:
    """Return *line* without characters that would make printing it raise."""
    if line.isascii():
        return line
    if not draws_lines():
        line = line.translate(_ASCII)
    encoding = sys.stdout.encoding or "ascii"
    return line.encode(encoding, "backslashreplace").decode(encoding)


def show(lines: Iterable[str], *, pager: bool = True) -> None:
    """Print *lines* as they come; on a terminal through the user's pager when they do not fit."""
    iterator = iter(lines)
    if pager and sys.stdout.isatty() and sys.stdin.isatty() and (command := _pager()):
        height = shutil.get_terminal_size().lines
        first = list(islice(iterator, height - 1))
        rest = list(islice(iterator, 1))
        if rest:
            _page(command, _joined(first, rest, iterator))
            return
        iterator = iter(first)
    for line in iterator:
        write(line)


def _joined(*parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        yield from part


def _pager() -> list[str]:
    """Return the command of the user's pager; empty for none."""
    if os.environ.get("TERM") == "dumb":
        return []
    try:
        command = shlex.split(os.environ.get("PAGER", "less"))
    except ValueError:
        return []
    return command if command and command[0] != "cat" and shutil.which(command[0]) else []


def _page(command: list[str], lines: Iterable[str]) -> None:
    """Give *lines* to a pager until it has enough of them."""
    environment = {"LESS": "-RFX", **os.environ}
    with _interrupts_ignored(), subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:  # noqa: S603 - the user's own
        if process.stdin is None:
            return
        encoding = sys.stdout.encoding or "utf-8"
        out = io.TextIOWrapper(process.stdin, encoding=encoding, errors="backslashreplace", write_through=True)
        with contextlib.suppress(BrokenPipeError):  # the reader left before the end
            for line in lines:
                out.write(_encodable(line) + "\n")
        with contextlib.suppress(BrokenPipeError):
            out.close()


@contextlib.contextmanager
def _interrupts_ignored() -> Generator[None, None, None]:
    """Ignore interrupts for a while: they are for the pager."""
    # Not SIG_IGN: the pager would inherit it and could not be interrupted.
    before = signal.signal(signal.SIGINT, _nothing)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _nothing(_number: int, _frame: object) -> None:
    """Handle a signal by doing nothing."""
