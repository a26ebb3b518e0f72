"""Options and words of the commands that send spans to an OTLP backend."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import unquote

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning.server.forward import ForwardCounts, OtlpTarget

F = TypeVar("F", bound="Callable[..., Any]")

_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"


class Backend(NamedTuple):
    """Where spans go, as it was given on the command line."""

    url: str
    headers: tuple[str, ...] = ()
    ca_file: str | None = None

    def target(self) -> OtlpTarget:
        """Return the way there.

        Raises:
            click.UsageError: A header has no value.
            SettingError: The address or the certificates cannot be used.
        """
        from agentlightning.server.forward import OtlpTarget  # noqa: PLC0415 - for commands that send only

        headers = headers_of(self.headers)
        return OtlpTarget(self.url, headers=lambda: headers, ca_file=self.ca_file)


def backend_options(prefix: str = "") -> Callable[[F], F]:
    """Add ``--header`` and ``--ca``, each after *prefix*."""
    header = click.option(
        f"--{prefix}header",
        f"{prefix}headers".replace("-", "_"),
        multiple=True,
        metavar="NAME=VALUE",
        help=f"Header of each request, repeatable; others see a command line: {_HEADERS} holds secrets.",
    )
    ca_file = click.option(
        f"--{prefix}ca",
        f"{prefix}ca_file".replace("-", "_"),
        type=click.Path(exists=True, dir_okay=False),
        help="Certificates of the backend's issuer, PEM.",
    )

    def add(function: F) -> F:
        """Give *function* both options."""
        return header(ca_file(function))

    return add


def headers_of(given: tuple[str, ...]) -> dict[str, str]:
    """Return the headers of the environment and those *given*, which win.

    Raises:
        click.UsageError: One has no name or value.
    """
    named = [unquote(item) for item in os.environ.get(_HEADERS, "").split(",") if item.strip()]
    headers: dict[str, str] = {}
    for item in (*named, *given):
        name, equals, value = item.partition("=")
        # Never the item itself in the message: its value may be a secret.
        if not equals or not name.strip() or not (name + value).isascii() or not (name + value).isprintable():
            msg = "a header is NAME=VALUE, in ASCII"
            raise click.UsageError(msg)
        headers[name.strip().lower()] = value.strip()
    return headers


def report(counts: ForwardCounts, url: str) -> int:
    """Print what was done to stderr and return the exit code: 1 when the backend did not want a span."""
    click.echo(f"agl: {counts.line()} to {url}", err=True)
    return 1 if counts.skipped or counts.rejected else 0
