"""Batches: padding that is no code, crops, views and filling that a seed fixes."""

import numpy as np
import pytest
import torch

from soundstorm.errors import SoundStormError
from soundstorm.training.batches import PADDING, collate, crop, fill, sample_view, seeded_generator


def test_collate_pads_with_no_code_and_says_where() -> None:
    batch = collate([np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint16), np.array([[7], [8]])], [1, 0])
    assert batch.codes_BQT.tolist() == [[[1, 2, 3], [4, 5, 6]], [[7, PADDING, PADDING], [8, PADDING, PADDING]]]
    assert batch.valid_BT.tolist() == [[True, True, True], [True, False, False]]
    assert batch.label_B.tolist() == [1, 0]


@pytest.mark.parametrize(
    "codes",
    [[], [np.zeros((2, 0))], [np.zeros((2, 3)), np.zeros((3, 3))]],
    ids=["no clips", "no frames", "unequal levels"],
)
def test_collate_refuses_what_is_no_batch(codes: list[np.ndarray]) -> None:
    with pytest.raises(SoundStormError):
        collate(codes, [0] * len(codes))


def test_crops_are_fixed_by_seed_epoch_and_clip() -> None:
    codes_QT = np.arange(100)[None]
    starts = [int(crop(codes_QT, 10, 0, epoch, 3)[0, 0]) for epoch in range(50)]
    assert starts == [int(crop(codes_QT, 10, 0, epoch, 3)[0, 0]) for epoch in range(50)]
    assert len(set(starts)) > 20
    assert crop(codes_QT, 10, 0, 0, 3).shape == (1, 10)
    assert np.array_equal(crop(codes_QT, None, 0, 0, 3), codes_QT)
    assert np.array_equal(crop(codes_QT, 100, 0, 0, 3), codes_QT)


def test_the_recording_is_drawn_in_its_share_and_all_views_evenly_in_the_rest() -> None:
    drawn = [sample_view(8, 0.3, 0, epoch, index) for epoch in range(100) for index in range(50)]
    assert drawn == [sample_view(8, 0.3, 0, epoch, index) for epoch in range(100) for index in range(50)]
    shares = np.bincount(drawn, minlength=8) / len(drawn)
    assert shares[0] == pytest.approx(0.3 + 0.7 / 8, abs=0.03)
    assert shares[1:] == pytest.approx([0.7 / 8] * 7, abs=0.02)
    assert {sample_view(8, 1.0, 0, epoch, 0) for epoch in range(100)} == {0}
    assert {sample_view(8, 0.0, 0, epoch, 0) for epoch in range(100)} == set(range(8))
    assert sample_view(1, 0.0, 0, 0, 0) == 0


def test_filling_up_adds_a_real_code_up_to_the_length_asked_for() -> None:
    codes_QT = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint16)
    assert fill(codes_QT, 5).tolist() == [[1, 2, 3, 0, 0], [4, 5, 6, 0, 0]]
    assert np.array_equal(fill(codes_QT, 2), codes_QT)
    assert np.array_equal(fill(codes_QT, None), codes_QT)


def test_seeded_generators_differ_in_every_part() -> None:
    draws = {
        parts: float(torch.rand(1, generator=seeded_generator(*parts)))
        for parts in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    }
    assert len(set(draws.values())) == 4
    assert float(torch.rand(1, generator=seeded_generator(0, 0, 1))) == draws[(0, 0, 1)]
