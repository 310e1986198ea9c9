"""Several candidates of each sample, of which one is kept.

The candidates of a sample are generated in their order until one is accepted; if none is, the best is kept. Which one
that is does not depend on the other samples: all batches have equally many rows (`batch_rows`), because in bfloat16 the
codes, and the last bits of a score, depend on the size of the batch.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import torch
from torch import Tensor

from soundstorm.optimization.threads import on_threads

FEW_FRAMES, MANY_FRAMES = 752, 1504
"""Frames of a batch: eight and sixteen clips of 5 s of the packaged network. With four, a candidate takes twice as long
on two threads as with sixteen, since many small operations wait for Python; with more, it takes no less."""


@dataclass(frozen=True)
class Candidate:
    """Candidate number `number` of sample number `sample`."""

    sample: int
    number: int


@dataclass(frozen=True)
class Selection:
    """How many candidates a sample has, and which is kept."""

    candidates: int
    """Maximum number of candidates of a sample."""
    accept: float
    """The first candidate with at least this score is kept; if there is none, the one with the highest score."""
    rows: int
    """Candidates of a batch, at least as many as there are samples."""
    threads: int = 1
    """Batches that are generated in parallel, as in `soundstorm.optimization.threads.on_threads`."""


def batch_rows(num_samples: int, candidates: int, num_frames: int) -> int:
    """Rows of each batch: at least one for each sample, and more where there are few samples, but not so many that a
    second thread has nothing to do.

    Args:
        num_samples: number of samples.
        candidates: maximum number of candidates of a sample.
        num_frames: frames of a candidate.
    """
    frames = num_samples * num_frames
    each = max(1, -(-FEW_FRAMES // frames), min(-(-candidates // 2), MANY_FRAMES // frames))
    return num_samples * min(each, candidates)


class _Sample:
    """A sample whose candidates are generated in the order of their numbers."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self.generated = 0
        self.kept, self.codes_QT = 0, torch.empty(0)
        self._score = -math.inf

    @property
    def is_done(self) -> bool:
        return self._is_accepted or self.generated == self._selection.candidates

    @property
    def _is_accepted(self) -> bool:
        return self._score >= self._selection.accept

    def add(self, number: int, codes_QT: Tensor, score: float) -> None:
        """Candidate number `number`; one that was generated beside an accepted one before it counts for nothing."""
        self.generated = number + 1
        if number == 0 or (score > self._score and not self._is_accepted):
            self.kept, self.codes_QT, self._score = number, codes_QT, score


def select(
    num_samples: int,
    selection: Selection,
    generate: Callable[[Sequence[Candidate]], Sequence[Tensor]],
    score: Callable[[Sequence[Candidate], Sequence[Tensor]], Sequence[float]],
) -> tuple[list[Tensor], list[int]]:
    """Generate candidates until one of each sample is chosen; returns the codes (Q, T) of each, and their numbers.

    Args:
        num_samples: number of samples.
        selection: how many candidates a sample has, and which is kept.
        generate: maps the candidates of a batch to their codes (Q, T).
        score: score of candidates, given their codes; at most 1.
    """
    samples = [_Sample(selection) for _ in range(num_samples)]

    def work(batch: list[Candidate]) -> list[tuple[Candidate, Tensor, float]]:
        rows = batch + batch[:1] * (selection.rows - len(batch))
        codes = list(generate(rows))
        return list(zip(rows, codes, score(rows, codes), strict=True))[: len(batch)]

    while any(not sample.is_done for sample in samples):
        next_ones = list(islice(_open_candidates(samples, selection), selection.rows * selection.threads))
        batches = [next_ones[first : first + selection.rows] for first in range(0, len(next_ones), selection.rows)]
        for candidate, codes_QT, value in chain.from_iterable(on_threads(work, batches, selection.threads)):
            samples[candidate.sample].add(candidate.number, codes_QT, value)
    return [sample.codes_QT for sample in samples], [sample.kept for sample in samples]


def _open_candidates(samples: Sequence[_Sample], selection: Selection) -> Iterator[Candidate]:
    """The next candidate of each sample that is not done, then the one after it, and so on."""
    for ahead in range(selection.candidates):
        for index, sample in enumerate(samples):
            if not sample.is_done and sample.generated + ahead < selection.candidates:
                yield Candidate(index, sample.generated + ahead)
