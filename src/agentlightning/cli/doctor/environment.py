"""The installation: Python, versions, settings, who else traces, and which libraries are traced."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import socket
import sys
from importlib.metadata import PackageNotFoundError, entry_points, requires, version
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agentlightning import settings
from agentlightning.cli.doctor.finding import FAIL, NOTE, OK, WARN, Finding
from agentlightning.errors import AgentLightningError
from agentlightning.instrumentation import registry
from agentlightning.store.url import shown_url

if TYPE_CHECKING:
    from collections.abc import Iterator

_SUPPORTED = (3, 10), (3, 14)
_ATTRIBUTES = 128
"""What the SDK keeps of a span's attributes by default."""

_CONNECT_S = 0.3

_OTHERS = {
    "agentops": "AgentOps",
    "arize-phoenix-otel": "Phoenix",
    "langfuse": "Langfuse",
    "logfire": "Logfire",
    "traceloop-sdk": "OpenLLMetry",
}
"""Packages that make a tracer provider of their own; ours joins it, so both get the spans."""

_TWICE = {
    "opentelemetry-instrumentation-openai": "openai",
    "opentelemetry-instrumentation-openai-v2": "openai",
    "openinference-instrumentation-smolagents": "smolagents",
}
"""Instrumentors of others for a library that ours trace too."""

_PLACES = {"autogen": "autogen_agentchat", "langchain": "langchain_core", "openai_agents": "agents"}
_PACKAGES = {"autogen": "autogen-agentchat", "langchain": "langchain-core", "openai_agents": "openai-agents"}
"""Module and distribution of instrumentors whose name is another one."""

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*([^;]*)(?:;\s*(.*))?\Z")


def findings() -> Iterator[Finding]:
    """Yield the rows about the installation."""
    found = f"{version('agentlightning')} on Python {platform.python_version()} ({sys.executable})"
    yield Finding(OK, "agentlightning", found)
    yield python_finding(sys.version_info[:2])
    yield version_finding()
    yield settings_finding()
    yield capture_finding()
    yield from provider_findings()
    yield endpoint_finding()
    yield attribute_finding()
    yield from library_findings()
    text = "python -I, -E and -S, and programs that are not Python"
    yield Finding(NOTE, "not reached", text, "let such a program send OTLP to 'agl store serve'")


def python_finding(running: tuple[int, ...]) -> Finding:
    """Known limits, Python version: whether this one is among those that are declared."""
    first, last = (".".join(map(str, each)) for each in _SUPPORTED)
    text = f"{'.'.join(map(str, running))}; {first} to {last} are supported"
    if running < _SUPPORTED[0]:
        return Finding(FAIL, "python", text, f"make the environment with Python {first} or newer")
    if running > _SUPPORTED[1]:
        return Finding(WARN, "python", text, f"when something fails, try it with Python {last}")
    return Finding(OK, "python", text)


def version_finding() -> Finding:
    """Known limits, versions: whether what is installed fits what we declare, core and extras."""
    if importlib.util.find_spec("packaging") is None:  # comes with OpenTelemetry's instrumentation
        return Finding(NOTE, "versions", "not compared: the package 'packaging' is not here", "pip check")
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415 - see above
    from packaging.version import InvalidVersion  # noqa: PLC0415 - see above

    wrong: list[str] = []
    looked = 0
    for text in requires("agentlightning") or ():
        match = _REQUIREMENT.match(text)
        if match is None or not match[2].strip() or "[" in match[2]:
            continue
        try:
            installed = version(match[1])
            looked += 1
            if not SpecifierSet(match[2].strip()).contains(installed, prereleases=True):
                wrong.append(f"{match[1]}{match[2].strip()} (here {installed})")
        except (PackageNotFoundError, InvalidVersion):
            if "extra" not in (match[3] or "") and not match[3]:
                wrong.append(f"{match[1]}{match[2].strip()} (not here)")
    if not wrong:
        return Finding(OK, "versions", f"all {looked} packages that are here fit what agentlightning needs")
    names = " ".join(f"'{each.partition(' (')[0]}'" for each in wrong)
    return Finding(FAIL, "versions", f"wanted: {', '.join(wrong)}", f"pip install {names}")


def settings_finding() -> Finding:
    """Tell whether every variable has a value that makes sense, and which are set."""
    try:
        settings.check_environment()
    except AgentLightningError as error:
        return Finding(FAIL, "settings", str(error), "correct or unset it; agl doctor --settings lists all")
    changed = [setting.variable for setting in settings.all_settings() if settings.lookup(setting)[1] != "default"]
    return Finding(
        OK, "settings", ("set: " + ", ".join(changed) if changed else "all at their defaults") + " (--settings)"
    )


def capture_finding() -> Finding:
    """Tell whether anything is captured at all."""
    if settings.get(settings.ENABLED):
        return Finding(OK, "capture", "on")
    return Finding(WARN, "capture", "off: AGL_ENABLED is 0", "unset AGL_ENABLED")


def provider_findings() -> Iterator[Finding]:
    """Known limits, conflicts: who else makes spans, and variables by which OpenTelemetry loses them."""
    here = [name for package, name in _OTHERS.items() if _version_of(package)]
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield Finding(
            FAIL, "provider", "OTEL_SDK_DISABLED=true: OpenTelemetry makes no spans", "unset OTEL_SDK_DISABLED"
        )
    elif os.environ.get("OTEL_TRACES_SAMPLER", "").endswith("always_off"):
        text = f"OTEL_TRACES_SAMPLER={os.environ['OTEL_TRACES_SAMPLER']}: a provider of the program's makes no spans"
        yield Finding(FAIL, "provider", text, "unset OTEL_TRACES_SAMPLER, or set AGL_SAMPLE_RATE instead")
    elif here:
        text = f"{', '.join(here)} may bring a tracer provider; it is joined, and both get every span"
        yield Finding(NOTE, "provider", text, "to leave it out, do not start it in the program")
    else:
        yield Finding(OK, "provider", "ours, or the program's own, which is joined")
    for package, library in _TWICE.items():
        if _version_of(package) and _version_of(library) and _left_out(library) is None:
            text = f"{package} traces {library} too: where it is started each call is there twice"
            yield Finding(NOTE, "traced twice", text, f"export AGL_INSTRUMENT=-{library}  (or do not start the other)")


def endpoint_finding() -> Finding:
    """Tell whether somebody listens where the program's own OpenTelemetry exporter sends."""
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    name = next((name for name in names if os.environ.get(name)), "")
    if not name:
        return Finding(OK, "endpoint", "no OTLP endpoint is named: spans go to the store only")
    url = os.environ[name]
    parts = urlsplit(url)
    told = f"{name}={shown_url(url)}"
    try:
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 4318)
        socket.create_connection((parts.hostname or "", port), _CONNECT_S).close()
    except (OSError, ValueError) as error:
        text = f"{told}: nothing answers ({error}); exporters of the program's own wait for it and lose their spans"
        return Finding(
            WARN, "endpoint", text, f"start what should listen there (agl store serve takes OTLP), or unset {name}"
        )
    return Finding(OK, "endpoint", f"{told} answers")


def attribute_finding() -> Finding:
    """Tell how many attributes a span in a provider of the program's may have."""
    limit = os.environ.get("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT")
    remedy = "export OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT=10000"
    if limit is None:
        text = f"a program's own tracer provider keeps {_ATTRIBUTES} attributes a span; ours keeps 10,000"
        return Finding(NOTE, "attribute limit", text, remedy)
    if limit.isdigit() and int(limit) <= _ATTRIBUTES:
        text = f"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT={limit}: the oldest attributes of a long call are dropped"
        return Finding(FAIL, "attribute limit", text, remedy)
    return Finding(OK, "attribute limit", f"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT={limit}")


def library_findings() -> Iterator[Finding]:
    """Yield for each instrumentor whether its library is here, and whether a setting leaves it out."""
    for name in registry.known():
        place, package = _PLACES.get(name, name), _PACKAGES.get(name, name)
        installed = _version_of(package)
        # A module called "agents" may be anybody's.
        if importlib.util.find_spec(place) is None or (name in _PLACES and installed is None):
            yield Finding(OK, name, "not installed here")
            continue
        head = f"{installed}, " if installed else ""
        reason = _left_out(name)
        if reason:
            yield Finding(WARN, name, f"{head}NOT traced: {reason}", "unset AGL_INSTRUMENT, or name it there")
        elif not settings.get(settings.ENABLED):
            yield Finding(WARN, name, f"{head}NOT traced: AGL_ENABLED is 0", "unset AGL_ENABLED")
        else:
            yield Finding(OK, name, f"{head}traced when it is imported")
    yield from _unknown_names()


def _unknown_names() -> Iterator[Finding]:
    words = {word.strip().lstrip("-") for word in settings.get(settings.INSTRUMENT).split(",") if word.strip()}
    plugins = {point.name for point in entry_points(group=registry.ENTRY_POINTS)}  # those left out are not known
    unknown = sorted(words - set(registry.known()) - plugins)
    if unknown:
        text = f"AGL_INSTRUMENT names {', '.join(unknown)}: there is no such instrumentor"
        yield Finding(WARN, "instrumentors", text, f"choose from {', '.join(registry.known())}")


def _left_out(name: str) -> str | None:
    """Return why ``AGL_INSTRUMENT`` leaves an instrumentor out, None when it does not."""
    if registry.is_selected(name):
        return None
    return f"AGL_INSTRUMENT={settings.get(settings.INSTRUMENT)} leaves it out"


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
