"""The value layer: every published format is found, in whatever it stands, and nothing else is touched."""

from __future__ import annotations

import copy
import importlib
import json
import sys
import urllib.parse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning import semconv, settings
from agentlightning._internal.guard import failures
from agentlightning.pipeline.redaction import Redactor
from agentlightning.pipeline.redaction.credential import find_named_values, may_hold_credential
from agentlightning.pipeline.redaction.engine import compile_with_re
from agentlightning.pipeline.redaction.finder import Finder
from agentlightning.pipeline.redaction.gate import AhoGate, HyperscanGate, SearchGate
from agentlightning.pipeline.redaction.rule import Options, active_rules, built_in_rules
from agentlightning.pipeline.redaction.scan import ValueScanner
from agentlightning.types.record import EventRecord, LinkRecord, ResourceRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agentlightning.types.record import SpanRecord


def _corpus() -> Any:
    folder = str(Path(__file__).parents[3] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("secret_corpus")
    finally:
        sys.path.remove(folder)


corpus = _corpus()
KEY = "sk-ant-api03-" + "aB3_x9Zq-K" * 9 + "yW7AA"
GITHUB = "ghp_" + "a1B2c3D4e5F6" * 3


@pytest.fixture(autouse=True)
def fixed_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash with a key of the test, so that no file is made."""
    monkeypatch.setenv("AGL_REDACT_KEY", "test")
    settings.forget()


@pytest.fixture
def redactor() -> Redactor:
    """Return a redactor with the default settings and no environment."""
    return Redactor({})


def check_recall(redactor: Redactor, per_row: int) -> None:
    """Assert the recall of all formats together, and that no single format is a blind spot."""
    samples = corpus.positives(per_row)
    missed = Counter(sample.row for sample in samples if sample.secret in redactor.text(sample.text))
    hits = len(samples) - sum(missed.values())
    print(f"recall {hits} / {len(samples)}; missed {missed}")
    assert hits >= 0.97 * len(samples)
    assert all(number <= max(1, 0.1 * per_row) for number in missed.values()), missed


def test_every_published_format_is_found(redactor: Redactor) -> None:
    """At least 0.97 of the generated examples, all 247 formats, in JSON, URLs, assignments and prose."""
    check_recall(redactor, 3)


@pytest.mark.slow
def test_every_published_format_is_found_in_many_examples(redactor: Redactor) -> None:
    """The same with 50 examples of each."""
    check_recall(redactor, 50)


def test_keys_of_llm_vendors_are_found(redactor: Redactor) -> None:
    """At least 0.95 of the list written by hand."""
    samples = corpus.vendors()
    missed = [sample for sample in samples if sample.secret in redactor.text(sample.text)]
    print(f"recall {len(samples) - len(missed)} / {len(samples)}; missed {missed}")
    assert len(missed) <= 0.05 * len(samples)


def test_what_traces_are_made_of_stays(redactor: Redactor) -> None:
    """Prose, ids, digests, base64, numbers, code, schemas and data URIs: at most 0.1 % is changed."""
    texts = corpus.negatives(60)
    changed = [(kind, redactor.text(text)) for kind, text in texts if redactor.text(text) != text]
    print(f"false positives {len(changed)} / {len(texts)}")
    assert len(changed) <= 0.001 * len(texts), changed


@pytest.fixture(params=["search", "hyperscan"])
def other(request: pytest.FixtureRequest) -> ValueScanner:
    """Return a scanner with another engine than the default one; ``search`` is what is left without any wheel."""
    rules = active_rules(Options(pii="1"))
    if request.param == "search":
        return ValueScanner(rules, SearchGate, compile_with_re)
    pytest.importorskip("hyperscan")
    return ValueScanner(rules, HyperscanGate)


def test_every_engine_gives_the_same_verdicts(other: ValueScanner) -> None:
    """Same places and same rules, with and without wheels, in texts with and without credentials, joined and single."""
    ours = ValueScanner(active_rules(Options(pii="1")), AhoGate)
    texts = [sample.text for sample in (*corpus.positives(1, seed=9), *corpus.vendors())]
    texts += [text for _, text in corpus.negatives(4)]
    for text in [*texts, "\0".join(texts)]:
        data = text.encode()
        assert other.find(data) == ours.find(data), text[:300]


FRAGMENTS = [
    KEY, GITHUB, "sk-", "://", "api_key", "=", ": ", '"', "\\", "\\n", "@", "密", "\ud800", "eyJ", ".", "token",
    "[REDACTED]", "password", "-----BEGIN PRIVATE KEY-----",
    "Bearer ", "AKIA", "curl -u a:b", "[REDACTED:named:00000000]", "\0",
]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=12)), max_size=14).map("".join))
def test_redaction_never_raises_and_is_idempotent(text: str) -> None:
    """Whatever a text is made of, a second look changes nothing, and no whole key is left."""
    redactor = Redactor({})
    clean = redactor.text(text)
    assert redactor.text(clean) == clean


WORDS = [
    "agent",
    "tokens",
    "the key idea",
    "max_tokens=4096",
    "10:30",
    "a=b",
    "x_id: 7",
    "https://e.org/a?b=1",
    "-0.125",
    "[1, 2]",
]
CLEAN = st.one_of(
    st.sampled_from(WORDS),
    st.uuids().map(str),
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.text("абвгд漢字éü ", max_size=20),
    st.integers().map(str),
)


@given(st.lists(CLEAN, max_size=20).map(" ".join))
def test_a_text_without_credentials_is_not_copied(text: str) -> None:
    """Not a character changes."""
    assert Redactor({}).text(text) is text


@given(st.lists(st.one_of(st.sampled_from(FRAGMENTS), CLEAN), max_size=12).map("".join))
def test_re_and_re2_agree(text: str) -> None:
    """Any text gives the same findings with either engine."""
    data = text.encode("utf-8", "surrogatepass")
    assert _with_re.find(data) == _with_re2.find(data)


@given(st.lists(st.one_of(st.sampled_from(FRAGMENTS), CLEAN, st.text(max_size=9)), max_size=12).map("".join))
def test_the_first_look_rules_out_no_credential(text: str) -> None:
    """Whatever the close look at a text finds, the first one has let through."""
    _check_first_look(text)


def test_the_first_look_rules_out_no_published_format() -> None:
    """The same for an example of every format, in whatever it stands, and in mixed case where a name may be."""
    keys = [sample.text for sample in (*corpus.positives(3, seed=4), *corpus.vendors())]
    for text in keys + [wrap(text) for wrap in _WRAPS.values() for text in keys[::40]]:
        _check_first_look(text)
        _check_first_look(text.upper())
    assert _FINDER.may_hold("pa\u017f\u017fword = hunter2hunter2")


@given(st.lists(st.lists(st.one_of(st.sampled_from(FRAGMENTS), CLEAN), max_size=5).map(" ".join), max_size=9))
def test_texts_that_are_looked_at_together_are_told_apart(texts: list[str]) -> None:
    """Each one that is let through alone is let through among others, too."""
    suspects = set(_FINDER.suspects(texts))
    assert suspects >= {place for place, text in enumerate(texts) if _FINDER.may_hold(text)}
    assert suspects <= set(range(len(texts)))


def _check_first_look(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    if _with_re2.find(data) or (may_hold_credential(text.lower()) and list(find_named_values(text))):
        assert _FINDER.may_hold(text), text[:300]


def test_most_texts_of_traces_need_no_second_look() -> None:
    """Of clean model calls at most a tenth is let through."""
    finder = Finder(Options(), ())
    texts = corpus.clean_texts(256)
    assert sum(map(finder.may_hold, texts)) < 0.1 * len(texts)


def test_many_records_are_redacted_as_single_ones_are(make_record: Callable[..., SpanRecord]) -> None:
    """Clean ones, ones with a credential in a text, a name, an event or a nested value; more than one piece of them."""

    def make(number: int) -> SpanRecord:
        places: dict[int, dict[str, Any]] = {
            3: {"attributes": {"input.value": f"use {KEY}"}},
            5: {"attributes": {"authorization": "hunter2hunter2"}},
            8: {"events": [EventRecord("said", 1, {"note": GITHUB})]},
            9: {"attributes": {"nested": [{"api_key": "hunter2hunter2"}, "x"]}},
        }
        more = places.get(number % 11, {})
        return make_record(**{"attributes": {"input.value": "words " * 300, "n": number}, **more})

    together = [make(number) for number in range(100)]
    one_by_one = copy.deepcopy(together)
    assert all(Redactor({}).redact_all(together))
    for record in one_by_one:
        Redactor({}).redact(record)
    assert msgspec.to_builtins(together) == msgspec.to_builtins(one_by_one)
    assert sum(semconv.REDACTED_RULES in record.attributes for record in together) == 36
    assert KEY not in repr(together)


def test_a_record_that_cannot_be_looked_at_costs_itself_only(
    make_record: Callable[..., SpanRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out for one of many, in the first look and in the close one: the others are done, and clean."""
    monkeypatch.setattr(failures, "loud", False)
    suspects, find = Finder.suspects, ValueScanner.find

    def failing_suspects(self: Finder, texts: Sequence[str]) -> Iterator[int]:
        if any("heavy" in text for text in texts):
            raise MemoryError
        return suspects(self, texts)

    def failing_find(self: ValueScanner, data: bytes) -> Any:
        if b"heavy" in data:
            raise MemoryError
        return find(self, data)

    monkeypatch.setattr(Finder, "suspects", failing_suspects)
    monkeypatch.setattr(ValueScanner, "find", failing_find)
    texts = ["plain", f"use {KEY}", f"heavy {KEY}", f"and {GITHUB}"]
    records = [make_record(attributes={"input.value": text}) for text in texts]
    assert Redactor({}).redact_all(records) == [True, True, False, True]
    assert not any(key in repr(records[place]) for place in (0, 1, 3) for key in (KEY, GITHUB))


def test_a_rule_about_a_whole_text_holds_for_each_text(
    make_record: Callable[..., SpanRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pattern of the user with anchors and no gate word: texts are not joined."""
    monkeypatch.setenv("AGL_REDACT_RULES", '[{"id": "mine", "pattern": "^EMP-[0-9]{4}$"}]')
    settings.forget()
    record = make_record(attributes={"a": "EMP-1234", "b": "no EMP-1234", "c": "EMP-5678"})
    Redactor({}).redact(record)
    assert record.attributes["b"] == "no EMP-1234"
    assert str(record.attributes["a"]).startswith("[REDACTED:mine:")
    assert str(record.attributes["c"]).startswith("[REDACTED:mine:")


_FINDER = Finder(Options(pii="1,ip-address"), ())
_with_re2 = ValueScanner(active_rules(Options(pii="1,ip-address")), AhoGate)
_with_re = ValueScanner(active_rules(Options(pii="1,ip-address")), SearchGate, compile_with_re)


_WRAPS: dict[str, Callable[[str], str]] = {
    "sentence": lambda key: f"it said {key}.",
    "brackets": lambda key: f"({key})",
    "json in json": lambda key: json.dumps({"a": json.dumps({"b": f"line\n{key}\nline"})}),
    "escaped quotes": lambda key: json.dumps(f'he said "{key}"'),
    "url": lambda key: urllib.parse.quote(f"key={key}&x"),
    "url quotes": lambda key: f"%22{key}%22",
    "chinese": lambda key: f"密钥{key}是",
    "unicode escapes": lambda key: f"\\u0022{key}\\u0022",
    "markup": lambda key: f"<b>{key}</b>",
    "entities": lambda key: f"&quot;{key}&quot;",
    "long": lambda key: "x" * 200_000 + " " + key + " " + "y" * 200_000,
}


@pytest.mark.parametrize("wrap", _WRAPS)
@pytest.mark.parametrize("key", [KEY, GITHUB])
def test_a_key_is_found_in_whatever_it_stands(redactor: Redactor, wrap: str, key: str) -> None:
    """Quotes, escapes, URL encoding, other scripts, markup, and the border between two pieces."""
    text = _WRAPS[wrap](key)
    clean = redactor.text(text)
    assert key not in clean
    assert clean.startswith(text.split(key)[0])
    assert clean.endswith(text.split(key)[-1])


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_pem_block_goes_as_a_whole(redactor: Redactor, level: int) -> None:
    """Its lines are separated by line feeds, by escapes of them, or by escapes of escapes."""
    lines = ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASC" + "Ab9+/xYz" * 4, "kq3ZbUJ9" * 8]
    value: str = "\n".join(["-----BEGIN PRIVATE KEY-----", *lines, "-----END PRIVATE KEY-----"])
    for _ in range(level):
        value = json.dumps({"value": value})
    clean = redactor.text(value)
    assert not any(line in clean for line in lines)
    if level:
        assert "[REDACTED:private-key:" in str(json.loads(clean))


def test_every_text_of_a_span_is_looked_at(redactor: Redactor, make_record: Callable[..., SpanRecord]) -> None:
    """Names, keys, nested values, events, links, status, resource, scope and mixed lists; marked and counted."""
    record = make_record(
        name=f"call {KEY}",
        status_description=f"failed {KEY}",
        attributes={
            "plain": f"a {KEY}",
            "list": ["x", KEY],
            "mixed": [1, KEY],
            "deep": {"x": [{KEY: {"y": KEY}}]},
            "json": json.dumps({"messages": json.dumps([{"content": KEY}])}),
            f"key {KEY}": "v",
            f"secret {KEY}": "v",
            f"secrets {KEY}": ["v", "w"],
            "n": 7,
        },
        events=[EventRecord(f"event {KEY}", 1, {"exception.message": KEY})],
        links=[LinkRecord("a", "b", {"note": KEY}, f"v={KEY}")],
        resource=ResourceRecord({"process.command": f"run {KEY}"}, f"https://x/{KEY}"),
        scope_name=KEY,
        scope_version=KEY,
        trace_state=f"v={KEY}",
    )
    redactor.redact(record)
    assert KEY.encode() not in msgspec.json.encode(record)
    assert {"plain", "list", "mixed", "deep", "json", "exception.message", "note"} <= set(
        record.attributes[semconv.REDACTED]
    )
    marks = dict(mark.rsplit(":", 1) for mark in record.attributes[semconv.REDACTED_RULES])
    assert int(marks["anthropic-api-key"]) >= 9
    assert redactor.counts["anthropic-api-key"] >= 9


def test_numbers_in_lists_are_not_even_looked_at(redactor: Redactor, make_record: Callable[..., SpanRecord]) -> None:
    """100,000 token ids stay the very same list."""
    ids, logprobs = list(range(100_000)), [-0.5] * 1000
    record = make_record(attributes={"prompt_token_ids": ids, "logprobs": logprobs, "api_key_ids": ids})
    redactor.redact(record)
    assert record.attributes["prompt_token_ids"] is ids
    assert record.attributes["logprobs"] is logprobs
    assert record.attributes["api_key_ids"] is ids
    assert semconv.REDACTED not in record.attributes


PII = {
    "email": ("write to jane.doe+x@mail.example.org now", "write to jane.doe at example"),
    "phone": ("call +49 30 1234567 today", "call 030 1234567 or 2+12345678"),
    "iban": ("to DE89 3704 0044 0532 0130 00 please", "to DE88 3704 0044 0532 0130 00 please"),
    "payment-card": ("card 4111 1111 1111 1111.", "card 4111 1111 1111 1112."),
    "cn-resident-id": ("id 11010519491231002X ok", "id 110105194912310021 ok"),
}


@pytest.mark.parametrize("rule", PII)
def test_personal_data_is_replaced_only_on_demand(rule: str) -> None:
    """Off by default; when it is on, what fails its checksum stays."""
    good, bad = PII[rule]
    assert Redactor({}).text(good) is good
    settings.configure(redact_pii="1")
    redactor = Redactor({})
    assert [secret.rule for secret in redactor.find(good)] == [rule]
    assert redactor.text(bad) is bad


def test_addresses_of_machines_are_replaced_only_when_named() -> None:
    """Not with all personal data, but by the name of the rule."""
    text = "from 192.168.7.12 and 2001:db8::1, version 1.2.3, at 10:30:15"
    settings.configure(redact_pii=True)
    assert Redactor({}).text(text) is text
    settings.configure(redact_pii="ip-address")
    assert [secret.value for secret in Redactor({}).find(text)] == ["192.168.7.12", "2001:db8::1"]


def test_the_data_is_in_order() -> None:
    """Each rule has one name, one way in, gate words in lower case and a check that exists."""
    rules = built_in_rules()
    assert len({rule.id for rule in rules}) == len(rules) >= 247
    for rule in rules:
        assert bool(rule.value) != bool(rule.pattern), rule.id
        assert bool(rule.gate) != bool(rule.gate_pattern), rule.id
        assert all((word == word.lower() and len(word) > 1) or rule.group == "pii" for word in rule.gate), rule.id
    assert {row.id for row in corpus.rows()} <= {rule.id for rule in rules}


@pytest.fixture(autouse=True, scope="module")
def _forget_corpus() -> Iterator[None]:
    yield
    sys.modules.pop("secret_corpus", None)
