"""What generated clips are worth as training data: the trainings, what each learns from, and the verdict."""

import numpy as np
import pyarrow as pa
import pytest

from soundstorm.audio.files import SAMPLE_RATE, to_pcm16
from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.classification.training.cnn_trainer import AudioClassifierTrainingConfig
from soundstorm.classification.utility import (
    LabelledClips,
    TrainingSet,
    accuracy_after_training,
    cases,
    drawn,
    mixture,
)
from soundstorm.classification.utility_result import utility_lines, utility_verdict
from soundstorm.errors import SoundStormError
from soundstorm.schemas import UTILITY

GENERATED, RECORDINGS, BOTH = TrainingSet


def table(*rows: tuple[TrainingSet, int, int, float]) -> pa.Table:
    names = ("training_set", "clips_per_class", "seed", "accuracy")
    return pa.Table.from_pylist(
        [
            dict(zip(names, (row[0].value, *row[1:]), strict=True)) | {"training_clips": 1, "test_clips": 9}
            for row in rows
        ],
        UTILITY,
    )


def test_generated_clips_are_compared_with_as_many_recordings_and_beside_few_of_them() -> None:
    found = cases(recordings=32, generated=10, sizes=(5, 32), seeds=2)
    of_first = [(case.training_set, case.clips_per_class) for case in found if case.seed == 0]
    assert of_first == [(GENERATED, 10), (RECORDINGS, 5), (RECORDINGS, 10), (RECORDINGS, 32), (BOTH, 5), (BOTH, 32)]
    assert len(found) == 2 * len(of_first)


def test_sizes_that_the_recordings_do_not_have_are_left_out() -> None:
    found = cases(recordings=4, generated=10, sizes=(5, 32), seeds=1)
    assert [(case.training_set, case.clips_per_class) for case in found] == [
        (GENERATED, 10),
        (RECORDINGS, 4),
        (BOTH, 4),
    ]


@pytest.mark.parametrize("few", [{"recordings": 0}, {"generated": 0}, {"seeds": 0}])
def test_nothing_to_train_on_is_refused(few: dict[str, int]) -> None:
    with pytest.raises(SoundStormError, match="give at least one of each"):
        cases(**({"recordings": 1, "generated": 1, "seeds": 1} | few))


def test_as_many_clips_of_each_class_are_drawn_and_fewer_are_a_subset() -> None:
    labels = [0] * 6 + [1] * 3 + [2] * 8
    few, many = drawn(labels, 2, seed=1), drawn(labels, 5, seed=1)
    assert set(few) < set(many)
    assert [labels[index] for index in few] == [0, 0, 1, 1, 2, 2]
    assert [labels[index] for index in many] == [0] * 5 + [1] * 3 + [2] * 5
    assert drawn(labels, 2, seed=2) != few


def test_recordings_are_at_least_half_of_the_examples() -> None:
    assert mixture(recordings=2, generated=5) == [3, 3, 1, 1, 1, 1, 1]
    assert mixture(recordings=5, generated=2) == [1] * 7


def test_a_classifier_learns_from_what_it_is_given_and_from_nothing_else() -> None:
    def clips(categories: tuple[str, str], first_seed: int) -> LabelledClips:
        sounds = [
            (to_pcm16(synthesize(category, first_seed + number, 0.5, SAMPLE_RATE)), label)
            for label, category in enumerate(categories)
            for number in range(6)
        ]
        return LabelledClips(clips=[pcm for pcm, _ in sounds], labels=[label for _, label in sounds])

    names, swapped = (CLASSES[0], CLASSES[-1]), (CLASSES[-1], CLASSES[0])
    test = clips(names, 100)
    short = AudioClassifierTrainingConfig(window_s=1.0, mask_frames=8)
    right, wrong, again = (
        accuracy_after_training(clips(given, 0), test, 2, 0, steps=25, config=short)
        for given in (names, swapped, names)
    )
    assert right >= 0.8 and wrong <= 0.2
    assert again == right


def test_lines_are_means_over_the_seeds() -> None:
    (line,) = utility_lines(table((BOTH, 5, 0, 0.4), (BOTH, 5, 1, 0.6)))
    assert (line.training_set, line.clips_per_class, line.seeds) == (BOTH, 5, 2)
    assert line.mean == pytest.approx(0.5) and line.std == pytest.approx(np.std([0.4, 0.6], ddof=1))


def test_the_verdict_counts_a_difference_only_beyond_chance() -> None:
    def verdict(both: tuple[float, float]) -> str:
        rows = [(RECORDINGS, 5, seed, value) for seed, value in enumerate((0.30, 0.34))]
        rows += [(BOTH, 5, seed, value) for seed, value in enumerate(both)]
        return utility_verdict(utility_lines(table(*rows)))

    assert "they help (32.0% without, 42.0% with)" in verdict((0.41, 0.43))
    assert "they make no difference beyond chance" in verdict((0.33, 0.35))
    assert "they harm" in verdict((0.21, 0.23))


def test_the_verdict_says_how_much_of_the_accuracy_generated_clips_alone_reach() -> None:
    told = utility_verdict(utility_lines(table((GENERATED, 10, 0, 0.2), (RECORDINGS, 10, 0, 0.5))))
    assert told == "Generated clips alone reach 20.0%, as many recordings 50.0% (40% of it)."
    alone = utility_verdict(utility_lines(table((RECORDINGS, 5, 0, 0.2), (BOTH, 5, 0, 0.5))))
    assert alone == "Beside 5 recordings of each class: 20.0% without, 50.0% with; one training each."
