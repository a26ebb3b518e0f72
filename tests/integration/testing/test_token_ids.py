from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest

from agentlightning.testing import ModelServer, Reply, ToolCall, token_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from openai import OpenAI
    from openai.types.chat import ChatCompletionMessageParam

    from agentlightning.testing.answer import TokenDialect

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
ASK = {"return_token_ids": True}
SGLEXT = {"return_input_ids_in_sglext": True, "return_output_ids_in_sglext": True}
IDS = [token_ids("first answer"), token_ids("second")]
REPLY = Reply("first answer", alternatives=("second",))


def _chat(client: OpenAI, extra: dict[str, bool]) -> dict[str, Any]:
    answer = client.chat.completions.create(model="m", messages=MESSAGES, n=2, extra_body=extra)
    return answer.to_dict()


def _chunks(client: OpenAI, extra: dict[str, bool]) -> list[dict[str, Any]]:
    stream = client.chat.completions.create(model="m", messages=MESSAGES, n=2, stream=True, extra_body=extra)
    return [chunk.to_dict() for chunk in stream]


def _joined(chunks: list[dict[str, Any]], read: Callable[[dict[str, Any]], list[int]]) -> list[list[int]]:
    ids: list[list[int]] = [[], []]
    for chunk in chunks:
        for choice in chunk["choices"]:
            ids[choice["index"]] += read(choice)
    return ids


def test_vllm(connect: Callable[..., OpenAI]) -> None:
    """VLLM has the prompt's ids on the answer or first chunk and the others on each choice."""
    client = connect(ModelServer([REPLY, REPLY], token_ids="vllm"))
    whole, chunks = _chat(client, ASK), _chunks(client, ASK)
    assert [choice["token_ids"] for choice in whole["choices"]] == IDS
    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert all("prompt_token_ids" not in chunk for chunk in chunks[1:])
    assert _joined(chunks, lambda choice: choice.get("token_ids", [])) == IDS


def test_old_vllm(connect: Callable[..., OpenAI]) -> None:
    """The patched vLLM sends ids without being asked, for all choices beside the answer, and none in a stream."""
    client = connect(ModelServer([REPLY, REPLY], token_ids="vllm-old"))
    whole = _chat(client, {})
    assert whole["response_token_ids"] == IDS
    assert len(whole["prompt_token_ids"]) > 0
    assert "token_ids" not in str(_chunks(client, {}))


def test_litellm(connect: Callable[..., OpenAI]) -> None:
    """LiteLLM has the ids of a choice in its provider-specific fields."""
    client = connect(ModelServer([REPLY, REPLY], token_ids="litellm"))
    whole, chunks = _chat(client, ASK), _chunks(client, ASK)
    assert [choice["provider_specific_fields"]["token_ids"] for choice in whole["choices"]] == IDS
    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert _joined(chunks, lambda choice: choice.get("provider_specific_fields", {}).get("token_ids", [])) == IDS


def test_sglang(connect: Callable[..., OpenAI]) -> None:
    """SGLang has ids on the choices, or in its extension, which a stream brings on a chunk of its own."""
    client = connect(ModelServer([REPLY] * 4, token_ids="sglang"))
    whole = _chat(client, ASK)
    assert [choice["response_token_ids"] for choice in whole["choices"]] == IDS
    assert len({str(choice["prompt_token_ids"]) for choice in whole["choices"]}) == 1
    extension = _chat(client, SGLEXT)["sglext"]
    assert extension == {"input_ids": whole["choices"][0]["prompt_token_ids"], "output_ids": IDS}
    chunks = _chunks(client, SGLEXT)
    assert [chunk["choices"] for chunk in chunks if "sglext" in chunk] == [[]]
    assert chunks[-1]["sglext"] == extension
    with pytest.raises(openai.BadRequestError, match="not supported with streaming"):
        _chunks(client, ASK)


@pytest.mark.parametrize("dialect", [None, "vllm", "litellm", "sglang"])
def test_no_ids_unless_asked_for(connect: Callable[..., OpenAI], dialect: TokenDialect | None) -> None:
    """New servers send no ids to a request that does not ask, nor does one without a dialect to one that does."""
    client = connect(ModelServer([REPLY] * 3, token_ids=dialect))
    extra = {} if dialect else ASK
    text = client.completions.create(model="m", prompt="x", n=2, extra_body=extra).to_dict()
    assert "_ids" not in str([_chat(client, extra), _chunks(client, extra), text])


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "litellm"])
def test_completions(connect: Callable[..., OpenAI], dialect: TokenDialect) -> None:
    """Completions have prompt and response ids on each choice, in a stream the prompt's once for each."""
    client = connect(ModelServer([REPLY, REPLY], token_ids=dialect))

    def read(choice: dict[str, Any]) -> list[int]:
        return choice.get("provider_specific_fields", choice).get("token_ids", [])

    whole: dict[str, Any] = client.completions.create(model="m", prompt="x", n=2, extra_body=ASK).to_dict()
    assert _joined([whole], read) == IDS
    stream = client.completions.create(model="m", prompt="x", n=2, stream=True, extra_body=ASK)
    chunks = [chunk.to_dict() for chunk in stream]
    assert _joined(chunks, read) == IDS
    prompts = _joined(chunks, lambda choice: choice.get("prompt_token_ids", []))
    assert prompts[0] == prompts[1] == whole["choices"][0]["prompt_token_ids"]


def test_calls_and_thinking_have_ids_too(connect: Callable[..., OpenAI]) -> None:
    """The ids of a choice cover thinking, text and calls, alike whole and streamed, and match the usage."""
    reply = Reply("text", tool_calls=(ToolCall("add", {"a": 1}),), reasoning="well then")
    client = connect(ModelServer([reply, reply], token_ids="vllm"))
    whole = client.chat.completions.create(model="m", messages=MESSAGES, extra_body=ASK).to_dict()
    choice: Any = whole["choices"]
    usage: Any = whole["usage"]
    ids = choice[0]["token_ids"]
    assert ids[:3] == token_ids("well then") + token_ids("text")
    assert len(ids) == usage["completion_tokens"]
    stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True, extra_body=ASK)
    chunks: list[dict[str, Any]] = [chunk.to_dict() for chunk in stream]
    assert _joined(chunks, lambda choice: choice.get("token_ids", []))[0] == ids
