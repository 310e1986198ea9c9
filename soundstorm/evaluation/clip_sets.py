"""Rows of a table of features as sets of clips: by role and fold, with their embeddings as arrays, and cut into halves.

Legend: W windows, D dimensions, T frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from soundstorm.data.categories import normalized
from soundstorm.schemas import FEATURES, Role, check_schema

ANY_CLASS = "all"


@dataclass(frozen=True, slots=True, eq=False)
class ClipSet:
    """Clips of a table of features, their classes by normalized names."""

    table: pa.Table
    """Schema FEATURES."""
    categories: list[str]

    @classmethod
    def of_table(cls, table: pa.Table) -> Self:
        """All clips of `table`; raises SoundStormError if a column is missing."""
        check_schema(table.schema, FEATURES, "features")
        return cls(table, [normalized(category) for category in table["category"].to_pylist()])

    def __len__(self) -> int:
        return len(self.categories)

    def where(self, keep: Sequence[bool]) -> "ClipSet":
        """The clips for which `keep` is true."""
        return ClipSet(
            self.table.filter(pa.array(keep, pa.bool_())),
            [name for name, kept in zip(self.categories, keep, strict=True) if kept],
        )

    def pooled(self) -> "ClipSet":
        """The clips as if they were all of one class."""
        return ClipSet(self.table, [ANY_CLASS] * len(self))

    def of(self, *roles: Role) -> "ClipSet":
        """The clips of these roles."""
        return self.where([role in roles for role in self.table["role"].to_pylist()])

    def of_fold(self, fold: int) -> "ClipSet":
        """The clips of one fold."""
        return self.where([other == fold for other in self.table["fold"].to_pylist()])

    def outside_fold(self, fold: int) -> "ClipSet":
        """The clips of all other folds."""
        return self.where([other != fold for other in self.table["fold"].to_pylist()])

    def embedding(self, name: str) -> list[NDArray[np.float32]]:
        """(W, D) of each clip, from the column `NAME_embedding`."""
        arrays = []
        for row in self.table[f"{name}_embedding"]:
            windows = len(row.values) if pa.types.is_list(row.values.type) else 1
            arrays.append(
                (row.values.flatten() if pa.types.is_list(row.values.type) else row.values)
                .to_numpy()
                .reshape(windows, -1)
            )
        return arrays

    def codes(self) -> list[NDArray[np.uint16]]:
        """(T,) of each clip."""
        return [row.values.to_numpy() for row in self.table["codes"]]

    def predicted(self) -> list[str]:
        """What the classifier calls each clip, by normalized names."""
        return [normalized(name) for name in self.table["predicted"].to_pylist()]

    def class_mean(self, values: Sequence[float] | NDArray[np.floating]) -> float:
        """Mean over classes of the mean of `values`, one for each clip, within the class: classes count alike."""
        groups: dict[str, list[float]] = {}
        for category, value in zip(self.categories, values, strict=True):
            groups.setdefault(category, []).append(float(value))
        return float(np.mean([np.mean(group) for group in groups.values()]))

    def split_halves(self, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of two halves, equal in each class up to one recording: all clips of a recording are in the same
        half."""
        rng = np.random.default_rng(seed)
        recordings: dict[str, dict[str, list[int]]] = {}
        for position, (category, recording) in enumerate(
            zip(self.categories, self.table["recording"].to_pylist(), strict=True)
        ):
            recordings.setdefault(category, {}).setdefault(recording, []).append(position)
        split_halves: tuple[list[int], list[int]] = ([], [])
        for category in sorted(recordings):
            groups = sorted(recordings[category].values())
            sizes = [0, 0]
            for group in rng.permutation(len(groups)):
                half = int(sizes[1] < sizes[0]) if sizes[0] != sizes[1] else int(rng.integers(2))
                split_halves[half].extend(groups[group])
                sizes[half] += len(groups[group])
        return np.array(sorted(split_halves[0]), np.int64), np.array(sorted(split_halves[1]), np.int64)

    def like(self, other: Sequence[str], seed: int) -> NDArray[np.int64]:
        """Positions of as many clips of each class as `other`, a list of classes, has of it, or all there are; drawn by
        `seed`."""
        rng = np.random.default_rng(seed)
        chosen: list[int] = []
        for category in sorted(set(self.categories)):
            members = [position for position, name in enumerate(self.categories) if name == category]
            chosen.extend(rng.permutation(members)[: other.count(category)].tolist())
        return np.array(sorted(chosen), np.int64)
