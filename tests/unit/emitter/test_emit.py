"""Messages, exceptions and rewards become spans; nothing that is wrong with them reaches the program."""

from __future__ import annotations

import importlib
import logging
import math
import subprocess
import sys
import threading
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.trace import StatusCode

from agentlightning import emitter
from agentlightning._internal.guard import failures
from agentlightning.emitter import emit_exception, emit_message, emit_object, emit_reward, get_tracer, utils
from agentlightning.tracer import provider

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer
    from tests.unit.emitter.conftest import Recorded


class Color(str, Enum):
    RED = "rouge"


def test_message_is_a_span_with_its_text(recorded: Recorded) -> None:
    """A message is one ended span of the documented name with the text as attribute."""
    emit_message("héllo")
    assert (recorded.only.name, dict(recorded.only.attributes or {})) == (
        "agentlightning.message",
        {"message": "héllo"},
    )
    assert recorded.only.end_time is not None


def test_message_of_a_string_enum_is_its_value(recorded: Recorded) -> None:
    """An enum of strings is recorded as its text, not as the name of its member."""
    emit_message(Color.RED)
    assert recorded.attribute("message") == "rouge"


@pytest.mark.parametrize("wrong", [None, 3, b"x", ["a"]])
def test_message_of_a_wrong_type_is_logged_and_skipped(
    wrong: Any, recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no text gives no span and one line in the log that names its type and not its content."""
    emit_message(wrong)
    assert recorded.spans == ()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert type(wrong).__name__ in caplog.text


def test_exception_carries_type_message_and_traceback(recorded: Recorded) -> None:
    """An exception has OpenTelemetry's attributes, its causes, and the status ERROR."""
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner
    except ValueError as caught:
        emit_exception(caught)
    attributes = dict(recorded.only.attributes or {})
    assert recorded.only.name == "agentlightning.exception"
    assert attributes["exception.type"] == "ValueError"
    assert attributes["exception.message"] == "outer"
    assert attributes["exception.escaped"] is True
    assert "KeyError: 'inner'" in str(attributes["exception.stacktrace"])
    assert recorded.only.status.status_code is StatusCode.ERROR


class _BrokenError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_exception_with_a_broken_text_is_still_recorded(recorded: Recorded) -> None:
    """A class whose __str__ raises costs neither the span nor the program."""
    emit_exception(_BrokenError())
    assert str(recorded.attribute("exception.type")).endswith("test_emit._BrokenError")


def test_exception_that_no_one_raised_is_recorded(recorded: Recorded) -> None:
    """An exception without a traceback, or one that ends the program, is recorded like any other."""
    emit_exception(KeyboardInterrupt())
    assert recorded.attribute("exception.type") == "KeyboardInterrupt"


def test_what_is_no_exception_is_logged_and_skipped(recorded: Recorded, caplog: pytest.LogCaptureFixture) -> None:
    """A text or a class given as exception gives no span and one line in the log."""
    emit_exception(cast("Any", "boom"))
    emit_exception(cast("Any", ValueError))
    assert recorded.spans == ()
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (1, 1.0),
        (0.5, 0.5),
        (True, 1.0),
        (np.float32(0.25), 0.25),
        (np.int64(3), 3.0),
        (np.array(2.0), 2.0),
        (Decimal("0.5"), 0.5),
        (math.inf, math.inf),
    ],
)
def test_reward_is_stored_as_a_float(given: Any, stored: float, recorded: Recorded) -> None:
    """Any number becomes a float, and the span that is returned is the one that was recorded."""
    span = emit_reward(given)
    assert span is recorded.only or span.context == recorded.only.context
    assert type(recorded.attribute("reward")) is float
    assert recorded.attribute("reward") == stored
    assert recorded.only.name == "agentlightning.reward"


@pytest.mark.parametrize("wrong", [None, "1", math.nan, 1j, [1.0], np.array([1.0]), 10**400, object()])
def test_reward_that_is_no_number_is_a_value_error(wrong: Any, recorded: Recorded) -> None:
    """What is no number, NaN among it, is refused and recorded nowhere."""
    with pytest.raises(ValueError, match="a reward is a number"):
        emit_reward(wrong)
    assert recorded.spans == ()


def test_spans_hang_under_the_current_one(recorded: Recorded) -> None:
    """The parent of an emitted span is the span that is current where it is emitted."""
    with recorded.tracer.start_as_current_span("agent") as agent:
        emit_message("m")
        emit_object({})
        emit_exception(ValueError())
        emit_reward(1)
    parents = {span.parent.span_id if span.parent else None for span in recorded.spans if span.name != "agent"}
    assert parents == {agent.get_span_context().span_id}


def test_emitting_from_many_threads_loses_nothing(recorded: Recorded) -> None:
    """Emitters may be called from any thread at the same time."""

    def work() -> None:
        for _ in range(50):
            emit_reward(1)
            emit_object([1])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(recorded.spans) == 400


@pytest.mark.usefixtures("no_tracer")
def test_without_a_tracer_nothing_is_recorded_and_nothing_raised() -> None:
    """With a tracer that records nothing every emitter works, and a reward is returned to its caller."""
    emit_message("m")
    emit_object({})
    emit_exception(ValueError())
    span = emit_reward(True)
    context = span.get_span_context()
    assert context is not None
    assert context.is_valid
    assert emitter.get_reward_value(span) == 1.0


def test_an_error_of_ours_is_counted_and_stays_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the tracer itself fails the program goes on, and the guard has counted it."""

    def broken(*_: object) -> Tracer:
        raise OSError

    monkeypatch.setattr(failures, "loud", False)
    monkeypatch.setattr(provider, "emit", broken)
    before = failures.counts().get("emitter.emit_span", 0)
    emit_message("m")
    assert emit_reward(1).name == "agentlightning.reward"
    assert failures.counts()["emitter.emit_span"] == before + 2


@given(text=st.text(alphabet=st.characters(exclude_categories=())))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_recorded_as_it_is(text: str, recorded: Recorded) -> None:
    """A message comes out as it went in, lone surrogates included."""
    recorded.exporter.clear()
    emit_message(text)
    assert recorded.attribute("message") == text


@pytest.mark.parametrize("first", ["name", "module"])
def test_reward_is_the_function_and_its_module_can_be_imported(first: str) -> None:
    """``from emitter import reward`` gives the decorator, in whichever order the module was imported."""
    code = {
        "name": "from agentlightning.emitter import reward\nimport agentlightning.emitter.reward\n",
        "module": "import agentlightning.emitter.reward\nfrom agentlightning.emitter import reward\n",
    }[first]
    code += (
        "from agentlightning.emitter import reward as again\nimport importlib, types\n"
        "assert callable(reward) and reward is again\n"
        "assert isinstance(importlib.import_module('agentlightning.emitter.reward'), types.ModuleType)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_importing_the_emitters_loads_nothing_of_others() -> None:
    """Importing the emitters loads neither OpenTelemetry nor pydantic nor numpy."""
    code = (
        "import sys, agentlightning.emitter\n"
        "loaded = {'opentelemetry', 'pydantic', 'numpy', 'msgspec', 'wrapt'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_public_name_exists() -> None:
    """Each name in ``__all__`` can be imported."""
    for name in emitter.__all__:
        assert getattr(emitter, name) is not None
    assert callable(importlib.import_module("agentlightning.emitter.utils").get_tracer)
    assert get_tracer is utils.get_tracer
