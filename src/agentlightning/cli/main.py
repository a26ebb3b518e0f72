"""The group of commands, and the one place where an error becomes a line on stderr and an exit code.

Exit codes: 0 done, 1 the command looked and the answer is no, 2 wrong usage or a store that cannot be used,
130 interrupted. ``agl run`` ends as its program ended.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from agentlightning import settings
from agentlightning._internal.guard import guard
from agentlightning.errors import AgentLightningError

if TYPE_CHECKING:
    from collections.abc import Generator
    from importlib.metadata import EntryPoint

COMMANDS = {
    "run": "Run a program and record its agents.",
    "ls": "List recorded rollouts, newest first.",
    "show": "Show a rollout as a tree, as conversations, or as JSON.",
    "tail": "Print spans as they start and end.",
    "cost": "Explain what rollouts cost.",
    "export": "Write recorded rollouts as training data, or send them to an OTLP backend.",
    "import": "Read rollouts from a file that agl export, or another program, wrote.",
    "agentops": "Run a local server for the AgentOps SDK.",
    "store": "Serve a store, back it up, check it, delete old rollouts.",
    "redact": "Show what redaction finds in a text, and its rules.",
    "doctor": "Check this installation, its settings and its store; say what helps.",
    "bench": "Measure what tracing costs here, beside plain OpenTelemetry.",
}
"""Name and one line of every command; ``agentlightning.cli.NAME`` holds it as ``command``."""

_MODULES = {"import": "import_file"}
"""Commands whose name no module can have."""


ENTRY_POINTS = "agentlightning.commands"
"""Entry point group of further commands: the name of each and its ``click.Command``."""


class _LazyGroup(click.Group):
    """A group that imports a command when it is called: ``agl run`` must not wait for what ``agl show`` needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return our commands and those of other packages, without importing one."""
        _ = ctx
        return [*COMMANDS, *_further()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command and return it; None when there is no such command."""
        _ = ctx
        if cmd_name not in COMMANDS:
            return _load_further(cmd_name)
        module = _MODULES.get(cmd_name, cmd_name)
        command: click.Command = importlib.import_module(f"agentlightning.cli.{module}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands; only those of other packages are imported for their help."""
        _ = ctx
        with formatter.section("Commands"):
            further = ((name, _load_further(name)) for name in _further())
            lines = [(name, found.get_short_help_str(100)) for name, found in further if found is not None]
            formatter.write_dl([*COMMANDS.items(), *lines])

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401 - click's own signature
    ) -> click.Context:
        """Parse the arguments; ends by SIGPIPE when the reader of a help text is gone."""
        with _end_with_the_reader():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Run the command; ends by SIGPIPE when the reader of what it prints is gone."""
        with _end_with_the_reader():  # before click makes an exit code of it
            return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say how a program is run when a file was named instead."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if args[0].endswith(".py"):
                msg = f"{error.message} To run a program: agl run {' '.join(args)}"
                raise click.UsageError(msg, ctx) from None
            raise


def _further() -> dict[str, EntryPoint]:
    """Return the commands of other packages; one that has the name of ours is left out."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - 10 ms that ``agl run`` does not need

    return {point.name: point for point in entry_points(group=ENTRY_POINTS) if point.name not in COMMANDS}


def _load_further(name: str) -> click.Command | None:
    """Load a command of another package; a broken one is no reason for the others to fail."""
    point = _further().get(name)
    found: object = None
    with guard(f"command.{name}"):
        found = None if point is None else point.load()
    return found if isinstance(found, click.Command) else None


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
    _fill_standard_streams()
    with _end_with_the_reader():
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


@contextlib.contextmanager
def _end_with_the_reader() -> Generator[None, None, None]:
    """Let ``agl show | head`` end like any Unix tool when its reader is gone: by SIGPIPE, without a word.

    The signal stays ignored until then, as Python has it: a connection whose other side leaves is no reason to end.
    """
    try:
        yield
    except BrokenPipeError:
        import signal  # noqa: PLC0415 - a builtin module on every platform, with other names on Windows

        if hasattr(signal, "SIGPIPE"):
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.raise_signal(signal.SIGPIPE)
        os._exit(1)  # not by an exception: the interpreter would complain about what it cannot flush
