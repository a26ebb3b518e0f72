"""Regular expressions of the rules: RE2 where it is installed, Python's ``re`` where it is not, equal verdicts."""

from __future__ import annotations

import functools
import logging
import re
from typing import TYPE_CHECKING, Any, Protocol, cast

from agentlightning.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("agentlightning.pipeline")


class Match(Protocol):
    """What a pattern found."""

    def span(self, group: int = 0, /) -> tuple[int, int]:
        """Return where *group* begins and ends; (-1, -1) when it took no part."""
        ...


class Pattern(Protocol):
    """A compiled pattern over bytes."""

    def match(self, text: bytes, pos: int, endpos: int, /) -> Match | None:
        """Match at *pos*."""
        ...

    def search(self, text: bytes, pos: int, endpos: int, /) -> Match | None:
        """Find the first match from *pos* on."""
        ...

    def finditer(self, text: bytes, pos: int, endpos: int, /) -> Iterator[Match]:
        """Yield what does not overlap."""
        ...


Compile = "Callable[[str], Pattern]"


@functools.lru_cache(maxsize=1)
def default_compile() -> Callable[[str], Pattern]:
    """Return RE2's compiler, or that of ``re`` where there is no wheel of it; the latter is said once in the log."""
    try:
        import re2  # noqa: PLC0415 - loaded by the worker, when the first text is looked at
    except ImportError:
        log.warning("redaction: google-re2 is not installed; the same values are found, more slowly")
        return compile_with_re
    module = cast("Any", re2)

    def compile_with_re2(pattern: str) -> Pattern:
        """Compile *pattern* with RE2; raises RE2's error for one that it does not know."""
        return module.compile(pattern.encode())

    return compile_with_re2


def compile_with_re(pattern: str) -> Pattern:
    """Compile one of our own patterns with ``re``; they are bounded and looked at in short windows."""
    return cast("Pattern", re.compile(pattern.encode()))


def compile_safely(pattern: str, source: str) -> int:
    """Return how many groups a user's *pattern* has.

    Raises:
        SettingError: RE2 is not there (``re`` might take for ever), does not accept it, or it matches the empty text.
    """
    try:
        import re2  # noqa: PLC0415 - only for rules of the user
    except ImportError:
        msg = f"{source}: own rules need google-re2, which is not installed"
        raise SettingError(msg) from None
    module = cast("Any", re2)
    options = module.Options()
    options.log_errors = False
    try:
        compiled = module.compile(pattern.encode(), options)
    except module.error as error:
        reason = error.args[0] if error.args else error
        msg = f"{source}: RE2 does not take its pattern: {reason.decode() if isinstance(reason, bytes) else reason}"
        raise SettingError(msg) from None
    if compiled.search(b"") is not None:
        msg = f"{source}: its pattern matches the empty text"
        raise SettingError(msg)
    return compiled.groups
