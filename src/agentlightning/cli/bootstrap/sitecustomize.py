# ruff: noqa: INP001 - Python looks for this very file, in no package
"""Starts capture in every Python process below ``agl run``; Python imports this file by its name when it starts.

It runs in whatever Python 3 the program uses, so it must parse on old ones; it imports nothing but ``os`` and ``sys``,
which every Python has loaded; and it is never seen: the program's own ``sitecustomize`` is imported as if this one were
not there, and this folder leaves ``sys.path`` again.
"""

import os
import sys


def _note(name: str, text: str) -> None:
    """Leave a note for ``agl run`` in the folder of this attempt."""
    folder = os.environ.get("AGL_LEDGER")
    if folder and os.path.isdir(folder):  # noqa: PTH112 - pathlib takes 10 ms in every child
        descriptor = os.open(folder + os.sep + name, os.O_CREAT | os.O_WRONLY, 0o600)
        os.write(descriptor, text.encode("utf-8", "replace"))
        os.close(descriptor)


def _chain() -> None:
    """Import the sitecustomize that Python would have found without ours, if there is one."""
    here = __file__.rpartition(os.sep)[0]
    sys.path[:] = [entry for entry in sys.path if entry != here]
    ours = sys.modules.pop("sitecustomize", None)
    try:
        __import__("sitecustomize")
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        # The import system, still busy with us, looks for an entry of this name.
        if ours is not None:
            sys.modules.setdefault("sitecustomize", ours)


def _fill_standard_streams() -> None:
    """Put the null device where a standard stream is closed: else a file of ours lands there, and output in it."""
    for place in (0, 1, 2):
        try:
            os.fstat(place)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free place; closed for programs that this one starts


def _start() -> None:
    """Start capture, or say why not; never raise into the program."""
    try:
        try:
            from agentlightning.tracer.auto import start_capture  # noqa: PLC0415 - it may not be there
        except (ImportError, SyntaxError):
            _note(f"untraced-{os.getpid()}", sys.executable or "python")
        else:
            _fill_standard_streams()
            _note("reached", "")
            start_capture()
    except Exception as error:  # noqa: BLE001 - the program starts all the same
        if os.environ.get("AGL_LOG_LEVEL"):
            sys.excepthook(type(error), error, error.__traceback__)


try:
    _chain()
finally:
    if os.environ.get("AGL_ENABLED", "1").strip().lower() not in {"0", "false", "no", "off"}:
        _start()
