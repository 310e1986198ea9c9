"""`soundstorm train-codec`: real Ray Data and a real actor on short synthetic recordings, and few codes."""

import csv
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jobs.train_codec
from cluster.errors import ClusterError
from cluster.tables import stage_record as records
from jobs.train_codec import Options, run
from jobs.training.codec_fitter import CodecFitter
from soundstorm.codec.files import load_codec
from soundstorm.codec.fitting import FittingConfig
from soundstorm.errors import SoundStormError
from tests.jobs.conftest import interrupt

FITTING = FittingConfig(copies=2, pool_blocks=4_000, simple_sounds=2)


@pytest.fixture(scope="module")
def dataset(synthetic_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic recordings, one of which is not audio."""
    folder = tmp_path_factory.mktemp("codec-data") / "data"
    shutil.copytree(synthetic_dataset, folder)
    sorted((folder / "audio").glob("1-*.wav"))[0].write_bytes(b"not audio")
    return folder


def options(dataset: Path, output: Path, **changes: Any) -> Options:
    settings: dict[str, Any] = {
        "fitting": FITTING,
        "codebook_size": 32,
        "num_levels": 3,
        "frames_per_block": "2",
        "device": "cpu",
    }
    return Options(dataset="synthetic", data_dir=str(dataset), output_dir=str(output), **(settings | changes))


def dies_once(flag: str) -> type[CodecFitter]:
    """A fitter whose process is killed at the second level, the first time."""

    class Fitter(CodecFitter):
        def step(self) -> bytes:
            if len(self.fit.state.packed) == 1 and not Path(flag).exists():
                Path(flag).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().step()

    return Fitter


@pytest.fixture(scope="module")
def fitted(dataset: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> dict[str, Any]:
    """One run whose fitter is killed after the first level; the tests below look at it."""
    flag = tmp_path_factory.mktemp("seen") / "died"
    output = tmp_path_factory.mktemp("codec-out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs.train_codec, "CodecFitter", dies_once(str(flag)))
        summary = run(options(dataset, output, max_failures=1))
    return summary | {"died": flag.exists(), "again": options(dataset, output, max_failures=1)}


def test_after_the_loss_of_its_process_fitting_goes_on_and_the_log_has_every_level_once(fitted: dict[str, Any]) -> None:
    assert fitted["died"]
    rows = list(csv.DictReader((Path(fitted["output_dir"]) / "log.csv").read_text().splitlines()))
    assert [row["level"] for row in rows] == ["0", "1", "2"]
    errors = [float(row["error_nats"]) for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert all(float(row["codes_in_use"]) > 0.8 and 3 < float(row["entropy_bits"]) <= 5 for row in rows)


def test_the_codec_it_leaves_can_be_used_and_was_measured_on_the_test_fold(fitted: dict[str, Any]) -> None:
    codec = load_codec(Path(fitted["codec"]))
    assert (codec.fingerprint.num_levels, codec.fingerprint.codebook_size, codec.frame_rate) == (3, 32, 37.5)
    assert codec.encode_clips([np.zeros(24_000, np.float32)])[0].shape == (3, 38)
    record = records.read(fitted["output_dir"], "train_codec")
    assert record is not None and len(record.counts["levels"]) == 3
    assert record.counts["test"]["clips"] > 0 and record.counts["test"]["log_mel_distance"] > 0
    assert not (Path(fitted["output_dir"]) / "fitting.safetensors").exists()


def test_the_same_command_again_does_nothing(fitted: dict[str, Any]) -> None:
    before = (Path(fitted["output_dir"]) / "codec.safetensors").stat().st_mtime_ns
    assert "already fitted" in run(fitted["again"])["message"]
    assert (Path(fitted["output_dir"]) / "codec.safetensors").stat().st_mtime_ns == before


def test_another_setting_into_the_same_folder_is_refused(fitted: dict[str, Any]) -> None:
    with pytest.raises(ClusterError, match=r"num_levels: then 3, now 2.*--overwrite"):
        run(options(Path(fitted["again"].data_dir), Path(fitted["output_dir"]), num_levels=2))


def test_a_finished_fit_that_lacks_its_record_ends_with_the_same_codec(fitted: dict[str, Any]) -> None:
    output = Path(fitted["output_dir"])
    before = (output / "codec.safetensors").read_bytes()
    interrupt(str(output), "train_codec")
    run(fitted["again"])
    assert (output / "codec.safetensors").read_bytes() == before


def test_a_codec_that_was_deleted_is_fitted_again(fitted: dict[str, Any]) -> None:
    codec = Path(fitted["codec"])
    before = codec.read_bytes()
    codec.unlink()
    assert "already fitted" not in run(fitted["again"])["message"]
    assert codec.read_bytes() == before


def test_without_an_option_the_test_fold_is_the_last_that_has_clips(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "data")
    labels = tmp_path / "data" / "meta" / "esc50.csv"
    rows = labels.read_text().splitlines(keepends=True)
    labels.write_text("".join(row for row in rows if row.split(",")[1] != "5"))
    with pytest.raises(SoundStormError, match="--folds has 4, which is the test fold"):
        run(options(tmp_path / "data", tmp_path / "out", folds=(1, 4)))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"folds": (1, 5)}, "--folds has 5, which is the test fold"),
        ({"folds": (9,)}, "--folds is 9: the dataset has folds 1 to 5"),
        ({"test_fold": 0}, "--test-fold is 0"),
    ],
)
def test_folds_that_cannot_be_are_refused(dataset: Path, tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(SoundStormError, match=fault):
        run(options(dataset, tmp_path, **changes))


def test_a_list_that_names_no_clip_is_refused(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("nothing\n")
    with pytest.raises(SoundStormError, match=r"--clips .*list.txt: it names no clip"):
        run(options(dataset, tmp_path / "out", clips=str(tmp_path / "list.txt")))


@pytest.mark.parametrize("changes", [{"max_failures": -1}, {"max_duration": 0.0}, {"num_levels": 65}])
def test_an_option_out_of_range_is_refused(dataset: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(SoundStormError, match=r"give"):
        options(dataset, tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [({"copies": 0}, "--copies is 0: give at least 1"), ({"seed": -1}, "--seed is -1: give 0 or more")],
)
def test_a_setting_of_the_fit_out_of_range_is_refused_as_an_option(changes: dict[str, int], fault: str) -> None:
    with pytest.raises(SoundStormError, match=fault):
        FittingConfig(**changes)
