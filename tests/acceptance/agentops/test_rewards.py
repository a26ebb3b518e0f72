"""``@reward`` beside the real SDK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentlightning.emitter import get_reward_value

pytestmark = pytest.mark.timeout(120)

PROGRAMS = Path(__file__).with_name("programs")


def test_one_reward_span_either_way(sdk: Any) -> None:
    """The SDK's operation where its client is initialised, ours elsewhere, in every kind of child; never both."""
    sdk.run((PROGRAMS / "rewards.py").read_text(), traced=True, patience_s=100).check()
    spans = sorted(sdk.spans(), key=lambda span: span.start_time or 0)
    found = [(span.name, get_reward_value(span)) for span in spans]
    ours, theirs = "agentlightning.reward", "agentlightning.reward.task"
    assert found == [
        (ours, 0.125),
        (theirs, 0.5),
        (theirs, 0.25),
        (theirs, None),
        (ours, 1.0),
        (theirs, 2.0),
    ]
    assert spans[3].status.status_code == "ERROR"
