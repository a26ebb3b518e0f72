"""Everything of a rollout, a line for each thing: ``jsonl``.

The first line of a rollout is ``{"type": "rollout", ...}``, then come its attempts and its spans. Every line can be
read alone, and a file that was cut short is good up to the cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlightning.adapter.dataset.exact import model_object, span_object

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.adapter.dataset.call import Recorded

VERSION = 1
"""Version of the lines; it is on each rollout."""


def lines(recorded: Recorded) -> Iterator[dict[str, object]]:
    """Yield the lines of a rollout."""
    yield {"type": "rollout", "version": VERSION, **model_object(recorded.rollout)}
    for attempt in recorded.attempts:
        yield {"type": "attempt", **model_object(attempt)}
    for span in recorded.spans:
        yield {"type": "span", **span_object(span)}
