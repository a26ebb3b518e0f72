"""The group of commands, and the one place where an error becomes a line on stderr and an exit code.

Exit codes: 0 done, 1 the command looked and the answer is no, 2 wrong usage or a store that cannot be used,
130 interrupted. ``agl run`` ends as its program ended.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Any

import click

from agentlightning import settings
from agentlightning.errors import AgentLightningError

COMMANDS = {
    "run": "Run a program and record its agents.",
    "ls": "List recorded rollouts, newest first.",
    "show": "Show a rollout as a tree.",
    "doctor": "Check this installation, its settings and its store.",
}
"""Name and one line of every command; ``agentlightning.cli.NAME`` holds it as ``command``."""


class _LazyGroup(click.Group):
    """A group that imports a command when it is called: ``agl run`` must not wait for what ``agl show`` needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        _ = ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        _ = ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"agentlightning.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _ = ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if args[0].endswith(".py"):
                msg = f"{error.message} To run a program: agl run {' '.join(args)}"
                raise click.UsageError(msg, ctx) from None
            raise


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="agentlightning", prog_name="agl")
@click.option("-v", "--verbose", is_flag=True, help="Log every step to stderr, as AGL_LOG_LEVEL=DEBUG does.")
def group(*, verbose: bool) -> None:
    r"""Trace any Python agent without touching its code, keep every span, see what it cost.

    \b
    agl run python my_agent.py     run a program and record it
    agl ls                         what was recorded, newest first
    agl show latest                the newest rollout as a tree
    """
    if verbose:
        # By environment, so that the processes of "agl run" log too.
        os.environ[settings.LOG_LEVEL.variable] = "DEBUG"
    settings.apply_log_level()


def main(arguments: list[str] | None = None) -> Any:  # noqa: ANN401 - never returns
    """Run ``agl`` with *arguments* (default: of the process) and exit."""
    _close_pipe_quietly()
    _fill_standard_streams()
    try:
        code = group.main(arguments, prog_name="agl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except AgentLightningError as error:
        click.echo(f"agl: {error}", err=True)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _fill_standard_streams() -> None:
    """Keep the places 0 to 2 for the standard streams: where one is closed, a file of ours would be taken for it.

    What is put there is closed again for the programs that we start.
    """
    with contextlib.suppress(OSError):
        while (place := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004 - stderr
            pass
        os.close(place)


def _close_pipe_quietly() -> None:
    """Let ``agl show | head`` end like any Unix tool when its reader is gone."""
    import signal  # noqa: PLC0415 - a builtin module on every platform, with other names on Windows

    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
