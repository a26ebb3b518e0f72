"""What a rollout is given to work with: models and prompts, by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from agentlightning.types.core import AttemptedRollout  # noqa: TC001 - pyright and readers; users call get_type_hints

__all__ = ["LLM", "NamedResources", "PromptTemplate", "ProxyLLM", "Resource", "ResourceUnion", "ResourcesUpdate"]


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

    def format(self, **kwargs: Any) -> str:  # noqa: ANN401 - whatever the holes take
        """Return the prompt with its holes filled, as ``str.format`` does.

        Raises:
            KeyError: A hole got no value.
            NotImplementedError: The engine is not ``f-string``.
        """
        if self.engine == "f-string":
            return self.template.format(**kwargs)
        msg = f"format() fills f-string templates only; render a {self.engine} template with its own library"
        raise NotImplementedError(msg)


ResourceUnion = Annotated[LLM | ProxyLLM | PromptTemplate, Field(discriminator="resource_type")]
"""Any resource; ``resource_type`` says which when it is read back."""

NamedResources = dict[str, ResourceUnion]
"""Resources by the name that the algorithm gave them."""


class ResourcesUpdate(BaseModel):
    """An immutable snapshot of named resources."""

    resources_id: str
    resources: NamedResources
