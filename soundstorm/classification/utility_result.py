"""What the trainings of `soundstorm.classification.utility` say: means over seeds, and a verdict in words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from soundstorm.classification.utility import TrainingSet
from soundstorm.schemas import UTILITY, check_schema


@dataclass(kw_only=True, frozen=True)
class UtilityLine:
    """All trainings with one kind of training set."""

    training_set: TrainingSet
    clips_per_class: int
    """Recordings of each class; of GENERATED alone: generated clips."""
    mean: float
    """Accuracy, a share."""
    std: float | None
    """Its sample standard deviation over the seeds; None for a single one."""
    seeds: int


def utility_lines(table: pa.Table) -> list[UtilityLine]:
    """The lines of a table of schema UTILITY, by training set and then by size.

    Raises:
        SoundStormError: the table has another schema.
    """
    check_schema(table.schema, UTILITY, "utility")
    groups: dict[tuple[TrainingSet, int], list[float]] = {}
    for row in table.to_pylist():
        groups.setdefault((TrainingSet(row["training_set"]), row["clips_per_class"]), []).append(row["accuracy"])
    places = {training_set: place for place, training_set in enumerate(TrainingSet)}
    in_order = sorted(groups.items(), key=lambda group: (places[group[0][0]], group[0][1]))
    return [
        UtilityLine(
            training_set=training_set,
            clips_per_class=size,
            mean=float(np.mean(values)),
            std=float(np.std(values, ddof=1)) if len(values) > 1 else None,
            seeds=len(values),
        )
        for (training_set, size), values in in_order
    ]


def utility_verdict(lines: Sequence[UtilityLine]) -> str:
    """In words: what generated clips alone reach, and whether they help beside recordings. A difference counts that is
    larger than the standard deviations of both sides together."""
    by_set = {(line.training_set, line.clips_per_class): line for line in lines}
    sentences = []
    for (training_set, size), line in by_set.items():
        recordings = by_set.get((TrainingSet.RECORDINGS, size))
        if recordings is None or training_set == TrainingSet.RECORDINGS:
            continue
        if training_set == TrainingSet.GENERATED:
            share = f" ({line.mean / recordings.mean:.0%} of it)" if recordings.mean else ""
            sentences.append(
                f"Generated clips alone reach {line.mean:.1%}, as many recordings {recordings.mean:.1%}{share}."
            )
            continue
        values = f"{recordings.mean:.1%} without, {line.mean:.1%} with"
        if line.std is None or recordings.std is None:
            sentences.append(f"Beside {size} recordings of each class: {values}; one training each.")
            continue
        spread, change = float(np.hypot(line.std, recordings.std)), line.mean - recordings.mean
        effect = "help" if change > spread else "harm" if -change > spread else "make no difference beyond chance"
        sentences.append(f"Beside {size} recordings of each class they {effect} ({values}).")
    return " ".join(sentences)
