"""What is wrong with a file is told with the path of that file, whichever folder above it was given."""

import shutil
from pathlib import Path

import pytest
import torch

from jobs.inputs.checkpoints import checkpoint_files, open_checkpoint
from jobs.inputs.classifiers import classifier_files, classifier_place, open_classifier_files
from soundstorm.classification.token_classifier import Origin, save_token_classifier
from soundstorm.classification.token_network import ReadoutConfig, TokenClassifier
from soundstorm.codec.files import load_codec, packaged_codec_bytes
from soundstorm.errors import SoundStormError
from soundstorm.model.config import ModelConfig
from tests.conftest import shape_of


@pytest.mark.parametrize("given", ["run", "run/checkpoint"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_checkpoint_is_named_by_its_file(given: str, name: str, checkpoint: str, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "run")
    damaged = tmp_path / "run" / "checkpoint" / name
    damaged.write_bytes(damaged.read_bytes()[:-9])
    uri = str(tmp_path / given)
    with pytest.raises(SoundStormError) as refused:
        open_checkpoint(checkpoint_files(uri), uri=uri)
    assert str(refused.value).startswith(f"{damaged} is not ")


def test_the_checkpoint_in_the_package_is_named_by_its_file() -> None:
    files = checkpoint_files(None)
    with pytest.raises(SoundStormError) as refused:
        open_checkpoint(files | {"model.safetensors": files["model.safetensors"][:-9]})
    path = Path(str(refused.value).partition(" is not ")[0])
    assert path.is_file() and path.read_bytes() == files["model.safetensors"]


def test_a_damaged_codec_beside_a_classifier_is_named_by_its_file(tmp_path: Path) -> None:
    codec = load_codec().fingerprint
    with torch.random.fork_rng(devices=[]):
        model = TokenClassifier(
            2, ModelConfig(width=16, depth=1, heads=2, num_classes=2, **shape_of(codec)), ReadoutConfig(latent_dim=128)
        )
    origin = Origin(codec=codec, mode="scratch", generator_sha256=None, teacher_sha256=None)
    save_token_classifier(
        tmp_path / "classifier.safetensors", model, categories=["a", "b"], dataset="esc10", origin=origin
    )
    (tmp_path / "codec.safetensors").write_bytes(packaged_codec_bytes()[:-9])
    for given in (tmp_path, tmp_path / "classifier.safetensors"):
        with pytest.raises(SoundStormError, match=rf"^{tmp_path}/codec\.safetensors: .*not a codec"):
            open_classifier_files(classifier_files(str(given)), where=classifier_place(str(given)))
