"""What a rollout is given to work with: models and prompts, by name."""

from __future__ import annotations

import atexit
import functools
import json
import os
import string
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BaseModel, Field

from agentlightning.errors import MissingExtraError
from agentlightning.types.core import AttemptedRollout  # noqa: TC001 - pyright and readers; users call get_type_hints

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from jinja2.sandbox import SandboxedEnvironment

__all__ = ["LLM", "NamedResources", "PromptTemplate", "ProxyLLM", "Resource", "ResourceUnion", "ResourcesUpdate"]

MAX_PROMPT_CHARS = 10_000_000
"""Longest text that one expression or hole of a template may make."""

_OPENAI = "openai", "LLM.generate()"
_POML = (
    "poml",
    "a template of the engine 'poml'",
    "render it with the package poml, or write it as 'jinja' or 'f-string'",
)


class Resource(BaseModel):
    """Base of everything that can be handed to an agent."""

    resource_type: Any
    """Tells the kinds of resources apart when they are read back."""


class LLM(Resource):
    """A model behind an OpenAI-compatible endpoint."""

    resource_type: Literal["llm"] = "llm"
    endpoint: str
    """Base URL, such as ``http://host:8000/v1``."""
    model: str
    api_key: str | None = None
    sampling_parameters: dict[str, Any] = Field(default_factory=dict)
    """Keywords for a request, such as ``temperature``."""

    def get_base_url(self, *args: Any, **kwargs: Any) -> str:  # noqa: ANN401, ARG002 - a ProxyLLM takes ids here
        """Return the ``base_url`` for an OpenAI client; arguments that only a ``ProxyLLM`` needs are ignored."""
        return self.endpoint

    def generate(self, task: object, **parameters: object) -> str:
        """Ask the model and return the text of its answer; a refusal or a tool call without text is ``""``.

        The call goes through the ``openai`` package and is traced like any other call of it. Thread-safe, blocking.

        Args:
            task: A text is one user message, a list of dicts is the conversation, anything else is JSON text.
            parameters: Keywords of the request; they win over ``sampling_parameters``.

        Raises:
            MissingExtraError: ``openai`` is not installed.
            openai.OpenAIError: The endpoint refused or failed.
        """
        client = _openai_client(os.getpid()).with_options(base_url=self.endpoint, api_key=self._key())
        return _answer(client.chat.completions.create(**self._request(task, parameters)))

    async def generate_async(self, task: object, **parameters: object) -> str:
        """Ask the model without blocking the event loop; otherwise as ``generate``."""
        openai = _import_openai()
        transport = openai.DefaultAsyncHttpxClient(verify=_certificates())
        async with openai.AsyncOpenAI(base_url=self.endpoint, api_key=self._key(), http_client=transport) as client:
            return _answer(await client.chat.completions.create(**self._request(task, parameters)))

    def _key(self) -> str:
        # Servers without authentication ignore the key, and the client insists on one.
        return self.api_key or os.environ.get("OPENAI_API_KEY") or "none"

    def _request(self, task: object, parameters: dict[str, object]) -> dict[str, object]:
        return {"model": self.model, **self.sampling_parameters, **parameters, "messages": _messages(task)}


class ProxyLLM(LLM):
    """A model behind our proxy, which tells rollouts apart by the URL."""

    resource_type: Literal["proxy_llm"] = "proxy_llm"  # type: ignore[assignment] - the tag of another kind, on purpose

    def get_base_url(self, rollout_id: str | None, attempt_id: str | None) -> str:
        """Return the ``base_url`` whose calls belong to one attempt, or the plain endpoint when both ids are None.

        The path ``/rollout/ID/attempt/ID`` comes before a trailing ``/v1``.

        Raises:
            ValueError: Only one of the two ids is given.
        """
        if rollout_id is None and attempt_id is None:
            return self.endpoint
        if not rollout_id or not attempt_id:
            msg = "give both rollout_id and attempt_id, or neither"
            raise ValueError(msg)
        root = self.endpoint.rstrip("/")
        version = "/v1" if root.endswith("/v1") else ""
        return f"{root.removesuffix('/v1')}/rollout/{rollout_id}/attempt/{attempt_id}{version}"

    def with_attempted_rollout(self, rollout: AttemptedRollout) -> LLM:
        """Return the plain model whose calls belong to the attempt of *rollout*."""
        return LLM(
            endpoint=self.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id),
            model=self.model,
            api_key=self.api_key,
            sampling_parameters=dict(self.sampling_parameters),
        )


class PromptTemplate(Resource):
    """A prompt with holes."""

    resource_type: Literal["prompt_template"] = "prompt_template"
    template: str
    engine: Literal["jinja", "f-string", "poml"]

    def format(self, **kwargs: object) -> str:
        """Return the prompt with its holes filled.

        ``f-string`` is the syntax of ``str.format``, ``jinja`` that of Jinja2. Both are sandboxed: a template cannot
        reach names that begin with an underscore, change what it is given, or make a text longer than 10,000,000
        characters. Values that no hole uses are ignored.

        Raises:
            KeyError: A hole got no value.
            ValueError: The template is malformed, or does what the sandbox forbids.
            MissingExtraError: The engine is ``poml``.
        """
        if self.engine == "f-string":
            return _Formatter().format(self.template, **kwargs)
        if self.engine == "jinja":
            return _render(self.template, kwargs)
        raise MissingExtraError(*_POML)


ResourceUnion = Annotated[LLM | ProxyLLM | PromptTemplate, Field(discriminator="resource_type")]
"""Any resource; ``resource_type`` says which when it is read back."""

NamedResources = dict[str, ResourceUnion]
"""Resources by the name that the algorithm gave them."""


class ResourcesUpdate(BaseModel):
    """An immutable snapshot of named resources."""

    resources_id: str
    resources: NamedResources


def _messages(task: object) -> list[object]:
    if isinstance(task, list) and task and all(isinstance(item, dict) for item in cast("list[object]", task)):
        return cast("list[object]", task)
    text = task if isinstance(task, str) else json.dumps(task, ensure_ascii=False, default=str)
    return [{"role": "user", "content": text}]


def _answer(completion: Any) -> str:  # noqa: ANN401 - openai is optional
    return completion.choices[0].message.content or "" if completion.choices else ""


def _import_openai() -> Any:  # noqa: ANN401 - openai is optional
    try:
        import openai  # noqa: PLC0415 - optional
    except ImportError:
        raise MissingExtraError(*_OPENAI) from None
    return openai


@functools.lru_cache(maxsize=1)
def _openai_client(_pid: int) -> Any:  # noqa: ANN401 - openai is optional
    """Return the client whose connections all models of this process share; a forked child gets its own."""
    client = _import_openai().OpenAI(api_key="none")
    atexit.register(client.close)
    return client


@functools.lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    # Reading the certificates takes 20 ms, a client without that 0.2 ms: so each call can have, and close, its own,
    # which works in any event loop.
    import ssl  # noqa: PLC0415 - only where a model is called

    return ssl.create_default_context()


class _Formatter(string.Formatter):
    """``str.format`` without a way to what a value is made of."""

    def get_field(self, field_name: str, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        """Look a hole up; ValueError for one that reaches for a private name."""
        if "._" in field_name or "[_" in field_name:
            msg = f"the hole {{{field_name}}} reaches for a name with an underscore; pass the value itself"
            raise ValueError(msg)
        return super().get_field(field_name, args, kwargs)

    def get_value(self, key: int | str, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        """Return the value of a hole; ValueError for a hole without a name."""
        if isinstance(key, int) or not key:
            msg = "holes of a prompt have names, such as {question}; double the braces of text: {{ }}"
            raise ValueError(msg)
        return super().get_value(key, args, kwargs)

    def format_field(self, value: object, format_spec: str) -> str:
        """Format a value; ValueError for a width beyond ``MAX_PROMPT_CHARS``."""
        digits = "".join(character if character.isdigit() else " " for character in format_spec).split()
        if any(len(number) > len(str(MAX_PROMPT_CHARS)) or int(number) > MAX_PROMPT_CHARS for number in digits):
            msg = f"the format {format_spec!r} makes a text longer than {MAX_PROMPT_CHARS:,} characters"
            raise ValueError(msg)
        return super().format_field(value, format_spec)


def _render(template: str, values: dict[str, object]) -> str:
    from jinja2.exceptions import SecurityError, TemplateError, UndefinedError  # noqa: PLC0415 - only when filled

    try:
        return _environment().from_string(template).render(**values)
    except SecurityError as error:
        msg = f"the template does what a prompt may not: {error}"
        raise ValueError(msg) from None
    except UndefinedError as error:
        raise KeyError(str(error)) from None
    except TemplateError as error:
        msg = f"the template is no Jinja template: {error}"
        raise ValueError(msg) from None


@functools.lru_cache(maxsize=1)
def _environment() -> SandboxedEnvironment:
    from jinja2 import StrictUndefined  # noqa: PLC0415 - only where a template is filled
    from jinja2.exceptions import SecurityError  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    class Environment(ImmutableSandboxedEnvironment):
        """Jinja's sandbox, with a bound on what multiplying may make."""

        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401 - of the base
            """Compute ``*`` and ``**``; SecurityError for a result beyond ``MAX_PROMPT_CHARS``."""
            if operator == "**" or (hasattr(left, "__len__") or hasattr(right, "__len__")):
                size = len(left) * int(right) if hasattr(left, "__len__") else 0
                size = len(right) * int(left) if hasattr(right, "__len__") else size
                if size > MAX_PROMPT_CHARS or (operator == "**" and abs(right) > 1_000):  # noqa: PLR2004 - a bound
                    msg = f"{operator} makes a value longer than {MAX_PROMPT_CHARS:,}"
                    raise SecurityError(msg)
            return super().call_binop(context, operator, left, right)

    return Environment(undefined=StrictUndefined, keep_trailing_newline=True)
