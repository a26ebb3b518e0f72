"""The model servers behind the proxy, and which of them gets a request."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from agentlightning.errors import SettingError
from agentlightning.types.resources import LLM

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def is_anthropic(path: str) -> bool:
    """Tell whether *path*, below ``/v1``, is one of Anthropic's API only."""
    return path in {"/messages", "/complete"} or path.startswith("/messages/")


@dataclass(frozen=True)
class Backend:
    """A server that speaks the OpenAI API, or Anthropic's."""

    endpoint: str
    """Base URL as a client takes it: for OpenAI's with its version, ``http://127.0.0.1:8000/v1``."""
    model: str | None = None
    """The model that it serves; None: any. A request for a model that no backend names goes to any of them."""
    api_key: str | None = None
    """Sent in place of what the program sends; None: the program's own key goes on."""
    weight: float = 1.0
    """Share of the requests among the backends that could take them; 0: only when all others fail."""
    token_ids: bool | None = None
    """Whether it understands ``return_token_ids``; None: found out, since vLLM and SGLang name themselves in
    their list of models."""
    anthropic: bool = False
    """Whether it speaks Anthropic's API."""

    def __post_init__(self) -> None:
        """Check what was given.

        Raises:
            SettingError: The endpoint is no URL, or the weight is negative.
        """
        if not _is_url(self.endpoint):
            msg = f"a backend is a URL such as http://127.0.0.1:8000/v1, not {self.endpoint!r}"
            raise SettingError(msg)
        if not self.weight >= 0:
            msg = f"the weight of {self.endpoint} is {self.weight}; it must be 0 or more"
            raise SettingError(msg)

    def url(self, path: str) -> str:
        """Return the address of *path*, such as ``/chat/completions``."""
        root = self.endpoint.rstrip("/")
        # Anthropic's clients add the version themselves, those of OpenAI do not.
        return (root.removesuffix("/v1") + "/v1" if self.anthropic else root) + path


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no port, or no address
        return False


def backends_of(given: object) -> tuple[Backend, ...]:
    """Return the backends that *given* means: a URL, a mapping, an ``LLM``, a ``Backend``, or a list of these.

    Raises:
        SettingError: It means none.
    """
    items = [cast("object", given)] if isinstance(given, (str, LLM, Backend, dict)) else cast("Iterable[object]", given)
    found = tuple(_backend(item) for item in items)
    if not found:
        msg = "a proxy needs a backend: LLMProxy('http://127.0.0.1:8000/v1', store=store)"
        raise SettingError(msg)
    return found


def _backend(given: object) -> Backend:
    if isinstance(given, Backend):
        return given
    if isinstance(given, LLM):
        return Backend(given.endpoint, model=given.model, api_key=given.api_key)
    if isinstance(given, str):
        return Backend(given)
    if isinstance(given, dict):
        fields = dict(cast("Mapping[str, Any]", given))
        try:
            return Backend(**fields)
        except TypeError as error:
            msg = f"a backend has endpoint, model, api_key, weight, token_ids and anthropic, not {sorted(fields)}"
            raise SettingError(msg) from error
    msg = f"a backend is a URL, a mapping, an LLM or a Backend, not {type(given).__name__}"
    raise SettingError(msg)


class Pool:
    """Chooses among backends by weight; one event loop."""

    def __init__(self, backends: tuple[Backend, ...], seed: int | None = None) -> None:
        """Choose among *backends*; *seed* makes the choices the same every time."""
        self.backends = backends
        self._random = random.Random(seed)  # noqa: S311 - shares of load are no secret

    def candidates(self, model: object, *, anthropic: bool) -> list[Backend]:
        """Return the backends for a request for *model*, in the order in which they are to be tried.

        *anthropic*: It is for Anthropic's API, and goes with its key to no other.
        """
        able = [backend for backend in self.backends if backend.anthropic == anthropic]
        named = [backend for backend in able if backend.model is not None and backend.model == model]
        able = named or [backend for backend in able if backend.model is None] or able
        chosen: list[Backend] = []
        while able:
            weights = [backend.weight for backend in able]
            total = sum(weights)
            place = 0
            if total > 0:
                mark = self._random.random() * total
                place = next((n for n, upto in enumerate(itertools.accumulate(weights)) if mark < upto), 0)
            chosen.append(able.pop(place))
        return chosen
