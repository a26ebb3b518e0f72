from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from opentelemetry.trace import NoOpTracerProvider

from agentlightning.instrumentation.attribute import bounded_repr, json_text, message_attributes, room
from agentlightning.instrumentation.base import Instrumentor, Patches

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider


class Parent:
    def inherited(self) -> str:
        return "inherited"


class Child(Parent):
    @staticmethod
    def own() -> str:
        return "own"


def test_patches_restore_own_and_inherited_attributes_exactly() -> None:
    """An own attribute is the same object again, static methods included, and an inherited one is inherited again."""
    before = dict(vars(Child))
    patches = Patches()
    patches.replace(Child, "own", lambda: "ours")
    patches.replace(Child, "inherited", lambda self: "ours")  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType] - any function
    patches.replace(Child, "own", lambda: "ours again")
    assert Child.own() == "ours again"
    patches.restore()
    patches.restore()
    assert dict(vars(Child)) == before
    assert Child().inherited() == "inherited"


def test_patches_leave_what_is_not_ours_any_more() -> None:
    """An attribute that somebody replaced after us stays theirs."""
    patches = Patches()
    patches.replace(Child, "inherited", lambda self: "ours")  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType] - any function

    def theirs(self: object) -> str:
        return "theirs"

    cast("Any", Child).inherited = theirs
    try:
        patches.restore()
        assert vars(Child)["inherited"] is theirs
    finally:
        del cast("Any", Child).inherited


class Half(Instrumentor):
    name = "half"
    modules = ()

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []

    def _install(self, tracer_provider: TracerProvider) -> None:
        self.log.append("installed")
        if len(self.log) == 1:
            raise LookupError

    def _remove(self) -> None:
        self.log.append("removed")


def test_an_instrumentor_that_fails_halfway_is_undone() -> None:
    """What was changed before the error is removed, and the next attempt starts anew; both ways are idempotent."""
    half = Half()
    with pytest.raises(LookupError):
        half.instrument(NoOpTracerProvider())
    assert half.log == ["installed", "removed"]
    assert not half.is_active
    half.instrument(NoOpTracerProvider())
    half.instrument(NoOpTracerProvider())
    assert half.is_active
    half.uninstrument()
    half.uninstrument()
    assert half.log == ["installed", "removed", "installed", "removed"]


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError


def test_any_value_has_a_text() -> None:
    """Objects without a JSON form, keys that are no text, cycles and a failing ``repr`` all give JSON."""
    circle: list[Any] = []
    circle.append(circle)
    assert json_text({"a": Rude()}) == '{"a": "<Rude>"}'
    assert json_text({(1, 2): 3}) == '"{(1, 2): 3}"'
    assert json_text(circle) == '"[[...]]"'
    assert json_text("é\ud800") == '"é\ud800"'
    assert len(bounded_repr("x" * 10**6)) < 10**5


def test_messages_are_flat_attributes() -> None:
    """One text is plain content; several parts keep their types, and an image in memory is named and not copied."""
    assert dict(message_attributes("m.0", "user", [{"type": "text", "text": "hi"}])) == {
        "m.0.message.role": "user",
        "m.0.message.content": "hi",
    }
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
        {"type": "image", "image": Rude()},
    ]
    found = dict(message_attributes("m.0", None, parts))
    assert found["m.0.message.contents.0.message_content.text"] == "look"
    assert found["m.0.message.contents.1.message_content.image.image.url"] == "http://x/y.png"
    assert found["m.0.message.contents.2.message_content.image.image.url"] == "<Rude>"


def test_a_span_without_a_limit_has_room() -> None:
    """Only spans of the SDK tell their limit."""
    assert room(object()) is None
