"""Which recordings are mixed into the augmented views of a clip, found for some clips at a time."""

from collections.abc import Sequence
from itertools import pairwise
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.actors.tokenizer import PLANNED_CLIPS
from soundstorm.data.views import ORIGINAL, partner_position


class MixingPartners:
    """The mixing partners of the views of clips; they have the same class and fold.

    Args:
        clips: all clips, schema CLIPS.
        num_views: number of augmented views of each clip.
    """

    def __init__(self, clips: pa.Table, num_views: int) -> None:
        self._clips, self._num_views = clips, num_views
        self._groups: dict[tuple[int, int], _Group] = {}
        if num_views:
            self._groups = _groups(clips)

    def planned(self, start: int, count: int) -> pa.Table:
        """`count` clips from number `start` with the partners of their views, schema PLANNED_CLIPS."""
        clips = self._clips.slice(start, count)
        clips = clips.take(np.arange(clips.num_rows))  # a slice of lists without values is sent with those of all
        rows = clips.select(["clip_id", "fold", "label"]).to_pylist()
        partners = [
            [
                self._partner(row["clip_id"], view, self._groups[row["fold"], row["label"]])
                for view in range(ORIGINAL + 1, self._num_views + 1)
            ]
            for row in rows
        ]
        column = pa.array(partners, PLANNED_CLIPS.field("partners").type)
        return pa.table([*clips.columns, column], schema=PLANNED_CLIPS)

    def _partner(self, clip_id: str, view: int, group: "_Group") -> str | None:
        """URI of the recording that is mixed into a view."""
        position = partner_position(clip_id, view, group)
        return None if position is None else str(self._clips["uri"][group.row(position)].as_py())


class _Group(Sequence[str]):
    """The ids of the clips of a class and fold, sorted, as a view of the table of all clips.

    Args:
        clip_ids: of all clips.
        rows: of the clips of the group, in the order of their ids.
    """

    def __init__(self, clip_ids: pa.ChunkedArray, rows: np.ndarray) -> None:
        self._clip_ids, self._rows = clip_ids, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[str]: ...
    def __getitem__(self, position: int | slice) -> str | Sequence[str]:
        if isinstance(position, slice):
            return _Group(self._clip_ids, self._rows[position])
        return str(self._clip_ids[self.row(position)].as_py())

    def row(self, position: int) -> int:
        """The row of a clip of the group in the table of all clips."""
        return int(self._rows[position])


def _groups(clips: pa.Table) -> dict[tuple[int, int], _Group]:
    """The group of each fold and class."""
    keys = ("fold", "label", "clip_id")
    order = pc.sort_indices(clips.select(list(keys)), [(key, "ascending") for key in keys]).to_numpy()
    folds, labels = (clips[name].to_numpy()[order] for name in ("fold", "label"))
    changes = np.flatnonzero((folds[1:] != folds[:-1]) | (labels[1:] != labels[:-1])) + 1
    edges = [0, *changes.tolist(), len(order)]
    return {
        (int(folds[start]), int(labels[start])): _Group(clips["clip_id"], order[start:stop])
        for start, stop in pairwise(edges)
        if stop > start
    }
