"""Tests of a value that no pattern can express: entropy, checksums, what is inside, and words."""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

_NEEDS = {"digit": re.compile(rb"[0-9]"), "upper": re.compile(rb"[A-Z]"), "lower": re.compile(rb"[a-z]")}


def entropy(value: bytes) -> float:
    """Return the Shannon entropy of *value* in bits per byte."""
    if not value:
        return 0.0
    shares = [value.count(code) / len(value) for code in set(value)]
    return -sum(share * math.log2(share) for share in shares)


def has_kinds(value: bytes, kinds: tuple[str, ...]) -> bool:
    """Tell whether *value* contains a character of each of *kinds*."""
    return all(_NEEDS[kind].search(value) for kind in kinds)


_WORDS = re.compile(
    b"access|account|action|active|agent|alias|allow|alpha|answer|append|array|assert|async|attempt|attribute|auth|"
    b"await|base|batch|beta|block|body|bool|browser|buffer|build|button|bytes|cache|call|cancel|catalog|chain|change|"
    b"channel|chat|check|chunk|class|client|close|cloud|code|color|column|command|commit|compar|complet|config|connect|"
    b"const|contain|content|context|control|convert|cookie|copy|count|creat|credential|current|custom|data|date|debug|"
    b"decod|default|delete|deploy|detail|device|dict|digest|direct|disable|display|document|domain|download|dummy|"
    b"edit|element|email|embed|enable|encod|endpoint|engine|entity|entry|environ|error|event|exampl|except|exec|exist|"
    b"expire|export|extern|factory|fail|fake|false|fetch|field|file|filter|final|find|first|flag|float|folder|format|"
    b"frame|from|function|generat|global|graph|group|handle|hash|header|hello|help|host|html|http|image|import|index|"
    b"info|init|input|insert|instance|integer|intern|item|json|kernel|label|language|last|layer|learn|length|level|"
    b"library|light|limit|line|link|list|load|local|lock|login|logger|loop|main|manager|match|member|memory|merge|"
    b"message|meta|method|metric|model|module|monitor|mount|name|network|next|node|none|null|number|object|offset|"
    b"open|operat|option|order|output|owner|page|param|parent|parse|password|path|pattern|persist|pipeline|plain|"
    b"player|plugin|point|policy|port|prefix|primary|print|private|process|product|profile|program|project|prompt|"
    b"property|provider|proxy|public|python|query|queue|random|range|read|record|refer|region|register|release|"
    b"remote|remove|render|replace|report|request|require|reset|resolve|resource|response|result|retry|return|review|"
    b"role|root|route|rule|runner|sample|scan|schema|scope|search|second|secret|section|select|sequence|serial|server|"
    b"service|session|setting|setup|share|signature|simple|size|socket|sort|source|span|stack|start|state|static|"
    b"status|step|stop|storage|store|stream|string|struct|style|subject|submit|suffix|summary|super|support|switch|"
    b"symbol|sync|system|table|target|task|team|temp|test|text|theme|thread|time|title|todo|token|tool|topic|trace|"
    b"train|transform|tree|trigger|true|type|undefined|union|unique|update|upload|user|util|valid|value|variable|"
    b"vector|verify|sigv|version|video|view|visible|warn|watch|widget|width|window|word|work|write|your"
)
"""Words of programs and of examples; a random value of 40 characters holds one of them in about 1 of 200 cases."""


def has_words(value: bytes) -> bool:
    """Tell whether a word of programs is in *value*, so that it is likely a name."""
    return _WORDS.search(value.lower()) is not None


_FILLERS = re.compile(
    rb"[x*.\-_#]+\Z|\$|\{|<|%[sd(]|\[REDACTED|\.\.\.|(?i:password|passwd|pass|pwd|secret|token|pw|key)\Z", re.DOTALL
)


def is_placeholder(value: bytes) -> bool:
    """Tell whether *value* stands for a credential that is filled in later: ``xxx``, ``${NAME}``, ``password``."""
    return _FILLERS.match(value) is not None


def _is_jwt(value: bytes) -> bool:
    """The first two parts are JSON objects, so what is called a token is one."""
    parts = value.split(b".")
    return len(parts) >= 2 and all(isinstance(_json_part(part), dict) for part in parts[:2])  # noqa: PLR2004 - header and claims


def _json_part(part: bytes) -> object:
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    except (ValueError, binascii.Error, msgspec.DecodeError):
        return None


_ENCODED_JWT = re.compile(rb"ey[A-Za-z0-9_-]{10,}\.")


def _is_encoded_jwt(value: bytes) -> bool:
    whole = value.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        text = base64.b64decode(whole[: len(whole) // 4 * 4])
    except (ValueError, binascii.Error):
        return False
    return _ENCODED_JWT.match(text) is not None


def _is_mixed(value: bytes) -> bool:
    """Two kinds of characters behind the prefix, one of them small letters, and no name of a class."""
    tail = value[3:]
    few = re.search(rb"[0-9]", value[2:]) is None and len(value) < 16  # noqa: PLR2004 - a name in a program is short
    return re.search(rb"[a-z]", tail) is not None and not few and not has_words(value) and entropy(value) >= 2.5  # noqa: PLR2004


def _digits(value: bytes) -> list[int]:
    return [code - 48 for code in value if 48 <= code <= 57]  # noqa: PLR2004 - ASCII digits


def _is_card(value: bytes) -> bool:
    """Luhn's checksum (ISO/IEC 7812-1), and not the same digit again and again."""
    digits = _digits(value)
    doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(reversed(digits))]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and sum(doubled) % 10 == 0  # noqa: PLR2004 - ISO/IEC 7812-1


def _is_iban(value: bytes) -> bool:
    """ISO 13616: moved by four and read as a number, it leaves 1 when divided by 97."""
    text = value.replace(b" ", b"").decode()
    if not 15 <= len(text) <= 34:  # noqa: PLR2004 - ISO 13616
        return False
    return int("".join(str(int(letter, 36)) for letter in text[4:] + text[:4])) % 97 == 1


_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def _is_resident_id(value: bytes) -> bool:
    """GB 11643-1999: a date, and a check digit by weights modulo 11."""
    text = value.decode()
    if not (1 <= int(text[10:12]) <= 12 and 1 <= int(text[12:14]) <= 31):  # noqa: PLR2004 - month and day
        return False
    total = sum(int(digit) * weight for digit, weight in zip(text, _WEIGHTS, strict=False))
    return "10X98765432"[total % 11] == text[-1].upper()


def _is_phone(value: bytes) -> bool:
    """E.164: seven to fifteen digits."""
    return 7 <= len(_digits(value)) <= 15  # noqa: PLR2004 - E.164


def _is_ip(value: bytes) -> bool:
    import ipaddress  # noqa: PLC0415 - only where this rule is named

    try:
        ipaddress.ip_address(value.decode())
    except ValueError:
        return False
    return True


CHECKS: dict[str, Callable[[bytes], bool]] = {
    "": lambda _: True,
    "custom": lambda _: True,
    "no-words": lambda value: not has_words(value),
    "placeholder": lambda value: not is_placeholder(value),
    "jwt-json": _is_jwt,
    "jwt-base64": _is_encoded_jwt,
    "mixed": _is_mixed,
    "luhn": _is_card,
    "iban": _is_iban,
    "cn-id": _is_resident_id,
    "phone": _is_phone,
    "ip": _is_ip,
}
"""Tests by the name that a rule gives; ``generic`` needs the assigned name too and is in ``name``."""
