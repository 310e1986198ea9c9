"""Checks of this machine and its cluster: processors, GPUs, libraries, codec weights, disk space, storage, Ray and its
nodes.

A finding is `lacks` if jobs cannot run, and `note` if something may cause trouble, such as a folder that is too large
to be sent to a cluster.
"""

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import soundfile
import torch
from ray.exceptions import RayError
from rich.markup import escape
from rich.table import Table

from cluster.errors import ClusterError
from cluster.runtime.connect import connect
from cluster.runtime.resources import alive_nodes, usable_cpus
from cluster.tables import stage_record as records
from jobs.console.command import console, exit_process, run_command
from jobs.console.compiled_libraries import misfits, versions
from jobs.diagnostics.nodes import MIN_FREE_GB, NodeReport, ask_nodes, check_storage, problems_of
from jobs.diagnostics.submission import what_is_sent
from jobs.inputs.codecs import official_cache
from soundstorm.codec.codec import OFFICIAL_FILE
from soundstorm.codec.files import load_codec
from soundstorm.errors import SoundStormError
from soundstorm.optimization.precision import uses_bf16

LIBRARIES = ("ray", "torch", "torchaudio", "encodec", "pyarrow", "boto3", "soundfile", "numpy")
TOKEN = "on: connections without the token are refused"
NO_TOKEN = (
    "off: anyone who reaches the cluster's ports can run code there; export RAY_AUTH_MODE=token before `ray start`"
)
MAX_LISTED = 5
MIN_SHARED_MEMORY_GB = 1.0


@dataclass(kw_only=True)
class Options:
    """Check what this machine and its cluster have and lack."""

    output_dir: str | None = None
    """Also check that every node can write, list, read and delete in this folder or s3:// prefix."""
    address: str | None = None
    """Address of the Ray cluster to check; default: start Ray on this machine."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's table."""

    subject: str
    fine: bool
    """False: something does not work, and the text gives the remedy."""
    text: str
    is_note: bool = False
    """Nothing is missing, but the user should know it."""


def run(options: Options) -> dict[str, Any]:
    """Run all checks and print a table; raises SoundStormError if something that jobs need is missing."""
    checks: dict[str, Callable[[], tuple[bool, str]]] = {
        "processor": _processors,
        "GPU": _gpu,
        "libraries": _libraries,
        "compiled": _compiled,
        "audio files": _audio,
        "codec": _codec,
        "EnCodec weights": _official_weights,
        "disk": _disk,
    }
    if options.output_dir is not None:
        checks["storage"] = partial(_storage, options.output_dir)
    findings = []
    for subject, check in checks.items():
        try:
            findings.append(Finding(subject, *check()))
        except (SoundStormError, ClusterError, OSError) as error:
            findings.append(Finding(subject, False, str(error)))
    findings.append(_submission())
    storage_works = any(finding.subject == "storage" and finding.fine for finding in findings)
    try:
        findings += _cluster(options.address, options.output_dir if storage_works else None)
    except (ClusterError, RayError) as error:
        findings.append(Finding("Ray", False, str(error)))
    table = Table(box=None, show_header=False, padding=(0, 2))
    for finding in findings:
        mark = "[bold red]lacks[/]" if not finding.fine else "[yellow]note[/]" if finding.is_note else "[green]ok[/]"
        table.add_row(mark, f"[bold]{finding.subject}[/]", escape(finding.text))
    console.print(table)
    lacking = [finding.subject for finding in findings if not finding.fine]
    if lacking:
        raise SoundStormError(f"this machine is not ready: see {', '.join(lacking)} above")
    return {"message": "this machine is ready", "findings": {finding.subject: finding.text for finding in findings}}


def _processors() -> tuple[bool, str]:
    capability = torch.backends.cpu.get_cpu_capability()
    fast = uses_bf16(torch.device("cpu"), "auto")
    return True, f"{usable_cpus()} cores, {capability}, bfloat16 {'in hardware' if fast else 'emulated'}"


def _gpu() -> tuple[bool, str]:
    if not torch.cuda.is_available():
        return True, "none: everything runs on the CPU; use preset 'places' or 'draft'"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return True, ", ".join(names)


def _libraries() -> tuple[bool, str]:
    found, missing = [], []
    for library in LIBRARIES:
        try:
            found.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            missing.append(library)
    return not missing, f"missing: {', '.join(missing)}; run `make install`" if missing else ", ".join(found)


def _compiled() -> tuple[bool, str]:
    found = misfits()
    return not found, "; ".join(found) or f"{versions()} can be imported together"


def _submission() -> Finding:
    try:
        sent = what_is_sent(Path.cwd())
    except OSError as error:
        return Finding(
            "submission",
            True,
            f"the files for `ray job submit --working-dir .` cannot be listed: {error}",
            is_note=True,
        )
    return Finding("submission", True, str(sent), is_note=sent.is_much)


def _audio() -> tuple[bool, str]:
    missing = {"WAV", "FLAC", "OGG", "MP3"} - set(soundfile.available_formats())
    text = f"libsndfile {soundfile.__libsndfile_version__} reads WAV, FLAC, Ogg and MP3"
    return not missing, f"libsndfile cannot read {', '.join(sorted(missing))}: update soundfile" if missing else text


def _codec() -> tuple[bool, str]:
    fingerprint = load_codec(None).fingerprint
    return True, f"{fingerprint.name}, {fingerprint.sha256[:12]}, in the package"


def _official_weights() -> tuple[bool, str]:
    path = official_cache()
    if path.exists():
        return True, str(path)
    return (
        True,
        f"not here: they are downloaded at first use; without a network, put {OFFICIAL_FILE} into {path.parent}",
    )


def _disk() -> tuple[bool, str]:
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    scratch_gb = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    shared_gb = shutil.disk_usage("/dev/shm").free / 1e9 if Path("/dev/shm").exists() else 0.0
    text = (
        f"{free_gb:.0f} GB free here, {scratch_gb:.0f} GB in {tempfile.gettempdir()}, {shared_gb:.1f} GB of shared "
        "memory"
    )
    if min(free_gb, scratch_gb) < MIN_FREE_GB:
        return False, f"{text}: free at least {MIN_FREE_GB:g} GB in each"
    if shared_gb < MIN_SHARED_MEMORY_GB:
        text += "; Ray will use slower files for its objects: give a container --shm-size=4g"
    return True, text


def _cluster(address: str | None, storage_uri: str | None) -> list[Finding]:
    """Findings about Ray, its nodes and authentication."""
    began = time.monotonic()
    with connect(address, await_gpu=False) as info:
        where = "started here" if info.started_here else "joined"
        text = (
            f"{where} in {time.monotonic() - began:.0f} s: {info.nodes} nodes, {info.num_cpus:g} CPUs, "
            f"{info.num_gpus:g} GPUs"
        )
        offered = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in alive_nodes()]
        reports, silent = ask_nodes(storage_uri)
    more = f" and {len(offered) - MAX_LISTED} more" if len(offered) > MAX_LISTED else ""
    problems = problems_of(reports, silent, records.versions())
    return [
        Finding("Ray", True, text),
        Finding("nodes", not problems, "; ".join(problems[:MAX_LISTED]) or _alike(reports)),
        Finding("authentication", bool(reports), _authentication(reports)),
        Finding("metrics", True, f"for Prometheus at {', '.join(offered[:MAX_LISTED])}{more}"),
    ]


def _authentication(reports: list[NodeReport]) -> str:
    if not reports:
        return "unknown: no node answers"
    return TOKEN if all(report.token_required for report in reports) else NO_TOKEN


def _alike(reports: list[NodeReport]) -> str:
    gpus = Counter(name for report in reports for name in report.gpus)
    named = ", ".join(f"{count} {name}" for name, count in gpus.items()) or "no GPU"
    least = min(report.free_gb for report in reports)
    skew = max(abs(report.skew_s) for report in reports)
    return (
        f"{len(reports)} with the same libraries as this process, {named}, at least {least:.0f} GB for temporary "
        "files, "
        f"clocks within {skew + 1:.0f} s"
    )


def _storage(uri: str) -> tuple[bool, str]:
    check_storage(uri)
    return True, f"{uri} can be written, listed, read and deleted"


if __name__ == "__main__":
    exit_process(run_command(Options, run))
