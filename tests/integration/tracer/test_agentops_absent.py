from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING

import openai
import pytest

from agentlightning import AgentOpsTracer, open_store
from agentlightning.errors import MissingExtraError
from agentlightning.instrumentation.agentops import instrument_agentops, uninstrument_agentops
from agentlightning.instrumentation.vllm import instrument_vllm, uninstrument_vllm
from agentlightning.testing import ModelServer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("agentops") is not None, reason="for environments without the AgentOps SDK"
)


def test_without_the_sdk_openinference_records_and_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tracer needs no SDK: rollouts have their calls all the same, also after a second rollout."""
    caplog.set_level(logging.INFO, logger="agentlightning.agentops")
    tracer = AgentOpsTracer()
    names: list[list[str]] = []
    with ModelServer() as model:
        client = openai.OpenAI(base_url=model.url, api_key="sk-testing")
        store = open_store(str(tmp_path / "store.db"))
        for _ in range(2):
            with tracer.trace_context("one", store=store):
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
            names.append([span.name for span in tracer.get_last_trace()])
        tracer.teardown()
        store.close()
        client.close()
    assert names == [["ChatCompletion"]] * 2
    assert [record.getMessage() for record in caplog.records] == ["AgentOpsTracer records with OpenInference"]


def test_not_instrumented_it_is_plain_opentelemetry() -> None:
    """With nothing to manage and nothing to instrument, spans that the program makes itself are what there is."""
    tracer = AgentOpsTracer(instrument_managed=False)
    tracer.init_worker(0)
    assert tracer.engine == "plain OpenTelemetry"
    tracer.teardown()
    assert tracer.engine is None


def test_what_needs_the_sdk_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Instrumenting without the SDK changes nothing and names the remedy; the handler of LangChain raises."""
    assert instrument_agentops() is False
    assert "pip install 'agentlightning[agentops]'" in caplog.text
    uninstrument_agentops()
    with pytest.raises(MissingExtraError, match="agentops"):
        AgentOpsTracer(agentops_managed=False).get_langchain_handler()


def test_vllm_needs_nothing_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    """Servers send token ids themselves when they are asked."""
    caplog.set_level(logging.INFO, logger="agentlightning")
    instrument_vllm()
    uninstrument_vllm()
    assert "return_token_ids" in caplog.text
