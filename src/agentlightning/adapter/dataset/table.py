"""Spans as a table with columns: ``parquet``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentlightning.adapter.dataset.exact import dumps, exact, span_object
from agentlightning.errors import MissingExtraError
from agentlightning.view.facts import facts
from agentlightning.view.tokens import token_ids

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from agentlightning.adapter.dataset.call import Recorded

ROWS = 5_000
"""Rows that are written at once: what is held in memory."""

_FACTS = (
    "kind", "model", "provider", "fresh_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens",
    "reasoning_tokens", "agent_name", "tool_name", "response_id", "reward",
)  # fmt: skip


class ParquetFile:
    """A file of spans that grows by rollouts; a context manager. Compressed with zstd.

    Raises:
        MissingExtraError: The extra ``parquet`` is not installed.
    """

    def __init__(self, path: str) -> None:
        """Write to *path*."""
        try:
            import pyarrow as pa  # noqa: PLC0415 - an extra
            from pyarrow import parquet  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtraError("parquet", "writing Parquet") from error  # noqa: EM101 - the extra's name
        self._arrow: Any = pa  # pyarrow has no types
        self._schema: Any = _schema(pa)
        self._writer: Any = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, object]] = []
        self.count = 0

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Write what is left, and the end of the file."""
        try:
            if kind is None:
                self._flush()
        finally:
            self._writer.close()

    def add(self, recorded: Recorded) -> None:
        """Add the spans of a rollout."""
        given = dumps(exact(recorded.rollout.input))
        for span in recorded.spans:
            found = facts(span.name, span.attributes, scope=span.scope_name)
            tokens = token_ids(span.attributes) if found.kind == "llm" else None
            answer = next((choice for choice in tokens.choices if choice.index == 0), None) if tokens else None
            whole = span_object(span)
            row = {name: whole.get(name) for name in self._schema.names}
            row |= {name: getattr(found, name) for name in _FACTS}
            row |= {"rollout_status": recorded.rollout.status, "rollout_input": given}
            row |= {name: dumps(whole[name]) for name in ("attributes", "events", "links", "resource")}
            row["span_kind"] = span.kind
            row["prompt_token_ids"] = list(tokens.prompt) if tokens and tokens.prompt else None
            row["response_token_ids"] = list(answer.ids) if answer and answer.ids else None
            row["logprobs"] = list(answer.logprobs) if answer and answer.logprobs else None
            self._rows.append(row)
        if len(self._rows) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._arrow.Table.from_pylist(self._rows, schema=self._schema))
            self.count += len(self._rows)
            self._rows.clear()


def _schema(pa: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    text, whole = pa.string(), pa.int64()
    return pa.schema(
        [
            *((name, text) for name in ("rollout_id", "attempt_id", "rollout_status", "rollout_input")),
            ("sequence_id", whole),
            *((name, text) for name in ("trace_id", "span_id", "parent_id", "name", "span_kind")),
            *((name, whole) for name in ("start_ns", "end_ns")),
            *((name, text) for name in ("status_code", "status_description")),
            *((name, whole if name.endswith("_tokens") else text) for name in _FACTS if name != "reward"),
            ("reward", pa.float64()),
            ("prompt_token_ids", pa.list_(whole)),
            ("response_token_ids", pa.list_(whole)),
            ("logprobs", pa.list_(pa.float64())),
            *((name, text) for name in ("attributes", "events", "links", "resource")),
            *((name, text) for name in ("scope_name", "scope_version", "process")),
            ("counter", whole),
        ]
    )
