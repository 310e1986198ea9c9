"""Which of several draws of a sample is kept."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from soundstorm.audio.synthesis import synthesize
from soundstorm.classification.cnn import load_classifier
from soundstorm.codec.files import load_codec
from soundstorm.errors import SoundStormError
from soundstorm.generation.candidates import Candidate
from soundstorm.generation.reranking import (
    PACKAGED_RERANKER,
    WindowReranker,
    class_probabilities,
    require_known_classes,
)
from soundstorm.generation.seeds import candidate_seed
from soundstorm.generation.windows import Window
from soundstorm.serialization.bundled import bundled_file

LISTENER = load_classifier(bundled_file(PACKAGED_RERANKER).read_bytes())


def test_a_sound_of_its_class_is_more_probable_than_silence_and_names_are_read_as_elsewhere() -> None:
    rain, silence = 0.1 * np.random.default_rng(0).standard_normal(48_000), np.zeros(48_000)
    as_rain, nothing, as_dog = class_probabilities([rain, silence, rain], ["Rain", "rain", "dog"], LISTENER)
    assert nothing < as_rain < 1 and as_dog < 0.1 < as_rain
    with pytest.raises(SoundStormError, match="no such class"):
        class_probabilities([rain], ["no such class"], LISTENER)


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


def test_candidates_of_a_window_are_compared_by_the_frames_that_are_new() -> None:
    """One candidate is rain in its middle and silence around it, the other the reverse; new are the frames in the
    middle."""
    codec = load_codec()
    rain, silence = (
        torch.from_numpy(codec.encode_clips([wave.astype(np.float32)])[0].astype(np.int64))
        for wave in (synthesize("rain", 5, 5.0, codec.sample_rate), np.zeros(5 * codec.sample_rate))
    )
    num_frames = rain.shape[1]
    is_middle_T = (torch.arange(num_frames) - num_frames // 2).abs() < num_frames // 6
    inside, around = torch.where(is_middle_T, rain, silence), torch.where(is_middle_T, silence, rain)
    window = Window(0, num_frames, num_frames)
    for heard_T, best in ((is_middle_T, 0), (~is_middle_T & (torch.arange(num_frames) < num_frames // 3), 1)):
        chooser = WindowReranker(
            reranker=LISTENER,
            codec=codec,
            categories=["rain"],
            seeds=[1],
            num_samples=5 * codec.sample_rate,
            heard_T=heard_T,
        )
        batch = [Candidate(0, 0), Candidate(0, 1)]
        assert np.argmax(chooser.score(batch, [inside, around], number=0, window=window)) == best
        assert np.argmax(chooser.score(batch, [around, inside], number=0, window=window)) == 1 - best


@pytest.mark.parametrize("frame", [0, 40, 93])
def test_of_a_single_new_frame_a_second_is_heard(frame: int) -> None:
    lengths: list[int] = []

    class Lengths:
        categories = ("rain",)

        def predict(self, clips: Sequence[NDArray[np.int16]]) -> NDArray[np.float32]:
            lengths.extend(len(clip) for clip in clips)
            return np.ones((len(clips), 1), np.float32)

    codec = load_codec()
    codes_QT = torch.zeros(32, 94, dtype=torch.int64)
    WindowReranker(
        reranker=Lengths(),
        codec=codec,
        categories=["rain"],
        seeds=[1],
        num_samples=94 * codec.hop,
        heard_T=torch.arange(94) == frame,
    ).score([Candidate(0, 0), Candidate(0, 1)], [codes_QT, codes_QT], number=0, window=Window(0, 94, 94))
    assert len(lengths) == 2 and all(codec.sample_rate * 0.45 < length < codec.sample_rate * 1.1 for length in lengths)
