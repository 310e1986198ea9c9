"""Whether weights have seen the fold that they are to be tested on, as far as the notes in their files tell.

A codec says in its description which dataset it was trained on and which fold it held out; a generator's checkpoint in its notes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

FAMILIES = {"esc10": "ESC", "esc50": "ESC"}
"""ESC-10 is a part of ESC-50: its clips lie in the same folds there."""

_WITHOUT_FOLD = re.compile(r"\bon (\w+) without fold (\d+)")


@dataclass(kw_only=True, frozen=True)
class TrainedOn:
    """Recordings that weights were trained on."""

    dataset: str | None
    """Name of the dataset, one of ours; None: not told."""
    held_out_fold: int | None
    """The fold of it that was left out; None: none."""
    before: "TrainedOn | None" = None
    """The same of the weights that training started from; None: they were random."""

    @classmethod
    def of_codec(cls, weights: bytes) -> Self | None:
        """What the file of a compact codec tells; None for any other codec, such as EnCodec, which was trained on outside data."""
        try:
            header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])["__metadata__"]
            found = _WITHOUT_FOLD.search(header["description"])
        except (ValueError, LookupError, TypeError):
            return None
        return cls(dataset=found[1], held_out_fold=int(found[2])) if found else None

    @classmethod
    def of_checkpoint(cls, extra: Mapping[str, Any]) -> Self:
        """What the notes (`extra`) of a generator's checkpoint tell."""
        dataset, fold, before = extra.get("dataset"), extra.get("test_fold"), extra.get("before")
        return cls(
            dataset=dataset if isinstance(dataset, str) else None,
            held_out_fold=fold if isinstance(fold, int) else None,
            before=cls.of_checkpoint(before) if isinstance(before, Mapping) else None,
        )

    def has_seen(self, dataset: str, fold: int) -> bool:
        """Whether clips of this fold of `dataset` may have been trained on; without the name of a dataset it is taken for the same."""
        is_same = self.dataset is None or FAMILIES.get(self.dataset, self.dataset) == FAMILIES.get(dataset, dataset)
        return (is_same and self.held_out_fold != fold) or (self.before is not None and self.before.has_seen(dataset, fold))

    def __str__(self) -> str:
        """For people: `esc10 without fold 5`, with what came before."""
        without = "whole" if self.held_out_fold is None else f"without fold {self.held_out_fold}"
        earlier = "" if self.before is None else f", and before that on {self.before}"
        return f"{self.dataset or 'a dataset it does not name'} {without}{earlier}"


def learned(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Of the notes of a checkpoint those that `TrainedOn.of_checkpoint` reads, for a checkpoint of training that starts from it (`before`)."""
    return {name: extra.get(name) for name in ("dataset", "test_fold", "before")}
