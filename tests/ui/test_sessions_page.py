"""``/sessions`` of the AgentOps server in a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentlightning.instrumentation.agentops_server import AgentOpsServerOptions
from agentlightning.store import open_store
from agentlightning.testing.agentops import HOSTILE_TEXTS, Server, hostile_session, otlp, serving, session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Page

# Nothing of this may come from what a program wrote.
ACTIVE = """
[...document.querySelectorAll('*')].filter(element =>
    /^(script|iframe|object|embed|img|svg|style|form|base)$/i.test(element.tagName)
    || [...element.attributes].some(attribute => attribute.name.startsWith('on') || attribute.name === 'style')
    || (element.href && new URL(element.href).origin !== location.origin)
).map(element => element.outerHTML)
"""
CONTRAST = """
(() => {
    const light = color => {
        const [red, green, blue] = color.match(/[\\d.]+/g).map(Number).map(value => value / 255)
            .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const ground = element => {
        const color = getComputedStyle(element).backgroundColor;
        return color !== 'rgba(0, 0, 0, 0)' || !element.parentElement ? color : ground(element.parentElement);
    };
    const ratios = [...document.body.querySelectorAll('*')].filter(element => element.innerText).map(element => {
        const [one, two] = [light(getComputedStyle(element).color), light(ground(element))];
        return (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    });
    return Math.min(...ratios);
})()
"""
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
NAMES = "[...document.querySelectorAll('tbody a')].map(link => link.innerText)"
SENTENCE = "a very long name that somebody made from a whole sentence " * 8
WORD = "unbroken" * 60


@pytest.fixture
def server(isolated: Path) -> Iterator[Server]:
    """Serve a store of the test."""
    store = open_store(str(isolated / "served.db"))
    with serving(AgentOpsServerOptions(), store) as running:
        yield running
    store.close()


def test_this_browser_runs_what_it_is_given(page: Page) -> None:
    """The sentinel works: a page that takes a payload for markup sets it, so its absence means something."""
    assert page.open("data:text/html,<img src=x onerror=window.__xss=1>").evaluate("window.__xss") == 1


FEW = range(1, len(HOSTILE_TEXTS) + 1, 9)  # each beginning once; the session of all has the rest


@pytest.mark.parametrize(
    "numbers",
    [FEW, pytest.param(range(1, len(HOSTILE_TEXTS) + 1), marks=[pytest.mark.slow, pytest.mark.timeout(120)])],
    ids=["few", "all"],
)
def test_no_script_of_a_program_runs(page: Page, server: Server, numbers: range) -> None:
    """Over 100 payloads in every text of a session run nothing, load nothing and breach no policy; all is shown."""
    assert len(HOSTILE_TEXTS) > 100
    spans = [span for number, text in enumerate(HOSTILE_TEXTS, 1) for span in hostile_session(number, text)]
    assert server.send(otlp(*spans)).status_code == 200
    everything = fill_one_session(server)
    lists = ("/sessions", "/sessions?offset=100", "/sessions?trace_id=<script>window.__xss=1</script>")
    for path in (*lists, *(f"/sessions?trace_id={number:032x}" for number in (*numbers, everything))):
        page.open(server.url + path)
        assert page.evaluate("window.__xss === undefined && frames.length === 0"), path
        assert page.evaluate(ACTIVE) == [], path
        assert all(url.startswith(f"{server.url}/sessions") for url in page.asked()), page.asked()
        assert [line for line in page.complaints() if "404" not in line] == [], path
    shown = str(page.evaluate("document.body.innerText"))
    for text in (text.strip("\0\u2028") for text in HOSTILE_TEXTS):
        assert shown.count(text) >= 4, text  # name, model, error, log


def fill_one_session(server: Server) -> int:
    """Send one session with a span, a tag, an error and a log of every text, and return its number."""
    number = 1000
    call, root = hostile_session(number, HOSTILE_TEXTS[0])
    root["attributes"] |= {"agentops.tags": HOSTILE_TEXTS, "agentlightning.rollout_id": HOSTILE_TEXTS[0]}
    calls: list[dict[str, Any]] = []
    for place, text in enumerate(HOSTILE_TEXTS, 1):
        model = {"gen_ai.request.model": text, "gen_ai.response.model": text}
        calls.append({**call, "id": f"{2**32 + place:016x}", "name": text, "error": text, "attributes": model})
    assert server.send(otlp(*calls, root)).status_code == 200
    log = "\n".join(HOSTILE_TEXTS)
    server.client.post("/v4/logs/upload/", json=log, headers={"Trace-Id": str(number)}).raise_for_status()
    return number


def test_an_uploaded_object_is_text(page: Page, server: Server) -> None:
    """An object with markup is shown as what it is when somebody opens its address."""
    for text in HOSTILE_TEXTS[:3]:
        url = server.client.post("/v4/objects/upload/", json={"body": text}).json()["url"]
        assert page.open(url).evaluate("window.__xss === undefined && document.scripts.length === 0")
        assert page.evaluate("document.body.innerText") == text


def test_it_can_be_read(page: Page, server: Server, tmp_path: Path) -> None:
    """With none, one and 500 sessions and very long names nothing is wider than the window, and contrast is 4.5."""

    def look(path: str, name: str, wanted: str) -> None:
        for width in (1280, 375):
            for shade in ("light", "dark"):
                page.look_like(width=width, dark=shade == "dark")
                page.open(server.url + path)
                page.picture(tmp_path / f"{name}-{width}-{shade}.png")  # for people; the last three runs are kept
                assert page.evaluate(TOO_WIDE) <= 0, (name, width)
                assert page.evaluate(CONTRAST) >= 4.5, (name, shade)
                assert wanted in str(page.evaluate("document.body.innerText"))

    look("/sessions", "none", "No session")
    server.send(otlp(*session(1)))
    look("/sessions", "one", "job1.session")
    server.send(otlp(*(span for number in range(2, 499) for span in session(number))))
    for number, text in ((499, SENTENCE), (500, WORD)):
        server.send(otlp(*hostile_session(number, text)))
        look(f"/sessions?trace_id={number:032x}", f"long{number}", text[:100])
    look("/sessions", "many", "job498.session")


def test_all_of_many_sessions_are_reached(page: Page, server: Server) -> None:
    """Of 250 sessions each is on one of three pages, which lead to one another."""
    server.send(otlp(*(span for number in range(1, 251) for span in session(number))))
    page.open(f"{server.url}/sessions")
    found: list[str] = []
    for _ in range(2):
        found += page.evaluate(NAMES)
        page.evaluate("[...document.querySelectorAll('nav a')].pop().click()")
        page.wait()
    found += page.evaluate(NAMES)
    assert found == [f"job{number}.session" for number in range(250, 0, -1)]
    assert page.evaluate("[...document.querySelectorAll('nav a')].map(link => link.innerText)") == ["Newer sessions"]


def test_without_scripts_and_by_keyboard(page: Page, server: Server) -> None:
    """With scripts turned off it is all there; Tab shows where one is, and Enter opens the session."""
    server.send(otlp(*session(1)))
    page.forbid_scripts()
    page.open(f"{server.url}/sessions")
    page.press("Tab")
    focused = "document.activeElement"
    assert page.evaluate(f"{focused}.innerText") == "job1.session"
    assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"
    page.press("Enter")
    page.wait()
    text = str(page.evaluate("document.body.innerText"))
    for word in ("job1.session", "Success", "openai.chat.completion", "gpt-4o-mini", "10 in, 5 out"):
        assert word in text
    page.press("Tab")
    assert page.evaluate(f"{focused}.innerText") == "All sessions"
