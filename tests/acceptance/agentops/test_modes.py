"""The modes SERVICE and BOTH under ``agl run``, against a service that has another name than this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning import configure, semconv, settings
from agentlightning.instrumentation.agentops_server import AgentOpsServerManager, AgentOpsServerOptions
from agentlightning.testing.agentops import RemoteService, make_certificate, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning import Span
    from agentlightning.testing import ModelServer

pytestmark = pytest.mark.timeout(120)

PROGRAM = Path(__file__).with_name("programs") / "served.py"
HOST = "service.test"
CHAT, SESSION = "openai.chat.completion", "served.session"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RemoteService]:
    """Return the service; it does not run yet."""
    made = RemoteService(tmp_path, make_certificate(tmp_path, HOST), host=HOST)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def reachable(sdk: Any, service: RemoteService, model: ModelServer) -> None:
    """Let programs of the test find and trust the service by its name, and ask the model server."""
    sdk.environment |= {"NAMED_HERE": HOST, "REQUESTS_CA_BUNDLE": service.ca, "SSL_CERT_FILE": service.ca}


def named(url: str) -> str:
    """Return the address of the service by its name."""
    return url.replace("127.0.0.1", HOST)


def own_variables(url: str, key: str) -> dict[str, str]:
    """Return what a program of the SDK has in its environment without us."""
    return {
        "AGENTOPS_API_KEY": key,
        "AGENTOPS_API_ENDPOINT": url,
        "AGENTOPS_EXPORTER_ENDPOINT": f"{url}/v1/traces",
        "AGENTOPS_APP_URL": url,
    }


def our_settings(url: str, key: str) -> dict[str, str]:
    """Return the same as settings of ours."""
    return {
        "AGL_AGENTOPS_API_KEY": key,
        "AGL_AGENTOPS_ENDPOINT": url,
        "AGL_AGENTOPS_EXPORTER_ENDPOINT": f"{url}/v1/traces",
    }


def keys(spans: list[Span]) -> list[tuple[str, str, str]]:
    """Return what tells spans apart, with their names."""
    return sorted((span.name, span.trace_id, span.span_id) for span in spans)


def check_store(spans: list[Span]) -> list[Span]:
    """Check that the run has each call once, with its ids, and return the spans that the SDK made."""
    calls = [span for span in spans if span.attributes.get(semconv.RESPONSE_TOKEN_IDS)]
    assert len(calls) == 3, [span.name for span in spans]
    assert len(spans) == 4
    ours = [span for span in spans if span.name in {CHAT, SESSION}]
    assert sorted(span.name for span in ours) == [CHAT, CHAT, SESSION]
    return ours


@pytest.mark.parametrize(
    ("mode", "given"),
    [
        ("BOTH", our_settings),
        pytest.param("BOTH", own_variables, marks=pytest.mark.slow),
        pytest.param("SERVICE", our_settings, marks=pytest.mark.slow),
        pytest.param("SERVICE", own_variables, marks=pytest.mark.slow),
    ],
)
def test_the_program_reaches_the_service(sdk: Any, service: RemoteService, mode: str, given: Any) -> None:
    """What the SDK records is at the service, once, with ids, and in the store; no other name is looked up."""
    url = named(service.start())
    sdk.run(PROGRAM.read_text(), traced=True, patience_s=100, AGL_AGENTOPS_MODE=mode, **given(url, service.key)).check()
    recorded = check_store(sdk.spans())
    found = service.spans()
    assert keys(found) == keys(recorded)
    assert [bool(span.attributes.get(semconv.RESPONSE_TOKEN_IDS)) for span in found].count(True) == 2
    (root,) = [span for span in found if span.name == SESSION]
    assert root.attributes["agentops.session.end_state"] == "Success"


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["wrong key", "away"])
def test_trouble_with_the_service_is_said_and_harms_nobody(sdk: Any, service: RemoteService, trouble: str) -> None:
    """With a wrong key, or no service, the program goes on, its spans are in the store, and one line says why."""
    url = named(service.start())
    if trouble == "away":
        service.stop()
    given = own_variables(url, "11111111-1111-4111-8111-111111111111")
    end = sdk.run(PROGRAM.read_text(), traced=True, patience_s=100, AGL_AGENTOPS_MODE="BOTH", **given)
    if sdk.version >= (0, 4, 19):
        end.check()
        check_store(sdk.spans())
        lost = {"wrong key": "look at AGENTOPS_API_KEY", "away": "cannot be reached"}[trouble]
        assert end.stderr.count(f"{lost}") >= 1, end.stderr
        assert "3 spans are lost there" in end.stderr
        assert float(end.stdout.split()[-1]) < 10  # a flush of OpenTelemetry alone may take so long
    else:
        assert not end.resolved  # their sign-in raises in agentops.init, as it does without us
        assert "ApiServerException" in end.stderr or "ConnectionError" in end.stderr
    assert service.spans() == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["BOTH", "SERVICE"])
def test_the_local_server_forwards(sdk: Any, service: RemoteService, mode: str) -> None:
    """A program that sends to the local server while it is recorded: each span once in the store and at the service."""
    url = service.start()
    settings.forget()  # as in another process: the service runs in this one, and has used them
    configure(agentops_mode=mode, agentops_api_key=service.key, agentops_endpoint=url, agentops_ca=service.ca)
    configure(agentops_exporter_endpoint=f"{url}/v1/traces")
    manager = AgentOpsServerManager(options=AgentOpsServerOptions(store=sdk.store))
    manager.start()
    try:
        given = own_variables(manager.url, "11111111-1111-4111-8111-111111111111")
        sdk.run(PROGRAM.read_text(), traced=True, patience_s=100, AGL_AGENTOPS_MODE=mode, **given).check()
        recorded = check_store(sdk.spans())
        wanted = 4 if mode == "BOTH" else 3  # BOTH uploads what is in the store, whoever made it
        wait_until(lambda: len(service.spans()) == wanted)
    finally:
        manager.stop()
    assert set(keys(recorded)) <= set(keys(service.spans()))
