from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import TracerProvider

from agentlightning import semconv
from agentlightning.testing import token_ids

if TYPE_CHECKING:
    from agentlightning.instrumentation.openai import OpenAIInstrumentor

needs_openinference = pytest.mark.skipif(
    tuple(map(int, openai.__version__.split(".")[:2])) < (2, 8), reason="OpenInference refuses this release"
)


def snapshot() -> dict[tuple[type, str], object]:
    """Return every attribute of the classes of the library that could be touched."""
    classes: set[type] = set()
    for cls in (openai.OpenAI, openai.AsyncOpenAI, openai.AzureOpenAI, openai.Stream, openai.AsyncStream):
        classes.update(cls.__mro__)
    return {(cls, name): value for cls in classes - {object} for name, value in vars(cls).items()}


def test_uninstrumenting_restores_exactly(
    instrumented: OpenAIInstrumentor, serve: Any, spans: Any, asked: dict[str, Any], text: str
) -> None:
    """Every attribute of the library's classes is the same object as before, and added ones are gone."""
    instrumented.uninstrument()
    before = snapshot()
    instrumented.instrument(spans.provider)
    instrumented.instrument(spans.provider)
    assert snapshot() != before
    c = serve(text, text).client
    c.chat.completions.create(**asked)
    assert len(spans.all()) == 1
    instrumented.uninstrument()
    instrumented.uninstrument()
    after = snapshot()
    assert before.keys() == after.keys()
    assert [key for key, value in before.items() if after[key] is not value] == []
    c.chat.completions.create(**asked)
    assert len(spans.all()) == 1


def test_a_wrapper_that_came_after_us_survives(
    instrumented: OpenAIInstrumentor, serve: Any, spans: Any, asked: dict[str, Any], text: str
) -> None:
    """What somebody else put over our wrapper stays when we go, and our part below it passes calls through."""
    client_class: Any = openai.OpenAI
    ours = client_class.request
    calls: list[int] = []

    def theirs(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return ours(self, *args, **kwargs)

    client_class.request = theirs
    try:
        instrumented.uninstrument()
        assert vars(openai.OpenAI)["request"] is theirs
        answer = serve(text).client.chat.completions.create(**asked)
        assert answer.choices[0].message.content == text
        assert calls == [1]
        assert spans.all() == []
    finally:
        del client_class.request


def test_suppressed_instrumentation_is_respected(
    call: Any, serve: Any, spans: Any, asked: dict[str, Any], text: str
) -> None:
    """Where other libraries ask OpenTelemetry for silence, nothing is recorded."""
    with suppress_instrumentation():
        assert call(serve(text).client, asked) == text
    assert spans.all() == []


@needs_openinference
@pytest.mark.parametrize("theirs_first", [True, False])
def test_the_programs_own_openinference_leads_to_one_span(  # noqa: PLR0917 - fixtures
    theirs_first: bool,
    instrumented: OpenAIInstrumentor,
    serve: Any,
    spans: Any,
    read: Any,
    asked: dict[str, Any],
    text: str,
) -> None:
    """With OpenInference installed by the program into the same provider, calls are one span, with our ids."""
    from openinference.instrumentation.openai import OpenAIInstrumentor as Theirs

    theirs: Any = Theirs()
    instrumented.uninstrument()
    order: list[Any] = [theirs.instrument, instrumented.instrument]
    try:
        for instrument in order if theirs_first else reversed(order):
            instrument(tracer_provider=spans.provider)
        completions = serve(text, text).client.chat.completions
        completions.create(**asked)
        list(completions.create(stream=True, **asked))
        assert len(spans.all()) == 2
        for span in spans.all():
            assert read(span)[semconv.RESPONSE_TOKEN_IDS] == token_ids(text)
    finally:
        for uninstrument in (
            (instrumented.uninstrument, theirs.uninstrument)
            if theirs_first
            else (theirs.uninstrument, instrumented.uninstrument)
        ):
            uninstrument()


@needs_openinference
def test_the_programs_own_openinference_with_another_provider_changes_nothing(
    serve: Any, spans: Any, asked: dict[str, Any], text: str
) -> None:
    """Spans that go elsewhere do not replace ours."""
    from openinference.instrumentation.openai import OpenAIInstrumentor as Theirs

    theirs: Any = Theirs()
    theirs.instrument(tracer_provider=TracerProvider())
    try:
        serve(text).client.chat.completions.create(**asked)
    finally:
        theirs.uninstrument()
    assert len(spans.all()) == 1
