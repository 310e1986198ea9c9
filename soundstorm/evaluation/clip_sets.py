"""Sets of clips from a table of features: filtered by role and fold, with their embeddings as arrays, and split into
halves.

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
    """Clips of a table of features, with normalized class names."""

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

    def filter(self, keep: Sequence[bool]) -> "ClipSet":
        """The clips for which `keep` is true."""
        return ClipSet(
            self.table.filter(pa.array(keep, pa.bool_())),
            [name for name, kept in zip(self.categories, keep, strict=True) if kept],
        )

    def pooled(self) -> "ClipSet":
        """The same clips, all assigned to a single class."""
        return ClipSet(self.table, [ANY_CLASS] * len(self))

    def with_roles(self, *roles: Role) -> "ClipSet":
        """The clips with one of these roles."""
        return self.filter([role in roles for role in self.table["role"].to_pylist()])

    def of_fold(self, fold: int) -> "ClipSet":
        """The clips of one fold."""
        return self.filter([other == fold for other in self.table["fold"].to_pylist()])

    def outside_fold(self, fold: int) -> "ClipSet":
        """The clips of all other folds."""
        return self.filter([other != fold for other in self.table["fold"].to_pylist()])

    def embedding(self, name: str) -> list[NDArray[np.float32]]:
        """The embedding (W, D) of each clip, from the column `NAME_embedding`."""
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
        """The codes (T,) of each clip."""
        return [row.values.to_numpy() for row in self.table["codes"]]

    def predicted(self) -> list[str]:
        """The class that the classifier predicts for each clip, normalized."""
        return [normalized(name) for name in self.table["predicted"].to_pylist()]

    def class_mean(self, values: Sequence[float] | NDArray[np.floating]) -> float:
        """Macro average of `values`, one per clip: the mean over classes of the mean within each class."""
        groups: dict[str, list[float]] = {}
        for category, value in zip(self.categories, values, strict=True):
            groups.setdefault(category, []).append(float(value))
        return float(np.mean([np.mean(group) for group in groups.values()]))

    def split_halves(self, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of two random halves. All clips of a recording are in the same half, and in each class the halves
        differ by at most one recording."""
        rng = np.random.default_rng(seed)
        recordings: dict[str, dict[str, list[int]]] = {}
        for position, (category, recording) in enumerate(
            zip(self.categories, self.table["recording"].to_pylist(), strict=True)
        ):
            recordings.setdefault(category, {}).setdefault(recording, []).append(position)
        halves: tuple[list[int], list[int]] = ([], [])
        for category in sorted(recordings):
            groups = sorted(recordings[category].values())
            sizes = [0, 0]
            for group in rng.permutation(len(groups)):
                half = int(sizes[1] < sizes[0]) if sizes[0] != sizes[1] else int(rng.integers(2))
                halves[half].extend(groups[group])
                sizes[half] += len(groups[group])
        return np.array(sorted(halves[0]), np.int64), np.array(sorted(halves[1]), np.int64)

    def sample_matching(self, other: Sequence[str], seed: int) -> NDArray[np.int64]:
        """Indices of a random sample with the class counts of `other`, a list of classes, or with all clips of a class
        if there are not that many."""
        rng = np.random.default_rng(seed)
        chosen: list[int] = []
        for category in sorted(set(self.categories)):
            members = [position for position, name in enumerate(self.categories) if name == category]
            chosen.extend(rng.permutation(members)[: other.count(category)].tolist())
        return np.array(sorted(chosen), np.int64)
