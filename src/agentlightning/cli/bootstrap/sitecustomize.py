"""Starts capture in every Python process below ``agl run``; Python imports this file by its name when it starts.

It runs in whatever Python the program uses, so it must parse on old ones, and it must never be seen: the program's own
``sitecustomize`` is imported as if this one were not there, and the folder leaves ``sys.path`` again.
"""

import os
import sys


def _note(name, text):
    """Leave a note for ``agl run`` in the folder of this attempt."""
    folder = os.environ.get("AGL_LEDGER")
    if folder and os.path.isdir(folder):
        descriptor = os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY, 0o600)
        os.write(descriptor, text.encode("utf-8", "replace"))
        os.close(descriptor)


def _chain():
    """Import the sitecustomize that Python would have found without ours, if there is one."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if not entry or os.path.abspath(entry) != here]
    ours = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if getattr(error, "name", None) != "sitecustomize":
            raise
    finally:
        # The import system, still busy with us, looks for an entry of this name.
        if ours is not None:
            sys.modules.setdefault("sitecustomize", ours)


def _start():
    """Start capture, or say why not; never raise into the program."""
    try:
        try:
            from agentlightning.tracer.auto import start_capture
        except (ImportError, SyntaxError):
            _note("untraced-%d" % os.getpid(), sys.executable or "python")
        else:
            _note("reached", "")
            start_capture()
    except Exception:
        if os.environ.get("AGL_LOG_LEVEL"):
            import traceback

            traceback.print_exc()


try:
    _chain()
finally:
    if os.environ.get("AGL_ENABLED", "1").strip().lower() not in ("0", "false", "no", "off"):
        _start()
