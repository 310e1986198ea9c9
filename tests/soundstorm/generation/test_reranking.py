"""Which of several draws of a sample is kept."""

import numpy as np
import pytest

from soundstorm.classification.cnn import load_classifier
from soundstorm.errors import SoundStormError
from soundstorm.generation.reranking import PACKAGED_RERANKER, best_candidates, candidate_seed, require_known_classes
from soundstorm.serialization.bundled import bundled_file

LISTENER = load_classifier(bundled_file(PACKAGED_RERANKER).read_bytes())


def test_of_two_draws_the_one_that_sounds_like_its_class_is_kept() -> None:
    rng = np.random.default_rng(0)
    rain, silence = 0.1 * rng.standard_normal(48_000), np.zeros(48_000)
    for draws in ([[rain, rain], [silence, silence]], [[silence, rain], [rain, silence]]):
        kept = best_candidates(draws, ["rain", "rain"], LISTENER)
        assert [wave is rain for wave in kept] == [True, True]


def test_a_single_draw_is_kept_whatever_it_is_and_of_equals_the_first() -> None:
    first, second = np.zeros(24_000), np.zeros(24_000)
    assert best_candidates([[first]], ["no such class"], LISTENER)[0] is first
    assert (
        best_candidates([[first], [second]], ["dog"], LISTENER)[0]
        is best_candidates([[first], [second]], ["Dog"], LISTENER)[0]
        is first
    )


def test_each_draw_has_a_seed_of_its_own_and_the_first_that_of_the_sample() -> None:
    seeds = [candidate_seed(7, draw) for draw in range(100)]
    assert seeds[0] == 7 and len(set(seeds)) == 100 and all(0 <= seed < 2**63 for seed in seeds)
    assert candidate_seed(8, 1) not in seeds


def test_a_classifier_that_does_not_know_a_class_is_refused() -> None:
    require_known_classes(LISTENER, ["dog", "rain", "Sea-Waves"], "it")
    with pytest.raises(
        SoundStormError,
        match=r"it cannot rerank --candidates: it does not know jackhammer, whale, only dog, .* and 45 more\. Give",
    ):
        require_known_classes(LISTENER, ["dog", "jackhammer", "whale"], "it")


def test_the_classifier_that_chooses_is_not_the_one_that_measures() -> None:
    measuring = load_classifier()
    assert LISTENER.sha256 != measuring.sha256 and LISTENER.held_out_fold == measuring.held_out_fold == 5
    clip = np.random.default_rng(1).integers(-3000, 3000, 48_000).astype(np.int16)
    assert not np.allclose(LISTENER.predict([clip]), measuring.predict([clip]), atol=1e-3)
