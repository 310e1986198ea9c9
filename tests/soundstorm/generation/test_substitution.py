"""Substitution: which lines the table has, and that each is made of what it says."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from soundstorm.audio.files import SAMPLE_RATE, to_pcm16
from soundstorm.classification.cnn import load_classifier
from soundstorm.codec.files import load_codec
from soundstorm.data.synthetic import synthesize
from soundstorm.generation.substitution import Case, Outcome, Rest, Substitution, by_noise, cases
from soundstorm.model.checkpoints import PACKAGED_FOLDER, Checkpoint, load_checkpoint
from soundstorm.serialization.bundled import bundled_file

CLASSES = ("dog", "rain", "clock_tick")


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.set_num_threads(1)
    return load_checkpoint(bundled_file(PACKAGED_FOLDER))


@pytest.fixture(scope="module")
def substitution(checkpoint: Checkpoint) -> Substitution:
    settings = replace(checkpoint.sampler, iterations=2, candidates=1)
    return Substitution(
        model=checkpoint.model, settings=settings, codec=load_codec(None), classifier=load_classifier(None)
    )


@pytest.fixture(scope="module")
def recordings() -> list[np.ndarray]:
    kinds = ("knocks", "rain", "clock")
    return [to_pcm16(synthesize(kind, 0, 1.5, SAMPLE_RATE)) for kind in kinds]


def outcome(substitution: Substitution, recordings: Sequence[np.ndarray], kept: int, rest: Rest) -> Outcome:
    return substitution.outcome(Case(kept=kept, rest=rest), recordings, [0, 1, 2], CLASSES)


def test_the_table_has_a_line_for_each_number_of_true_levels_and_what_makes_the_others() -> None:
    found = [(case.kept, case.rest.value) for case in cases(4, 2, (0, 1, 2, 8))]
    assert found == [
        (4, "recording"),
        (4, "codec"),
        (0, "generator"),
        (0, "noise"),
        (1, "generator"),
        (1, "left out"),
        (1, "noise"),
        (2, "left out"),
        (2, "noise"),
    ]


def test_recordings_are_themselves_and_more_true_levels_come_closer_to_them(
    substitution: Substitution, recordings: list[np.ndarray]
) -> None:
    itself = outcome(substitution, recordings, 32, Rest.RECORDING)
    through_codec = outcome(substitution, recordings, 32, Rest.CODEC)
    assert itself.log_mel == 0 and itself.clips == 3
    distances = [outcome(substitution, recordings, kept, Rest.LEFT_OUT).log_mel for kept in (8, 2, 1)]
    assert 0 < through_codec.log_mel < distances[0] < distances[1] < distances[2]
    assert distances[2] < outcome(substitution, recordings, 0, Rest.NOISE).log_mel


def test_the_generator_draws_what_lies_above_the_true_levels(
    substitution: Substitution, recordings: list[np.ndarray]
) -> None:
    levels = substitution.model.config.num_levels
    all_its_own, most_true = (
        outcome(substitution, recordings, kept, Rest.GENERATOR).log_mel for kept in (0, levels - 1)
    )
    its_levels = outcome(substitution, recordings, levels, Rest.LEFT_OUT).log_mel
    assert most_true == pytest.approx(its_levels, rel=0.1)
    assert most_true < 0.7 * all_its_own


def test_classes_that_the_classifier_does_not_know_are_not_named(
    substitution: Substitution, recordings: list[np.ndarray]
) -> None:
    case = Case(kept=32, rest=Rest.RECORDING)
    assert substitution.outcome(case, recordings, [0, 1, 2], ("dog", "rain", "spaceship")).named is None


def test_noise_keeps_the_true_levels_and_draws_codes_that_occur() -> None:
    rng = np.random.default_rng(0)
    codes = [rng.choice([3, 5], (4, 30)), rng.choice([3, 7], (4, 20))]
    made = by_noise(codes, 1, seed=0)
    for made_QT, codes_QT in zip(made, codes, strict=True):
        np.testing.assert_array_equal(made_QT[0], codes_QT[0])
        assert made_QT.shape == codes_QT.shape and not np.array_equal(made_QT[1:], codes_QT[1:])
    assert set(np.concatenate([made_QT[1:].ravel() for made_QT in made])) == {3, 5, 7}
