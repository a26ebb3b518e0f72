"""The store: can it be read and written, is there room, is the way to it safe, is what is in it whole."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agentlightning import settings
from agentlightning.cli.doctor.finding import FAIL, NOTE, OK, WARN, Finding
from agentlightning.cli.doctor.reading import CHECKED_SPANS
from agentlightning.cli.terminal import safe
from agentlightning.cli.text import count, plural
from agentlightning.errors import AccessError, AgentLightningError, StoreVersionError
from agentlightning.pipeline.redaction import rules_hash
from agentlightning.pipeline.redaction.rule import Options, active_rules
from agentlightning.server.access import is_loopback
from agentlightning.store.url import shown_url
from agentlightning.view.integrity import RULES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentlightning.cli.doctor.reading import Reading

ROOM_BYTES = 100 * 2**20
"""Less free space than this is reported as none."""
_LOW_ROOM_BYTES = 2**30
_OTHERS_READ = 0o077
_CHOSEN = {"sampled", "filtered"}
"""Reasons that somebody has asked for."""


def findings(reading: Reading) -> Iterator[Finding]:
    """Yield the rows about the store."""
    yield store_finding(reading)
    yield from server_findings(reading)
    yield disk_finding(reading)
    yield access_finding(reading)
    yield from spill_findings(reading)
    yield queue_finding(reading)
    yield checksum_finding(reading)
    yield integrity_finding(reading)
    yield redaction_finding(reading)
    yield loss_finding(reading)


def store_finding(reading: Reading) -> Finding:
    """Storage system: whether the store answers."""
    url = shown_url(reading.url)
    error = reading.problem
    if error is not None:
        text = str(error).replace(reading.url, url) if reading.url else str(error)
        if isinstance(error, StoreVersionError):
            return Finding(FAIL, "store", text, "pip install --upgrade agentlightning")
        if isinstance(error, AccessError):
            return Finding(FAIL, "store", text, "export AGL_STORE_TOKEN=...  (agl store token makes one)")
        if reading.path is not None and not os.access(reading.path, os.R_OK):
            return Finding(FAIL, "store", text, f"chmod u+rw {reading.path}; or name another file with AGL_STORE")
        if reading.path is not None:
            return Finding(FAIL, "store", text, "agl store verify; or name another file with AGL_STORE")
        return Finding(FAIL, "store", text, "agl store serve  (there), then check AGL_STORE and the network")
    if not reading.is_there:
        return Finding(OK, "store", f"{url}, nothing recorded yet")
    newest = reading.rollouts[0].rollout_id if reading.rollouts else "none"
    text = f"{url}, newest rollout of project {reading.project!r}: {safe(newest)}"
    return Finding(OK, "store", f"{text}; answered in {reading.answer_s * 1e3:.0f} ms")


def server_findings(reading: Reading) -> Iterator[Finding]:
    """Server, key, endpoint, certificate: only for a store that is somewhere else."""
    if reading.scheme not in {"http", "https"}:
        return
    key = "set" if settings.get(settings.STORE_TOKEN) else "not set; a server that only this machine reaches wants none"
    yield Finding(OK, "store key", f"AGL_STORE_TOKEN is {key}")
    ca = settings.get(settings.STORE_CA)
    if ca and not os.access(ca, os.R_OK):
        yield Finding(
            FAIL, "certificate", f"AGL_STORE_CA={ca} cannot be read", "name a PEM file with the issuer's certificate"
        )
    elif "certificate" in str(reading.problem or ""):
        yield Finding(FAIL, "certificate", "the server's is not trusted", "export AGL_STORE_CA=issuer.pem")
    elif reading.scheme == "https":
        yield Finding(OK, "certificate", f"trusted by {ca or 'the certificates of the system'}")
    plain = [each for each in reading.url.split(",") if _is_open_wire(each.strip())]
    if plain:
        text = f"{shown_url(','.join(plain))} is reached without encryption: spans and token can be read on the way"
        yield Finding(
            WARN, "encryption", text, "agl store serve --tls-cert CERT --tls-key KEY, then AGL_STORE=https://..."
        )
    if len(reading.url.split(",")) == 1:
        yield Finding(NOTE, "second server", "none named", "AGL_STORE=http://first:4747,http://second:4747")


def _is_open_wire(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def disk_finding(reading: Reading) -> Finding:
    """Storage space: of the store's disk, else of that for spills."""
    from agentlightning.pipeline.spill import spill_folders  # noqa: PLC0415 - with the rest of the pipeline

    folders = [folder.path for folder in spill_folders(reading.url)] if reading.url else []
    place = reading.path.parent if reading.path is not None else folders[0] if folders else Path.cwd()
    place = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(place).free
    used = (
        f", the store takes {_megabytes(reading.path.stat().st_size)}" if reading.path and reading.path.exists() else ""
    )
    text = f"{_megabytes(free)} are free in {place}{used}"
    remedy = "agl store prune --older-than 30d && agl store vacuum"
    if free < ROOM_BYTES:
        return Finding(FAIL, "disk", text, remedy)
    if free < _LOW_ROOM_BYTES:
        return Finding(WARN, "disk", text, remedy)
    return Finding(OK, "disk", text)


def access_finding(reading: Reading) -> Finding:
    """Permissions: whether spans can be written here, and who else can read them."""
    path = reading.path
    if path is None:
        return Finding(OK, "permission", "the server's")
    folder = next(each for each in (path.parent, *path.parent.parents) if each.exists())
    for each in (path, folder) if path.exists() else (folder,):
        if not os.access(each, os.W_OK):
            return Finding(
                FAIL, "permission", f"{each} cannot be written", f"chmod u+w {each}; or name another with AGL_STORE"
            )
    if path.exists() and stat.S_IMODE(path.stat().st_mode) & _OTHERS_READ:
        return Finding(WARN, "permission", f"{path} can be read by others on this machine", f"chmod 600 {path}")
    return Finding(OK, "permission", "this user can write; nobody else can read")


def spill_findings(reading: Reading) -> Iterator[Finding]:
    """Transport layer: what waits on the disk of this machine, and whether its checksums are right."""
    segments = reading.segments
    size, spans = sum(each.size_bytes for each in segments), sum(each.spans or 0 for each in segments)
    waiting = [each for each in segments if not each.is_open]
    limit = settings.get(settings.SPILL_BYTES)
    where = f" in {segments[0].path.parent}" if segments else ""
    text = f"{plural(spans, 'span')} in {plural(len(segments), 'segment')}, {_megabytes(size)}{where}"
    if not limit:
        text = "off: AGL_SPILL_BYTES is 0; what a store cannot take is lost once memory is full"
        yield Finding(WARN, "spill", text, "unset AGL_SPILL_BYTES")
    elif size > limit / 2:
        text += f", of at most {_megabytes(limit)}: beyond that the oldest are lost"
        yield Finding(FAIL, "spill", text, "make the store reachable; or export AGL_SPILL_BYTES=2147483648")
    elif waiting:
        remedy = "agl run true  (the end of every agl run brings them in)"
        yield Finding(WARN, "spill", f"{text}, not in the store yet", remedy)
    else:
        yield Finding(OK, "spill", "nothing waits on the disk" if not segments else f"{text}, being written")
    damaged = [each for each in segments if each.damaged]
    if damaged:
        number = sum(each.damaged for each in damaged)
        text = f"{plural(number, 'record is', 'records are')} damaged in {damaged[0].path}; the others are replayed"
        yield Finding(FAIL, "spill checksums", text, "check the disk; what is damaged is counted as lost (store_error)")


def queue_finding(reading: Reading) -> Finding:
    """Say how many rollouts wait, and whether anybody works on one."""
    running = sum(each.status in {"preparing", "running"} for each in reading.rollouts)
    waiting = plural(reading.queued, "rollout waits", "rollouts wait")
    text = f"{waiting} for a runner, {count(running)} of the newest are being worked on"
    if reading.queued and not running:
        return Finding(
            WARN, "queue", text, f"start a runner for project {reading.project!r}: Trainer, or its role RUNNER"
        )
    return Finding(OK, "queue", text)


def checksum_finding(reading: Reading) -> Finding:
    """Storage layer: whether the newest spans are as they were written."""
    if reading.damaged:
        return Finding(
            FAIL, "checksums", "; ".join(map(safe, reading.damaged)), "agl store verify; agl store restore BACKUP"
        )
    if reading.path is None:
        return Finding(OK, "checksums", "the server's: agl store verify, there")
    text = f"the newest spans, at most {count(CHECKED_SPANS)}, are as they were written; agl store verify checks all"
    return Finding(OK, "checksums", text)


def integrity_finding(reading: Reading) -> Finding:
    """Application layer: count the spans that break a rule, and say which rules and where."""
    rules: Counter[str] = Counter()
    where = ""
    for row in reading.rows:
        if row.facts.integrity:
            where = where or row.rollout_id
            rules.update(row.facts.integrity.split(", "))
    seen = f"of {count(len(reading.rows))} spans of the newest {plural(len(reading.rollouts), 'rollout')}"
    if not rules:
        return Finding(OK, "integrity", f"none {seen} breaks a rule")
    told = "; ".join(f"{count(number)} {safe(RULES.get(name, name))}" for name, number in sorted(rules.items()))
    remedy = f"agl show {safe(where)} marks them; mend the program that made them"
    return Finding(FAIL, "integrity", f"{seen}, stored as they came: {told}", remedy)


def redaction_finding(reading: Reading) -> Finding:
    """Say which rules hold and what they replaced in the newest rollout."""
    try:
        options = Options.from_settings()
        rules = active_rules(options)
    except AgentLightningError as error:
        return Finding(FAIL, "redaction", str(error), "correct the rule; agl redact test FILE tries it")
    engines = " and ".join(name for name in ("hyperscan", "ahocorasick", "re2") if importlib.util.find_spec(name))
    counts: Counter[str] = Counter()
    newest = reading.rollouts[0].rollout_id if reading.rollouts else ""
    for row in reading.rows:
        for part in row.facts.redacted.split(", ") if row.rollout_id == newest and row.facts.redacted else ():
            rule, _, number = part.rpartition(":")
            counts[rule] += int(number) if number.isdigit() else 0
    told = ", ".join(f"{count(number)} {safe(rule)}" for rule, number in sorted(counts.items()))
    replaced = f"; replaced in the newest rollout: {told or 'nothing'}"
    if not rules:
        return Finding(WARN, "redaction", f"names only: AGL_REDACT is 0{replaced}", "unset AGL_REDACT")
    return Finding(OK, "redaction", f"{count(len(rules))} rules ({rules_hash(options)}) by {engines or 're'}{replaced}")


def loss_finding(reading: Reading) -> Finding:
    """Add up the counters of processes that no rollout has noted."""
    total = reading.account
    lost = ", ".join(f"{count(number)} {reason}" for reason, number in sorted(total.lost.items())) or "0"
    figures = (
        f"produced {count(total.produced)}, stored {count(total.stored)}, waiting {count(total.waiting)}, lost {lost}"
    )
    text = f"{figures} (processes whose figures no rollout has noted)"
    noted = ", ".join(f"{count(number)} {safe(reason)}" for reason, number in sorted(reading.noted.items()))
    if noted:
        text += f"; lost by the newest rollouts: {noted}"
    if set(reading.lost) - _CHOSEN:
        return Finding(FAIL, "spans", text, "the rows under 'Are spans missing?' say why")
    return Finding(OK, "spans", text)


def _megabytes(size: float) -> str:
    return f"{size / 2**20:,.0f} MB"
