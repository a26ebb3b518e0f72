"""Parts of the search for prompts: templates, what is shown of a rollout, the picture, what is missing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning import APO, MissingExtraError, PromptTemplate
from agentlightning.algorithm import APOResult, APOStep
from agentlightning.algorithm.apo_reflection import holes, problem_with
from agentlightning.algorithm.apo_rollout import MAX_TEXT_CHARS, cut

if TYPE_CHECKING:
    from pathlib import Path


def f_string(text: str) -> PromptTemplate:
    """Return a template in the syntax of ``str.format``."""
    return PromptTemplate(template=text, engine="f-string")


def jinja(text: str) -> PromptTemplate:
    """Return a template of Jinja."""
    return PromptTemplate(template=text, engine="jinja")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (f_string("{a} {b.c} {d[0]:>3} {{e}}"), {"a", "b", "d"}),
        (jinja("{{ a }} {% for x in b %}{{ x }}{{ c.d }}{% endfor %} {e}"), {"a", "b", "c"}),
        (f_string("none"), set[str]()),
        (PromptTemplate(template="<poml/>", engine="poml"), None),
    ],
)
def test_holes_of_every_engine(template: PromptTemplate, expected: set[str] | None) -> None:
    """The holes of a template are the names that it wants values for; poml does not say."""
    assert holes(template) == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (f_string("A {q}"), "B {q}", ""),
        (f_string("A {q}"), "A {q}", "it is the prompt that was there"),
        (f_string("A {q}"), "  \n", "it is empty"),
        (f_string("A {q} {r}"), "B {s}", "it lacks q, r; nothing fills s"),
        (f_string("A {q}"), "B {q} {", "Single '{' encountered in format string"),
        (f_string("A {q}"), "B {q} {}", "a hole has no name; double the braces of text: {{ }}"),
        (jinja("A {{ q }}"), "B {{ q }} {% if %}", "it is no Jinja template: Expected an expression, got 'end of"),
        (PromptTemplate(template="<a/>", engine="poml"), "<b/>", ""),
    ],
)
def test_what_keeps_a_proposal_from_being_used(old: PromptTemplate, new: str, expected: str) -> None:
    """A proposal has to be a new template of the engine with the same holes; the reason is told otherwise."""
    problem = problem_with(old, new)
    assert problem.startswith(expected)
    assert bool(problem) == bool(expected)


@given(st.text(max_size=60))
def test_what_is_taken_can_be_filled(text: str) -> None:
    """Whatever a model answers: what is taken can be filled with what the agent has, and keeps its hole."""
    if problem_with(f_string("A {q}"), text) == "":
        assert "here" in f_string(text).format(q="here")


def test_long_texts_keep_beginning_and_end() -> None:
    """What is shown of a long text is its beginning and its end."""
    assert cut("short") == "short"
    shown = cut("a" * MAX_TEXT_CHARS + "z" * MAX_TEXT_CHARS)
    assert (shown[0], shown[-1], len(shown) < MAX_TEXT_CHARS + 20) == ("a", "z", True)


def result(*steps: APOStep) -> APOResult:
    """Return what a search with these steps found."""
    return APOResult({"p": "t"}, "rs-1", steps, "rollouts", 9, 0, 0, 0, 0)


def test_the_picture(tmp_path: Path) -> None:
    """The picture is a PNG; a search without a step has none."""
    steps = [APOStep(0, 0.2, 0.2, 3, 0.1), APOStep(1, None, 0.2, 6, 0.2), APOStep(2, 0.9, 0.9, 9, 0.3)]
    result(*steps).plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n")
    with pytest.raises(ValueError, match="nothing to draw"):
        result().plot(tmp_path / "b.png")


def test_missing_extras_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without gepa ``APO`` says how to install it when it is made, and ``plot`` the same of matplotlib."""
    monkeypatch.setitem(sys.modules, "gepa", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'agentlightning\[apo\]'"):
        APO()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'agentlightning\[plot\]'"):
        result(APOStep(0, 0.2, 0.2, 3, 0.1)).plot(tmp_path / "a.png")
