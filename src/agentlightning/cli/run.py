"""``agl run``: start a program unchanged, record what its agents do, end exactly as it ends."""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import shutil
import sys
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from agentlightning import settings
from agentlightning._internal.answer import Answer, answer_of
from agentlightning._internal.clock import now_ns
from agentlightning._internal.context import format_traceparent, home_rollout, parse_traceparent
from agentlightning._internal.guard import guard
from agentlightning._internal.ids import new_attempt_id, new_rollout_id, new_trace_id, process_key, virtual_span_id
from agentlightning.cli.child import Child
from agentlightning.errors import StoreError, StoreUnavailableError
from agentlightning.pipeline.ledger import Account, Ledger, ledger_folder, own_folder, read_accounts
from agentlightning.pipeline.redaction import Redactor
from agentlightning.pipeline.spill import Spill
from agentlightning.store.url import open_writer
from agentlightning.types.record import AttemptEnd, RolloutStart, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentlightning.types.protocol import SpanWriter

_BOOTSTRAP = Path(__file__).parent / "bootstrap"

_END_WAIT_S = 2.0
"""Longest time that a store which does not answer holds up the end of the command."""

_REPORT_WAIT_S = 10.0
"""Longest time that reading the rollout back takes; a rollout of 100,000 spans needs a second."""

T = TypeVar("T")


class _RunCommand(click.Command):
    """A command whose options end where the program begins, after ``-m MODULE`` as for Python itself."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options before the program and leave the program's own to it."""
        taking_value = {
            name for option in self.params if option.nargs == 1 for name in option.opts if not _is_flag(option)
        }
        place = 0
        while place < len(args) and args[place].startswith("-") and args[place] != "--":
            if args[place] == "-m":
                args = [*args[: place + 2], "--", *args[place + 2 :]]
                break
            place += 2 if args[place] in taking_value else 1
        return super().parse_args(ctx, args)


def _is_flag(option: click.Parameter) -> bool:
    return isinstance(option, click.Option) and option.is_flag


@click.command(cls=_RunCommand, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--store", metavar="URL", help="Store or file to record into; default: AGL_STORE, else the user's own.")
@click.option("--project", metavar="NAME", help="Project of the rollout; default: AGL_PROJECT, else 'default'.")
@click.option(
    "--no-instrument", "left_out", metavar="NAME", multiple=True, help="Leave an instrumentor out; repeatable."
)
@click.option("--best-effort", is_flag=True, help="Run the program untraced when the store cannot be used.")
@click.option("--proxy", is_flag=True, help="Record model calls of any language, by a proxy for OpenAI and Anthropic.")
@click.option("--http", is_flag=True, help="Record model calls of HTTP clients in Python that no instrumentor sees.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing at the end.")
@click.option("-m", "module", metavar="MODULE", help="Run a module, as python -m does.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def command(  # noqa: PLR0913 - one parameter for each option
    *, store: str | None, project: str | None, left_out: tuple[str, ...], best_effort: bool, proxy: bool, http: bool,
    quiet: bool, module: str | None, command: tuple[str, ...],
) -> int:  # fmt: skip
    """Run a program and record its agents: agl run python my_agent.py, agl run my_agent.py, agl run -m package.

    Input, output, exit code and signals are the program's own. Options of agl come before the program.
    """
    arguments = resolve_command(command, module)
    environment = _settings_from_options(store, project, left_out, http=http)
    recording = None
    if settings.get(settings.ENABLED):
        try:
            recording = Recording.begin(arguments)
        except StoreError as error:
            if not best_effort:
                raise
            click.echo(f"agl: not recorded: {error}", err=True)
    variables = recording.environment() if recording else {}
    with contextlib.ExitStack() as stack:
        if recording and proxy:
            from agentlightning.cli.proxy import model_proxy  # noqa: PLC0415 - only where it is asked for

            where = recording.writer.url, recording.rollout_id, recording.attempt_id, recording.folder
            variables |= stack.enter_context(model_proxy(*where))
        child = Child(arguments, {**os.environ, **environment, **variables})
        code = child.run(while_it_runs=_preload if recording else None)
    # The program has ended: whatever goes wrong from here on, its exit code or signal is what the caller gets.
    if recording:
        line = f"agl: the summary cannot be made · agl show {recording.rollout_id}"
        is_stuck = False
        with guard("report"):
            line, is_stuck = _last_line(recording, code, store)
        with contextlib.suppress(OSError):  # its reader may have closed our stderr
            if not quiet:
                click.echo(line, err=True)
        if is_stuck and code >= 0:  # the interpreter would wait for the thread that waits for the store
            os._exit(code)
    child.end_alike()
    return code


def _last_line(recording: Recording, code: int, named: str | None) -> tuple[str, bool]:
    """Note how the program ended, and return what is said about it and whether the store is still at work.

    The program has run; its exit code matters more than anything of ours, so nothing here waits for long.
    """
    try:
        _in_time(lambda: recording.end(code), _END_WAIT_S)
    except StoreError as error:
        account = read_accounts(recording.folder)[0] if recording.folder else Account()
        later = "; what is missing follows with the next run" if recording.spill_end(code) else ""
        stored = f"{account.stored} of {account.produced} spans of {recording.rollout_id} are stored"
        return f"agl: {stored}{later}: {error}", True
    from agentlightning.cli.report import report  # noqa: PLC0415 - loaded while the program ran

    recording.writer.close()  # the program may have harmed the file: what is read now, is read anew
    try:
        return _in_time(
            lambda: report(recording.writer.url, recording.rollout_id, recording.folder, named=named), _REPORT_WAIT_S
        ), False
    except StoreError as error:
        return f"agl: the rollout {recording.rollout_id} cannot be read back: {error}", True


def _in_time(work: Callable[[], T], timeout_s: float) -> T:
    """Return what *work* returns.

    Raises:
        StoreError: It took longer than *timeout_s* and goes on in its thread, or it raised this.
    """
    outcome: Future[Answer[T]] = Future()

    def run() -> None:
        """Do the work and keep what it returned or raised."""
        outcome.set_result(answer_of(work))

    threading.Thread(target=run, name="agl-end", daemon=True).start()
    try:
        answer = outcome.result(timeout_s)
    except FutureTimeoutError:
        msg = f"the store did not answer within {timeout_s:g} s; another process may keep it locked"
        raise StoreUnavailableError(msg) from None
    return answer.get()


def resolve_command(command: tuple[str, ...], module: str | None) -> list[str]:
    """Return the program to start for what the user typed: a module, a script, or any command.

    Raises:
        click.UsageError: Nothing to run, or it cannot be found.
    """
    if module is not None:
        return [sys.executable, "-m", module, *command]
    if not command:
        msg = "nothing to run; write: agl run python my_agent.py"
        raise click.UsageError(msg)
    first = command[0]
    if first.endswith((".py", ".pyw")):
        if not Path(first).is_file():
            msg = f"there is no script {first!r} in {Path.cwd()}"
            raise click.UsageError(msg)
        if not os.access(first, os.X_OK) or not _has_shebang(Path(first)):
            return [sys.executable, *command]
        return [first if os.sep in first else os.path.join(os.curdir, first), *command[1:]]  # noqa: PTH118 - Path drops "./"
    if shutil.which(first) is None:
        msg = f"there is no command {first!r}; write: agl run python my_agent.py"
        raise click.UsageError(msg)
    script = _python_script(command)
    if script is not None and not Path(script).is_file():
        msg = f"there is no script {script!r} in {Path.cwd()}"
        raise click.UsageError(msg)
    return list(command)


def _has_shebang(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"#!"


def _python_script(command: tuple[str, ...]) -> str | None:
    """Return the script in ``python script.py``, so that a missing one is our clear message, not a rollout."""
    name = Path(command[0]).name
    if not name.startswith("python") or len(command) < 2:  # noqa: PLR2004 - a program and its script
        return None
    return command[1] if command[1].endswith(".py") else None


def _settings_from_options(
    store: str | None, project: str | None, left_out: tuple[str, ...], *, http: bool
) -> dict[str, str]:
    """Check all settings, make the options hold in this process and return them as variables for the program."""
    settings.check_environment()
    changed: dict[str, str] = {}
    if store:
        changed["AGL_STORE"] = store
    if project:
        changed["AGL_PROJECT"] = project
    if http:
        changed["AGL_HTTP"] = "1"
    if left_out:
        chosen = [word for word in (settings.get(settings.INSTRUMENT), *(f"-{name}" for name in left_out)) if word]
        changed["AGL_INSTRUMENT"] = ",".join(chosen)
    os.environ.update(changed)
    return changed


class Recording:
    """The rollout of one ``agl run``: begun before the program starts, ended after it ended."""

    def __init__(self, writer: SpanWriter, rollout_id: str, attempt_id: str) -> None:
        """Stand for a rollout that is in the store already."""
        self.writer = writer
        self.rollout_id = rollout_id
        self.attempt_id = attempt_id
        self.folder = ledger_folder(writer.url or "", attempt_id)

    @classmethod
    def begin(cls, arguments: list[str]) -> Recording:
        """Write the rollout of *arguments* to the store.

        Raises:
            StoreError: The store cannot be opened or written; the program was not started.
        """
        outer = home_rollout()  # "agl run" inside "agl run"
        writer = open_writer()
        recording = cls(writer, new_rollout_id(), new_attempt_id())
        metadata = {"source": "agl run", "working_directory": str(Path.cwd())}
        if outer is not None and outer.store_url == writer.url:
            metadata["parent_rollout_id"] = outer.rollout_id
        start = RolloutStart(
            rollout_id=recording.rollout_id,
            attempt_id=recording.attempt_id,
            project=settings.get(settings.PROJECT),
            input=shlex.join(Redactor().command(arguments)),
            start_ns=now_ns(),
            metadata=metadata,
            process=process_key(),
        )
        writer.write_batch(WriteBatch(starts=[start]))
        if recording.folder is not None:
            own_folder(recording.folder)
        return recording

    def environment(self) -> dict[str, str]:
        """Return the variables by which the program and its children find the rollout."""
        outer = parse_traceparent(os.environ.get("TRACEPARENT"))
        trace_id, span_id = outer or (new_trace_id(), virtual_span_id(self.attempt_id))
        path = os.environ.get("PYTHONPATH")
        return {
            "AGL_ROLLOUT_ID": self.rollout_id,
            "AGL_ATTEMPT_ID": self.attempt_id,
            "AGL_STORE": self.writer.url or "",
            "AGL_LEDGER": str(self.folder or ""),
            "TRACEPARENT": format_traceparent(trace_id, span_id),
            "PYTHONPATH": str(_BOOTSTRAP) + (os.pathsep + path if path else ""),
        }

    def end(self, code: int) -> None:
        """Write how the program ended: its exit code, or minus the signal that killed it.

        Raises:
            StoreError: The store cannot be written.
        """
        self.writer.write_batch(WriteBatch(ends=[self._end(code)]))

    def spill_end(self, code: int) -> bool:
        """Leave the end on the disk for the next run to write; tell whether that was possible."""
        spill = Spill(self.writer.url or "", Ledger(None), settings.get(settings.PROJECT))
        with contextlib.suppress(OSError):
            spill.put(WriteBatch(ends=[self._end(code)]))
            spill.close_segment()
            return True
        return False

    def _end(self, code: int) -> AttemptEnd:
        outcome = {"exit_code": code} if code >= 0 else {"signal": -code}
        status = "succeeded" if code == 0 else "failed"
        return AttemptEnd(
            rollout_id=self.rollout_id, attempt_id=self.attempt_id, status=status, end_ns=now_ns(), metadata=outcome
        )


def _preload() -> None:
    """Import what the last line needs, while the program runs and without taking the processor from it."""
    with guard("report"):
        if sys.platform == "linux":  # where a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        importlib.import_module("agentlightning.cli.report")
        importlib.import_module("agentlightning.store.sql.manager")
        importlib.import_module("agentlightning.view.prices").bundled_prices()
