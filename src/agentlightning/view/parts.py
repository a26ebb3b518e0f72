"""The parts of a message, and the one reading of all the forms in which providers and dialects write a part."""

from __future__ import annotations

import mimetypes
from typing import TYPE_CHECKING

import msgspec

from agentlightning.view.loose import as_dict, as_list, as_text, decoded, encoded, first_text, is_dict

if TYPE_CHECKING:
    from collections.abc import Callable


class TextPart(msgspec.Struct, frozen=True, tag="text"):
    """Something said."""

    text: str


class ReasoningPart(msgspec.Struct, frozen=True, tag="reasoning"):
    """Something that the model thought before it answered; empty where the provider hides it."""

    text: str


class MediaPart(msgspec.Struct, frozen=True, tag="media"):
    """An image, a sound, a video or a file."""

    kind: str
    """``image audio video file``."""
    mime: str = ""
    """Media type, empty where unknown."""
    uri: str = ""
    """Where it is; a ``data:`` address for what came inside the message, empty for an identity at the provider."""
    size_bytes: int | None = None
    """Size of the content for what came inside the message, else None."""
    name: str = ""
    """Name of a file, or its identity at the provider."""


class ToolCallPart(msgspec.Struct, frozen=True, tag="tool_call"):
    """The model asks for a tool."""

    id: str
    name: str
    arguments: str
    """JSON text, as the model wrote it where it wrote text."""


class ToolResultPart(msgspec.Struct, frozen=True, tag="tool_result"):
    """What a tool answered."""

    call_id: str
    text: str
    """The answer as text; parts that are no text as JSON."""
    name: str = ""


class OtherPart(msgspec.Struct, frozen=True, tag="other"):
    """A part of a type that the view does not know."""

    name: str
    """What the part calls its type."""
    json: str
    """The part as it came."""


Part = TextPart | ReasoningPart | MediaPart | ToolCallPart | ToolResultPart | OtherPart


def parts(content: object) -> list[Part]:
    """Return the parts of *content*: a text, a part, or a list of these, in any of the known forms."""
    if isinstance(content, str):
        return [TextPart(content)] if content else []
    if is_dict(content):
        listed = as_list(content)
        return _each(listed) if listed else [part(content)]
    return _each(as_list(content))


def _each(items: list[object]) -> list[Part]:
    found: list[Part] = []
    for item in items:
        if isinstance(item, str):
            if item:
                found.append(TextPart(item))
        elif is_dict(item):
            found.append(part(item))
    return found


def part(raw: dict[str, object]) -> Part:
    """Return one part; the type is in ``type``, and where there is none in the name of the only key (Gemini)."""
    inner = raw.get("message_content")
    if is_dict(inner):  # OpenInference puts a tool call beside the content, not into it
        raw = {key: value for key, value in raw.items() if key != "message_content"} | inner
    kind = as_text(raw.get("type"))
    if not kind:
        kind = next((key for key in raw if key in _READERS), "")
        if kind and is_dict(raw.get(kind)) and kind not in ("image_url", "input_audio"):
            raw = as_dict(raw[kind])
    read = _READERS.get(kind)
    return OtherPart(kind, encoded(raw)) if read is None else read(kind, raw)


def call(raw: dict[str, object]) -> ToolCallPart:
    """Return a tool call in OpenAI's, OpenInference's, Anthropic's, Gemini's or the flattened form."""
    raw = as_dict(raw.get("tool_call")) or raw
    function = as_dict(raw.get("function")) or raw
    given = next((function[key] for key in ("arguments", "input", "args", "parameters") if key in function), None)
    return ToolCallPart(
        id=first_text(raw, "id", "call_id", "tool_call_id"),
        name=first_text(function, "name", "tool_name"),
        arguments=encoded(given),
    )


def plain_text(content: object) -> str:
    """Return *content* as one text: texts joined, everything else as JSON."""
    if isinstance(content, str):
        return content
    found = parts(content)
    texts = [item.text for item in found if isinstance(item, (TextPart, ReasoningPart))]
    return "\n".join(texts) if texts and len(texts) == len(found) else encoded(content)


def _text(_kind: str, raw: dict[str, object]) -> Part:
    return TextPart(first_text(raw, "text", "content", "refusal"))


def _reasoning(_kind: str, raw: dict[str, object]) -> Part:
    said = first_text(raw, "thinking", "text", "reasoning")
    content = raw.get("content") or raw.get("summary") or ""
    if isinstance(content, str) and content.startswith("[{"):
        content = decoded(content) or content  # OpenLLMetry: the list of summaries as one text
    return ReasoningPart(said or plain_text(content))


def _tool_call(_kind: str, raw: dict[str, object]) -> Part:
    return call(raw)


def _tool_result(_kind: str, raw: dict[str, object]) -> Part:
    answer = next((raw[key] for key in ("response", "result", "content", "output") if raw.get(key) is not None), "")
    return ToolResultPart(
        call_id=first_text(raw, "tool_use_id", "call_id", "tool_call_id", "id"),
        text=plain_text(answer),
        name=as_text(raw.get("name")),
    )


def _media(kind: str, raw: dict[str, object]) -> Part:
    """Read an image, sound, video or file: an address, base64 text with a media type, or an identity."""
    source = raw
    for key in (kind, "source", "file", "image_url", "image", "audio", "video", "document", "inline_data"):
        source = as_dict(source.get(key)) or source  # {"image": {"image": {"url": ...}}} of OpenInference, and the like
    flat = {"image_url", "url", "uri", "file_url", "fileUri"}
    uri = next((as_text(place[key]) for place in (source, raw) for key in flat if as_text(place.get(key))), "")
    uri = uri or as_text(source.get("image")) or as_text(source.get("audio"))
    mime = first_text(source, "mime_type", "media_type", "mimeType") or first_text(raw, "mime_type", "media_type")
    named = first_text(source, "filename", "title", "name", "file_id", "id") or first_text(raw, "filename", "file_id")
    inside = first_text(source, "data", "file_data", "content")
    if inside and not uri:
        form = as_text(source.get("format"))
        mime = mime or (f"audio/{form}" if form else "")
        uri = inside if inside.startswith("data:") else f"data:{mime};base64,{inside}"
    mime = mime or _mime_of(uri)
    modality = as_text(raw.get("modality")) or _MEDIA_KINDS.get(kind) or mime.partition("/")[0]
    if modality not in ("image", "audio", "video"):
        modality = "file"
    return MediaPart(modality, mime=mime, uri=uri, size_bytes=_inline_size(uri), name=named)


def _mime_of(uri: str) -> str:
    if uri.startswith("data:"):
        return uri[5 : uri.find(",") if "," in uri[:200] else 5].partition(";")[0]
    return mimetypes.guess_type(uri[-200:])[0] or ""


def _inline_size(uri: str) -> int | None:
    """Return how many bytes a ``data:`` address holds; None for any other."""
    if not uri.startswith("data:"):
        return None
    start = uri.find(",") + 1
    length = len(uri) - start
    if ";base64" not in uri[:start]:
        return length
    return max(0, length * 3 // 4 - uri.count("=", max(start, len(uri) - 2)))


_MEDIA_KINDS = {
    "image_url": "image",
    "image": "image",
    "input_image": "image",
    "input_audio": "audio",
    "audio": "audio",
    "video": "video",
    "video_url": "video",
    "file": "file",
    "input_file": "file",
    "document": "file",
    "blob": "",
    "uri": "",
    "inline_data": "",
    "inlineData": "",
    "file_data": "",
    "fileData": "",
}
_READERS: dict[str, Callable[[str, dict[str, object]], Part]] = {
    **dict.fromkeys(("text", "input_text", "output_text", "refusal"), _text),
    **dict.fromkeys(("reasoning", "thinking", "reasoning_text", "summary_text", "redacted_thinking"), _reasoning),
    **dict.fromkeys(("tool_call", "tool_use", "function_call", "functionCall", "server_tool_use"), _tool_call),
    **dict.fromkeys(("custom_tool_call", "mcp_call"), _tool_call),
    **dict.fromkeys(("tool_call_response", "tool_result", "function_call_output", "function_response"), _tool_result),
    **dict.fromkeys(("functionResponse", "custom_tool_call_output", "server_tool_call_response"), _tool_result),
    **dict.fromkeys(_MEDIA_KINDS, _media),
}
