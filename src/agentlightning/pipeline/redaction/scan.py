"""The value layer: look once at a text for gate words, and where one stands, apply the rules that it belongs to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from agentlightning.pipeline.redaction.assignment import is_secret_assignment
from agentlightning.pipeline.redaction.check import CHECKS, entropy, has_kinds
from agentlightning.pipeline.redaction.engine import default_compile
from agentlightning.pipeline.redaction.gate import make_gate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentlightning.pipeline.redaction.engine import Pattern
    from agentlightning.pipeline.redaction.gate import Gate
    from agentlightning.pipeline.redaction.rule import Rule


class Finding(NamedTuple):
    """A credential in a text: where it begins and ends, and the id of the rule that found it."""

    start: int
    end: int
    rule: str


_ALNUM = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_TOKEN = _ALNUM | frozenset(b"+/_-")
_VALUE = _ALNUM | frozenset(b"+/_-=~.")
_DOT = 46

_ESCAPE = re.compile(
    rb"(?:\\[abefnrtv0]|%[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|&(?:quot|amp|lt|gt|apos|\#[0-9]{1,4});)\Z"
)
"""An escape sequence, whose last character is a letter or digit and yet no part of the next word."""

_CLOSE = rb"""[ \t]{0,4}(?:\\{0,15}["'`]|[\])]|%22|%27|%5[dD]|&quot;){0,3}[ \t]{0,4}"""
_SIGN = rb"(?:=>|:{1,3}=|={1,3}|:|>|\?=|\|\||%3[AaDd])"
_OPEN = rb"""(?:[ \t\r\n]|b(?=["'])|\\{0,15}["'`]|%2[027]|&quot;|[\[(=]){0,8}"""
_IN_KEY = re.compile(rb"(?:[\w.\-]{1,50}" + _CLOSE + rb"(?:" + _SIGN + rb"|,)|" + _CLOSE + _SIGN + rb")" + _OPEN)
"""From behind a gate word to where the value begins, where the word is part of the name that is assigned to."""
_NEARBY = re.compile(rb"(?:" + _SIGN + rb"|,)" + _OPEN)
_GENERIC = re.compile(
    rb"[\w.\-]{0,20}"
    + _CLOSE
    + rb"(?:"
    + _SIGN
    + rb"|,(?=[ \t]{0,4}\\{0,15}[\"']))"
    + _OPEN
    + rb"([\w.=\-]{10,150})(?![\w.=\-(\[])"
)
_NAME = re.compile(rb"[\w.\-]*\Z")
_REST = re.compile(rb"[\w.\-]{0,20}")
_BREAK = re.compile(rb"[^A-Za-z0-9+/=_.~%|@:\\\-]")
# These patterns of our own are short and bounded and stay with ``re`` in every engine: a call costs a third of RE2's.


class _Compiled:
    """A rule with its pattern, compiled when the gate lets a text through for the first time."""

    __slots__ = ("_compile", "_pattern", "also", "number", "rule")

    def __init__(self, rule: Rule, number: int, compile_: Callable[[str], Pattern]) -> None:
        self.rule = rule
        self.number = number
        self.also = [word.encode() for word in rule.also]
        self._compile = compile_
        self._pattern: Pattern | None = None

    @property
    def pattern(self) -> Pattern:
        """The rule's pattern, compiled when it is first asked for."""
        if self._pattern is None:
            self._pattern = self._compile(self.rule.pattern or f"({self.rule.value})")
        return self._pattern


class _Word:
    """What a gate word stands for: its rules, by the way in which they are applied."""

    __slots__ = ("begins", "generic", "in_key", "least", "length", "nearby", "own")

    def __init__(self, word: str, rules: list[_Compiled]) -> None:
        self.length = len(word)
        self.generic = [one for one in rules if one.rule.check == "generic"]
        self.own = [one for one in rules if one.rule.kind == "own"]
        self.in_key = [one for one in rules if one.rule.kind == "word" and one.rule.in_key]
        rest = [one for one in rules if one.rule.kind == "word" and not one.rule.in_key]
        self.nearby = [one for one in rest if one not in self.generic]
        # Every rule begins at the word: a letter or digit in front of it, or too little behind it, rules out all.
        self.begins = all(one.rule.begins for one in rules)
        self.least = min(one.rule.least for one in rules) if self.begins else 0


class ValueScanner:
    """Finds credentials by their shape. Thread-safe: nothing but compiled patterns is kept."""

    def __init__(
        self,
        rules: tuple[Rule, ...],
        gate: Callable[[Mapping[str, _Word]], Gate[_Word]] | None = None,
        compile_: Callable[[str], Pattern] | None = None,
    ) -> None:
        """Take *rules*; *gate* and *compile_* stand for the engines, default the best that are installed."""
        compile_ = default_compile() if compile_ is None else compile_
        compiled = [_Compiled(rule, number, compile_) for number, rule in enumerate(rules)]
        words: dict[str, list[_Compiled]] = {}
        for rule in compiled:
            for word in rule.rule.gate:
                words.setdefault(word, []).append(rule)
        self._ids = [rule.id for rule in rules]
        patterns: dict[str, list[_Compiled]] = {}
        for rule in compiled:
            if rule.rule.gate_pattern:
                patterns.setdefault(rule.rule.gate_pattern, []).append(rule)
        self._patterns = [(compile_(pattern), own) for pattern, own in patterns.items()]
        table = {word: _Word(word, own) for word, own in words.items()}
        self._gate = make_gate(table) if gate is None else gate(table)

    @property
    def engine(self) -> str:
        """Name of the gate's engine."""
        return self._gate.name

    def find(self, data: bytes) -> list[Finding]:
        """Return the credentials in *data*, text in UTF-8, in order and without overlap; places are in bytes."""
        found: list[tuple[int, int, int]] = []
        for start, word in self._gate.hits(data.lower()):
            if word.begins:
                if start and data[start - 1] in _ALNUM and not _ends_escape(data, start):
                    continue
                if not _is_long(data, start, word.least):
                    continue
            _apply(word, data, start, found)
        for pattern, rules in self._patterns:
            for match in pattern.finditer(data, 0, len(data)):
                for rule in rules:
                    _own(rule, data, *match.span(), found)
        return self._merged(found) if found else []

    def _merged(self, found: list[tuple[int, int, int]]) -> list[Finding]:
        """Join what overlaps under the name of the first rule of the list."""
        merged: list[tuple[int, int, int]] = []
        for start, end, number in sorted(found):
            if merged and start < merged[-1][1]:
                before = merged.pop()
                merged.append((before[0], max(before[1], end), min(before[2], number)))
            else:
                merged.append((start, end, number))
        return [Finding(start, end, self._ids[number]) for start, end, number in merged]


def _ends_escape(data: bytes, place: int) -> bool:
    tail = data[max(0, place - 8) : place]
    return (b"\\" in tail or b"%" in tail or b"&" in tail) and _ESCAPE.search(tail) is not None


def _is_long(data: bytes, start: int, least: int) -> bool:
    """Tell whether at least so many characters that a credential may have stand together from *start* on."""
    return start + least <= len(data) and _BREAK.search(data, start, start + least) is None


def _apply(word: _Word, data: bytes, start: int, found: list[tuple[int, int, int]]) -> None:
    """Add to *found* what the rules of a gate word find around it."""
    end = start + word.length
    for rule in word.own:
        _own(rule, data, start, end, found)
    if word.generic:
        _generic(word.generic[0], data, start, end, found)
    if word.in_key and (assignment := _IN_KEY.match(data, end)) is not None:
        for rule in word.in_key:
            _value(rule, data, assignment.end(), found)
    if word.nearby:
        for assignment in _NEARBY.finditer(data, end, end + 80):
            if assignment.start() > end + 50:
                return
            for rule in word.nearby:
                _value(rule, data, assignment.end(), found)


def _own(compiled: _Compiled, data: bytes, start: int, end: int, found: list[tuple[int, int, int]]) -> None:
    """Add the value at the gate word, or around it where the rule may begin before."""
    rule = compiled.rule
    stop = min(len(data), end + rule.after)
    if not rule.before:
        if rule.least and not _is_long(data, start, rule.least):
            return
        if compiled.also and not any(data.find(word, end, stop) >= 0 for word in compiled.also):
            return
        match = compiled.pattern.match(data, start, stop)
        if match is not None and _bounded(rule, data, match.span()):
            _add(compiled, data, match.span(1), found)
        return
    place = max(0, start - rule.before)
    while place < stop:
        match = compiled.pattern.search(data, place, stop)
        if match is None:
            return
        place = match.span()[0] + 1
        if _bounded(rule, data, match.span()):
            _add(compiled, data, match.span(1), found)
            place = max(match.span()[1], place)


def _bounded(rule: Rule, data: bytes, span: tuple[int, int]) -> bool:
    """Tell whether the match stands for itself, by what is directly beside it."""
    if rule.edge == "none":
        return True
    start, end = span
    inside = _TOKEN if rule.edge == "strict" else _ALNUM
    if start and data[start - 1] in inside and not (data[start - 1] in _ALNUM and _ends_escape(data, start)):
        return False
    return end >= len(data) or data[end] not in inside


def _value(compiled: _Compiled, data: bytes, place: int, found: list[tuple[int, int, int]]) -> None:
    """Add the value at *place*, behind an assignment."""
    rule = compiled.rule
    if not _is_long(data, place, rule.least):
        return
    match = compiled.pattern.match(data, place, min(len(data), place + rule.after))
    if match is not None and _ends_value(data, match.span()[1]):
        _add(compiled, data, match.span(1), found)


def _ends_value(data: bytes, end: int) -> bool:
    """Tell whether a value ends here: no more of it follows but the full stop of a sentence."""
    if end >= len(data) or data[end] not in _VALUE:
        return True
    return data[end] == _DOT and (end + 1 >= len(data) or data[end + 1] not in _VALUE)


def _generic(compiled: _Compiled, data: bytes, start: int, end: int, found: list[tuple[int, int, int]]) -> None:
    """Add what is assigned to a name with a common word for credentials in it, when the name as a whole means one."""
    match = _GENERIC.match(data, end)
    if match is None or not _ends_value(data, match.end()):
        return
    begin, closing = _NAME.search(data, max(0, start - 60), start), _REST.match(data, end)
    name = data[begin.start() if begin else start : closing.end() if closing else end].decode()
    value = match[1]
    if entropy(value) >= compiled.rule.entropy and is_secret_assignment(name, value):
        found.append((*match.span(1), compiled.number))


def _add(compiled: _Compiled, data: bytes, span: tuple[int, int], found: list[tuple[int, int, int]]) -> None:
    """Add *span* when its value passes the tests of the rule."""
    rule, (start, end) = compiled.rule, span
    if start < 0 or start == end:
        return
    value = data[start:end]
    if rule.needs and not has_kinds(value, rule.needs):
        return
    if rule.entropy and entropy(value) < rule.entropy:
        return
    if CHECKS[rule.check](value):
        found.append((start, end, compiled.number))
