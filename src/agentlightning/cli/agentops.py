"""``agl agentops``: the local AgentOps server in the foreground or as a daemon, its state, its end."""

from __future__ import annotations

from typing import Any

import click

from agentlightning.cli.options import store_options
from agentlightning.instrumentation.agentops_server import DEFAULT_PORT


def _file() -> click.Path:
    return click.Path(exists=True, dir_okay=False, resolve_path=True)


@click.command()
@store_options
@click.option(
    "--port", type=click.IntRange(0, 65535), help=f"Port, default {DEFAULT_PORT}; 0 takes a free one and prints it."
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address; others than this machine's need --tokens."
)
@click.option("--daemon", is_flag=True, help="Go on in the background.")
@click.option("--status", is_flag=True, help="Say which servers run; with --port just that one. Exit code 1 for none.")
@click.option("--stop", is_flag=True, help="End the server at --port, or the only one that runs.")
@click.option("--tokens", type=_file(), help="File that 'agl store token' writes: its tokens are the API keys.")
@click.option(
    "--require-auth", is_flag=True, help="Refuse spans without a token; SDKs from 0.4.19 lose their first ones."
)
@click.option("--allow-host", multiple=True, metavar="NAME", help="Further host name under which it is reached.")
@click.option("--tls-cert", type=_file(), help="Certificate, PEM.")
@click.option("--tls-key", type=_file(), help="Its key, PEM.")
@click.option("--ready-fd", type=int, hidden=True, help="Where a daemon tells its starter how it went.")
def command(**given: Any) -> int:  # noqa: ANN401 - as many options as a server has
    """Run a local server for the AgentOps SDK; its spans go to a store, and nothing leaves the machine.

    \b
    Point a program at it with what it prints:
      AGENTOPS_API_ENDPOINT, AGENTOPS_EXPORTER_ENDPOINT, AGENTOPS_APP_URL, AGENTOPS_API_KEY
    """  # noqa: D301 - click's mark for lines that stay as they are
    from agentlightning.cli import agentops_server  # noqa: PLC0415 - the server's parts for this command only

    if given["status"] and given["stop"]:
        msg = "--status and --stop exclude each other."
        raise click.UsageError(msg)
    if bool(given["tls_cert"]) != bool(given["tls_key"]):
        msg = "--tls-cert and --tls-key belong together."
        raise click.UsageError(msg)
    if given["status"]:
        return agentops_server.show_status(given["port"])
    if given["stop"]:
        return agentops_server.stop(given["port"])
    port = DEFAULT_PORT if given["port"] is None else given["port"]
    options = agentops_server.options_of(given)
    if given["daemon"]:
        return agentops_server.detach(port, options)
    return agentops_server.serve(port, options, given["ready_fd"])
