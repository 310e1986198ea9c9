"""Provenance of weights as data: which clips of which datasets they were trained on, and the same for every network
that they were derived from.

It is stored as JSON in the header of each weights file and in `config.json` of each checkpoint, under the key
`trained_on`. Reading is strict: provenance that is missing, malformed or in contradiction to the rest of its file is
`Unknown`, never "nothing". docs/provenance.md describes the format.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from soundstorm.serialization.recordings import SHA256, Recordings, strict_table
from soundstorm.serialization.safetensors_header import read_metadata

KEY = "trained_on"
"""Key of the JSON in a header or a `config.json`."""
FORMAT = 1
OUTSIDE = {
    "encodec": "the recordings of the official EnCodec weights (DNS, Common Voice, AudioSet, FSD50K, Jamendo)",
    "audioset": "ImageNet and AudioSet",
    "synthetic sounds": "sounds that soundstorm.audio.synthesis made for this training alone",
}
"""Training data that is not from one of these datasets: its name in files -> description."""
MAX_DEPTH = 8
"""Maximum number of generations of parents."""


class Role(StrEnum):
    """How a network was used in the training of another one."""

    CODEC = "codec"
    GENERATOR = "generator"
    """The training was initialized from this generator."""
    START = "start"
    """The training was initialized from this network, which is not a generator of this project."""
    TEACHER = "teacher"


@dataclass(kw_only=True, frozen=True)
class Parent:
    """A network that weights were derived from."""

    role: Role
    name: str
    """Name for messages."""
    sha256: str
    """SHA-256 of its weights file."""
    trained_on: "TrainedOn | None"
    """None: unknown."""

    def __post_init__(self) -> None:
        if not SHA256.fullmatch(self.sha256):
            raise ValueError(f"the SHA-256 of its {self.role} is malformed")

    def to_dict(self) -> dict[str, Any]:
        trained_on = None if self.trained_on is None else self.trained_on.to_dict()
        return {"role": self.role.value, "name": self.name, "sha256": self.sha256, "trained_on": trained_on}

    @classmethod
    def from_dict(cls, values: object, depth: int) -> Self:
        found = strict_table(values, role=str, name=str, sha256=str, trained_on=(dict, type(None)))
        if found["role"] not in list(Role):
            raise ValueError(f"the role '{found['role']}' of a parent is not one of {', '.join(Role)}")
        trained_on = None if found["trained_on"] is None else TrainedOn.from_dict(found["trained_on"], depth + 1)
        return cls(**found | {"role": Role(found["role"]), "trained_on": trained_on})


@dataclass(kw_only=True, frozen=True)
class TrainedOn:
    """All that weights were trained on; if everything is empty, they are random weights."""

    recordings: tuple[Recordings, ...] = ()
    outside: tuple[str, ...] = ()
    """Keys of OUTSIDE."""
    parents: tuple[Parent, ...] = ()

    def __post_init__(self) -> None:
        names = [recordings.dataset for recordings in self.recordings]
        if len(set(names)) < len(names):
            raise ValueError(f"it has the dataset {names[0]} twice")
        for name in self.outside:
            if name not in OUTSIDE:
                raise ValueError(f"its outside data '{name}' is not one of {', '.join(OUTSIDE)}")
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
        generator_codec = (
            generator.trained_on.of_role(Role.CODEC)
            if generator is not None and generator.trained_on is not None
            else None
        )
        if generator_codec is not None and (codec is None or generator_codec.sha256 != codec.sha256):
            raise ValueError("its codec is not that of its generator")

    def of_role(self, role: Role) -> Parent | None:
        """The first parent with this role."""
        return next((parent for parent in self.parents if parent.role == role), None)

    def ancestors(self) -> list[Parent]:
        """Parents and their ancestors."""
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
        found = strict_table(values, format=int, recordings=list, outside=list, parents=list)
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
        """For messages: `esc10 without fold 5`, without the parents."""
        return " and ".join([*map(str, self.recordings), *self.outside]) or "nothing"


@dataclass(kw_only=True, frozen=True)
class Unknown:
    """It is not known what weights were trained on."""

    reason: str

    def __str__(self) -> str:
        """For people."""
        return f"not known: {self.reason}"


Provenance = TrainedOn | Unknown
MISSING = Unknown(reason="its file does not say it")


# ---- reading


def parse_provenance(values: object) -> Provenance:
    """Provenance from the value of KEY in a file; None: the key is missing."""
    if values is None:
        return MISSING
    try:
        return TrainedOn.from_dict(values)
    except (ValueError, RecursionError) as error:
        return Unknown(reason=f"its entry in the file cannot be read ({error})")


def provenance_of_weights(data: bytes) -> Provenance:
    """Provenance in the header of a safetensors file with this content."""
    try:
        text = read_metadata(data).get(KEY)
    except ValueError:
        return MISSING
    if text is None:
        return MISSING
    try:
        return parse_provenance(json.loads(text))
    except (ValueError, RecursionError):
        return Unknown(reason="its entry in the file is not valid JSON")


def agreeing(provenance: Provenance, *, dataset: object, held_out_fold: object, **parents: str | None) -> Provenance:
    """`provenance`, or Unknown if the rest of its file contradicts it.

    Args:
        provenance: as read.
        dataset: training dataset according to the rest of the file; ignored if it is not text.
        held_out_fold: held-out fold according to the rest of the file; ignored if it is not a number.
        parents: SHA-256 of the network of each role according to the rest of the file; None: there was none.
    """
    if isinstance(provenance, Unknown):
        return provenance
    own = {recordings.dataset: recordings for recordings in provenance.recordings}
    if isinstance(dataset, str) and dataset not in own:
        return Unknown(
            reason=f"its file contradicts itself: it names the dataset '{dataset}', and was trained on {provenance}"
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
    """A parent network with its provenance."""
    return Parent(
        role=role, name=name, sha256=sha256, trained_on=provenance if isinstance(provenance, TrainedOn) else None
    )
