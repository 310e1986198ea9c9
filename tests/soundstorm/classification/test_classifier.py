"""One interface to every kind of classifier."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from soundstorm.audio.files import to_pcm16
from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.classification.classifier import open_classifier
from soundstorm.classification.token_classifier import Origin, save_token_classifier
from soundstorm.classification.token_network import ReadoutConfig, TokenClassifier
from soundstorm.codec.files import load_codec, packaged_codec_bytes
from soundstorm.errors import SoundStormError
from soundstorm.model.code_vectors import latent_dim
from soundstorm.model.config import ModelConfig
from soundstorm.serialization.bundled import bundled_file
from tests.conftest import shape_of


@pytest.fixture(scope="module")
def of_codes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A token classifier with random weights, on the codec in the package."""
    codec = load_codec()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ModelConfig(width=16, depth=1, heads=2, num_classes=2, **shape_of(codec.fingerprint))
        model = TokenClassifier(2, network, ReadoutConfig(latent_dim=latent_dim(codec)))
    path = tmp_path_factory.mktemp("classifier") / "classifier.safetensors"
    origin = Origin(codec=codec.fingerprint, mode="scratch", generator_sha256=None, teacher_sha256="ab" * 32)
    save_token_classifier(path, model, categories=["a", "b"], dataset="esc10", held_out_fold=4, origin=origin)
    return path.read_bytes()


def test_a_file_is_opened_as_what_its_header_says(of_codes: bytes) -> None:
    clips = [to_pcm16(synthesize(CLASSES[0], 0, 1.0, 24_000))]
    for data, kind, outputs in (
        (bundled_file("audio_classifier.safetensors").read_bytes(), "cnn", 50),
        (of_codes, "soundstorm", 2),
    ):
        classifier = open_classifier(data, "it")
        assert classifier.kind == kind
        probability_XC = classifier.predict(clips)
        assert probability_XC.shape == (1, outputs) and len(classifier.categories) == outputs
        np.testing.assert_allclose(probability_XC.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "its file: not a classifier (it has no header of a classifier)"),
        (b"[" * 100_000, "its file: not a classifier (it has no header of a classifier)"),
        (save({"a": torch.zeros(1)}), "its file: not a classifier (it has no header of a classifier)"),
        (packaged_codec_bytes(), "its file: not a classifier (its format is 'soundstorm-block-codec-2')"),
        (bundled_file("audio_classifier.safetensors").read_bytes()[:-9], "its file: not a classifier ("),
    ],
)
def test_a_file_that_is_no_classifier_is_one_clear_message(data: bytes, message: str) -> None:
    with pytest.raises(SoundStormError) as raised:
        open_classifier(data, "its file")
    assert str(raised.value).startswith(message) and "soundstorm train-classifier" in str(raised.value)


def test_a_classifier_of_codes_refuses_another_codec(of_codes: bytes, tiny_codec: Path) -> None:
    with pytest.raises(SoundStormError, match="but the codec in use is 'tiny'"):
        open_classifier(of_codes, "it", codec=lambda _: load_codec(tiny_codec))
