"""Spans for a local AgentOps server that is away for a while."""

from __future__ import annotations

from typing import Any

import pytest

from agentlightning.instrumentation import agentops_transport
from agentlightning.instrumentation.agentops_transport import Backlog


class Server:
    """Takes spans, or not."""

    def __init__(self) -> None:
        self.is_up = True
        self.tries = 0
        self.taken: list[Any] = []

    def send(self, spans: tuple[Any, ...]) -> bool:
        """Take *spans* when it is up."""
        self.tries += 1
        if self.is_up:
            self.taken.extend(spans)
        return self.is_up


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until it is set."""
    now = [100.0]
    monkeypatch.setattr(agentops_transport.time, "monotonic", lambda: now[0])
    return now


def test_what_was_missed_follows_in_order(clock: list[float]) -> None:
    """A server that is back gets everything, each span once; while it is away it is rarely asked."""
    server = Server()
    backlog = Backlog(server.send)
    assert backlog.take([1, 2])
    server.is_up = False
    assert not backlog.take([3])
    for span in (4, 5, 6):
        assert not backlog.take([span])
    assert server.tries == 2
    server.is_up = True
    clock[0] += 6
    assert backlog.take([7])
    assert server.taken == [1, 2, 3, 4, 5, 6, 7]


def test_the_end_tries_once_more_and_says_what_is_lost(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """At the end of the program what waits is sent whatever the pause; what is not taken is counted in the log."""
    server = Server()
    server.is_up = False
    backlog = Backlog(server.send)
    backlog.take([1, 2])
    backlog.end()
    assert "2 spans were not taken" in caplog.text
    server.is_up = True
    backlog.end()
    assert server.taken == [1, 2]
    backlog.end()
    assert server.tries == 3
