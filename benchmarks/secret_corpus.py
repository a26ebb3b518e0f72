"""Texts with and without credentials, made when they are needed: none is kept in the repository.

The credentials come from ``secret_formats.tsv``, which describes formats as their vendors publish them, not from the
rules of the package. What must stay untouched is what traces are made of: prose, ids, digests, base64, numbers, code.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import random
import re
import string
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

if sys.version_info >= (3, 11):
    from re import _parser as sre_parser  # type: ignore[attr-defined] - a regular expression as a tree
else:
    import sre_parse as sre_parser

ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
BASE64URL = ALNUM + "-_"


class Sample(NamedTuple):
    """A text, and the credential in it that must not survive."""

    row: str
    secret: str
    text: str


class Row(NamedTuple):
    """One line of ``secret_formats.tsv``."""

    id: str
    kind: str
    words: list[str]
    format: str
    entropy: float


def rows() -> list[Row]:
    """Return every format."""
    found: list[Row] = []
    for line in (Path(__file__).parent / "secret_formats.tsv").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, kind, words, form, entropy = line.split("\t")
            found.append(Row(name, kind, [word.strip() for word in words.split(",")], form, float(entropy or 0)))
    return found


def entropy(text: str) -> float:
    """Return the Shannon entropy of *text* in bits per character."""
    return -sum(text.count(one) / len(text) * math.log2(text.count(one) / len(text)) for one in set(text))


def some(source: random.Random, alphabet: str, count: int) -> str:
    """Return *count* random characters of *alphabet*."""
    return "".join(source.choice(alphabet) for _ in range(count))


def _jwt_part(source: random.Random) -> str:
    text = json.dumps({"sub": some(source, ALNUM, 12), "iat": source.randrange(10**9)})
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _jwt(source: random.Random) -> str:
    return f"{_jwt_part(source)}.{_jwt_part(source)}.{some(source, BASE64URL, 43)}"


def _pem(source: random.Random) -> str:
    lines = "\n".join(some(source, ALNUM + "+/", 64) for _ in range(source.randrange(3, 30)))
    kind = source.choice(["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "])
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----"


def _openai(source: random.Random) -> str:
    if source.random() < 0.3:
        return f"sk-{some(source, ALNUM, 20)}T3BlbkFJ{some(source, ALNUM, 20)}"
    half = source.choice([58, 74])
    kind = source.choice(["proj", "svcacct", "admin"])
    return f"sk-{kind}-{some(source, BASE64URL, half)}T3BlbkFJ{some(source, BASE64URL, half)}"


def _uuid(source: random.Random) -> str:
    return str(uuid.UUID(int=source.getrandbits(128)))


_WHOLE: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "curl-auth-header": lambda r: (
        (s := some(r, ALNUM, 32)),
        f"curl -s -X POST -H 'Authorization: {r.choice(['Bearer', 'Basic', 'Token'])} {s}' https://api.example.org/v1",
    ),
    "curl-auth-user": lambda r: ((s := some(r, ALNUM, 16)), f'curl -u "admin:{s}" https://example.org/x'),
    "facebook-access-token": lambda r: (
        (s := some(r, "123456789", 16) + "|" + some(r, BASE64URL, 30)),
        f"facebook app: {s}",
    ),
    "freemius-secret-key": lambda r: ((s := "sk_" + some(r, ALNUM + "!#%*", 29)), f'"secret_key" => "{s}",'),
    "kubernetes-secret-yaml": lambda r: (
        (s := base64.b64encode(some(r, ALNUM, 24).encode()).decode()),
        f"apiVersion: v1\nkind: Secret\nmetadata:\n  name: db\ntype: Opaque\ndata:\n  password: {s}\n",
    ),
    "microsoft-teams-webhook": lambda r: (
        (s := some(r, HEX, 32)),
        f"https://corp.webhook.office.com/webhookb2/{_uuid(r)}@{_uuid(r)}/IncomingWebhook/{s}/{_uuid(r)}",
    ),
    "nuget-config-password": lambda r: (
        (s := some(r, ALNUM, 14)),
        f'<add key="{r.choice(["Password", "ClearTextPassword"])}" value="{s}" />',
    ),
    "sidekiq-sensitive-url": lambda r: (
        (s := some(r, HEX, 8) + ":" + some(r, HEX, 8)),
        f"bundle config https://{s}@gems.contribsys.com/",
    ),
    "hashicorp-tf-password": lambda r: (
        (s := some(r, ALNUM + "=_-", r.randrange(8, 21))),
        f'administrator_login_password = "{s}"',
    ),
    "twilio-auth": lambda r: (
        (s := some(r, HEX, 32)),
        f'client = Client("AC{some(r, HEX, 32)}", "{s}")',
    ),
    "url-password": lambda r: (
        (s := some(r, ALNUM + "!$-_.", 12).lstrip("$.-_!") + "x9"),
        f"{r.choice(['postgres', 'https', 'amqp', 'redis', 'mongodb+srv'])}://agent:{s}@db.example.org:5432/main",
    ),
    "authorization-value": lambda r: (
        (s := some(r, ALNUM + "+/=._~-", r.randrange(8, 60))),
        r.choice(["Authorization: {} {}", '{{"authorization": "{} {}"}}', "('authorization', '{} {}')"]).format(
            r.choice(["Bearer", "Basic", "Token"]), s
        ),
    ),
}
"""Formats that are a whole line: the credential and the text around it."""

_VALUES: dict[str, Callable[[random.Random], str]] = {
    "private-key": _pem,
    "jwt-any": _jwt,
    "jwt-base64": lambda r: base64.b64encode(_jwt(r).encode()).decode().rstrip("="),
    "openai-api-key": _openai,
    "azure-ad-client-secret": lambda r: (
        some(r, ALNUM + "_~.", 3) + some(r, string.digits, 1) + "Q~" + some(r, ALNUM + "_~.-", r.randrange(31, 35))
    ),
    "sentry-org-token": lambda r: (
        "sntrys_eyJpYXQiO" + some(r, ALNUM, 40) + "LCJyZWdpb25fdXJs" + some(r, ALNUM, 40) + "_" + some(r, ALNUM, 43)
    ),
    "generic-api-key": lambda r: some(r, ALNUM, 1) + some(r, ALNUM + "_.=-", r.randrange(9, 149)),
    "anthropic-oauth-token": lambda r: "sk-ant-oat01-" + some(r, BASE64URL, 93),
    "langfuse-secret-key": lambda r: "sk-lf-" + _uuid(r),
    "agentops-api-key": _uuid,
    "google-oauth-access-token": lambda r: "ya29." + some(r, BASE64URL, r.randrange(20, 200)),
    "artifactory-encrypted": lambda r: r.choice(
        ["AP" + some(r, "0123456789ABCDEF", 1) + some(r, ALNUM, r.randrange(8, 70)), "AKC" + some(r, ALNUM, 40)]
    ),
}
"""Formats that the table describes in words."""


def _tree(form: str) -> Any:  # noqa: ANN401 - the tree of the standard library has no types
    """Return *form* as a tree: dots outside of brackets are dots, and a dash before another sign is a dash."""
    out, place = "", 0
    while place < len(form):
        if form[place] == "[":
            end = form.index("]", place + 1)
            body = form[place + 1 : end]
            ranges = "".join(re.findall(r"[A-Za-z0-9]-[A-Za-z0-9]", body))
            rest = re.sub(r"[A-Za-z0-9]-[A-Za-z0-9]", "", body)
            out += "[" + ranges + rest.replace("-", "") + ("\\-" if "-" in rest else "") + "]"
            place = end + 1
            continue
        if form[place] == "\\":
            out += form[place : place + 2]
            place += 2
            continue
        out += "\\." if form[place] == "." else form[place]
        place += 1
    return sre_parser.parse(out)


def _grown(tree: Any, source: random.Random) -> str:  # noqa: ANN401 - see _tree
    """Return a text that *tree* describes."""
    out = ""
    for operator, value in tree:
        name = str(operator)
        if name == "LITERAL":
            out += chr(value)
        elif name == "IN":
            out += source.choice(_members(value))
        elif name in {"MAX_REPEAT", "MIN_REPEAT"}:
            least, most, inner = value
            most = min(int(most), int(least) + 24)
            out += "".join(_grown(inner, source) for _ in range(source.randint(int(least), most)))
        elif name == "SUBPATTERN":
            out += _grown(value[-1], source)
        elif name == "BRANCH":
            out += _grown(source.choice(value[1]), source)
        else:
            raise ValueError(name)
    return out


def _members(items: list[tuple[Any, Any]]) -> str:
    members = ""
    for operator, value in items:
        if str(operator) == "LITERAL":
            members += chr(value)
        elif str(operator) == "RANGE":
            members += "".join(map(chr, range(value[0], value[1] + 1)))
        else:
            members += {"CATEGORY_WORD": ALNUM + "_", "CATEGORY_DIGIT": string.digits, "CATEGORY_NOT_SPACE": ALNUM}[
                str(value).rpartition(".")[2]
            ]
    return members


_AROUND = [
    "{}",
    "the tool was called with {} and answered",
    '{{"role": "user", "content": "use {} please"}}',
    '{{"arguments": "{{\\"value\\": \\"{}\\"}}"}}',
    "line one\\n{}\\nline three",
    "错误 密钥{}无效",
    "https://example.org/callback?x={}&y=1",
    "x%3D{}%26y",
    "RuntimeError: refused: {}",
]
_SUFFIXES = ["_api_key", "_token", "_secret", "_key", "_credential", ""]


def _assigned(row: Row, value: str, source: random.Random) -> str:
    word = source.choice(row.words)
    if row.id == "generic-api-key":
        key = source.choice(["{}", "my_{}", "service_{}", "{}_value" if word != "key" else "{}"]).format(word)
    else:
        key = word + source.choice(_SUFFIXES)
    if source.random() < 0.3:
        key = key.upper()
    form = source.choice(
        [
            "{}={}",
            "{} = '{}'",
            '{{"{}": "{}"}}',
            '{} = "{}"',
            "{}: {}",
            '{{\\"{}\\": \\"{}\\"}}',
            "'{}' => '{}'",
            "export {}={}\\n",
        ]
    )
    return form.format(key, value)


def positives(per_row: int, seed: int = 1) -> list[Sample]:
    """Return *per_row* texts with a credential of each format."""
    source = random.Random(seed)
    return [_positive(row, source, number) for row in rows() for number in range(per_row)]


def _positive(row: Row, source: random.Random, number: int) -> Sample:
    if row.id in _WHOLE:
        return Sample(row.id, *_WHOLE[row.id](source))
    make = _VALUES.get(row.id)
    tree = None if make else _tree(row.format)
    value = ""
    while not value or entropy(value) < row.entropy:
        value = make(source) if make else _grown(tree, source)
    if row.kind == "word":
        return Sample(row.id, value, _assigned(row, value, source))
    if row.id == "private-key":
        text = source.choice([value, json.dumps({"key": value}), json.dumps({"body": json.dumps({"key": value})})])
        return Sample(row.id, value.split("\n")[1], text)
    return Sample(row.id, value, _AROUND[number % len(_AROUND)].format(value))


_ALPHABETS = {
    "a": ALNUM,
    "b": BASE64URL,
    "d": string.digits,
    "h": HEX,
    "l": string.ascii_letters,
    "o": string.ascii_lowercase + string.digits,
    "s": ALNUM + "+/",
    "u": string.ascii_uppercase + "234567",
}


def vendors(seed: int = 2) -> list[Sample]:
    """Return keys of LLM vendors as programs, configurations and logs hold them, written by hand."""
    source = random.Random(seed)

    def made(match: re.Match[str]) -> str:
        if match[1] in {"uuid", "jwt"}:
            return _uuid(source) if match[1] == "uuid" else _jwt(source)
        return some(source, _ALPHABETS[match[1][0]], int(match[1][1:]))

    samples: list[Sample] = []
    for line in (Path(__file__).parent / "vendor_keys.tsv").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        vendor, key, form = line.split("\t")
        secret = re.sub(r"<(\w+)>", made, key)
        samples.append(Sample(vendor, secret, form.format(secret)))
    return samples


_SENTENCES = (
    "The agent looked at the files first and then asked the user a question about the task.",
    "A token costs little; together they cost a lot, and the key to low cost is a short prompt.",
    "Please pass the access card at the gate, the author said, and keep the secret of good coffee.",
    "Authorization takes two days, and the API answers in 200 ms when nothing else runs beside it.",
    "Bearer bonds are basic instruments; curl the ribbon, close the linear file and travel by rail.",
    "He sent 3 requests to https://example.org/v1/models?limit=20 and read the answers in order.",
    "天气很好 代理先读取文件 然后回答问题。The password policy requires twelve characters.",
    "Discord, Twitter, Facebook and Dropbox were discussed; Atlassian, Jira and Confluence too.",
    "def load(path: str, api_key: str | None = None) -> Client: return Client(api_key=api_key or getenv('API_KEY'))",
    "token_count = len(tokens); max_tokens = 4096; next_token_id = logits.argmax(-1); keys = sorted(table)",
    'parser.add_argument("--password", help="password of the database", default=os.environ.get("DB_PASSWORD"))',
    "secret_key = settings.SECRET_KEY; access_token = response.json()['access_token']; auth=HTTPBasicAuth(user, pw)",
    "SELECT key, token FROM secrets WHERE api = 'v1beta' AND access_level = 'read-only' ORDER BY created_at",
    'Traceback (most recent call last): File "/usr/lib/python3.11/asyncio/tasks.py", line 277, in __step',
)


def _chat(r: random.Random, sentences: Sequence[str]) -> str:
    """Return the JSON of a model call with the ids that such calls have."""
    return json.dumps(
        {
            "id": "chatcmpl-" + some(r, ALNUM, 29),
            "model": r.choice(["gpt-4o-mini", "mistral", "together", "mistral-large"]),
            "trace_id": some(r, HEX, 32),
            "span_id": some(r, HEX, 16),
            "system_fingerprint": "fp_" + some(r, HEX, 10),
            "session_id": _uuid(r),
            "messages": [{"role": "user", "content": r.choice(sentences)}],
            "tool_calls": [{"id": "call_" + some(r, ALNUM, 24), "function": {"name": "search", "arguments": "{}"}}],
            "usage": {"prompt_tokens": r.randrange(9999), "cached_tokens": 0, "total_tokens": r.randrange(99999)},
        }
    )


def negatives(count: int, seed: int = 3) -> list[tuple[str, str]]:
    """Return *count* texts of each kind that traces hold and that are no secrets, with the name of the kind."""
    r = random.Random(seed)

    makers: dict[str, Callable[[], str]] = {
        "prose": lambda: " ".join(r.sample(_SENTENCES, 6)),
        "uuid": lambda: r.choice(["{}", "request {}", '{{"run_id": "{}"}}', '["mistral", {{"id": "{}"}}]']).format(
            _uuid(r)
        ),
        "trace id": lambda: (
            f'{{"traceparent": "00-{some(r, HEX, 32)}-{some(r, HEX, 16)}-01", "trace_id": "{some(r, HEX, 32)}"}}'
        ),
        "sha1": lambda: r.choice(["commit {}", "{}", "sha={}", '"cache_key": "{}"']).format(some(r, HEX, 40)),
        "sha256": lambda: r.choice(["sha256:{}", "{}", "digest {}", "image@sha256:{}"]).format(
            hashlib.sha256(some(r, ALNUM, 8).encode()).hexdigest()
        ),
        "base64": lambda: base64.b64encode(r.randbytes(r.randrange(60, 1500))).decode(),
        "base64url": lambda: base64.urlsafe_b64encode(r.randbytes(r.randrange(60, 600))).decode(),
        "data uri": lambda: "data:image/png;base64,iVBORw0KGgo" + base64.b64encode(r.randbytes(900)).decode(),
        "token ids": lambda: json.dumps({"prompt_token_ids": [r.randrange(150_000) for _ in range(120)]}),
        "logprobs": lambda: json.dumps(
            [
                {
                    "token": r.choice([" key", "sk", " token", "://", "Hello", "12"]),
                    "logprob": -r.random(),
                    "bytes": [r.randrange(256)],
                }
                for _ in range(12)
            ]
        ),
        "floats": lambda: json.dumps([-r.random() * 10 for _ in range(60)]),
        "hex": lambda: " ".join(some(r, HEX, r.choice([8, 16, 24, 32, 64])) for _ in range(12)),
        "code": lambda: "\n".join(r.sample(_SENTENCES[8:13], 4)),
        "chat": lambda: _chat(r, _SENTENCES),
        "url": lambda: (
            f"https://example.org/{some(r, string.ascii_lowercase, 9)}?page={r.randrange(99)}&v={some(r, HEX, 7)}#top"
        ),
        "object id": lambda: r.choice(["msg_{}", "resp_{}", "call_{}", "run-{}", "toolu_{}", "ro-{}", "at-{}"]).format(
            some(r, ALNUM, 24)
        ),
        "schema": lambda: json.dumps(
            {
                "type": "object",
                "properties": {
                    "password": {"type": "string"},
                    "api_key": {"type": "string", "description": r.choice(_SENTENCES[:6])},
                },
            }
        ),
    }
    return [(kind, make()) for kind, make in makers.items() for _ in range(count)]


_STORY = (
    "In a hole in the ground there lived an agent, and it was neither tired nor hungry that morning.",
    "It read the first of the three reports and found that the numbers of the second quarter were better.",
    "The weather in Paris stayed mild, with some rain in the evening and a light wind from the west.",
    "She asked whether the train would leave on time, because the meeting was to begin at half past nine.",
    "We compared both answers and chose the shorter one, as it named its sources and gave the reasons.",
    "To solve the equation, move every term with x to the left side and divide by the common factor.",
    "The library opens at ten; until then you may wait in the small garden behind the old building.",
    "A good summary says what was decided, who will do it, and what has to be finished before Friday.",
    "The model was asked to translate the letter, keep the names as they are, and write plain sentences.",
)


def clean_texts(count: int, seed: int = 4) -> list[str]:
    """Return *count* texts of 1 KB without credentials, half prose and half JSON of a model call with ids."""
    r = random.Random(seed)
    prose = [" ".join(r.choice(_STORY) for _ in range(12))[:1024] for _ in range(count // 2)]
    return prose + [",".join(_chat(r, _STORY) for _ in range(4))[:1024] for _ in range(count - count // 2)]


__all__ = ["Row", "Sample", "clean_texts", "negatives", "positives", "rows", "vendors"]
