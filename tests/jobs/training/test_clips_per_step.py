"""A training that goes on with another number of workers takes as many clips a step as before, or says what changes."""

from pathlib import Path

import pytest

from jobs.training.batches import epoch_batches
from jobs.training.clips_per_step import batch_of_worker


def test_the_clips_of_a_step_stay_as_many_whatever_the_number_of_workers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert batch_of_worker(str(tmp_path), 8, 2) == 8
    assert batch_of_worker(str(tmp_path), 8, 2) == 8 and capsys.readouterr().err == ""
    assert batch_of_worker(str(tmp_path), 8, 1) == 16
    told = " ".join(capsys.readouterr().err.split())
    assert (
        "started with 2 workers and resumes with 1: 16 clips per worker instead of 8 keep the 16 clips per step" in told
    )
    assert batch_of_worker(str(tmp_path), 8, 4) == 4  # of what it was begun with, not of what it was last


def test_what_does_not_come_out_even_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch_of_worker(str(tmp_path), 8, 2)
    assert batch_of_worker(str(tmp_path), 8, 3) == 5
    assert "a step has 15 clips instead of 16" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("num_clips", "batch_size"), [(16, 4), (64, 8)])
def test_a_step_has_the_same_clips_whichever_workers_they_are_dealt_to(num_clips: int, batch_size: int) -> None:
    def steps(workers: int) -> list[set[int]]:
        shared = {"seed": 3, "epoch": 5, "world_size": workers}
        hands = [list(epoch_batches(num_clips, batch_size // workers, rank=rank, **shared)) for rank in range(workers)]
        return [{index for hand in hands for index in hand[step]} for step in range(len(hands[0]))]

    assert steps(1) == steps(2) == steps(4)
