"""Where servers put token ids into their answers, checked against their sources or by running them.

=========== =================== =====================================================================================
dialect     asked for by        chat completions
=========== =================== =====================================================================================
vllm-old    (always)            ``prompt_token_ids`` and ``response_token_ids`` (a list for each choice) on the whole
                                answer; nothing in a stream
vllm        return_token_ids    0.10.2 and newer: ``prompt_token_ids`` on the answer (in a stream, on the first chunk),
                                ``token_ids`` on each choice (of each chunk)
litellm     return_token_ids    like vllm, with ``token_ids`` in ``provider_specific_fields`` of the choice
sglang      return_token_ids    0.5.23: ``prompt_token_ids`` and ``response_token_ids`` on each choice; refused in a
                                stream
sglang      return_input_ids_   0.5.23: ``sglext`` on the answer with ``input_ids`` and ``output_ids`` (a list for each
            in_sglext, return_  choice); in a stream, on a chunk without choices after the last one that has any
            output_ids_in_sglext
=========== =================== =====================================================================================

Completions have ``prompt_token_ids`` (in a stream: the first chunk of a choice) and ``token_ids`` on each choice, in
``vllm`` and ``sglang`` alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlightning.testing.request import BadRequestError

if TYPE_CHECKING:
    from agentlightning.testing.answer import Answer
    from agentlightning.testing.json_value import JsonObject


def check_token_request(answer: Answer) -> None:
    """Refuse what the imitated server refuses.

    Raises:
        BadRequestError: SGLang does not stream chat completions with ``return_token_ids``.
    """
    request = answer.request
    if answer.dialect == "sglang" and request.endpoint == "chat" and request.stream and _asked(answer):
        msg = "return_token_ids is not supported with streaming on chat completions"
        raise BadRequestError(msg)


def whole_ids(answer: Answer) -> JsonObject:
    """Return the fields that the whole answer gets."""
    if answer.dialect == "vllm-old":
        ids: JsonObject = {"response_token_ids": [[*choice.token_ids] for choice in answer.choices]}
        return {"prompt_token_ids": [*answer.prompt_ids], **ids}
    if answer.request.endpoint == "chat":
        return {**first_chunk_ids(answer), **last_chunk_ids(answer)}
    return {}


def first_chunk_ids(answer: Answer) -> JsonObject:
    """Return the fields that the first chunk of a chat stream gets."""
    if answer.dialect in ("vllm", "litellm") and _asked(answer):
        return {"prompt_token_ids": [*answer.prompt_ids]}
    return {}


def last_chunk_ids(answer: Answer) -> JsonObject:
    """Return the fields that a chat stream has on a chunk of their own after the last choice, if any."""
    extension: JsonObject = {}
    if answer.dialect == "sglang" and _asked(answer, "return_input_ids_in_sglext"):
        extension["input_ids"] = [*answer.prompt_ids]
    if answer.dialect == "sglang" and _asked(answer, "return_output_ids_in_sglext"):
        extension["output_ids"] = [[*choice.token_ids] for choice in answer.choices]
    return {"sglext": extension} if extension else {}


def choice_ids(answer: Answer, ids: list[int], *, first: bool) -> JsonObject:
    """Return the fields of a choice, or of its part in a chunk, that brings the tokens *ids*.

    *first* says that nothing of this choice came before.
    """
    if not _asked(answer) or answer.dialect in (None, "vllm-old"):
        return {}
    chat = answer.request.endpoint == "chat"
    own: JsonObject = {"token_ids": [*ids]}
    if answer.dialect == "litellm":
        own = {"provider_specific_fields": own}
    if answer.dialect == "sglang" and chat:
        own = {"response_token_ids": [*ids]}
    with_prompt = first and (answer.dialect == "sglang" or not chat)
    return {"prompt_token_ids": [*answer.prompt_ids], **own} if with_prompt else own


def _asked(answer: Answer, name: str = "return_token_ids") -> bool:
    return answer.request.body.get(name) is True
