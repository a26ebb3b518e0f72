"""Rollouts read back from files: ``jsonl`` and ``atif``.

What ``agl export`` wrote comes back as it was, with its ids. A trajectory that another program wrote becomes a rollout
with an agent, a span for each model call with its messages, tokens and ids, and a span for each result of a tool.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from agentlightning.adapter.dataset.call import Recorded
from agentlightning.adapter.dataset.exact import ImportFileError, attempt_of, rollout_of, span_of
from agentlightning.adapter.dataset.foreign import rollout_from
from agentlightning.adapter.dataset.trajectory import OURS
from agentlightning.view.loose import as_dict, as_list, is_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from agentlightning.types.core import Attempt, Rollout
    from agentlightning.types.tracer import Span


def read_jsonl(lines: Iterable[str]) -> Iterator[Recorded]:
    """Yield the rollouts of a file that ``agl export --format jsonl`` wrote; one is held at a time.

    Raises:
        ImportFileError: A line is no JSON, or not what it should be; what came before was yielded.
    """
    rollout: Rollout | None = None
    attempts: list[Attempt] = []
    spans: list[Span] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        raw = _object(line, number)
        kind = raw.pop("type", None)
        raw.pop("version", None)
        if kind == "rollout":
            if rollout is not None:
                yield Recorded(rollout, attempts, spans)
            rollout, attempts, spans = _checked(rollout_of, raw, number), [], []
        elif rollout is None:
            msg = f"line {number}: the first line of a rollout has type 'rollout', this one {kind!r}"
            raise ImportFileError(msg)
        elif kind == "attempt":
            attempts.append(_checked(attempt_of, raw, number))
        elif kind == "span":
            spans.append(_checked(span_of, raw, number))
        else:
            msg = f"line {number}: type is {kind!r}, and not one of rollout, attempt, span"
            raise ImportFileError(msg)
    if rollout is not None:
        yield Recorded(rollout, attempts, spans)


def read_atif(text: str) -> Iterator[Recorded]:
    """Yield the rollouts in *text*: one trajectory, a list of them, or one on each line.

    Raises:
        ImportFileError: It is no trajectory; what came before was yielded.
    """
    try:
        whole = cast("object", json.loads(text))
        every = [(1, item) for item in (as_list(whole) or [whole])]
    except ValueError:
        every = [(number, _object(line, number)) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    for number, raw in every:
        if not is_dict(raw) or not str(raw.get("schema_version", "")).startswith("ATIF-"):
            msg = f"line {number}: no trajectory, since there is no schema_version that begins with 'ATIF-'"
            raise ImportFileError(msg)
        ours = as_dict(as_dict(raw.get("extra")).get(OURS))
        if not ours:
            yield _checked(rollout_from, raw, number)
            continue
        yield Recorded(
            _checked(rollout_of, ours.get("rollout"), number),
            [_checked(attempt_of, item, number) for item in as_list(ours.get("attempts"))],
            [_checked(span_of, item, number) for item in as_list(ours.get("spans"))],
        )


def _object(line: str, number: int) -> dict[str, object]:
    try:
        raw = cast("object", json.loads(line))
    except (ValueError, RecursionError) as error:
        msg = f"line {number}: no JSON ({error})"
        raise ImportFileError(msg) from error
    if not is_dict(raw):
        msg = f"line {number}: a JSON object was expected"
        raise ImportFileError(msg)
    return raw


def _checked(read: Callable[[Any], Any], raw: object, number: int) -> Any:  # noqa: ANN401 - what *read* returns
    try:
        return read(raw)
    except (ValueError, TypeError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = f"line {number}: {first}"
        raise ImportFileError(msg) from error
