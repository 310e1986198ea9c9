"""The codes of clips as three arrays, which processes of a node can share, and the views of a clip as slices of them.

Legend: Q levels, T codec frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from soundstorm.schemas import codes_from_column
from soundstorm.training.batches import sample_view


@dataclass(kw_only=True, frozen=True)
class TokenSet:
    """Clips in a fixed order, each in one or more views."""

    codes: np.ndarray
    """uint16: the codes of all views one after the other, each level by level."""
    starts: np.ndarray
    """int64: where the codes of each view start, and at last where they end."""
    first_views: np.ndarray
    """int64: number of the first view of each clip, the clip as recorded, and at last the number of all views."""
    labels: list[int]
    num_levels: int

    @classmethod
    def of(cls, views: Sequence[Sequence[np.ndarray]], labels: Sequence[int]) -> "TokenSet":
        """The set of clips with these views, each (Q, T), the clip as recorded first."""
        flat = [codes_QT for of_clip in views for codes_QT in of_clip]
        return cls(
            codes=np.concatenate([codes_QT.astype(np.uint16).ravel() for codes_QT in flat] or [np.empty(0, np.uint16)]),
            starts=np.cumsum([0, *(codes_QT.size for codes_QT in flat)]),
            first_views=np.cumsum([0, *(len(of_clip) for of_clip in views)]),
            labels=list(labels),
            num_levels=len(flat[0]) if flat else 0,
        )

    @classmethod
    def from_rows(cls, rows: pa.Table, num_levels: int, codebook_size: int, where: str) -> "TokenSet":
        """The set of clips in a table of tokens with the columns clip_id, view, label and codes, in order of clip_id
        and view.

        Raises:
            SoundStormError: codes are malformed; `where` names the table.
        """
        names = rows.select(["clip_id", "view", "label"])
        order = pc.sort_indices(names, sort_keys=[("clip_id", "ascending"), ("view", "ascending")])
        names = names.take(order)
        clip_ids = names["clip_id"].dictionary_encode().unify_dictionaries().combine_chunks()
        numbers = np.asarray(clip_ids.indices)
        first_views = np.append(np.flatnonzero(np.diff(numbers, prepend=-1)), len(numbers))
        codes = codes_in_order(rows["codes"], order.to_numpy(), num_levels, codebook_size, where)
        return cls(
            codes=np.concatenate(codes or [np.empty(0, np.uint16)]),
            starts=np.cumsum([0, *(each.size for each in codes)]),
            first_views=first_views,
            labels=names["label"].take(pa.array(first_views[:-1])).to_pylist(),
            num_levels=num_levels,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_views(self) -> int:
        """Views of all clips together."""
        return int(self.first_views[-1])

    @property
    def views(self) -> Sequence[Sequence[np.ndarray]]:
        """Codes of the views of each clip, the clip as recorded first: uint16 (Q, T)."""
        return [self.views_of(index) for index in range(len(self))]

    def views_of(self, index: int) -> list[np.ndarray]:
        """Codes of the views of a clip, the clip as recorded first: uint16 (Q, T)."""
        return [self._view(number) for number in range(self.first_views[index], self.first_views[index + 1])]

    def recorded(self, index: int) -> np.ndarray:
        """Codes of a clip as recorded."""
        return self._view(self.first_views[index])

    def sample_view(self, index: int, recorded_share: float, seed: int, epoch: int) -> np.ndarray:
        """Codes of the view in which a clip is seen in an epoch; see `soundstorm.training.batches.sample_view`."""
        first = self.first_views[index]
        num_views = int(self.first_views[index + 1] - first)
        return self._view(first + sample_view(num_views, recorded_share, seed, epoch, index))

    def _view(self, number: int) -> np.ndarray:
        return self.codes[self.starts[number] : self.starts[number + 1]].reshape(self.num_levels, -1)


def codes_in_order(
    column: pa.ChunkedArray, order: np.ndarray, num_levels: int, codebook_size: int, where: str
) -> list[np.ndarray]:
    """The codes of each row, uint16, flat, in the order of the row numbers `order`. They are views of the column's
    memory: Arrow would sort the column itself in one array, which cannot hold more than 2^31 codes.

    Raises:
        SoundStormError: codes are malformed; `where` names the table.
    """
    views: list[np.ndarray] = []
    for chunk in column.chunks:
        codes, sizes = _codes_of(chunk, num_levels, codebook_size, where)
        views += [codes[end - size : end] for size, end in zip(sizes, np.cumsum(sizes), strict=True)]
    return [views[row] for row in order]


def _codes_of(column: pa.ListArray, num_levels: int, codebook_size: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The codes of a column, uint16, and how many each row has."""
    levels = column.flatten()
    codes = levels.flatten()
    per_level = pc.list_value_length(levels)
    is_sound = (
        not (column.null_count or levels.null_count or codes.null_count)
        and len(levels) == num_levels * len(column)
        and (not len(column) or pc.all(pc.equal(pc.list_value_length(column), num_levels)).as_py())
        and (not len(codes) or pc.max(codes).as_py() < codebook_size)
    )
    if is_sound:
        per_level_QR = np.asarray(per_level).reshape(-1, num_levels)
        if (per_level_QR == per_level_QR[:, :1]).all():
            return np.asarray(codes), per_level_QR.sum(1, dtype=np.int64)
    rows = codes_from_column(column, num_levels, codebook_size, where)  # says what is wrong
    sizes = np.array([codes_QT.size for codes_QT in rows], np.int64)
    return np.concatenate([codes_QT.astype(np.uint16).ravel() for codes_QT in rows]), sizes
