"""Features of clips: what is in a row, and that copies have the codes of what they copy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from soundstorm.audio.files import SAMPLE_RATE, from_pcm16, to_pcm16
from soundstorm.audio.synthesis import synthesize
from soundstorm.classification.cnn import (
    AudioClassifier,
    AudioClassifierConfig,
    TrainedClassifier,
    load_classifier,
    save_classifier,
)
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec
from soundstorm.evaluation.features import MAX_SAMPLES, FeatureExtractor
from soundstorm.evaluation.memorization import matching_fraction
from soundstorm.evaluation.temporal import modulation_energy, spectral_flux


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> TrainedClassifier:
    path = tmp_path_factory.mktemp("classifier") / "classifier.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_classifier(
            path,
            AudioClassifier(2, AudioClassifierConfig(widths=(4, 8), embedding=6)),
            categories=["rain", "wind"],
            dataset="synthetic",
        )
    return load_classifier(path)


def clip(category: str, duration_s: float = 1.0, seed: int = 0) -> np.ndarray:
    return to_pcm16(synthesize(category, seed, duration_s, SAMPLE_RATE))


def through(codec: Codec, pcm: np.ndarray) -> np.ndarray:
    return to_pcm16(codec.decode_clips(codec.encode_clips([from_pcm16(pcm)]))[0][: len(pcm)])


def test_a_row_holds_the_features_of_its_clip(tiny_codec: Path, classifier: TrainedClassifier) -> None:
    codec = load_codec(tiny_codec)
    clips = [clip("rain"), clip("clock", 2.4), clip("wind", 0.01 + 0.05)]
    rows = FeatureExtractor(codec, classifier).features(clips, clips)
    for pcm, row in zip(clips, rows, strict=True):
        assert row["flux"] == spectral_flux(pcm, SAMPLE_RATE)
        assert row["modulation"] == pytest.approx(modulation_energy(pcm, SAMPLE_RATE))
        assert len(row["modulation_bands"]) == 16
        assert row["predicted"] in ("rain", "wind") and 0.5 <= row["probability"] <= 1
        assert row["classifier_embedding"].shape == (6,)
        np.testing.assert_array_equal(row["codes"], codec.encode_clips([from_pcm16(pcm)])[0][0])
    assert [len(row["codec_embedding"]) for row in rows] == [1, 2, 1]


def test_without_a_classifier_its_columns_are_null(tiny_codec: Path) -> None:
    [row] = FeatureExtractor(load_codec(tiny_codec), None).features([clip("rain")], [clip("rain")])
    assert (row["classifier_embedding"], row["predicted"], row["probability"]) == (None, None, None)


def test_no_clips_have_no_rows(tiny_codec: Path, classifier: TrainedClassifier) -> None:
    assert FeatureExtractor(load_codec(tiny_codec), classifier).features([], []) == []


def test_of_a_long_clip_the_beginning_is_looked_at(tiny_codec: Path) -> None:
    long = np.tile(clip("clock", 4.0), 10)
    [row] = FeatureExtractor(load_codec(tiny_codec), None).features([long], [long])
    assert (len(row["codes"]), len(row["codec_embedding"])) == (30 * 75, 30)
    assert row["flux"] == spectral_flux(long[:MAX_SAMPLES], SAMPLE_RATE)


@pytest.mark.parametrize("category", ["rain", "siren"])
def test_what_a_model_copies_has_the_codes_of_the_recording_once_through_the_codec(category: str) -> None:
    codec = load_codec()
    extractor = FeatureExtractor(codec, None)
    recording = clip(category)
    made = through(codec, recording)  # what a model makes that has learnt the recording's codes by heart
    [row, copy] = extractor.features([recording, made], [through(codec, recording), made])
    assert matching_fraction(copy["codes"], row["codes"]) > 0.95
    [other] = extractor.features([clip(category, seed=1)], [through(codec, clip(category, seed=1))])
    assert matching_fraction(other["codes"], row["codes"]) < 0.5
