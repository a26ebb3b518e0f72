"""Values that the records of a session are made of: tokens, environment, changes of files; and how all are written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ai_agents.telemetry.loose import as_count, as_map, as_number, as_text, optional_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

    from ai_agents.telemetry.types import LLMCall

JsonObject = dict[str, Any]
"""An object of JSON: text, numbers, booleans, None, lists and objects by name."""


class JsonRecord:
    """JSON text of whatever has ``to_dict`` and ``from_dict``."""

    def to_dict(self) -> JsonObject:
        """Return plain data that JSON can hold."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Return what ``to_dict`` was called on."""
        raise NotImplementedError

    def to_json(self) -> str:
        """Return indented JSON text."""
        return json.dumps(self.to_dict(), indent=2, default=str, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what ``to_json`` was called on.

        Raises:
            ValueError: *text* is no JSON.
        """
        return cls.from_dict(as_map(json.loads(text)))


@dataclass
class TokenUsage(JsonRecord):
    """Tokens, whole and by model, and what they cost."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    model_breakdown: dict[str, TokenUsage] = field(default_factory=dict[str, "TokenUsage"])
    cost_estimate: float | None = None
    """USD, the sum of the costs that are known; None when none is."""

    def __post_init__(self) -> None:
        """Fill in the total where it was not given."""
        if not self.total_tokens:
            self.total_tokens = self.prompt_tokens + self.completion_tokens

    def add_usage(self, other: TokenUsage) -> None:
        """Add *other* to this one, model by model; *other* stays as it is and shares nothing with this one."""
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.total_tokens += other.total_tokens
        if other.cost_estimate is not None:
            self.cost_estimate = (self.cost_estimate or 0.0) + other.cost_estimate
        for model, usage in other.model_breakdown.items():
            self.model_breakdown.setdefault(model, TokenUsage()).add_usage(usage)

    def add_call(self, call: LLMCall) -> None:
        """Add one call, also to its model."""
        usage = TokenUsage(
            call.prompt_tokens, call.completion_tokens, call.total_tokens, cost_estimate=call.cost_estimate
        )
        self.add_usage(usage)
        self.model_breakdown.setdefault(call.model, TokenUsage()).add_usage(usage)

    def to_dict(self) -> JsonObject:
        """Return plain data that JSON can hold."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "model_breakdown": {model: usage.to_dict() for model, usage in self.model_breakdown.items()},
            "cost_estimate": self.cost_estimate,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Return what ``to_dict`` was called on."""
        models = as_map(data.get("model_breakdown"))
        return cls(
            as_count(data.get("prompt_tokens")),
            as_count(data.get("completion_tokens")),
            as_count(data.get("total_tokens")),
            {model: cls.from_dict(as_map(usage)) for model, usage in models.items()},
            as_number(data.get("cost_estimate")),
        )


@dataclass
class EnvironmentInfo(JsonRecord):
    """Where a session ran."""

    os_type: str
    os_version: str
    python_version: str
    working_directory: str
    project_root: str
    user_name: str | None = None
    timezone: str = "UTC"
    environment_variables: dict[str, str] = field(default_factory=dict[str, str])

    def to_dict(self) -> JsonObject:
        """Return plain data that JSON can hold."""
        return {**vars(self), "environment_variables": dict(self.environment_variables)}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Return what ``to_dict`` was called on."""
        names = ("os_type", "os_version", "python_version", "working_directory", "project_root")
        variables = as_map(data.get("environment_variables"))
        return cls(
            *(as_text(data.get(name)) for name in names),
            user_name=optional_text(data.get("user_name")),
            timezone=as_text(data.get("timezone"), "UTC"),
            environment_variables={name: as_text(value) for name, value in variables.items()},
        )


@dataclass
class CodeMetrics(JsonRecord):
    """What a task changed in the files of its project."""

    files_created: int = 0
    files_modified: int = 0
    files_deleted: int = 0
    lines_added: int = 0
    lines_removed: int = 0
    lines_modified: int = 0

    def to_dict(self) -> JsonObject:
        """Return plain data that JSON can hold."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Return what ``to_dict`` was called on."""
        return cls(**{name: as_count(data.get(name)) for name in vars(cls())})
