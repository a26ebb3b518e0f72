"""What can be read: the public API, the dashboard's lists, and the page of a session."""

from __future__ import annotations

import asyncio
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning.server.agentops import trace
from agentlightning.server.agentops.public import nested
from agentlightning.testing.agentops import HOSTILE_TEXTS, Server, hostile_session, otlp, session
from agentlightning.view import tree

if TYPE_CHECKING:
    import httpx

TRACE = f"{1:032x}"
ROOT = f"{17:016x}"
CALL = f"{18:016x}"


@pytest.fixture
def filled(server: Server) -> Server:
    """Return a server that has two sessions, one of which failed."""
    bad = session(2, end_state="Fail", tags=("night",), name="night.session")
    bad[0]["error"] = "rate limited"
    server.send(otlp(*session(1)))
    server.send(otlp(*bad))
    return server


def bearer(server: Server) -> dict[str, str]:
    """Return the header of the public API."""
    answer = server.client.post("/public/v1/auth/access_token", json={"api_key": "any"}).json()
    return {"authorization": f"Bearer {answer['bearer']}"}


def test_public_api(filled: Server) -> None:
    """The public API returns project, trace, span and their figures in the form of the protocol."""
    headers = bearer(filled)

    def get(path: str) -> httpx.Response:
        return filled.client.get(f"/public/v1/{path}", headers=headers)

    assert get("project").json() == {"id": "default", "name": "default", "environment": "local"}
    trace = get(f"traces/{TRACE}").json()
    assert (trace["trace_id"], trace["project_id"], trace["tags"]) == (TRACE, "default", ["a"])
    spans = {span["span_id"]: span for span in trace["spans"]}
    assert spans[CALL]["parent_span_id"] == ROOT
    assert spans[CALL]["span_name"] == "openai.chat.completion"
    assert spans[CALL]["duration"] == 5_000_000
    assert spans[CALL]["start_time"].endswith("Z")
    figures = get(f"traces/{TRACE}/metrics").json()
    assert (figures["span_count"], figures["prompt_tokens"], figures["completion_tokens"]) == (2, 10, 5)
    assert float(figures["prompt_cost"]) == pytest.approx(10 * 0.15 / 1e6)
    assert float(figures["total_cost"]) == pytest.approx((10 * 0.15 + 5 * 0.6) / 1e6)
    span = get(f"spans/{CALL}").json()
    assert span["attributes"]["gen_ai"]["prompt"][0] == {"role": "user", "content": "question 1"}
    assert span["service_name"] == "agentops"
    assert span["resource_attributes"]["agentops"]["project"]["id"] == "default"
    assert get(f"spans/{f'{33:016x}'}").status_code == 200  # of a trace that nobody asked for
    assert get(f"spans/{CALL}/metrics").json()["indeterminate_tokens"] == 15
    assert get(f"traces/{'0' * 31}9").status_code == get("spans/x").status_code == 404
    assert get(f"traces/{'0' * 31}9").json() == {"error": "Trace not found"}
    refused = filled.client.get("/public/v1/project")
    assert refused.status_code == 400
    assert "bearer" in refused.json()["error"]


@pytest.mark.parametrize("path", ["/v4/traces/list/default", "/v4/metrics/project/default"])
def test_a_list_builds_each_tree_once_and_not_on_the_loop(
    filled: Server, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trees of many traces hold up no other request, and cost once what they cost."""
    made: list[bool] = []

    def build(*given: Any, **named: Any) -> Any:
        """Note whether this is the thread of an event loop."""
        made.append(asyncio._get_running_loop() is not None)
        return tree.build(*given, **named)

    monkeypatch.setattr(trace, "build", build)
    assert filled.client.get(path).status_code == 200
    assert made == [False, False]


def test_dashboard(filled: Server) -> None:
    """Lists are filtered, ordered and paged; details have spans in full; figures are those of the project."""

    def get(path: str, **given: str) -> httpx.Response:
        return filled.client.get(f"/v4/{path}", params=given)

    listed = get("traces/list/default").json()
    assert listed["total"] == 2
    assert {item["root_span_name"] for item in listed["traces"]} == {"job1.session", "night.session"}
    assert listed["metrics"]["fail_count"] == 1
    assert [item["error_count"] for item in get("traces/list/default", query="night").json()["traces"]] == [1]
    page = get("traces/list/default", limit="1", offset="1", order_by="error_count", sort_order="ASC").json()
    assert [item["root_span_name"] for item in page["traces"]] == ["night.session"]
    assert get("traces/list/default", start_time="2050-01-01").json()["traces"] == []
    assert get("traces/list/default", limit="many").status_code == 400
    assert get("traces/list/other").status_code == 403
    assert get("meterics/project/default").json()["trace_count"] == 2
    detail = get(f"traces/detail/{2:032x}").json()
    assert (detail["tags"], detail["end_state"]) == (["night"], "Fail")
    assert detail["spans"][0]["status_message"] == "rate limited"
    assert get("traces/detail/none").status_code == get("logs/none").status_code == 404


def test_sessions_page(filled: Server) -> None:
    """The list names both sessions, each page just its own: tags, end state, errors."""
    listing = filled.client.get("/sessions").text
    for word in ("job1.session", "night.session", "Success", "Fail"):
        assert word in listing
    page = filled.client.get("/sessions", params={"trace_id": f"{2:032x}"}).text
    for word in ("night.session", "night", "Fail", "rate limited", "gpt-4o-mini", f"ro-{2:032x}"):
        assert word in page
    assert "job1" not in page
    assert filled.client.get("/sessions", params={"trace_id": "5"}).status_code == 404
    assert filled.client.get("/sessions/style.css").headers["content-type"].startswith("text/css")


class _Page(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links |= {value or "" for name, value in attrs if name in {"href", "src"}}


ELEMENTS = {
    *("html", "head", "meta", "title", "link", "body", "p", "a", "h1", "h2", "span", "ul", "li", "pre"),
    *("table", "thead", "tbody", "tr", "th", "td", "main", "nav"),
}


def test_nothing_that_a_program_wrote_becomes_markup(server: Server) -> None:
    """100 payloads in every text of a session stay text; the page has no script, no handler, and a strict policy."""
    assert len(HOSTILE_TEXTS) > 100
    spans = [span for number, text in enumerate(HOSTILE_TEXTS, 1) for span in hostile_session(number, text)]
    server.send(otlp(*spans))
    assert "{{7*7}}" in server.client.get("/sessions").text
    for number, text in enumerate(HOSTILE_TEXTS, 1):
        server.client.post("/v4/logs/upload/", json=text, headers={"Trace-Id": str(number)})
    pages = ["/sessions", *(f"/sessions?trace_id={number:032x}" for number in range(1, len(HOSTILE_TEXTS) + 1))]
    for path in pages:
        answer = server.client.get(path)
        assert answer.status_code == 200
        seen = _Page()
        seen.feed(answer.text)
        assert seen.tags <= ELEMENTS
        assert seen.attributes <= {"lang", "charset", "name", "content", "rel", "href", "class", "scope"}
        assert all(link.startswith("/sessions") for link in seen.links)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_pages_of_other_sites_are_refused(filled: Server) -> None:
    """A foreign name or origin gets nothing, on reading routes too."""
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        for path in ("/sessions", "/v4/traces/list/default", "/v3/auth/token"):
            assert filled.client.get(path, headers=headers).status_code == 403
        assert filled.client.post("/v3/auth/token", json={"api_key": "x"}, headers=headers).status_code == 403


def test_nested_attributes() -> None:
    """Names with dots become objects and lists; one that is a value and a beginning keeps both."""
    flat = {"a.0.b": 1, "a.1.b": 2, "c": 3, "c.d": 4, "e.x": 5, "e": 6, "f.1": 7}
    assert nested(flat) == {
        "a": [{"b": 1}, {"b": 2}],
        "c": {"": 3, "d": 4},
        "e": {"x": 5, "": 6},
        "f": {"1": 7},
    }
