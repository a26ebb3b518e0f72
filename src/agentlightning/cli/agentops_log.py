"""The logs that the AgentOps SDK uploaded, below the tree of ``agl show``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlightning.cli.terminal import safe, style
from agentlightning.cli.text import count
from agentlightning.semconv import SpanAttributeNames, SpanNames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentlightning.types.tracer import Span
    from agentlightning.view.tree import RolloutView

_SHOWN = 20
"""Lines of a log that are shown, its last ones."""
_FETCHED = 50
"""Messages that are looked at."""
_SCOPE = "agentops.log"


def log_lines(view: RolloutView, fetch: Callable[[list[tuple[str, str]]], list[Span]]) -> Iterator[str]:
    """Yield the end of each log of the rollout, and how the rest is shown; nothing where there is none."""
    rows = [node.row for node in view.walk() if node.row is not None and node.row.parent_id is None]
    keys = [(row.trace_id, row.span_id) for row in rows if row.name == SpanNames.MESSAGE.value]
    for span in fetch(keys[:_FETCHED]) if keys else ():
        if span.scope_name != _SCOPE:
            continue
        lines = str(span.attributes.get(SpanAttributeNames.MESSAGE.value, "")).splitlines()
        yield ""
        yield style("Log:", bold=True)
        if len(lines) > _SHOWN:
            yield style(f"  {count(len(lines) - _SHOWN)} lines before: --span {span.span_id}", dim=True)
        yield from (f"  {safe(line)}" for line in lines[-_SHOWN:])
