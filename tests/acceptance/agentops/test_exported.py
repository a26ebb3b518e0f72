"""The real SDK and the local server, with nothing of ours in the program but ``instrument_agentops``."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning import semconv
from agentlightning.instrumentation.agentops_server import AgentOpsServerManager, AgentOpsServerOptions
from agentlightning.testing import ModelServer
from agentlightning.view.facts import facts

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(120)

PROGRAMS = Path(__file__).with_name("programs")


def endpoints(url: str) -> dict[str, str]:
    """Return the variables that send the SDK to the server at *url*."""
    return {
        "AGENTOPS_API_KEY": "11111111-1111-4111-8111-111111111111",
        "AGENTOPS_API_ENDPOINT": url,
        "AGENTOPS_EXPORTER_ENDPOINT": f"{url}/v1/traces",
        "AGENTOPS_APP_URL": url,
    }


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AgentOpsServerManager]:
    """Return a local server with a store of its own."""
    manager = AgentOpsServerManager(options=AgentOpsServerOptions(store=str(tmp_path / "server.db")))
    manager.start()
    yield manager
    manager.stop()


def test_spans_with_ids_come_to_the_server(sdk: Any, server: AgentOpsServerManager) -> None:
    """With any OpenTelemetry the spans arrive signed in, once for each call, with their ids and end states."""
    with ModelServer(["hello"] * 3, token_ids="vllm") as model:
        sdk.environment.update(model.environment)
        sdk.run((PROGRAMS / "exported.py").read_text(), patience_s=100, **endpoints(server.url)).check()
        asked = len(model.requests)
    store = server.options.store
    spans = [span for rollout in sdk.rollouts(store) for span in sdk.spans(rollout.rollout_id, store)]
    calls = [span for span in spans if facts(span.name, span.attributes).kind == "llm"]
    assert len(calls) == asked == 3, [span.name for span in spans]
    assert all(span.attributes[semconv.RESPONSE_TOKEN_IDS] for span in calls)
    (session,) = [span for span in spans if span.name == "exported.session"]
    assert session.attributes["agentops.session.end_state"] == "Success"


def test_a_server_that_is_away_holds_nobody_up(sdk: Any, load: float) -> None:
    """Signing in and five traces take at most a second more than with a server that does nothing; nothing is raised."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        away = json.loads(sdk.run((PROGRAMS / "away.py").read_text(), patience_s=60, **endpoints(url)).check().stdout)
    assert away["initialized"] is True
    allowed = 1.0 if sdk.version >= (0, 4, 19) else 3.0  # older ones sign in first, and try three times
    assert away["init_s"] + away["work_s"] < allowed + load, away  # a second for the work itself
