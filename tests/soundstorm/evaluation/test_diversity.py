"""How different the clips of a class are, on points whose distances are known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soundstorm.errors import SoundStormError
from soundstorm.evaluation.distances import within_class_distance

RNG = np.random.default_rng


def test_classes_count_alike_and_pairs_within_a_class_count_alike() -> None:
    square = np.array([[0.0, 0.0], [0.0, 3.0], [4.0, 0.0], [4.0, 3.0]])
    apart = np.array([[100.0, 0.0], [101.0, 0.0]])
    assert within_class_distance(square, ["dog"] * 4) == pytest.approx(4)  # sides 3 and 4, diagonals 5, two of each
    assert within_class_distance(np.concatenate([square, apart]), ["dog"] * 4 + ["rain"] * 2) == pytest.approx(
        (4 + 1) / 2
    )


def test_a_class_of_one_clip_is_left_out() -> None:
    embedding_ND = np.array([[0.0], [2.0], [50.0]])
    assert within_class_distance(embedding_ND, ["dog", "dog", "rain"]) == pytest.approx(2)


def test_without_two_clips_of_a_class_it_cannot_be_said() -> None:
    assert within_class_distance(np.eye(3), ["a", "b", "c"]) is None
    assert within_class_distance(np.zeros((0, 3)), []) is None


def test_a_generator_that_repeats_itself_has_none() -> None:
    assert within_class_distance(np.full((6, 4), 0.1, dtype=np.float32), ["a", "b"] * 3) == 0


def test_independent_clips_have_the_distance_of_theory() -> None:
    expected = (
        math.sqrt(2) * math.sqrt(2) * math.gamma(50.5) / math.gamma(50)
    )  # mean of a chi with 100 degrees, times sqrt 2
    assert within_class_distance(RNG(0).normal(size=(1500, 100)), ["a"] * 1500) == pytest.approx(expected, rel=0.01)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=20), st.integers(0, 2**20), st.floats(0.01, 100))
def test_the_order_of_the_clips_does_not_matter_and_their_scale_does(
    categories: list[str], seed: int, scale: float
) -> None:
    embedding_ND, order = RNG(seed).normal(size=(len(categories), 3)), RNG(seed).permutation(len(categories))
    value = within_class_distance(embedding_ND, categories)
    shuffled = within_class_distance(scale * embedding_ND[order] - 4, [categories[index] for index in order])
    assert (value is None) == (len(set(categories)) == len(categories))
    assert shuffled == (None if value is None else pytest.approx(scale * value, rel=1e-9))


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (np.zeros((3, 2)), r"shape \(3, 2\) for 2 clips"),
        (np.zeros(2), r"shape \(2,\)"),
        (np.array([[0.0], [np.inf]]), "NaN or infinity"),
    ],
)
def test_embeddings_that_do_not_belong_to_the_clips_are_refused(embedding: np.ndarray, message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        within_class_distance(embedding, ["dog", "dog"])
