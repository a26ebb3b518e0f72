"""A child process that ``agl run`` stands in for: same terminal, same signals, same end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from agentlightning.errors import AgentLightningError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_IGNORED = ("SIGINT", "SIGQUIT")
"""The terminal sends these to the whole process group: the child decides, we stay to see how it ends."""

_FORWARDED = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""Sent to us alone: the child gets them too."""


class Child:
    """A program in our process group with our standard streams."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        """Prepare to run *arguments* with *environment*."""
        self._arguments = arguments
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._code = 0

    def run(self, while_it_runs: Callable[[], None] | None = None) -> int:
        """Run the program and return its exit code, or minus the signal that ended it.

        Args:
            while_it_runs: Called once in a thread when the program has been started; it must not raise.

        Raises:
            CommandError: The program cannot be started; the message says why.
        """
        restore = self._handle_signals()
        try:
            try:
                # Descriptors that we inherited are for the program (make's job server, sockets of systemd); ours close.
                self._process = subprocess.Popen(self._arguments, env=self._environment, close_fds=False)  # noqa: S603 - the user's own command
            except OSError as error:
                msg = f"cannot start {self._arguments[0]}: {error.strerror}"
                raise CommandError(msg) from error
            if while_it_runs is not None:
                threading.Thread(target=while_it_runs, daemon=True).start()
            self._code = self._process.wait()
        finally:
            restore()
        return self._code

    def end_alike(self) -> None:
        """When a signal ended the program, end this process by the same one; else return."""
        if self._code >= 0 or not hasattr(signal, "SIGKILL"):
            return
        with contextlib.suppress(ImportError, OSError, ValueError):
            import resource  # noqa: PLC0415 - not on Windows

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program's core dump is the one that matters
        with contextlib.suppress(OSError, ValueError, AttributeError):  # AttributeError: it was closed before we began
            sys.stdout.flush()
        with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler to reset
            signal.signal(-self._code, signal.SIG_DFL)
        os.kill(os.getpid(), -self._code)

    def _handle_signals(self) -> Callable[[], None]:
        """Set handlers and return what puts the old ones back.

        Handlers, not SIG_IGN: the child would inherit that. What was ignored before stays ignored, for the child too.
        """
        before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        for name in (*_IGNORED, *_FORWARDED):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                handler = self._forward if name in _FORWARDED else _do_nothing
                before[number] = signal.signal(number, handler)

        def restore() -> None:
            """Give the signals back to the handlers that were there before."""
            for number, handler in before.items():
                signal.signal(number, handler)

        return restore

    def _forward(self, number: int, _frame: object) -> None:
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.send_signal(number)


class CommandError(AgentLightningError):
    """The program of ``agl run`` cannot be started."""


def _do_nothing(_number: int, _frame: object) -> None:
    """Stay alive: the child got the signal too."""
