"""The model in the package: it fits the codec in the package, generates without being told where it is, and sounds."""

import io
from pathlib import Path

import numpy as np
import soundfile

from cluster import storage, tables
from jobs import generate
from jobs.inputs.checkpoints import checkpoint_files, open_checkpoint
from soundstorm.classification.cnn import AudioClassifier, load_classifier, save_classifier
from soundstorm.codec.files import load_codec
from soundstorm.evaluation.temporal import spectral_flux
from soundstorm.generation.reranking import PACKAGED_RERANKER
from soundstorm.serialization.bundled import bundled_file
from tests.jobs.conftest import Command


def test_it_fits_the_codec_and_knows_the_classes_of_the_classifier() -> None:
    checkpoint = open_checkpoint(checkpoint_files(None))
    assert checkpoint.fingerprint == load_codec().fingerprint
    assert set(checkpoint.categories) == set(load_classifier().categories)
    assert checkpoint.extra["test_fold"] == load_classifier().held_out_fold == 5


def test_rain_and_a_crying_baby_come_without_a_checkpoint_and_are_taken_for_it(
    tmp_path: Path, ray_session: None, command: Command
) -> None:
    classifier = load_classifier()
    for category in ("rain", "crying_baby"):
        output = tmp_path / category
        few = ("--num-samples", "3", "--candidates", "4", "--num-actors", "1")
        code, _, err = command(generate, "--class", category, *few, "--output-dir", str(output))
        assert code == 0, err
        rows = tables.read_table(str(output / "samples.parquet"))[0].to_pylist()
        clips = [soundfile.read(io.BytesIO(storage.read_bytes(row["uri"])), dtype="int16")[0] for row in rows]
        assert [len(clip) for clip in clips] == [120_000] * 3
        assert all(300 < np.abs(clip.astype(int)).max() < 32_767 and spectral_flux(clip, 24_000) > 1 for clip in clips)
        named = [classifier.categories[index] for index in classifier.predict(clips).argmax(1)]
        assert named.count(category) >= 2


def test_of_several_draws_of_a_sample_the_one_that_sounds_most_like_its_class_or_the_first_good_one_is_kept(
    tmp_path: Path, ray_session: None, command: Command
) -> None:
    listener = load_classifier(bundled_file(PACKAGED_RERANKER).read_bytes())

    def generated(*options: str) -> tuple[list[float], list[str]]:
        """How sure the reranker is of the class of each sample, and the digest of each."""
        output = tmp_path / "-".join(options)
        short = ("--class", "dog", "--num-samples", "4", "--duration", "1", "--iterations", "4", "--num-actors", "1")
        code, _, err = command(generate, *short, *options, "--output-dir", str(output))
        assert code == 0, err
        rows = tables.read_table(str(output / "samples.parquet"))[0].to_pylist()
        clips = [soundfile.read(io.BytesIO(storage.read_bytes(row["uri"])), dtype="int16")[0] for row in rows]
        sure = listener.predict(clips)[:, listener.categories.index("dog")]
        return sure.tolist(), [row["sha256"] for row in rows]

    first, best = generated("--candidates", "1"), generated("--candidates", "4")
    assert all(np.array(best[0]) >= np.array(first[0]) - 1e-6) and sum(best[0]) > sum(first[0])
    assert best[1] != first[1]
    enough = float(np.mean(first[0]))
    accepted = generated("--candidates", "4", "--accept-probability", str(enough))
    for sample in range(4):
        is_enough = first[0][sample] >= enough
        assert (accepted[1][sample] == first[1][sample]) == is_enough or best[1][sample] == first[1][sample]
        assert accepted[0][sample] >= min(enough, best[0][sample]) - 1e-6
    assert any(digest == other for digest, other in zip(accepted[1], first[1], strict=True))


def test_one_clip_of_several_that_were_made_together_comes_again_from_its_recipe(
    tmp_path: Path, ray_session: None, command: Command
) -> None:
    output = tmp_path / "five"
    short = ("--num-samples", "5", "--duration", "1", "--iterations", "4", "--num-actors", "1")
    chosen = ("--candidates", "3", "--accept-probability", "0.05")  # of some the first, of others the third
    code, _, err = command(generate, *short, *chosen, "--output-dir", str(output))
    assert code == 0, err
    row = tables.read_table(str(output / "samples.parquet"))[0].to_pylist()[2]
    recipe = Path(row["uri"]).with_suffix(".json")
    code, _, err = command(
        generate, "--recipe", str(recipe), "--num-actors", "1", "--output-dir", str(tmp_path / "one")
    )
    assert code == 0 and "is identical to the clip of" in err, err


def test_candidates_of_classes_that_the_classifier_does_not_know_are_refused(tmp_path: Path, command: Command) -> None:
    other = tmp_path / "other.safetensors"
    save_classifier(other, AudioClassifier(2), categories=["siren", "whale"], dataset="none")
    code, _, err = command(generate, "--class", "rain", "--listener", str(other), "--output-dir", str(tmp_path / "out"))
    assert code == 1 and "does not know rain, only siren, whale" in err and "--candidates 1" in err
    assert not generate_begun(tmp_path / "out")


def test_an_unknown_class_is_refused_with_the_names_of_those_it_knows(tmp_path: Path, command: Command) -> None:
    code, _, err = command(generate, "--class", "whale", "--output-dir", str(tmp_path / "out"))
    assert code == 1 and "whale" in err and "sea_waves" in err
    assert not generate_begun(tmp_path / "out")


def generate_begun(output: Path) -> bool:
    return output.exists() and any(output.iterdir())
