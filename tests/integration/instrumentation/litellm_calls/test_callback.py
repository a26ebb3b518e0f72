"""``instrument_litellm`` with the real LiteLLM: its own OpenTelemetry callback; ``make matrix ENV=litellm`` has it."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning import semconv
from agentlightning.instrumentation.litellm import instrument_litellm, uninstrument_litellm
from agentlightning.instrumentation.vllm import instrument_vllm, uninstrument_vllm
from agentlightning.testing import ModelServer, token_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [  # what LiteLLM warns of is its own
    pytest.mark.filterwarnings(f"ignore::{name}")
    for name in ("DeprecationWarning", "PendingDeprecationWarning", "UserWarning", "ResourceWarning", "RuntimeWarning")
]
pytestmark.append(pytest.mark.timeout(120))
TEXT = "hi there"
PATIENCE_S = 60  # the first call loads much


class Caller:
    """Calls a model by LiteLLM, and waits for the span that its callback writes on another thread."""

    def __init__(self, library: Any, server: ModelServer, spans: Any) -> None:
        self.library = library
        self.written = threading.Event()
        written = self.written
        base: Any = sys.modules["litellm.integrations.opentelemetry"]

        class Callback(base.OpenTelemetry):
            def _handle_success(self, *args: Any, **kwargs: Any) -> None:
                base.OpenTelemetry._handle_success(self, *args, **kwargs)
                written.set()

        config = base.OpenTelemetryConfig(exporter="console", skip_set_global=True)
        library.callbacks = [Callback(config=config, tracer_provider=spans.provider)]
        self._spans = spans
        self._given: dict[str, Any] = {
            "model": "openai/gpt-4o-mini",
            "messages": [{"role": "user", "content": "hello"}],
            "extra_body": {"return_token_ids": True},
            "logprobs": True,
            "api_base": server.url,
            "api_key": "sk-testing",
        }

    def ask(self, call: Callable[..., Any] | None = None, **more: Any) -> tuple[Any, dict[str, Any]]:
        """Return the answer of a call, and the attributes of the callback's span of it."""
        self._spans.clear()
        self.written.clear()
        answer = (call or self.library.completion)(**self._given, **more)
        assert self.written.wait(PATIENCE_S)
        (span,) = [span for span in self._spans.all() if span.name == "litellm_request"]
        return answer, dict(span.attributes)

    def later(self, **given: Any) -> Any:
        """Return the answer of an asynchronous call; its span is written while the loop runs."""

        async def call() -> Any:
            answer = await self.library.acompletion(**given)
            await asyncio.to_thread(self.written.wait, PATIENCE_S)
            return answer

        return asyncio.run(call())


@pytest.fixture(params=["vllm", "vllm-old"])  # LiteLLM drops what another LiteLLM sends
def caller(request: pytest.FixtureRequest, spans: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Caller]:
    """Return LiteLLM with its callback turned on, before a server that sends token ids."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would ask a server elsewhere
    library = pytest.importorskip("litellm", reason="LiteLLM is not installed here: make matrix ENV=litellm")
    pytest.importorskip("litellm.integrations.opentelemetry")
    with ModelServer([TEXT] * 9, token_ids=request.param) as server:
        yield Caller(library, server, spans)
    library.logging_callback_manager._reset_all_callbacks()  # it keeps copies of ``callbacks`` elsewhere
    uninstrument_litellm()


def check(attributes: dict[str, Any]) -> None:
    """Check that the ids and log-probabilities of the answer are there."""
    assert list(attributes[semconv.RESPONSE_TOKEN_IDS]) == token_ids(TEXT)
    assert attributes[semconv.PROMPT_TOKEN_IDS]
    assert len(attributes[semconv.LOGPROBS]) == len(token_ids(TEXT))


def test_spans_of_the_callback_get_ids(caller: Caller) -> None:
    """Plain, asynchronous and repeated calls have ids and log-probabilities; all choices of one with ``n`` have."""
    instrument_litellm()
    instrument_litellm()  # a second call changes nothing
    answer, attributes = caller.ask()
    assert answer.choices[0].message.content == TEXT
    check(attributes)
    check(caller.ask(caller.later)[1])
    check(two := caller.ask(n=2)[1])
    assert two[f"{semconv.RESPONSE_TOKEN_IDS}.1"]


def test_without_it_and_after_it_nothing_is_added(caller: Caller) -> None:
    """Before, and after it is taken off, the callback's spans are LiteLLM's alone, and its method is its own."""
    owner: Any = sys.modules["litellm.integrations.opentelemetry"].OpenTelemetry
    original = owner.set_attributes
    before = caller.ask()[1]
    instrument_litellm()
    assert owner.set_attributes is not original
    uninstrument_litellm()
    uninstrument_litellm()
    assert owner.set_attributes is original
    after = caller.ask()[1]
    assert semconv.RESPONSE_TOKEN_IDS not in before | after
    assert set(before) == set(after)


def test_where_there_is_nothing_to_do_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without LiteLLM, and with vLLM, which needs nothing, no error is raised and a line says why."""
    caplog.set_level(logging.INFO, "agentlightning.instrumentation")
    monkeypatch.setitem(sys.modules, "litellm.integrations.opentelemetry", None)
    instrument_litellm()
    uninstrument_litellm()
    instrument_vllm()
    uninstrument_vllm()
    assert "recorded anyway" in caplog.text
    assert "return_token_ids" in caplog.text
