"""Spans for a local AgentOps server that is away for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from agentlightning.instrumentation import agentops_transport
from agentlightning.instrumentation.agentops_transport import Backlog

if TYPE_CHECKING:
    from collections.abc import Sequence


def spans(*names: object) -> list[ReadableSpan]:
    """Return spans with these names."""
    return [ReadableSpan(str(name)) for name in names]


class Server:
    """Takes spans, or not."""

    def __init__(self) -> None:
        self.is_up = True
        self.tries = 0
        self.taken: list[str] = []

    def send(self, spans: Sequence[ReadableSpan]) -> int | None:
        """Take *spans* when it is up, and none that is called ``bad``; answer with a status."""
        self.tries += 1
        if not self.is_up:
            return None
        names = [span.name for span in spans]
        if "bad" in names:
            return 400
        self.taken.extend(names)
        return 200


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until it is set."""
    now = [100.0]
    monkeypatch.setattr(agentops_transport.time, "monotonic", lambda: now[0])
    return now


def test_what_was_missed_follows_in_order(clock: list[float]) -> None:
    """A server that is back gets everything, each span once; while it is away it is rarely asked."""
    server = Server()
    backlog = Backlog(server.send, "http://s")
    assert backlog.take(spans(1, 2))
    server.is_up = False
    assert not backlog.take(spans(3))
    for number in (4, 5, 6):
        assert not backlog.take(spans(number))
    assert server.tries == 2
    server.is_up = True
    clock[0] += 6
    assert backlog.take(spans(7))
    assert server.taken == [str(number) for number in range(1, 8)]


@pytest.mark.parametrize("status", [401, 403, 408, 429, 503])
def test_before_the_sign_in_and_while_it_is_busy_spans_wait(clock: list[float], status: int) -> None:
    """What a server refuses because nobody has signed in yet, or because it is busy, is sent again."""
    answers = [status, 200]
    backlog = Backlog(lambda _spans: answers.pop(0), "http://s")
    assert not backlog.take(spans(1))
    clock[0] += 6
    assert backlog.take(spans(2))
    assert answers == []


def test_what_is_refused_for_good_holds_nothing_up(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """Spans that a server will never take are counted in the log; those before and behind them arrive."""
    server = Server()
    backlog = Backlog(server.send, "http://s")
    server.is_up = False
    backlog.take(spans(*range(512), "bad", *range(513, 1600)))
    server.is_up = True
    clock[0] += 6
    assert backlog.take(spans(1600))
    assert server.taken == [str(number) for number in (*range(512), *range(1024, 1601))]
    assert "refuses 512 spans (status 400)" in caplog.text


def test_the_end_tries_once_more_and_says_what_is_lost(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """At the end of the program what waits is sent whatever the pause; what is not taken is counted in the log."""
    server = Server()
    server.is_up = False
    backlog = Backlog(server.send, "http://s")
    backlog.take(spans(1, 2))
    backlog.end()
    assert "http://s cannot be reached: 2 spans are lost there" in caplog.text
    server.is_up = True
    backlog.end()
    assert server.taken == ["1", "2"]
    backlog.end()
    assert server.tries == 3
