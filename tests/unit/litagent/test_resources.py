"""Models and prompts as resources."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning import LLM, MissingExtraError, PromptTemplate
from agentlightning.testing import ModelServer, Reply

TEXT = st.text(st.characters(exclude_characters="{}%#\r", exclude_categories=["Cs"]))


def template(text: str, engine: str) -> PromptTemplate:
    """Return a template of any engine."""
    return PromptTemplate.model_validate({"template": text, "engine": engine})


@given(before=TEXT, value=TEXT, after=TEXT)
def test_both_engines_fill_holes(before: str, value: str, after: str) -> None:
    """Whatever stands around a hole stays, and the value comes in as it is."""
    for engine, hole in (("f-string", "{q}"), ("jinja", "{{ q }}")):
        assert template(before + hole + after, engine).format(q=value, unused=1) == before + value + after


@pytest.mark.parametrize(("engine", "text"), [("f-string", "{a} {b}"), ("jinja", "{{ a }} {{ b }}")])
def test_a_missing_value_is_named(engine: str, text: str) -> None:
    """A hole without a value is a KeyError that names it."""
    with pytest.raises(KeyError, match="b"):
        template(text, engine).format(a=1)


@pytest.mark.parametrize(
    ("engine", "text"),
    [
        ("f-string", "{a.__class__}"),
        ("f-string", "{a[__class__]}"),
        ("f-string", "{}"),
        ("f-string", "{0}"),
        ("f-string", "{a:>99999999999}"),
        ("f-string", "{a:{a}"),
        ("jinja", "{{ a.__class__.__mro__ }}"),
        ("jinja", "{{ ''.__class__.__base__.__subclasses__() }}"),
        ("jinja", "{{ b.append(1) }}"),
        ("jinja", "{{ 'x' * 999999999999 }}"),
        ("jinja", "{{ 9 ** 99999999 }}"),
        ("jinja", "{% for %}"),
    ],
)
def test_templates_cannot_reach_out(engine: str, text: str) -> None:
    """A template cannot reach what a value is made of, change it, or take all memory; a malformed one says so."""
    with pytest.raises(ValueError):
        template(text, engine).format(a="value", b=[])


def test_jinja_knows_more_than_holes() -> None:
    """Loops, conditions, filters and attributes work in the sandbox."""
    text = "{% for item in items %}{{ item.name | upper }}{% if not loop.last %}, {% endif %}{% endfor %}\n"
    assert template(text, "jinja").format(items=[{"name": "a"}, {"name": "b"}]) == "A, B\n"


def test_poml_says_what_to_do() -> None:
    """A template of the engine poml is refused with what to do instead."""
    with pytest.raises(MissingExtraError, match=r"poml.*jinja"):
        template("<poml/>", "poml").format()


async def test_generate_asks_the_endpoint() -> None:
    """Both forms of ``generate`` send model, key, parameters and task, and return the text."""
    with ModelServer(["one", "two", "three", Reply("")]) as server:
        llm = LLM(endpoint=server.url, model="m", api_key="k-1", sampling_parameters={"temperature": 0, "seed": 1})
        assert llm.generate("hello", seed=2) == "one"
        assert (
            await llm.generate_async([{"role": "system", "content": "be brief"}, {"role": "user", "content": "x"}])
            == "two"
        )
        assert await llm.generate_async({"question": "ä"}) == "three"
        assert llm.generate("nothing to say") == ""
    bodies = [request.body for request in server.requests]
    assert bodies[0] == {
        "model": "m", "temperature": 0, "seed": 2, "messages": [{"role": "user", "content": "hello"}],
    }  # fmt: skip
    assert isinstance(bodies[1], dict)
    assert len(bodies[1]["messages"]) == 2  # type: ignore[arg-type]
    assert isinstance(bodies[2], dict)
    assert bodies[2]["messages"] == [{"role": "user", "content": '{"question": "ä"}'}]


def test_generate_without_openai_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the client is not installed, the error holds the command that installs it."""
    from agentlightning.types import resources

    client = vars(resources)["_openai_client"]
    client(os.getpid()).close()
    client.cache_clear()
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'agentlightning\[openai\]'"):
        LLM(endpoint="http://127.0.0.1:1", model="m").generate("x")
