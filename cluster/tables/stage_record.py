"""Stage records: the file `NAME.json` marks a stage as complete and states its settings and results.

A stage calls `start_stage` first and `complete_stage` last. Its output counts as complete only if the record exists.
Output of other settings is never mixed with new output or silently replaced: `start_stage` refuses it, also if the
earlier run was interrupted or is still running. Two runs with the same settings may run at once. (If two runs with
different settings start at the same moment, a server without conditional writes may accept both.)
"""

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster import storage
from cluster.errors import ClusterError, NotFoundError

INTERRUPTED_OVERWRITE = {"overwrite": "cut short"}
"""Settings that no run has. They mark an overwrite that has not deleted everything yet: the remaining output is neither
resumed nor refused as unowned."""
LIBRARIES = ("soundstorm-env", "ray", "torch", "pyarrow", "numpy")


@dataclass(frozen=True, kw_only=True)
class Record:
    """Content of `NAME.json`."""

    name: str
    """Name of the stage."""
    settings: dict[str, Any]
    """All settings that the output depends on."""
    counts: dict[str, Any]
    """Results: numbers of rows, clips, rejected clips, ..."""
    started: str
    """Start of the stage, ISO 8601, UTC."""
    finished: str
    """End of the stage, ISO 8601, UTC."""
    versions: dict[str, str]
    """Versions of Python and of the libraries that were used."""


def record_uri(output_uri: str, name: str) -> str:
    """URI of the record of stage `name`."""
    return storage.join(output_uri, f"{name}.json")


def start_stage(
    output_uri: str,
    name: str,
    settings: Mapping[str, Any],
    *,
    overwrite: bool = False,
    outputs: Sequence[str] = (),
    free: Sequence[str] = (),
) -> Record | None:
    """Start or resume a stage. Returns its record if it is already complete with these settings (then skip it), else
    None.

    Args:
        output_uri: output folder of the stage.
        name: name of the stage.
        settings: all settings that the output depends on; plain values, lists and dicts.
        overwrite: delete the output of earlier runs of the stage first.
        outputs: names below `output_uri` that the stage writes. `overwrite` deletes them. Unowned ones, which no record
            mentions, are refused.
        free: keys of `settings` whose values may differ from those of the earlier run.

    Raises:
        ClusterError: the folder has output of other settings (the message names the differing keys with both values),
            or unowned output.
    """
    started_uri = _started_uri(output_uri, name)
    if not storage.exists(started_uri) and not storage.exists(
        record_uri(output_uri, name)
    ):  # in this order: one of the two exists at any time
        unowned = [part for part in outputs if storage.exists(storage.join(output_uri, part))]
        if unowned:
            raise ClusterError(
                f"{output_uri}: holds '{unowned[0]}', which no run of '{name}' made; give another --output-dir, "
                "nothing was touched"
            )
    if overwrite:
        old = [record_uri(output_uri, name), *(storage.join(output_uri, part) for part in outputs), started_uri]
        storage.write_bytes(started_uri, _to_json({"settings": INTERRUPTED_OVERWRITE}))
        for uri in old:
            storage.delete(uri)
    record = finished(output_uri, name, settings, free)
    if record is not None:
        storage.delete(started_uri)  # left by a run that was killed, or that started while another wrote the record
        return record
    if _read_json(started_uri) is None:
        storage.create_bytes(started_uri, _to_json({"settings": _plain(settings), "started": _now()}))
    started = _read_json(started_uri)
    if started is not None:  # None: another run has just finished
        _require_same(output_uri, name, _field(started, "settings", started_uri), _plain(settings), "was started", free)
    return None


def complete_stage(output_uri: str, name: str, settings: Mapping[str, Any], counts: Mapping[str, Any]) -> Record:
    """Write the record of stage `name`: from now on its output counts as complete. Call it last."""
    started_uri = _started_uri(output_uri, name)
    now = _now()
    started = str((_read_json(started_uri) or {}).get("started", now))
    record = Record(
        name=name, settings=_plain(settings), counts=_plain(counts), started=started, finished=now, versions=versions()
    )
    storage.write_bytes(record_uri(output_uri, name), _to_json(asdict(record)))
    storage.delete(started_uri)
    return record


def finished(output_uri: str, name: str, settings: Mapping[str, Any], free: Sequence[str] = ()) -> Record | None:
    """The record of stage `name`, None if it is not complete. Raises ClusterError if it was run with other settings,
    except for the keys `free`."""
    record = read(output_uri, name)
    if record is not None:
        _require_same(output_uri, name, record.settings, _plain(settings), "was made", free)
    return record


def read(output_uri: str, name: str) -> Record | None:
    """The record of stage `name` with any settings, None if it is not complete. Raises ClusterError if the file is
    malformed."""
    uri = record_uri(output_uri, name)
    content = _read_json(uri)
    if content is None:
        return None
    groups = {key: _field(content, key, uri) for key in ("settings", "counts", "versions")}
    return Record(
        name=name, started=str(content.get("started", "")), finished=str(content.get("finished", "")), **groups
    )


def begun_settings(output_uri: str, name: str) -> dict[str, Any] | None:
    """Settings of the run that completed stage `name`, or that started it; None if there is none. Raises ClusterError
    if the file is malformed."""
    for uri in (record_uri(output_uri, name), _started_uri(output_uri, name)):
        content = _read_json(uri)
        if content is not None and content.get("settings") != INTERRUPTED_OVERWRITE:
            return _field(content, "settings", uri)
    return None


def is_begun(output_uri: str, name: str) -> bool:
    """Whether stage `name` was started and is not complete."""
    return storage.exists(_started_uri(output_uri, name)) and not storage.exists(record_uri(output_uri, name))


def versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that matter for results."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _started_uri(output_uri: str, name: str) -> str:
    return storage.join(output_uri, f"{name}.started.json")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` after a round trip through JSON: tuples become lists, paths become text."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(values), default=_as_text))
    return plain


def _as_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a record holds plain values, not {type(value).__name__}")


def _to_json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _read_json(uri: str) -> dict[str, Any] | None:
    """The JSON object at `uri`, None if the file does not exist."""
    try:
        found = storage.read_bytes(uri)
    except NotFoundError:
        return None
    try:
        content = json.loads(found)
    except (ValueError, RecursionError) as error:
        raise ClusterError(
            f"{uri}: not a record ({type(error).__name__}: not valid JSON); delete it or use --overwrite"
        ) from error
    if not isinstance(content, dict):
        raise ClusterError(f"{uri}: not a record (not a JSON object); delete it or use --overwrite")
    return content


def _field(content: dict[str, Any], key: str, uri: str) -> dict[str, Any]:
    value = content.get(key)
    if not isinstance(value, dict):
        raise ClusterError(
            f"{uri}: not a record ('{key}' is missing or not a JSON object); delete it or use --overwrite"
        )
    return value


def _require_same(
    output_uri: str, name: str, before: dict[str, Any], now: dict[str, Any], verb: str, free: Sequence[str] = ()
) -> None:
    before, now = ({key: value for key, value in settings.items() if key not in free} for settings in (before, now))
    differing = list(_differences(before, now))
    if differing:
        raise ClusterError(
            f"{output_uri}: '{name}' {verb} there with other settings: {'; '.join(differing)}. Use --overwrite to "
            "replace it, or another --output-dir"
        )


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """`key: then A, now B` for each differing key; nested keys are joined with dots."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        then_value, now_value = before.get(key), now.get(key)
        if isinstance(then_value, dict) and isinstance(now_value, dict):
            found += _differences(then_value, now_value, f"{prefix}{key}.")
        elif then_value != now_value or (key in before) != (key in now):
            then_text = json.dumps(then_value, ensure_ascii=False) if key in before else "not set"
            now_text = json.dumps(now_value, ensure_ascii=False) if key in now else "not set"
            found.append(f"{prefix}{key}: then {then_text}, now {now_text}")
    return found
