"""What weights were trained on, as data: which clips of which data set, and the same of every network that they learned
from.

It is written as JSON into the header of each weights file and into `config.json` of each checkpoint, under
`trained_on`. Reading is strict: what is missing, malformed or contradicts the rest of its file is `Unknown`, never
"nothing". docs/provenance.md describes the format.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from soundstorm.errors import SoundStormError
from soundstorm.serialization.bundled import packaged
from soundstorm.serialization.safetensors_header import read_metadata

KEY = "trained_on"
"""Of the JSON in a header or a `config.json`."""
FORMAT = 1
MANIFEST = "provenance.json"
"""Beside the packaged weights: what those were trained on whose files do not say it, by SHA-256."""
NUM_FOLDS: dict[str, int | None] = {"esc50": 5, "esc10": 5, "urbansound8k": 10, "folder": None, "synthetic": 5}
"""Folds of the data sets of `soundstorm.data.datasets`; None: any number."""
OUTSIDE = {
    "encodec": "the recordings of the official EnCodec weights (DNS, Common Voice, AudioSet, FSD50K, Jamendo)",
    "audioset": "ImageNet and AudioSet",
    "synthetic sounds": "sounds that soundstorm.audio.synthesis made for this training alone",
}
"""Data that is of none of these data sets, by the name that it has in files."""
CONTENT_BYTES = 1 << 20
"""A recording is known again by the first bytes of its file, so many at most."""
CONTENT_DIGITS = 12
"""Hexadecimal digits of their SHA-256 that are kept."""
MAX_CONTENTS = 50_000
"""Recordings that are listed one by one at most; of more there is the digest alone."""
MAX_DEPTH = 8
"""Generations of parents."""
_SHA256, _CONTENTS = re.compile(r"[0-9a-f]{64}"), re.compile(rf"(?:[0-9a-f]{{{CONTENT_DIGITS}}})*")


class Role(StrEnum):
    """What a network was to the training of another."""

    CODEC = "codec"
    GENERATOR = "generator"
    """Training started from it."""
    START = "start"
    """Training started from it, and it is no generator of ours."""
    TEACHER = "teacher"


@dataclass(kw_only=True, frozen=True)
class Recordings:
    """Clips of one data set that weights were trained on."""

    dataset: str
    """One of NUM_FOLDS."""
    folds: tuple[int, ...]
    """Folds that they are of, ascending."""
    num_clips: int
    digest: str
    """`digest_of` the whole data set, its other folds too: where it is the same, the folds are."""
    contents: frozenset[str] | None = None
    """`content_of` each clip; None: not known, or too many."""

    def __post_init__(self) -> None:
        if self.dataset not in NUM_FOLDS:
            raise ValueError(f"its data set '{self.dataset}' is none of {', '.join(NUM_FOLDS)}")
        most = NUM_FOLDS[self.dataset]
        if (
            not self.folds
            or list(self.folds) != sorted(set(self.folds))
            or self.folds[0] < 1
            or (most is not None and self.folds[-1] > most)
        ):
            raise ValueError(f"its folds {list(self.folds)} are not different folds of {self.dataset} in order")
        if self.num_clips < 1:
            raise ValueError(f"it has {self.num_clips} clips")
        if not _SHA256.fullmatch(self.digest):
            raise ValueError("its digest is no SHA-256")
        if self.contents is not None and not 0 < len(self.contents) <= self.num_clips:
            raise ValueError(f"it lists {len(self.contents)} of {self.num_clips} clips")

    def to_dict(self) -> dict[str, Any]:
        contents = None if self.contents is None else "".join(sorted(self.contents))
        return {
            "dataset": self.dataset,
            "folds": list(self.folds),
            "num_clips": self.num_clips,
            "digest": self.digest,
            "contents": contents,
        }

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """The inverse of `to_dict`; raises ValueError for anything else."""
        found = _table(values, dataset=str, folds=list, num_clips=int, digest=str, contents=(str, type(None)))
        if not all(type(fold) is int for fold in found["folds"]):
            raise ValueError("its folds are not whole numbers")
        text, contents = found["contents"], None
        if text is not None:
            if not _CONTENTS.fullmatch(text):
                raise ValueError("the contents of its clips are not hexadecimal")
            contents = frozenset(text[start : start + CONTENT_DIGITS] for start in range(0, len(text), CONTENT_DIGITS))
        return cls(**found | {"folds": tuple(found["folds"]), "contents": contents})

    def __str__(self) -> str:
        """For people: `esc10 without fold 5`."""
        most = NUM_FOLDS[self.dataset] or self.folds[-1]
        left_out = sorted(set(range(1, most + 1)) - set(self.folds))
        if len(left_out) == 1:
            return f"{self.dataset} without fold {left_out[0]}"
        return f"{self.dataset}, fold{'s' if len(self.folds) > 1 else ''} {', '.join(map(str, self.folds))}"


@dataclass(kw_only=True, frozen=True)
class Parent:
    """A network that weights learned from."""

    role: Role
    name: str
    """For people."""
    sha256: str
    """Of its weights file."""
    trained_on: "TrainedOn | None"
    """None: not known."""

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"the SHA-256 of its {self.role} is none")

    def to_dict(self) -> dict[str, Any]:
        trained_on = None if self.trained_on is None else self.trained_on.to_dict()
        return {"role": self.role.value, "name": self.name, "sha256": self.sha256, "trained_on": trained_on}

    @classmethod
    def from_dict(cls, values: object, depth: int) -> Self:
        found = _table(values, role=str, name=str, sha256=str, trained_on=(dict, type(None)))
        if found["role"] not in list(Role):
            raise ValueError(f"the role '{found['role']}' of a parent is none of {', '.join(Role)}")
        trained_on = None if found["trained_on"] is None else TrainedOn.from_dict(found["trained_on"], depth + 1)
        return cls(**found | {"role": Role(found["role"]), "trained_on": trained_on})


@dataclass(kw_only=True, frozen=True)
class TrainedOn:
    """All that weights were trained on; without anything: random weights."""

    recordings: tuple[Recordings, ...] = ()
    outside: tuple[str, ...] = ()
    """Names in OUTSIDE."""
    parents: tuple[Parent, ...] = ()

    def __post_init__(self) -> None:
        names = [recordings.dataset for recordings in self.recordings]
        if len(set(names)) < len(names):
            raise ValueError(f"it has the data set {names[0]} twice")
        for name in self.outside:
            if name not in OUTSIDE:
                raise ValueError(f"its outside data '{name}' is none of {', '.join(OUTSIDE)}")
        known: dict[str, TrainedOn] = {}
        for parent in self.ancestors():
            if (
                parent.trained_on is not None
                and known.setdefault(parent.sha256, parent.trained_on) != parent.trained_on
            ):
                raise ValueError(f"it has two accounts of its {parent.role} '{parent.name}'")
        for parent in self.parents:
            if self.of_role(parent.role) != parent:
                raise ValueError(f"it has two parents in the role of {parent.role}")
        generator, codec = self.of_role(Role.GENERATOR), self.of_role(Role.CODEC)
        heard = (
            generator.trained_on.of_role(Role.CODEC)
            if generator is not None and generator.trained_on is not None
            else None
        )
        if heard is not None and (codec is None or heard.sha256 != codec.sha256):
            raise ValueError("its codec is not that of its generator")

    def of_role(self, role: Role) -> Parent | None:
        """The first parent in this role."""
        return next((parent for parent in self.parents if parent.role == role), None)

    def ancestors(self) -> list[Parent]:
        """Parents, and those of the parents."""
        return [
            found
            for parent in self.parents
            for found in (parent, *(parent.trained_on.ancestors() if parent.trained_on else ()))
        ]

    def to_dict(self) -> dict[str, Any]:
        parts = {
            "recordings": [found.to_dict() for found in self.recordings],
            "parents": [parent.to_dict() for parent in self.parents],
        }
        return {"format": FORMAT, "outside": list(self.outside), **parts}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_dict(cls, values: object, depth: int = 0) -> Self:
        """The inverse of `to_dict`; raises ValueError for anything else."""
        if depth > MAX_DEPTH:
            raise ValueError(f"it has more than {MAX_DEPTH} generations of parents")
        found = _table(values, format=int, recordings=list, outside=list, parents=list)
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']}, and this version reads {FORMAT}")
        if not all(isinstance(name, str) for name in found["outside"]):
            raise ValueError("the names of its outside data are not text")
        return cls(
            recordings=tuple(Recordings.from_dict(part) for part in found["recordings"]),
            outside=tuple(found["outside"]),
            parents=tuple(Parent.from_dict(part, depth) for part in found["parents"]),
        )

    def __str__(self) -> str:
        """For people: `esc10 without fold 5`, the parents left out."""
        return " and ".join([*map(str, self.recordings), *self.outside]) or "nothing"


@dataclass(kw_only=True, frozen=True)
class Unknown:
    """What weights were trained on is not known."""

    reason: str

    def __str__(self) -> str:
        """For people."""
        return f"not known: {self.reason}"


Provenance = TrainedOn | Unknown
MISSING = Unknown(reason="its file does not say it")


# ---- reading


def parse_provenance(values: object) -> Provenance:
    """What stood under KEY in a file; None: nothing did."""
    if values is None:
        return MISSING
    try:
        return TrainedOn.from_dict(values)
    except (ValueError, RecursionError) as error:
        return Unknown(reason=f"what its file says of it cannot be read ({error})")


def provenance_of_weights(data: bytes) -> Provenance:
    """What a safetensors file with this content was trained on: its header says it, or for packaged files the manifest
    beside them."""
    try:
        text = read_metadata(data).get(KEY)
    except ValueError:
        return MISSING
    if text is None:
        return packaged_provenance(hashlib.sha256(data).hexdigest())
    try:
        return parse_provenance(json.loads(text))
    except (ValueError, RecursionError):
        return Unknown(reason="what its file says of it is no JSON")


def packaged_provenance(sha256: str) -> Provenance:
    """What the packaged file of this SHA-256 was trained on; MISSING for any other file."""
    try:
        manifest = json.loads(packaged(MANIFEST).read_bytes())
    except (SoundStormError, OSError, ValueError):
        return MISSING
    return parse_provenance(manifest.get(sha256, {}).get(KEY))


def agreeing(provenance: Provenance, *, dataset: object, held_out_fold: object, **parents: str | None) -> Provenance:
    """`provenance`, or that it is unknown because the rest of its file contradicts it.

    Args:
        provenance: as read.
        dataset: what the file says beside it that its network was trained on; anything but text says nothing.
        held_out_fold: the fold that it says was left out; anything but a number says nothing.
        parents: SHA-256 of the network in each role, as the file says; None: there was none.
    """
    if isinstance(provenance, Unknown):
        return provenance
    own = {recordings.dataset: recordings for recordings in provenance.recordings}
    if isinstance(dataset, str) and dataset not in own:
        return Unknown(
            reason=f"its file contradicts itself: it names the data set '{dataset}', and was trained on {provenance}"
        )
    if isinstance(dataset, str) and held_out_fold in own[dataset].folds:
        return Unknown(reason=f"its file contradicts itself: fold {held_out_fold} was left out, and trained on")
    for role, sha256 in parents.items():
        parent = provenance.of_role(Role(role))
        if (parent and parent.sha256) != sha256:
            return Unknown(reason=f"its file contradicts itself: it names two {role}s, or one and none")
    return provenance


# ---- making


def as_parent(role: Role, name: str, sha256: str, provenance: Provenance) -> Parent:
    """A network that is learned from, with what is known of it."""
    return Parent(
        role=role, name=name, sha256=sha256, trained_on=provenance if isinstance(provenance, TrainedOn) else None
    )


def content_of(data: bytes) -> str:
    """What a recording is known again by, under any name: the beginning of the SHA-256 of the beginning of its file."""
    return hashlib.sha256(data[:CONTENT_BYTES]).hexdigest()[:CONTENT_DIGITS]


def digest_of(folds: Mapping[str, int]) -> str:
    """SHA-256 over the clips of a data set, each with its fold, in order of clip_id."""
    return hashlib.sha256(repr(sorted(folds.items())).encode()).hexdigest()


def recordings_of(
    dataset: str, folds: Mapping[str, int], trained: Iterable[str], contents: Mapping[str, str | None] | None = None
) -> Recordings:
    """The clips that were trained on.

    Args:
        dataset: its name.
        folds: fold of each of its clips, of those that were not trained on too.
        trained: clip_id of each clip that was.
        contents: `content_of` each of these; None: not known.
    """
    clips = sorted(set(trained))
    known = {contents[clip] for clip in clips if contents.get(clip)} if contents else set()
    is_listed = contents is not None and all(contents.get(clip) for clip in clips) and len(clips) <= MAX_CONTENTS
    return Recordings(
        dataset=dataset,
        folds=tuple(sorted({folds[clip] for clip in clips})),
        num_clips=len(clips),
        digest=digest_of(folds),
        contents=frozenset(filter(None, known)) if is_listed else None,
    )


def _table(values: object, **kinds: Any) -> dict[str, Any]:
    """`values`, which must be a table with just these keys and types."""
    if not isinstance(values, dict):
        raise ValueError("it is no table")
    for key in sorted(set(map(str, values)) ^ kinds.keys()):
        raise ValueError(f"'{key}' is {'missing' if key in kinds else 'unknown'}")
    for key, kind in kinds.items():
        if not isinstance(values[key], kind) or isinstance(values[key], bool):
            raise ValueError(f"'{key}' is {json.dumps(values[key])[:40]}")
    return values
