"""Models from settings: which one an agent gets when its program names none.

For each kind of model there are ``FAST_MODEL``, ``POWERFUL_MODEL`` and ``SUMMARY_MODEL``, with ``_TEMPERATURE``,
``_MAX_TOKENS`` and ``_TIMEOUT`` (seconds) behind it; ``MODEL`` is the name where the kind has none. Models speak the
OpenAI API at ``OPENAI_BASE_URL`` with ``OPENAI_API_KEY``.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from agentlightning.errors import SettingError
from ai_agents.core.model_types import ModelType, model_type_for
from ai_agents.lib.smolagents import load_smolagents

if TYPE_CHECKING:
    from collections.abc import Mapping

Config = dict[str, Any]
"""Name and parameters of a model, as its class takes them."""

_DEFAULTS = {
    ModelType.FAST: (0.1, 1024, 30),
    ModelType.POWERFUL: (0.2, 8192, 300),
    ModelType.SUMMARY: (0.0, 2048, 60),
}
"""Temperature, most tokens of an answer, and timeout in seconds."""

DEFAULT_MODEL = "gpt-4o-mini"

_cache: dict[tuple[str, ...], object] = {}
_lock = threading.Lock()


def get_model_config(task_type: str, override: Mapping[str, object] | None = None) -> Config:
    """Return name and parameters of the model for a kind of task; *override* wins.

    Raises:
        SettingError: A setting is no number.
    """
    kind = model_type_for(task_type)
    temperature, max_tokens, timeout = _DEFAULTS[kind]
    config: Config = {
        "model": os.environ.get(f"{kind.value}_MODEL") or os.environ.get("MODEL") or DEFAULT_MODEL,
        "temperature": _number(f"{kind.value}_MODEL_TEMPERATURE", temperature),
        "max_tokens": int(_number(f"{kind.value}_MODEL_MAX_TOKENS", max_tokens)),
        "timeout": _number(f"{kind.value}_MODEL_TIMEOUT", timeout),
    }
    return {**config, **(override or {})}


def get_model_for_task(
    task_type: str,
    framework: str | None = None,
    override: Mapping[str, object] | None = None,
    *,
    cache: bool = True,
) -> Any:  # noqa: ANN401 - a dict, or a model of smolagents
    """Return the configuration of the model for a kind of task, or with ``framework="smolagents"`` the model itself.

    Args:
        task_type: A value of ``TaskType``.
        framework: None for the configuration as a dict.
        override: Parameters that win over the settings.
        cache: Give the same model object for the same configuration.

    Raises:
        SettingError: A setting is no number.
        ValueError: An unknown framework.
    """
    config = get_model_config(task_type, override)
    if framework is None:
        return config
    if framework != "smolagents":
        msg = f"there are no models for the framework {framework!r}; use 'smolagents'"
        raise ValueError(msg)
    key = (repr(sorted(config.items(), key=str)), os.environ.get("OPENAI_BASE_URL", ""))
    with _lock:
        if not cache or key not in _cache:
            _cache[key] = _make(dict(config))
        return _cache[key]


def _make(config: Config) -> object:
    library = load_smolagents()
    client = {"timeout": config.pop("timeout")}
    if "extra_headers" in config:
        client["default_headers"] = config.pop("extra_headers")
    return library.OpenAIServerModel(
        config.pop("model"),
        api_base=os.environ.get("OPENAI_BASE_URL"),
        api_key=os.environ.get("OPENAI_API_KEY"),
        client_kwargs=client,
        **config,
    )


def _number(variable: str, default: float) -> float:
    text = os.environ.get(variable)
    if not text:
        return default
    try:
        return float(text)
    except ValueError:
        msg = f"{variable} is {text!r}; set it to a number"
        raise SettingError(msg) from None
