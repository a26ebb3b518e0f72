"""The first look: one search by RE2 that rules out most texts, because no rule could find anything in them.

Its pattern is a necessary condition of every rule, loose where exactness would cost time: it says "perhaps" too often,
and "no" never wrongly. RE2 leaves the interpreter to the program meanwhile, and needs about 2 us for each KB.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentlightning.pipeline.redaction.engine import Pattern
    from agentlightning.pipeline.redaction.rule import Rule

log = logging.getLogger("agentlightning.pipeline")

_LONGEST = 8
"""Characters that are asked for at a gate word; each more multiplies the states of the automaton."""

_MOST_MEMORY = 2**23
"""Bytes of RE2's automaton; little of it is used for ordinary texts; with too little it is ten times as slow."""

_IN_VALUE = r"[A-Za-z0-9+/=_.~%|@:\\\-]"
_BEFORE = r"(?:^|[^A-Za-z0-9]|\\[abefnrtv0]|%[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2})"
"""In front of a value that stands for itself: no letter or digit, unless it ends an escape sequence."""

_FOLDED = r"\xe2\x84\xaa|\xc5\xbf|\xc4\xb0"
"""Letters beyond ASCII, in UTF-8, that become one of ASCII in lower case."""

_ASSIGNED = (
    r"[\w.\-]*"
    r"""(?:[ \t\\"'`\])]|%2[27]|%5[dD]|&quot;)*"""
    r"(?:[=:>,|]|\?=|%3[AaDd])"
    r"""(?:[ \t\r\nb"'`\\\[(=:>|]|%2[027]|&quot;)*""" + _IN_VALUE + "{10}"
)
"""From a gate word that is part of a name to the tenth character of what is assigned to it."""


def first_look_pattern(rules: Iterable[Rule], also: Iterable[str] = ()) -> str | None:
    """Return the pattern for *rules* and for the patterns *also*.

    None when a rule of the user has no gate word: its pattern may be about a whole text, and texts are joined.
    """
    gates: dict[str, list[Rule]] = {}
    alone: dict[str, list[str]] = {}
    assigned: list[str] = []
    plain: list[str] = [*also, _FOLDED]
    for rule in rules:
        for word in rule.gate:
            gates.setdefault(word, []).append(rule)
        if not rule.gate:
            if rule.check == "custom":
                return None
            plain.append(f"(?:{rule.gate_pattern})")
    for word, own in gates.items():
        escaped = re.escape(word)
        begins = all(rule.begins for rule in own)
        following = {rule.follows for rule in own}
        if "" in following:
            missing = min(_LONGEST, *(rule.least for rule in own)) - len(word)
            following = {f"{_IN_VALUE}{{{missing}}}" if begins and missing > 0 else ""}
        if begins:
            for tail in following:
                alone.setdefault(tail, []).append(escaped)
        elif following == {""} and all(rule.in_key or rule.check == "generic" for rule in own):
            assigned.append(escaped)
        else:
            plain += [escaped + tail for tail in following]
    parts = [*dict.fromkeys(plain)]
    if alone:
        beginnings = (f"(?:{'|'.join(words)}){tail}" for tail, words in alone.items())
        parts.append(f"{_BEFORE}(?:{'|'.join(beginnings)})")
    if assigned:
        parts.append(f"(?:{'|'.join(assigned)}){_ASSIGNED}")
    return "|".join(parts)


def compile_first_look(pattern: str | None) -> Pattern | None:
    """Return *pattern* compiled, in which case and encoding play no part; None without RE2, or without a pattern."""
    if not pattern:
        return None
    try:
        import re2  # noqa: PLC0415 - loaded by the worker, when the first text is looked at
    except ImportError:
        return None
    module = cast("Any", re2)
    options = module.Options()
    options.case_sensitive = False
    options.encoding = module.Options.Encoding.LATIN1
    options.never_capture = True
    options.max_mem = _MOST_MEMORY
    options.log_errors = False
    try:
        return module.compile(pattern.encode(), options)
    except module.error:  # thousands of gate words of the user's
        log.warning("redaction: there are too many rules for a quick first look; every text is looked at closely")
        return None
