"""Clips of a dataset that weights were trained on: their folds, their number, and hashes by which they are
recognized."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

NUM_FOLDS: dict[str, int | None] = {"esc50": 5, "esc10": 5, "urbansound8k": 10, "folder": None, "synthetic": 5}
"""Number of folds of the datasets in `soundstorm.data.datasets`; None: any number."""

CONTENT_BYTES = 1 << 20
"""A recording is recognized by the first bytes of its file; this is their maximum number."""

CONTENT_DIGITS = 12
"""Number of hexadecimal digits of their SHA-256 that are stored."""

MAX_CONTENTS = 50_000
"""Maximum number of recordings whose hashes are stored; for more, only the digest is."""

SHA256, _CONTENTS = re.compile(r"[0-9a-f]{64}"), re.compile(rf"(?:[0-9a-f]{{{CONTENT_DIGITS}}})*")


@dataclass(kw_only=True, frozen=True)
class Recordings:
    """Clips of one dataset that weights were trained on."""

    dataset: str
    """A key of NUM_FOLDS."""
    folds: tuple[int, ...]
    """Their folds, ascending."""
    num_clips: int
    digest: str
    """`digest_of` the whole dataset, including its other folds: equal digests mean equal folds."""
    contents: frozenset[str] | None = None
    """`content_of` each clip; None: unknown, or too many."""

    def __post_init__(self) -> None:
        if self.dataset not in NUM_FOLDS:
            raise ValueError(f"its dataset '{self.dataset}' is not one of {', '.join(NUM_FOLDS)}")
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
        if not SHA256.fullmatch(self.digest):
            raise ValueError("its digest is not a SHA-256")
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
        found = strict_table(values, dataset=str, folds=list, num_clips=int, digest=str, contents=(str, type(None)))
        if not all(type(fold) is int for fold in found["folds"]):
            raise ValueError("its folds are not whole numbers")
        text, contents = found["contents"], None
        if text is not None:
            if not _CONTENTS.fullmatch(text):
                raise ValueError("the contents of its clips are not hexadecimal")
            contents = frozenset(text[start : start + CONTENT_DIGITS] for start in range(0, len(text), CONTENT_DIGITS))
        return cls(**found | {"folds": tuple(found["folds"]), "contents": contents})

    def __str__(self) -> str:
        """For messages: `esc10 without fold 5`."""
        most = NUM_FOLDS[self.dataset] or self.folds[-1]
        left_out = sorted(set(range(1, most + 1)) - set(self.folds))
        if len(left_out) == 1:
            return f"{self.dataset} without fold {left_out[0]}"
        return f"{self.dataset}, fold{'s' if len(self.folds) > 1 else ''} {', '.join(map(str, self.folds))}"


def content_of(data: bytes) -> str:
    """Hash by which a recording is recognized under any name: the beginning of the SHA-256 of the beginning of its
    file."""
    return hashlib.sha256(data[:CONTENT_BYTES]).hexdigest()[:CONTENT_DIGITS]


def digest_of(folds: Mapping[str, int]) -> str:
    """SHA-256 of the clips of a dataset and their folds, in order of clip_id."""
    return hashlib.sha256(repr(sorted(folds.items())).encode()).hexdigest()


def recordings_of(
    dataset: str, folds: Mapping[str, int], trained: Iterable[str], contents: Mapping[str, str | None] | None = None
) -> Recordings:
    """Describe the clips that weights were trained on.

    Args:
        dataset: name of the dataset.
        folds: fold of each clip of the dataset, including those not used for training.
        trained: clip_id of each training clip.
        contents: `content_of` each training clip; None: unknown.
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


def strict_table(values: object, **kinds: Any) -> dict[str, Any]:
    """`values`, which must be a dict with exactly these keys and types."""
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    for key in sorted(set(map(str, values)) ^ kinds.keys()):
        raise ValueError(f"'{key}' is {'missing' if key in kinds else 'unknown'}")
    for key, kind in kinds.items():
        if not isinstance(values[key], kind) or isinstance(values[key], bool):
            raise ValueError(f"'{key}' is {json.dumps(values[key])[:40]}")
    return values
