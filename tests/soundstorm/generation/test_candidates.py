"""How many candidates a sample has, and which is kept."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from soundstorm.generation.candidates import Candidate, Selection, batch_rows, select

SCORES = [[0.1, 0.9, 0.95, 0.2], [0.3, 0.2, 0.3, 0.1], [0.8, 0.9, 0.1, 0.2]]
"""Score of each candidate of three samples."""


def chosen(selection: Selection) -> tuple[list[int], list[list[Candidate]]]:
    """The candidate that is kept of each sample, and the batches that were scored."""
    generated: list[list[Candidate]] = []
    scored: list[list[Candidate]] = []

    def generate(batch: Sequence[Candidate]) -> list[Tensor]:
        generated.append(list(batch))
        return [torch.tensor([[candidate.sample, candidate.number]]) for candidate in batch]

    def score(batch: Sequence[Candidate], codes: Sequence[Tensor]) -> list[float]:
        assert [(candidate.sample, candidate.number) for candidate in batch] == [
            tuple(each[0].tolist()) for each in codes
        ]
        scored.append(list(batch))
        return [SCORES[candidate.sample][candidate.number] for candidate in batch]

    codes, kept = select(3, selection, generate, score)
    assert [each.tolist() for each in codes] == [[[sample, number]] for sample, number in enumerate(kept)]
    assert all(len(batch) == selection.rows for batch in generated)  # codes in bfloat16 depend on it
    return kept, scored


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("rows", [3, 5, 6, 12, 30])
def test_the_first_good_enough_candidate_is_kept_and_else_the_best_and_of_equals_the_first(
    threads: int, rows: int
) -> None:
    assert chosen(Selection(4, 0.9, rows, threads))[0] == [1, 0, 1]
    assert chosen(Selection(4, 0.8, rows, threads))[0] == [1, 0, 0]
    assert chosen(Selection(4, 1.0, rows, threads))[0] == [2, 0, 1]
    assert chosen(Selection(2, 1.0, rows, threads))[0] == [1, 0, 1]
    assert chosen(Selection(1, 0.1, rows, threads))[0] == [0, 0, 0]


def test_nothing_is_generated_for_a_sample_that_has_its_candidate() -> None:
    _, scored = chosen(Selection(4, 0.9, 3))
    first, second = [Candidate(sample, 0) for sample in range(3)], [Candidate(sample, 1) for sample in range(3)]
    assert scored == [first, second, [Candidate(1, 2), Candidate(1, 3), Candidate(1, 2)]]  # the last fills the batch
    assert len(chosen(Selection(4, 1.0, 3))[1]) == 4
    _, scored = chosen(Selection(4, 0.9, 6))
    assert scored == [first + second, [Candidate(1, 2), Candidate(1, 3), *[Candidate(1, 2)] * 4]]


@pytest.mark.parametrize(
    ("samples", "candidates", "frames", "rows"),
    [
        (1, 8, 94, 8),
        (2, 8, 94, 8),
        (3, 8, 94, 12),
        (4, 8, 94, 16),  # two batches, one for each of two threads
        (4, 2, 94, 8),
        (5, 3, 94, 10),
        (8, 8, 94, 16),
        (16, 8, 94, 16),
        (100, 8, 94, 100),
        (1, 1, 94, 1),
        (4, 1, 94, 4),
        (1, 8, 375, 4),
        (8, 8, 375, 8),
        (1, 8, 3, 8),
        (2, 8, 10_000, 2),
    ],
)
def test_few_samples_share_batches_of_several_candidates(samples: int, candidates: int, frames: int, rows: int) -> None:
    assert batch_rows(samples, candidates, frames) == rows
