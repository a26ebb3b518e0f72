"""HTTP clients that are instrumented, and how each asks a model."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
from typing import TYPE_CHECKING, Any

import pytest

from agentlightning.instrumentation.http import CLIENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from agentlightning.instrumentation.http import HttpInstrumentor


def _running(ask: Callable[[str, Any, int], Coroutine[Any, Any, str]], most: int) -> Callable[..., str]:
    def run(url: str, body: Any) -> str:
        return asyncio.run(ask(url, body, most))

    return run


def _httpx(name: str) -> dict[str, Callable[..., str]]:
    def whole(url: str, body: Any) -> str:
        with importlib.import_module(name).Client() as client:
            return client.post(url, json=body).text

    def streamed(url: str, body: Any) -> str:
        with importlib.import_module(name).Client() as client, client.stream("POST", url, json=body) as response:
            return "\n".join(response.iter_lines())

    def left(url: str, body: Any) -> str:
        with importlib.import_module(name).Client() as client, client.stream("POST", url, json=body) as response:
            return next(response.iter_lines())

    return {"whole": whole, "streamed": streamed, "left": left}


def _httpx_async(name: str) -> dict[str, Callable[..., str]]:
    def whole(url: str, body: Any) -> str:
        async def ask() -> str:
            async with importlib.import_module(name).AsyncClient() as client:
                return (await client.post(url, json=body)).text

        return asyncio.run(ask())

    async def lines(url: str, body: Any, most: int) -> str:
        found: list[str] = []
        async with (
            importlib.import_module(name).AsyncClient() as client,
            client.stream("POST", url, json=body) as response,
        ):
            async for line in response.aiter_lines():
                found.append(line)
                if len(found) == most:
                    break
        return "\n".join(found)

    return {
        "whole": whole,
        "streamed": _running(lines, -1),
        "left": _running(lines, 1),
    }


def _requests(_name: str) -> dict[str, Callable[..., str]]:
    def whole(url: str, body: Any) -> str:
        return importlib.import_module("requests").post(url, json=body, timeout=10).text

    def streamed(url: str, body: Any) -> str:
        with importlib.import_module("requests").post(url, json=body, timeout=10, stream=True) as response:
            return b"\n".join(response.iter_lines()).decode()

    def left(url: str, body: Any) -> str:
        with importlib.import_module("requests").post(url, json=body, timeout=10, stream=True) as response:
            return next(response.iter_lines(chunk_size=1)).decode()

    return {"whole": whole, "streamed": streamed, "left": left}


def _aiohttp(_name: str) -> dict[str, Callable[..., str]]:
    async def ask(url: str, body: Any, most: int) -> str:
        aiohttp: Any = importlib.import_module("aiohttp")
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
            if most == 0:
                return await response.text()
            found: list[str] = []
            async for line in response.content:
                found.append(line.decode().strip())
                if len(found) == most:
                    break
            return "\n".join(found)

    return {
        "whole": _running(ask, 0),
        "streamed": _running(ask, -1),
        "left": _running(ask, 1),
    }


WAYS = {
    "httpx": ("httpx", _httpx),
    "httpx-async": ("httpx", _httpx_async),
    "httpx2": ("httpx2", _httpx),
    "httpx2-async": ("httpx2", _httpx_async),
    "requests": ("requests", _requests),
    "aiohttp": ("aiohttp", _aiohttp),
}


class Way:
    """One client: ways to ask, its instrumentor."""

    def __init__(self, name: str, instrumentor: HttpInstrumentor) -> None:
        library, make = WAYS[name]
        self.library = library
        self.instrumentor = instrumentor
        self._asks = make(library)
        self.before = self.attributes()

    def attributes(self) -> list[object]:
        """Return what of the library may have been replaced."""
        module = importlib.import_module(self.library)
        owners: list[Any] = [
            getattr(module, name, None) for name in ("Client", "AsyncClient", "Session", "ClientSession")
        ]
        return [getattr(owner, name, None) for owner in owners if owner for name in ("send", "_request")]

    def whole(self, url: str, body: Any) -> str:
        """Ask, and return the whole answer."""
        return self._asks["whole"](url, body)

    def streamed(self, url: str, body: Any) -> str:
        """Ask for a stream, and return its lines."""
        return self._asks["streamed"](url, {**body, "stream": True})

    def left(self, url: str, body: Any) -> str:
        """Ask for a stream, and leave it after its first line."""
        return self._asks["left"](url, {**body, "stream": True})


@pytest.fixture(params=sorted(WAYS))
def way(request: pytest.FixtureRequest, spans: Any) -> Iterator[Way]:
    """Each client that is installed, instrumented."""
    library, _ = WAYS[request.param]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    importlib.import_module(library)
    instrumentor = CLIENTS[library]()
    found = Way(request.param, instrumentor)
    instrumentor.instrument(spans.provider)
    yield found
    instrumentor.uninstrument()


@pytest.fixture
def texts() -> Callable[[str], str]:
    """Return the text of an OpenAI stream."""

    def joined(lines: str) -> str:
        parts = [json.loads(line[6:]) for line in lines.splitlines() if line.startswith("data: {")]
        return "".join(choice["delta"].get("content") or "" for part in parts for choice in part["choices"])

    return joined
