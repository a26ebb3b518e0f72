"""The logger of the telemetry, silent until somebody wants to hear it.

``logging.getLogger("ai_agents.telemetry").setLevel(logging.DEBUG)`` alone is enough to see its lines on stderr: where
the level was set by hand and the program configured no handler, ours writes them.
"""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("ai_agents.telemetry")


class StderrWhenAsked(logging.Handler):
    """Handler that writes to stderr only if the logger's level was set and nobody else handles its records."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write *record*, or leave it to the handlers that the program configured."""
        if logger.level == logging.NOTSET or _others(logger):
            return
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 - as in every handler: logging must not break the program
            self.handleError(record)


def _others(start: logging.Logger) -> bool:
    """Tell whether a handler that is not ours gets the logger's records."""
    current: logging.Logger | None = start
    while current is not None:
        if any(not isinstance(one, (StderrWhenAsked, logging.NullHandler)) for one in current.handlers):
            return True
        current = current.parent if current.propagate else None
    return False


def install() -> None:
    """Attach the handler, once."""
    if not any(isinstance(one, StderrWhenAsked) for one in logger.handlers):
        handler = StderrWhenAsked()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)


install()
