"""One span in full, for ``agl show --span``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from agentlightning.cli.document import dumps
from agentlightning.cli.terminal import safe, safe_lines, style
from agentlightning.cli.text import count, duration
from agentlightning.view.integrity import RULES
from agentlightning.view.loose import as_list

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentlightning.types.tracer import Span
    from agentlightning.view.tree import Node

_LONG_LIST = 20
"""A list with more items is counted and its beginning shown."""


def span_lines(node: Node, span: Span, rollout_id: str) -> Iterator[str]:
    """Yield all that is known of a span."""
    row = node.row
    if row is None:
        return
    yield f"{style(safe(span.name), bold=True)}  {row.facts.kind}  {node.state}  {row.status_code}"
    if span.status.description:
        yield from (style(f"  {line}", fg="red") for line in safe_lines(span.status.description))
    elapsed = "" if row.end_ns is None else f" · {duration(row.end_ns - row.start_ns)}"
    yield f"span {row.span_id} · parent {row.parent_id or 'none'} · trace {row.trace_id} · rollout {rollout_id}"
    yield time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.start_ns / 1e9)) + elapsed + f" · {safe(row.process)}"
    if span.scope_name:
        yield f"made by {safe(span.scope_name)} {safe(span.scope_version)}".rstrip()
    for rule in (row.facts.integrity or "").split(", "):
        if rule:
            yield style(f"breaks the rule {safe(rule)}: {safe(RULES.get(rule, 'unknown here'))}", fg="yellow")
    if node.price is not None:
        yield from _price(node)
    yield from _attributes("attributes", span.attributes)
    for event in span.events:
        yield ""
        at = "" if event.timestamp_ns is None else f" after {duration(event.timestamp_ns - row.start_ns)}"
        yield style(f"event {safe(event.name)}{at}", bold=True)
        yield from _values(event.attributes)
    for link in span.links:
        yield ""
        yield style(f"link to span {safe(link.context.span_id)} of trace {safe(link.context.trace_id)}", bold=True)
        yield from _values(link.attributes or {})
    yield from _attributes("resource", span.resource.attributes)


def _price(node: Node) -> Iterator[str]:
    price = node.price
    if price is None:
        return
    if price.usd is None:
        yield f"cost unknown: {safe(price.reason)}"
        return
    source = f"{price.source} {price.version} ({price.provider}/{price.model})"
    yield f"cost ${price.usd:f} by {safe(source)}" + (f": {safe(price.note)}" if price.note else "")
    for line in price.amounts:
        yield f"  {line.token_class:<12} {count(line.quantity):>12} * ${line.usd_per_million:f}/M = ${line.usd:f}"


def _attributes(title: str, values: Mapping[str, object]) -> Iterator[str]:
    yield ""
    yield style(title, bold=True)
    yield from _values(values)


def _values(values: Mapping[str, object]) -> Iterator[str]:
    for key, value in values.items():
        items = [] if isinstance(value, dict) else as_list(value)
        if len(items) > _LONG_LIST:
            shown = [f"{dumps(items[:_LONG_LIST])[:-1]}, ...] ({count(len(items))} items)"]
        else:
            shown = safe_lines(value) if isinstance(value, str) else [dumps(cast("object", value))]
        yield f"  {style(safe(key), fg='cyan')} {shown[0]}"
        yield from (f"    {line}" for line in shown[1:])
