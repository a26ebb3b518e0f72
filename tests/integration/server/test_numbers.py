"""Numbers that are none, or that no store can keep: every parameter of the HTTP API refuses them with a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from agentlightning.server.launcher import LightningStoreServer
from agentlightning.store import InMemoryLightningStore, wire

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_NUMBERS = ("NaN", "Infinity", "-Infinity", "1e400", "-1e400")
HUGE = ("1e300", "-1e300", "9" * 40, "-" + "9" * 40)
IN_BODIES = (
    ("POST", "/v1/rollouts/wait", '{"rollout_ids": ["ro-1"], "timeout": %s}'),
    ("POST", "/v1/rollouts/dequeue", '{"lease_s": %s}'),
    ("POST", "/v1/rollouts/prune", '{"before": %s}'),
    ("POST", "/v1/rollouts/prune", '{"keep": %s}'),
    ("POST", "/v1/rollouts/query", '{"where": {"start_after": %s}}'),
    ("POST", "/v1/rollouts/query", '{"where": {"start_before": %s}}'),
    ("POST", "/v1/rollouts/query", '{"where": {"limit": %s}}'),
    ("POST", "/v1/rollouts/query", '{"where": {"offset": %s}}'),
    ("PATCH", "/v1/rollouts/ro-1/attempts/latest", '{"last_heartbeat_time": %s}'),
    ("POST", "/v1/rollouts/start", '{"config": {"timeout_seconds": %s}}'),
    ("POST", "/v1/rollouts/start", '{"config": {"unresponsive_seconds": %s}}'),
    ("POST", "/v1/rollouts/start", '{"config": {"max_attempts": %s}}'),
)
IN_QUERIES = (
    ("GET", "/v1/rollouts/newest?limit=%s"),
    ("GET", "/v1/rollouts/newest?offset=%s"),
    ("POST", "/v1/changes?wait_s=%s"),
)


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    """Open a client of a store with one rollout."""
    with (
        LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0) as server,
        httpx.Client(base_url=server.endpoint, timeout=5) as client,
    ):
        client.post("/v1/rollouts/start", json={"input": 1, "rollout_id": "ro-1"}).raise_for_status()
        yield client


def check(answer: httpx.Response, *, is_refused: bool) -> None:
    """The request was refused with a sentence that names the parameter; or taken, where it may be."""
    assert answer.status_code < 500, (answer.status_code, answer.text)
    if is_refused:
        assert answer.status_code == 422, (answer.status_code, answer.text)
        assert ": Input should be" in answer.json()["message"], answer.text


@pytest.mark.parametrize(("method", "path", "body"), IN_BODIES)
def test_a_body_with_what_is_no_number_is_refused(http: httpx.Client, method: str, path: str, body: str) -> None:
    """NaN and infinities are refused with a sentence, numbers beyond what a store keeps are no failure either."""
    for number in (*NO_NUMBERS, *HUGE):
        answer = http.request(method, path, content=body % number, headers={"content-type": wire.JSON})
        is_no_limit = "_seconds" in body and number in {"Infinity", "1e400"}
        check(answer, is_refused=number in NO_NUMBERS and not is_no_limit)


@pytest.mark.parametrize(("method", "path"), IN_QUERIES)
def test_a_query_with_what_is_no_number_is_refused(http: httpx.Client, method: str, path: str) -> None:
    """The same of parameters of the address."""
    content, headers = (wire.encode_any(None), {"content-type": wire.MSGPACK}) if method == "POST" else (b"", {})
    for number in (*NO_NUMBERS, *HUGE):
        answer = http.request(method, path % number, content=content, headers=headers)
        check(answer, is_refused=number in NO_NUMBERS)


def test_a_limit_beyond_all_times_never_comes(http: httpx.Client) -> None:
    """An attempt with an endless limit is looked at like any other once a further limit of it has passed."""
    config = {"timeout_seconds": 1e300, "unresponsive_seconds": 0.0}
    made = http.post("/v1/rollouts/start", json={"config": config, "rollout_id": "ro-endless"})
    assert made.status_code == 200
    assert http.get("/v1/rollouts/ro-endless/attempts").json()[0]["status"] == "unresponsive"


def test_an_input_may_hold_what_is_no_number(http: httpx.Client) -> None:
    """Content is the caller's business: NaN in an input comes back as null, and the list can be read."""
    body = '{"input": {"a": NaN, "b": [1e400]}, "rollout_id": "ro-nan", "metadata": {"x": NaN}}'
    answer = http.post("/v1/rollouts/start", content=body, headers={"content-type": wire.JSON})
    assert answer.status_code == 200
    assert http.get("/v1/rollouts/ro-nan").json()["input"] == {"a": None, "b": [None]}
