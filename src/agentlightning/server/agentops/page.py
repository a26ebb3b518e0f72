"""The page behind the link that the SDK prints: ``/sessions?trace_id=``; without an id the newest sessions.

Everything that a program wrote is text here: templates escape it, and the page may run no script and load nothing.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from agentlightning.server.agentops.session import trace_id_of
from agentlightning.server.agentops.state import agentops_of
from agentlightning.server.agentops.trace import Trace, find_trace, logs_of, tags_of_trace, traces_of

if TYPE_CHECKING:
    import jinja2

router = APIRouter(tags=["agentops page"])

_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_LISTED = 100
_MOST_SPANS = 2000
_MOST_LOG_CHARS = 200_000

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #1b1f24; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25em .75em .25em 0; border-bottom: 1px solid #e1e4e8; vertical-align: top; }
td { overflow-wrap: anywhere; }
.number { text-align: right; white-space: nowrap; }
.failed { color: #b31d28; }
.tag { background: #eaeef2; border-radius: .7em; padding: 0 .6em; margin-right: .3em; }
pre { background: #f6f8fa; padding: 1em; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) {
  body { background: #0d1117; color: #d1d7e0; } pre, .tag { background: #21262d; } .failed { color: #ff7b72; }
  th, td { border-color: #30363d; } a { color: #58a6ff; }
}
"""

_TEMPLATE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{ title }}</title>
<link rel="stylesheet" href="/sessions/style.css"></head>
<body>
{% if trace %}
<p><a href="/sessions">All sessions</a></p>
<h1>{{ trace.name }}</h1>
<p>{% for tag in tags %}<span class="tag">{{ tag }}</span>{% endfor %}
<span{% if failed %} class="failed"{% endif %}>{{ end_state }}</span></p>
<table>
<tr><th>Trace</th><td>{{ trace.trace_id }}</td></tr>
<tr><th>Rollout</th><td>{{ trace.rollout.rollout_id }}</td></tr>
<tr><th>Started</th><td>{{ started }}</td></tr>
<tr><th>Took</th><td>{{ took }}</td></tr>
<tr><th>Tokens</th><td>{{ totals.input_tokens }} in, {{ totals.output_tokens }} out</td></tr>
<tr><th>Cost</th><td>{{ cost }}</td></tr>
</table>
{% if errors %}<h2>Errors</h2><ul>{% for row in errors %}
<li class="failed">{{ row.name }}: {{ row.status_description or "error" }}</li>{% endfor %}</ul>{% endif %}
<h2>Spans</h2>
<table><tr><th>Name</th><th>Kind</th><th>Model</th><th class="number">Took</th><th>Status</th></tr>
{% for depth, row in spans %}<tr><td>{{ "\u00a0\u00a0" * depth }}{{ row.name }}</td><td>{{ row.facts.kind }}</td>
<td>{{ row.facts.model or "" }}</td><td class="number">{{ row.took }}</td>
<td{% if row.status_code == "ERROR" %} class="failed"{% endif %}>{{ row.status_code }}</td></tr>
{% endfor %}</table>
{% if more %}<p>{{ more }} more spans: agl show {{ trace.rollout.rollout_id }}</p>{% endif %}
{% if logs %}<h2>Log</h2>{% for log in logs %}<pre>{{ log }}</pre>{% endfor %}{% endif %}
{% else %}
<h1>{{ title }}</h1>
{% if message %}<p>{{ message }}</p>{% endif %}
{% if items %}<table><tr><th>Session</th><th>Tags</th><th>State</th><th>Started</th><th class="number">Took</th>
<th class="number">Spans</th><th class="number">Errors</th></tr>
{% for item in items %}<tr><td><a href="/sessions?trace_id={{ item.trace_id }}">{{ item.name }}</a></td>
<td>{% for tag in item.tags %}<span class="tag">{{ tag }}</span>{% endfor %}</td>
<td{% if item.failed %} class="failed"{% endif %}>{{ item.state }}</td><td>{{ item.started }}</td>
<td class="number">{{ item.took }}</td><td class="number">{{ item.spans }}</td>
<td class="number">{{ item.errors }}</td></tr>
{% endfor %}</table>{% endif %}
{% endif %}
</body></html>
"""


@router.get("/sessions/style.css")
async def style() -> Response:
    """Return the style sheet; a style inside of the page would need a looser policy."""
    return Response(_STYLE, media_type="text/css", headers={"x-content-type-options": "nosniff"})


@router.get("/sessions")
async def sessions(request: Request, trace_id: str = "") -> Response:
    """Show one session, or the newest ones of the project."""
    store = agentops_of(request).store_of(request)
    if not trace_id:
        items = [await _item(store, trace) for trace in await traces_of(store, _LISTED, 0)]
        message = "" if items else f"No session in project {store.project} yet."
        return _page(title=f"Sessions of project {store.project}", items=items, message=message)
    wanted = trace_id_of(trace_id)
    trace = await find_trace(store, wanted) if wanted else None
    if trace is None:
        message = "Its first spans may be on their way; a link to another server or project is not found here."
        return _page(404, title="No such session", message=message)
    totals = trace.totals()
    logs = await logs_of(store, trace)
    spans = _outline(trace)
    return _page(
        title=trace.name,
        trace=trace,
        tags=await tags_of_trace(store, trace),
        end_state=_state(trace),
        failed=_failed(trace),
        started=_clock(trace.start_ns),
        took=_duration(trace.end_ns - trace.start_ns),
        totals=totals,
        cost=f"${totals.cost:.6f}"
        + (f" and {totals.cost_unknown} calls of unknown price" if totals.cost_unknown else ""),
        errors=trace.errors,
        spans=spans[:_MOST_SPANS],
        more=max(0, len(spans) - _MOST_SPANS),
        logs=[log[:_MOST_LOG_CHARS] for log in logs],
    )


async def _item(store: Any, trace: Trace) -> dict[str, Any]:  # noqa: ANN401 - a store
    return {
        "trace_id": trace.trace_id,
        "name": trace.name,
        "tags": await tags_of_trace(store, trace),
        "state": _state(trace),
        "failed": _failed(trace),
        "started": _clock(trace.start_ns),
        "took": _duration(trace.end_ns - trace.start_ns),
        "spans": len(trace.rows),
        "errors": len(trace.errors),
    }


def _outline(trace: Trace) -> list[tuple[int, Any]]:
    shown: list[tuple[int, Any]] = []
    for node in trace.view().walk():
        if node.row is not None:
            row = node.row
            took = "" if row.end_ns is None else _duration(row.end_ns - row.start_ns)
            fields = {name: getattr(row, name) for name in ("name", "facts", "status_code", "status_description")}
            shown.append((min(node.depth - 1, 30), {**fields, "took": took}))
    return shown


def _state(trace: Trace) -> str:
    return trace.noted("end_state") or trace.rollout.status


def _failed(trace: Trace) -> bool:
    return trace.rollout.status == "failed"


def _clock(ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ns / 1e9))


def _duration(ns: int) -> str:
    return f"{ns / 1e6:,.0f} ms" if ns < 10**10 else f"{ns / 1e9:,.1f} s"


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    import jinja2  # noqa: PLC0415 - an idle server does not need it

    return jinja2.Environment(autoescape=True, undefined=jinja2.ChainableUndefined).from_string(_TEMPLATE)


def _page(status: int = 200, **values: Any) -> Response:  # noqa: ANN401 - what the template shows
    text = _template().render(**values)
    return Response(text.encode("utf-8", "replace"), status, _HEADERS, "text/html; charset=utf-8")
