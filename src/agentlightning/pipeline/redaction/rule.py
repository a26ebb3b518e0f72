r"""The rules of the value layer: data in ``rules.json``, and those that a user adds by setting.

A rule says what a credential looks like. Its fields are those of ``Rule``; patterns are over bytes of UTF-8, in the
syntax that RE2 and Python's ``re`` share, without ``\s``, ``$`` and look-around, so that both say the same.
"""

from __future__ import annotations

import functools
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from agentlightning import settings
from agentlightning.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable

_FORMAT = 1
"""Part of the hash of a rule set: raised when the code that applies the rules changes what it finds."""


_ON = frozenset({"1", "true", "yes", "on"})
_OFF = frozenset({"0", "false", "no", "off"})


class Rule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One rule; it has a ``value`` or a ``pattern``, and a ``gate`` or a ``gate_pattern``."""

    id: str
    kind: Literal["own", "word"] = "own"
    """``own``: the value is recognisable by itself. ``word``: a gate word is assigned to, and the value follows."""
    gate: tuple[str, ...] = ()
    """Words in lower case, one of which is in every text that the rule is about."""
    gate_pattern: str = ""
    """In place of words: a quick pattern that every value contains."""
    value: str = ""
    """Pattern of the credential. For ``own`` it begins at the gate word, or at most ``before`` bytes in front."""
    pattern: str = ""
    """Pattern around the credential, which is its one group."""
    least: int = 0
    """Least length of ``value``; where fewer characters stand together, its pattern is not tried."""
    follows: str = ""
    """What always follows the gate word, as a quick pattern; for words that are common, see ``first_look``."""
    also: tuple[str, ...] = ()
    """One of these must follow within ``after`` bytes; spares the pattern where a gate word is a common one."""
    before: int = 0
    after: int = 1024
    """How far behind the gate word the match may reach, in bytes."""
    edge: Literal["word", "strict", "none"] = "word"
    """What may not stand directly beside it: a letter or digit; also ``+ / _ -``; anything may."""
    in_key: bool = False
    """For ``word``: the gate word is part of the name that is assigned to, not only within 50 characters of it."""
    entropy: float = 0.0
    """Least Shannon entropy of the credential in bits per character."""
    needs: tuple[Literal["digit", "upper", "lower"], ...] = ()
    """Kinds of characters that the credential must contain."""
    check: str = ""
    """Name of a further test in ``check.CHECKS``."""
    group: Literal["secret", "pii", "ip"] = "secret"
    """``pii`` only with ``AGL_REDACT_PII``, ``ip`` only when that names it."""
    about: str = ""

    @property
    def begins(self) -> bool:
        """Whether the value stands for itself and begins at the gate word."""
        return self.kind == "own" and not self.before and self.edge != "none"


class CustomRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule of the user: ``{"id": "...", "pattern": "..."}``, with gate words where speed matters."""

    id: str
    pattern: str
    gate: tuple[str, ...] = ()
    entropy: float = 0.0


class Options(msgspec.Struct, frozen=True):
    """What the settings say about redaction."""

    enabled: bool = True
    pii: str = "0"
    custom: str = ""
    off: str = ""

    @classmethod
    def from_settings(cls) -> Options:
        """Return the options that hold now.

        Raises:
            SettingError: A variable of the environment holds nonsense.
        """
        return cls(
            settings.get(settings.REDACT),
            settings.get(settings.REDACT_PII),
            settings.get(settings.REDACT_RULES),
            settings.get(settings.REDACT_OFF),
        )


@functools.lru_cache(maxsize=1)
def built_in_rules() -> tuple[Rule, ...]:
    """Return the rules that the package brings, secrets first, then PII."""
    return msgspec.json.decode(
        (files("agentlightning.pipeline.redaction") / "rules.json").read_bytes(), type=tuple[Rule, ...]
    )


@functools.lru_cache(maxsize=8)
def active_rules(options: Options) -> tuple[Rule, ...]:
    """Return the rules of *options*, those of the user first.

    Raises:
        SettingError: A name that is switched off or a PII rule that is named does not exist, or a rule is wrong.
    """
    if not options.enabled:
        return ()
    custom = check_custom(options.custom)
    known = {rule.id for rule in (*custom, *built_in_rules())} | {"named", "environment"}
    off, pii = _names(options.off), _names(options.pii)
    _refuse_unknown(settings.REDACT_OFF.variable, off - known)
    check_pii(options.pii)
    groups = {"secret", "pii"} if pii & _ON else {"secret"}
    named = pii - _ON - _OFF
    return tuple(
        rule
        for rule in (*custom, *built_in_rules())
        if rule.id not in off and (rule.group in groups or rule.id in named)
    )


def rules_hash(options: Options | None = None) -> str:
    """Return 16 hexadecimal digits that two processes share exactly when they redact the same values.

    Rules and options count, the key does not. A server that has the same hash as its client need not look again.

    Raises:
        SettingError: The settings of redaction hold nonsense.
    """
    return _hash_of(Options.from_settings() if options is None else options)


@functools.lru_cache(maxsize=8)
def _hash_of(options: Options) -> str:
    content = msgspec.json.encode((_FORMAT, active_rules(options), sorted(_names(options.off))))
    return hashlib.sha256(content).hexdigest()[:16]


@functools.lru_cache(maxsize=8)
def check_custom(text: str) -> tuple[Rule, ...]:
    """Return the rules in *text*: JSON, or the path of a file with it.

    Raises:
        SettingError: No such file, no JSON, a field too many, a pattern that RE2 refuses or that matches nothing.
    """
    if not text.strip():
        return ()
    source = settings.REDACT_RULES.variable
    if not text.lstrip().startswith("["):
        try:
            text = Path(text).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{source}: {error}; give a JSON list of rules or the path of a file with one"
            raise SettingError(msg) from None
    try:
        rules = msgspec.json.decode(text, type=list[CustomRule])
    except msgspec.DecodeError as error:
        msg = f'{source}: {error}; a rule is {{"id": "name", "pattern": "regular expression", "gate": ["word"]}}'
        raise SettingError(msg) from None
    return tuple(_custom(rule, source) for rule in rules)


def _custom(rule: CustomRule, source: str) -> Rule:
    from agentlightning.pipeline.redaction.engine import compile_safely  # noqa: PLC0415 - loads RE2

    if not rule.id or not rule.id.replace("-", "").replace("_", "").isalnum() or not rule.id.isascii():
        msg = f"{source}: {rule.id!r} is no name for a rule; use letters, digits and dashes"
        raise SettingError(msg)
    groups = compile_safely(rule.pattern, f"{source}: rule {rule.id!r}")
    gate = tuple(word.lower() for word in rule.gate if word)
    if any(not word.isascii() for word in gate):
        msg = f"{source}: rule {rule.id!r}: gate words are ASCII"
        raise SettingError(msg)
    if groups > 1:
        msg = (
            f"{source}: rule {rule.id!r} has {groups} groups; mark at most one, the value, and write (?:...) elsewhere"
        )
        raise SettingError(msg)
    return Rule(
        id=rule.id,
        gate=gate,
        gate_pattern="" if gate else rule.pattern,
        pattern=rule.pattern if groups else f"({rule.pattern})",
        before=256 if gate else 0,
        after=4096 if gate else 0,
        edge="none",
        entropy=rule.entropy,
        check="custom",
    )


def check_pii(text: str) -> None:
    """Refuse names that are no rules for personal data.

    Raises:
        SettingError: There is no such rule.
    """
    personal = {rule.id for rule in built_in_rules() if rule.group != "secret"}
    _refuse_unknown(settings.REDACT_PII.variable, _names(text) - _ON - _OFF - personal)


def _names(text: str) -> frozenset[str]:
    return frozenset(name for part in text.split(",") if (name := part.strip().lower()))


def _refuse_unknown(source: str, names: Iterable[str]) -> None:
    unknown = ", ".join(sorted(names))
    if unknown:
        msg = f"{source}: there is no rule {unknown}; `agl redact rules` lists them"
        raise SettingError(msg)
