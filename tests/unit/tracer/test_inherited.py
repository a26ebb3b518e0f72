"""Attributes that spans get from the block and the process that they start in."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.pipeline.process import get_pipeline
from agentlightning.tracer.inherited import set_process_attributes, span_attributes
from agentlightning.tracer.processor import CaptureProcessor
from agentlightning.tracer.provider import LightningTracerProvider

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class Kept(CaptureProcessor):
    """Keeps what is handed over, instead of the pipeline."""

    def __init__(self, *, stamping: bool) -> None:
        super().__init__({}, stamping=stamping)
        self.spans: list[ReadableSpan] = []

    def finish(self, span: ReadableSpan, attempt_id: str | None) -> None:
        self.spans.append(span)

    def last(self) -> dict[str, Any]:
        """Return the attributes of the span that ended last."""
        get_pipeline()
        return dict(self.spans[-1].attributes or {})


@pytest.fixture(params=["own", "joined"])
def kept(request: pytest.FixtureRequest) -> tuple[TracerProvider, Kept]:
    """A provider of ours, and one of the program's that was joined."""
    if request.param == "own":
        capture = Kept(stamping=False)
        return LightningTracerProvider(capture), capture
    capture = Kept(stamping=True)
    provider = TracerProvider()
    provider.add_span_processor(capture)
    return provider, capture


def end_span(provider: TracerProvider, **attributes: str) -> None:
    """Write one span."""
    provider.get_tracer("test").start_span("work", attributes=attributes).end()


def test_blocks_add_up_and_end(kept: tuple[TracerProvider, Kept]) -> None:
    """Inside blocks spans carry the attributes of all of them, the inner one wins; outside they carry none."""
    provider, capture = kept
    with span_attributes({"a": "1", "b": "1"}), span_attributes({"b": "2"}):
        end_span(provider)
        assert capture.last() == {"a": "1", "b": "2"}
    end_span(provider)
    assert capture.last() == {}


def test_own_attributes_win(kept: tuple[TracerProvider, Kept]) -> None:
    """What the program sets at the start of a span is never overwritten."""
    provider, capture = kept
    with span_attributes({"a": "1"}):
        end_span(provider, a="mine")
    assert capture.last() == {"a": "mine"}


def test_process_attributes_are_on_every_span(kept: tuple[TracerProvider, Kept]) -> None:
    """Attributes of the process are on every span, with those of blocks, until they are taken away."""
    provider, capture = kept
    set_process_attributes({"session.id": "s"})
    try:
        end_span(provider)
        assert capture.last() == {"session.id": "s"}
        with span_attributes({"a": "1"}):
            end_span(provider)
        assert capture.last() == {"session.id": "s", "a": "1"}
    finally:
        set_process_attributes({"session.id": None})
    end_span(provider)
    assert capture.last() == {}


def test_follows_a_copied_context(kept: tuple[TracerProvider, Kept]) -> None:
    """A thread that gets a copy of the context gets the attributes; one without has none."""
    provider, capture = kept
    with ThreadPoolExecutor(1) as pool, span_attributes({"a": "1"}):
        pool.submit(copy_context().run, end_span, provider).result()
        assert capture.last() == {"a": "1"}
        pool.submit(end_span, provider).result()
        assert capture.last() == {}


def test_block_ends_with_an_exception(kept: tuple[TracerProvider, Kept]) -> None:
    """An exception leaves the block, and the attributes with it."""
    provider, capture = kept
    with pytest.raises(KeyError), span_attributes({"a": "1"}):
        raise KeyError
    end_span(provider)
    assert capture.last() == {}


def test_emitted_spans_carry_them() -> None:
    """Spans that the emitters write the fast way carry them too."""
    capture = Kept(stamping=False)
    provider = LightningTracerProvider(capture)
    with span_attributes({"a": "1"}):
        provider.emit("agentlightning.reward", {"reward": 1.0})
    assert capture.last() == {"a": "1", "reward": 1.0}
