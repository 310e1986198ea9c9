"""Which candidate of each window of a long clip is kept."""

import numpy as np
import pytest
import torch

from soundstorm.classification.cnn import load_classifier
from soundstorm.codec.files import load_codec
from soundstorm.generation.reranking import PACKAGED_RERANKER, best_indices, candidate_seed
from soundstorm.generation.window_choice import WindowChoice, level_db
from soundstorm.generation.windows import Window, window_seed
from soundstorm.serialization.bundled import bundled_file

CODEC = load_codec()
RERANKER = load_classifier(bundled_file(PACKAGED_RERANKER).read_bytes())
FRAMES = 32


def codes_of(level_db: float, seed: int = 0) -> torch.Tensor:
    """Codes (Q, T) of noise of a level."""
    noise_N = np.random.default_rng(seed).standard_normal(FRAMES * CODEC.hop)
    pcm_N = np.clip(32_768 * 10 ** (level_db / 20) * noise_N, -32_768, 32_767).astype(np.int16)
    [codes_QT] = CODEC.encode_clips([pcm_N])
    return torch.from_numpy(codes_QT.astype(np.int64))[:, :FRAMES]


def choice_for(num_windows: int) -> WindowChoice:
    return WindowChoice(
        codec=CODEC,
        reranker=RERANKER,
        categories=["rain", "rain"],
        seeds=[1, 2],
        num_samples=num_windows * FRAMES * CODEC.hop,
    )


def test_a_window_that_goes_on_keeps_the_level_of_the_first() -> None:
    choose = choice_for(3)
    soft, loud = codes_of(-40), codes_of(-20)
    choose([[soft, loud], [soft, loud]], 0, Window(0, FRAMES, FRAMES))
    half = FRAMES // 2
    assert choose([[soft, soft], [loud, loud]], 1, Window(half, half + FRAMES, half + FRAMES)) == [0, 1]
    assert choose([[loud, loud], [soft, soft]], 2, Window(FRAMES, 2 * FRAMES, 2 * FRAMES)) == [1, 0]


def test_of_candidates_of_one_level_and_of_windows_that_stand_alone_the_class_decides() -> None:
    choose = choice_for(3)
    rain, other, soft = codes_of(-20, seed=1), codes_of(-21, seed=2), codes_of(-40)

    def by_class(candidates: list[torch.Tensor], number: int) -> list[int]:
        sounds = [
            CODEC.decode_clips(
                [codes.numpy()] * 2, [candidate_seed(window_seed(seed, number), draw) for seed in choose.seeds]
            )
            for draw, codes in enumerate(candidates)
        ]
        return best_indices(sounds, ["rain", "rain"], RERANKER)

    choose([[rain, rain], [rain, rain]], 0, Window(0, FRAMES, FRAMES))
    half = FRAMES // 2
    kept = choose([[rain] * 2, [other] * 2, [soft] * 2], 1, Window(half, half + FRAMES, half + FRAMES))
    assert kept == by_class([rain, other], 1)
    apart = Window(2 * FRAMES, 3 * FRAMES, 3 * FRAMES)
    assert choose([[soft] * 2, [rain] * 2], 2, apart) == by_class([soft, rain], 2)


def test_a_level_is_that_of_the_mean_power_and_silence_has_one() -> None:
    assert level_db(np.full(100, 0.1, np.float32)) == pytest.approx(-20, abs=1e-3)
    assert level_db(np.zeros(100)) == level_db(np.zeros(0)) == pytest.approx(-100)
