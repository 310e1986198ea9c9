"""The journal of a study, from which the same command resumes after the driver was killed: JSON files, written as
trials start and end.

`begun/POINT.json` records that a trial was started, `ended/TRIAL.json` how it ended. A trial that has ended is never
run again; an interrupted one is resumed from its last saved state. Ray's own state is not read back, because that would
unpickle it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from cluster import storage
from soundstorm.errors import SoundStormError

TrialConfig = dict[str, Any]
"""Settings of a trial by name: Ray Tune's `config`, and `point` in the files of a study."""


@dataclass(kw_only=True, frozen=True)
class TrialResult:
    """A trial that has ended, in whatever way."""

    trial: str
    """Name of the trial."""
    point: TrialConfig
    """The settings that it tried."""
    state: str
    """finished, stopped (early, because others did better), diverged (a value was not finite) or failed."""
    rows: list[dict[str, Any]]
    """What it reported, in order."""
    problem: str | None = None
    """Why it diverged or failed."""

    @property
    def last(self) -> dict[str, Any]:
        """Its last report; empty if there was none."""
        return self.rows[-1] if self.rows else {}


def point_name(point: Mapping[str, Any]) -> str:
    """A short name of a point, the same in every run."""
    return hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()[:12]


class Journal:
    """The journal in the folder `uri`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def begin(self, point: TrialConfig) -> None:
        """Note that a trial of `point` starts."""
        storage.write_bytes(storage.join(self.uri, "begun", f"{point_name(point)}.json"), _to_json(point))

    def end(self, ended: TrialResult) -> None:
        """Note how a trial ended."""
        storage.write_bytes(storage.join(self.uri, "ended", f"{ended.trial}.json"), _to_json(asdict(ended)))

    def ended(self) -> list[TrialResult]:
        """The trials that ended, by name; raises SoundStormError for a file that is none of ours."""
        names = [field.name for field in fields(TrialResult)]
        found = []
        for uri, content in self._read("ended"):
            if (
                sorted(content) != sorted(names)
                or not isinstance(content["rows"], list)
                or not isinstance(content["point"], dict)
            ):
                raise SoundStormError(f"{uri}: not the record of a trial; delete it, and its trial runs again")
            found.append(TrialResult(**content))
        return found

    def interrupted(self) -> list[TrialConfig]:
        """Points whose trial was started and did not end."""
        done = {point_name(ended.point) for ended in self.ended()}
        return [point for _, point in self._read("begun") if point_name(point) not in done]

    def _read(self, folder: str) -> list[tuple[str, dict[str, Any]]]:
        found = []
        for entry in sorted(storage.list_objects(storage.join(self.uri, folder), ".json"), key=lambda entry: entry.uri):
            try:
                content = json.loads(storage.read_bytes(entry.uri))
            except (ValueError, RecursionError) as error:
                raise SoundStormError(
                    f"{entry.uri}: not the record of a trial (no valid JSON); delete it, and its trial runs again"
                ) from error
            if not isinstance(content, dict):
                raise SoundStormError(f"{entry.uri}: not the record of a trial; delete it, and its trial runs again")
            found.append((entry.uri, content))
        return found


def _to_json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
