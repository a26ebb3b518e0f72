"""agl export and agl import: what is taken, what is counted, and nothing lost on the way there and back."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from agentlightning.cli.main import group
from agentlightning.semconv import LOGPROBS, PROMPT_TOKEN_IDS, RESPONSE_TOKEN_IDS, STREAM_STATE
from agentlightning.store import open_store
from agentlightning.types import Span

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

LINES = ("triplets", "messages", "sft", "trl")


class Store:
    """A store file with rollouts, and agl over it."""

    def __init__(self, folder: Path, name: str = "a") -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / f'{name}.db'}"

    def agl(self, *arguments: str) -> Result:
        """Run a command; errors of ours are raised."""
        return CliRunner().invoke(group, [*arguments, "--store", self.url], standalone_mode=False)

    def lines(self, form: str, *more: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Export, and return the lines and the report."""
        out, report = self.folder / f"out.{form}", self.folder / "report.json"
        result = self.agl("export", "--format", form, "-o", str(out), "--report", str(report), *more)
        assert result.exception is None, result.exception
        lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
        return lines, json.loads(report.read_text("utf-8"))

    def rollout(self, task: object, *spans: Span, status: str = "succeeded") -> str:
        """Keep a rollout with one attempt and these spans; return its id."""

        async def make() -> str:
            store = open_store(self.url)
            try:
                made = await store.start_rollout(task)
                attempt = made.attempt
                for span in spans:
                    span.rollout_id, span.attempt_id = made.rollout_id, attempt.attempt_id
                await store.add_spans(spans)
                await store.update_attempt(made.rollout_id, attempt.attempt_id, status=status)  # type: ignore[arg-type]
                return made.rollout_id
            finally:
                store.close()

        return asyncio.run(make())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path)


def said(role: str, text: str) -> dict[str, Any]:
    """Return a message of the OpenTelemetry form."""
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def call(at: float, answer: Any = "4", history: Any = None, **more: Any) -> Span:
    """Return a model call that began *at* and took a second."""
    attributes: dict[str, Any] = {
        "openinference.span.kind": "LLM",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.input.messages": json.dumps(history or [said("user", "2+2")]),
        "gen_ai.output.messages": json.dumps([said("assistant", answer)]),
        PROMPT_TOKEN_IDS: [1, 2, 3],
        RESPONSE_TOKEN_IDS: [8, 9],
        LOGPROBS: [-0.25, -0.5],
        **more,
    }
    kept = {key: value for key, value in attributes.items() if value is not None}
    return Span.from_attributes(attributes=kept, name="chat", start_time=1000 + at, end_time=1001 + at)


def reward(at: float, value: float) -> Span:
    """Return a reward that came *at*."""
    return Span.from_attributes(
        attributes={"reward": value}, name="agentlightning.reward", start_time=1000 + at, end_time=1000 + at
    )


def test_a_call_in_every_form(store: Store) -> None:
    """Tokens, messages and reward of one call, in the words of each format."""
    rollout_id = store.rollout({"q": "2+2"}, call(0), reward(2, 0.5))
    (triplet,), _ = store.lines("triplets")
    assert triplet["prompt"] == {"token_ids": [1, 2, 3]}
    assert triplet["response"] == {"token_ids": [8, 9], "logprobs": [-0.25, -0.5]}
    assert (triplet["reward"], triplet["rollout_id"]) == (0.5, rollout_id)
    talk = [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}]
    (message,), _ = store.lines("messages")
    assert (message["messages"], message["reward"]) == (talk, 0.5)
    assert store.lines("sft")[0] == [{"messages": talk}]
    (line,), _ = store.lines("trl")
    assert (line["prompt"], line["completion"]) == (talk[:1], talk[1:])
    assert (line["prompt_ids"], line["completion_ids"], line["logprobs"]) == ([1, 2, 3], [8, 9], [-0.25, -0.5])


def test_every_call_is_accounted_for(store: Store) -> None:
    """What is left out, and what is odd about the rest, is counted by reason; the sums add up."""
    failed = call(2)
    failed.status.status_code = "ERROR"
    twins = [call(4, **{"gen_ai.response.id": "x"}), call(6, **{"gen_ai.response.id": "x"})]
    two = json.dumps([said("assistant", "4"), said("assistant", "four")])
    store.rollout(
        "odd",
        call(0, **{PROMPT_TOKEN_IDS: None, RESPONSE_TOKEN_IDS: None, LOGPROBS: None}),
        failed,
        *twins,
        call(8, **{"gen_ai.input.messages": None, "gen_ai.output.messages": None}),
        call(10, **{STREAM_STATE: "closed_early"}),
        call(12, **{"gen_ai.output.messages": two}),
    )
    store.rollout("nothing")
    for form in LINES:
        lines, report = store.lines(form)
        assert report["calls"] == report["exported"] + sum(report["left_out"].values()) == 7, form
        assert report["lines"] == len(lines) == report["exported"]
        assert report["left_out"]["the call failed"] == 1
        assert report["left_out"]["recorded before, with the same id of the answer"] == 1
        assert report["noted"]["a stream that was not read to its end"] == 1
        assert report["noted"]["several answers, of which the first was taken"] == 1
        assert report["noted"]["without reward"] == report["exported"]
        assert report["rollouts_noted"] == {"no model call": 1}
    assert store.lines("triplets")[1]["left_out"]["no token ids"] == 1
    assert store.lines("messages")[1]["left_out"]["no messages"] == 1
    assert sum(line["prompt_ids"] is None for line in store.lines("trl")[0]) == 1


def test_a_gap_and_an_unfinished_rollout_are_noted(store: Store) -> None:
    """Spans that never arrived leave a gap in the numbers; the rollout is exported and counted."""
    late = call(0)
    late.sequence_id = 5
    store.rollout("gap", late, status="running")
    _, report = store.lines("triplets")
    assert report["rollouts_noted"] == {"a gap in the sequence of spans": 1, "not finished": 1}
    assert report["exported"] == 1


def test_a_conversation_is_exported_at_its_longest(store: Store) -> None:
    """Each call of an agent repeats the history: for fine-tuning only the last one counts."""
    history = [said("user", "2+2")]
    longer = [*history, said("assistant", "4"), said("user", "and 3+3?")]
    store.rollout("talk", call(0), call(2, "6", longer))
    lines, report = store.lines("sft")
    assert [message["content"] for message in lines[0]["messages"]] == ["2+2", "4", "and 3+3?", "6"]
    assert len(lines) == 1
    assert report["left_out"] == {"the beginning of a longer conversation": 1}


def test_pairs_of_one_task(store: Store) -> None:
    """The best and the worst of a task; a task with one reward gives no pair."""
    for answer, value in (("4", 1.0), ("5", 0.0), ("around 4", 0.5)):
        store.rollout({"q": "2+2"}, call(0, answer), reward(2, value))
    store.rollout({"q": "alone"}, call(0), reward(2, 1.0))
    (pair,), report = store.lines("dpo")
    assert pair["prompt"] == [{"role": "user", "content": "2+2"}]
    assert pair["chosen"] == [{"role": "assistant", "content": "4"}]
    assert pair["rejected"] == [{"role": "assistant", "content": "5"}]
    assert (pair["chosen_reward"], pair["rejected_reward"]) == (1.0, 0.0)
    assert (report["calls"], report["exported"]) == (4, 2)
    assert report["left_out"] == {"no other conversation of the same task with another reward": 2}


def test_what_is_chosen(store: Store) -> None:
    """Rollouts by status, by name and by reward."""
    good = store.rollout("a", call(0, "good"), reward(2, 1.0))
    store.rollout("b", call(0, "bad"), reward(2, 0.0))
    store.rollout("c", call(0, "failed"), reward(2, 1.0), status="failed")
    assert len(store.lines("triplets")[0]) == 3
    assert [line["rollout_id"] for line in store.lines("triplets", good)[0]] == [good]
    assert len(store.lines("triplets", "--status", "succeeded")[0]) == 2
    lines, report = store.lines("triplets", "--min-reward", "0.5")
    assert len(lines) == 2
    assert report["left_out"] == {"reward below the minimum": 1}
    assert store.agl("export", "--format", "triplets", "--min-reward", "7", "-o", "-").return_value == 1


def snapshot(store: Store) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return everything in a store by identity, times to the microsecond, without those that an import makes anew."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in store.lines("jsonl")[0]:
        line.pop("last_heartbeat_time", None)
        if line["type"] == "attempt":
            line.pop("start_time")
        line |= {name: round(line[name], 5) for name in ("start_time", "end_time") if line.get(name)}
        found[line["type"], line["rollout_id"], line.get("attempt_id"), line.get("span_id")] = line
    return found


@pytest.mark.parametrize("form", ["jsonl", "atif"])
def test_there_and_back_nothing_is_lost(store: Store, form: str) -> None:
    """Ids, numbers, attempts, tokens, NaN, infinities and surrogates come back as they were; twice is once."""
    odd: dict[str, Any] = {LOGPROBS: [-0.25, math.nan], "x": math.inf, "text": "\ud800 \u4f60", "$float": "NaN"}
    store.rollout({"q": "\u4f60", "nested": {"$float": "mine"}}, call(0, **odd), reward(2, 0.5))
    store.rollout("no call")
    before = snapshot(store)
    out = store.folder / "moved.gz"
    assert store.agl("export", "--format", form, "-o", str(out)).exception is None
    other = Store(store.folder, "b")
    first = other.agl("import", str(out), "--format", form)
    assert (first.exception, first.return_value) == (None, 0)
    assert other.agl("import", str(out), "--format", form).return_value == 0
    assert snapshot(other) == before
    assert store.lines("triplets")[0] == other.lines("triplets")[0]


def test_a_trajectory_of_another_program(store: Store) -> None:
    """Steps become calls with messages, tokens, tools and cost; read twice, it is one rollout."""
    trajectory = {
        "schema_version": "ATIF-v1.4",
        "session_id": "s1",
        "agent": {"name": "solver", "version": "2", "model_name": "m"},
        "steps": [
            {"step_id": 1, "source": "system", "message": "be brief"},
            {"step_id": 2, "source": "user", "message": "2+2", "timestamp": "2026-11-01T12:00:00Z"},
            {
                "step_id": 3,
                "source": "agent",
                "message": "",
                "tool_calls": [{"tool_call_id": "c1", "function_name": "add", "arguments": {"a": 2}}],
                "observation": {"results": [{"source_call_id": "c1", "content": "4"}]},
                "metrics": {"prompt_tokens": 9, "prompt_token_ids": [1], "completion_token_ids": [2], "logprobs": [-1]},
            },
            {"step_id": 4, "source": "agent", "message": "four", "metrics": {"cost_usd": 0.5}},
        ],
    }
    path = store.folder / "theirs.json"
    path.write_text(json.dumps(trajectory), "utf-8")
    for _ in range(2):
        assert store.agl("import", str(path), "--format", "atif").return_value == 0
    lines, _ = store.lines("messages")
    assert [message["role"] for message in lines[1]["messages"]] == ["system", "user", "assistant", "tool", "assistant"]
    assert lines[1]["messages"][-1]["content"] == "four"
    assert {line["agent_name"] for line in lines} == {"solver"}
    (triplet,), report = store.lines("triplets")
    assert (triplet["prompt"]["token_ids"], triplet["response"]) == ([1], {"token_ids": [2], "logprobs": [-1.0]})
    assert report["rollouts"] == 1
    shown = store.agl("cost", "--json")
    assert shown.exception is None


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("jsonl", "{", "line 1: no JSON"),
        ("jsonl", "[]", "line 1: a JSON object was expected"),
        ("jsonl", '{"type": "span"}', "line 1: the first line of a rollout"),
        ("jsonl", '{"type": "rollout"}', "line 1: "),
        ("atif", '{"steps": []}', "no trajectory"),
        ("atif", '{"schema_version": "ATIF-v1.7", "steps": []}', "no steps"),
        ("atif", "not json", "line 1: no JSON"),
    ],
)
def test_a_bad_file_is_named_and_changes_nothing(store: Store, form: str, text: str, message: str) -> None:
    """One sentence with the line; the store stays empty."""
    path = store.folder / "bad"
    path.write_text(text, "utf-8")
    result = store.agl("import", str(path), "--format", form)
    assert message in str(result.exception)
    assert asyncio.run(open_store(store.url).query_rollouts()) == []
    assert "bad.gz" in str(store.agl("import", str(store.folder / "bad.gz"), "--format", form).exception)


def test_a_file_is_whole_or_not_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the export breaks off, what was there before is still there, and nothing lies beside it."""
    store.rollout("a", call(0))
    out = store.folder / "out.jsonl"
    out.write_text("before", "utf-8")
    from agentlightning.adapter.dataset import row

    def broken(*_: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(row.LINES, "triplets", broken)
    result = store.agl("export", "--format", "triplets", "-o", str(out))
    assert "No space left on device" in str(result.exception)
    assert out.read_text("utf-8") == "before"
    assert [path.name for path in store.folder.iterdir() if "part" in path.name] == []


def test_other_places(store: Store) -> None:
    """Compressed, on standard output, and as trajectories in a folder."""
    rollout_id = store.rollout("a", call(0))
    packed = store.folder / "x.jsonl.gz"
    store.agl("export", "--format", "sft", "-o", str(packed))
    assert json.loads(gzip.decompress(packed.read_bytes()))["messages"]
    assert json.loads(store.agl("export", "--format", "sft").stdout)["messages"]
    store.agl("export", "--format", "atif", "-o", f"{store.folder / 'all'}/")
    (file,) = (store.folder / "all").iterdir()
    assert file.name == f"{rollout_id}.json"
    assert json.loads(file.read_text("utf-8"))["steps"][1]["metrics"]["completion_token_ids"] == [8, 9]


def test_parquet_has_tokens_as_columns(store: Store) -> None:
    """A row for each span, token ids as lists of numbers."""
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    store.rollout({"q": 1}, call(0), reward(2, 0.5))
    out = store.folder / "spans.parquet"
    assert store.agl("export", "--format", "parquet", "-o", str(out)).exception is None
    rows = parquet.read_table(out).to_pylist()
    assert [row["kind"] for row in rows] == ["llm", "reward"]
    assert (rows[0]["prompt_token_ids"], rows[0]["logprobs"]) == ([1, 2, 3], [-0.25, -0.5])
    assert rows[1]["reward"] == 0.5
    assert json.loads(rows[0]["rollout_input"]) == {"q": 1}
    assert "Parquet is no text" in str(store.agl("export", "--format", "parquet").exception)


def test_wrong_arguments_say_what_to_do(store: Store) -> None:
    """Neither format nor backend, and a pattern that is none."""
    store.rollout("a", call(0))
    assert "--format" in str(store.agl("export").exception)
    assert "no regular expression" in str(store.agl("export", "--format", "sft", "--agent", "(").exception)
