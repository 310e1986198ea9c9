"""`soundstorm cross-validate`: folds side by side on a real Ray, one of which fails at first, and what all come to."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ClusterError
from cluster.tables import read_table
from jobs import cross_validate
from jobs.console.command import console
from jobs.cross_validate import run
from jobs.cross_validation.options import Options
from jobs.cross_validation.results import Run, open_compared_run, read_predictions, write_results
from jobs.inputs.datasets import index_digest, open_dataset
from soundstorm.audio.synthesis import CLASSES
from soundstorm.codec.fitting import FittingConfig
from soundstorm.errors import SoundStormError
from soundstorm.schemas import PREDICTIONS
from tests.jobs.conftest import file_times


def options(dataset: Path, output: Path, **changes: Any) -> Options:
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 20, "folds": "1,2", "max_concurrent": 2, "device": "cpu"}
    return Options(dataset="synthetic", data_dir=str(dataset), output_dir=str(output), **(settings | changes))


def identity(**changes: Any) -> dict[str, Any]:
    """What the record of a run with SoundStorm is compared by."""
    return Options(dataset="folder", data_dir="/data", model="soundstorm", **changes).settings.identity()


def hearing(sounds: Path, output: Path, **changes: Any) -> Options:
    """Two folds, whose classifiers hear by the vectors of a codec of synthetic sounds."""
    asked = options(sounds, output, model="soundstorm", mode="codec", packaged=False, taught=False, views=0, **changes)
    return replace(asked, dataset="folder")


@pytest.fixture(scope="module")
def sounds(synthetic_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of recordings in five folds, one of each of four categories in every fold."""
    folder = tmp_path_factory.mktemp("sounds")
    clips = open_dataset("synthetic", str(synthetic_dataset)).clips.to_pylist()
    chosen = [clip for clip in clips if clip["category"] in CLASSES[:4]]
    rows = [f"{Path(shutil.copy(clip['uri'], folder)).name},{clip['category']},{clip['fold']}" for clip in chosen]
    (folder / "clips.csv").write_text("\n".join(["filename,category,fold", *rows]) + "\n")
    return folder


# ---- a whole run


@dataclass(frozen=True)
class CutShort:
    """A run of two folds of which one failed, since a file stood in its way; the file is gone now."""

    output: Path
    error: str
    said: str
    files: dict[str, int]
    """Path and time of modification."""


@pytest.fixture(scope="module")
def cut_short(sounds: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[CutShort]:
    output = tmp_path_factory.mktemp("cross-validation")
    in_the_way = output / "fold-2" / "classifier" / "log.csv"
    in_the_way.parent.mkdir(parents=True)
    clips = index_digest(open_dataset("folder", str(sounds)).clips)
    begun = replace(hearing(sounds, output).settings, clips=clips)
    (output / "cross_validate.started.json").write_text(json.dumps({"settings": begun.identity()}))
    in_the_way.write_text("somebody's own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.cross_validate.SYNTHETIC_CLIPS", 5)
        patch.setattr("jobs.cross_validate.CODEBOOK_SIZE", 32)
        patch.setattr("jobs.cross_validate.CODEC_FITTING", FittingConfig(copies=1, pool_blocks=4_000, simple_sounds=2))
        with pytest.raises(SoundStormError) as error, console.capture() as said:
            run(hearing(sounds, output))
        files = file_times(str(output))
        in_the_way.unlink()
        yield CutShort(output, str(error.value), said.get(), files)


@pytest.fixture(scope="module")
def validated(cut_short: CutShort, sounds: Path) -> dict[str, Any]:
    """The summary of the same command again."""
    return run(hearing(sounds, cut_short.output))


def test_a_fold_that_fails_is_told_with_its_error_and_the_others_are_finished(cut_short: CutShort) -> None:
    assert cut_short.error.startswith("1 of 2 folds failed (fold 2: ")
    assert "holds 'log.csv'" in cut_short.error and "run the same command again" in cut_short.error
    assert "fold-1/fold.json" in cut_short.files and "fold-2/fold.json" not in cut_short.files
    assert "report.html" not in cut_short.files


def test_each_fold_says_where_it_stands(cut_short: CutShort) -> None:
    assert "fold 1, 2 to run, 2 at once with 2 CPU each" in cut_short.said
    assert "fold 1: step 1/1 classifier" in cut_short.said and "fold 2: failed: " in cut_short.said


def test_the_same_command_does_the_unfinished_fold_only(cut_short: CutShort, validated: dict[str, Any]) -> None:
    now = file_times(validated["output_dir"])
    of_first = {name: when for name, when in cut_short.files.items() if name.startswith("fold-1/")}
    assert of_first and {name: now[name] for name in of_first} == of_first
    assert "fold-2/fold.json" in now and validated["done"] == [1, 2]


def test_folds_have_a_codec_of_synthetic_sounds_and_its_tokens_in_common(
    cut_short: CutShort, validated: dict[str, Any]
) -> None:
    files = file_times(validated["output_dir"])
    assert [name for name in files if name.endswith("codec.safetensors") and name.startswith("codecs/")] == [
        "codecs/block-synthetic/codec.safetensors"
    ]
    assert [name for name in files if name.endswith("tokenize.json")] == ["tokens/block-synthetic/tokenize.json"]
    made_before = {
        name: when
        for name, when in cut_short.files.items()
        if name.startswith(("codecs/", "tokens/")) and "recordings" not in name
    }
    assert made_before and {name: files[name] for name in made_before} == made_before
    told = json.loads((Path(validated["output_dir"]) / "summary.json").read_text())
    assert [fold["codec"] for fold in told["folds"]] == ["block-synthetic (synthetic sounds)"] * 2


def test_every_clip_is_tested_once_in_its_own_fold(validated: dict[str, Any], sounds: Path) -> None:
    clips = open_dataset("folder", str(sounds)).clips.to_pylist()
    table, categories = read_predictions(f"{validated['output_dir']}/predictions.parquet")
    assert table.schema.names == PREDICTIONS.names and sorted(categories) == sorted(CLASSES[:4])
    found = {row["clip_id"]: (row["fold"], row["label"]) for row in table.to_pylist()}
    assert found == {clip["clip_id"]: (clip["fold"], clip["label"]) for clip in clips if clip["fold"] in (1, 2)}
    assert table.num_rows == len(found) == validated["clips"]


def test_the_summary_has_the_mean_and_spread_of_the_folds(validated: dict[str, Any]) -> None:
    summary = json.loads((Path(validated["output_dir"]) / "summary.json").read_text())
    shares = [fold["right"] / fold["clips"] for fold in summary["folds"]]
    assert [fold["fold"] for fold in summary["folds"]] == [1, 2]
    assert summary["accuracy_mean"] == pytest.approx(sum(shares) / 2)
    assert summary["accuracy_std"] == pytest.approx(abs(shares[0] - shares[1]) / 2**0.5)
    assert sum(map(sum, summary["confusion"])) == summary["clips"] == 8
    untested, few = summary["warnings"]
    assert untested == "Fold 3, 4, 5 was not tested: the figures cover the other folds only."
    assert few.startswith("The accuracy says little: 8 clips leave it anywhere from ")
    assert untested in validated["message"] and few in validated["message"]
    assert (summary["name"], summary["leaks"], summary["skipped_folds"]) == ("SoundStorm, codec", [], [])
    assert "SoundStorm, codec: accuracy" in validated["message"] and "over 2 folds" in validated["message"]
    for fold in (1, 2):
        assert read_table(f"{validated['output_dir']}/fold-{fold}/classifier/predictions.parquet")[0].num_rows == 4


def test_a_finished_run_is_not_done_again_and_can_be_compared_with_itself(
    validated: dict[str, Any], sounds: Path
) -> None:
    output = Path(validated["output_dir"])
    before = file_times(str(output))
    assert run(hearing(sounds, output))["message"].startswith("already done: ")
    assert file_times(str(output)) == before
    run(hearing(sounds, output, compare=(str(output),)))
    [compared] = json.loads((output / "summary.json").read_text())["compared"]
    assert (compared["difference"], compared["only_this"], compared["is_pretraining"]) == (0.0, 0, False)
    assert "Against SoundStorm, codec" in (output / "report.html").read_text()
    assert {name for name in file_times(str(output)) if name.startswith("fold-")} == {
        name for name in before if name.startswith("fold-")
    }


def test_a_run_of_another_dataset_is_not_compared_with(validated: dict[str, Any], sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    summary = json.loads((Path(validated["output_dir"]) / "summary.json").read_text()) | {"dataset": "esc10"}
    (tmp_path / "other" / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(SoundStormError, match="its dataset is 'esc10', not 'folder'"):
        run(hearing(sounds, tmp_path / "out", compare=(str(tmp_path / "other"),)))
    with pytest.raises(SoundStormError, match=r"--compare .*nothing: no summary.json there"):
        run(hearing(sounds, tmp_path / "out", compare=(str(tmp_path / "nothing"),)))


@pytest.mark.parametrize(("epochs", "depth", "is_pretraining"), [(5, 3, True), (6, 3, False), (5, 6, False)])
def test_the_worth_of_pretraining_is_the_difference_only_where_nothing_else_differs(
    epochs: int, depth: int, is_pretraining: bool, validated: dict[str, Any], sounds: Path, tmp_path: Path
) -> None:
    this, other = Path(validated["output_dir"]), tmp_path / "codec"
    other.mkdir()
    summary = json.loads((this / "summary.json").read_text()) | {
        "name": "SoundStorm, codec",
        "model": "soundstorm",
        "mode": "codec",
    }
    (other / "summary.json").write_text(json.dumps(summary))
    told = {fold["fold"]: fold for fold in summary["folds"]}
    (other / "predictions.parquet").write_bytes((this / "predictions.parquet").read_bytes())
    control = identity(mode="codec", epochs=5)
    (other / "cross_validate.json").write_text(json.dumps({"settings": control, "counts": {}, "versions": {}}))
    folds = {
        fold: counts | {"network": {**counts["network"], "depth": depth}, "start": None, "leaks": []}
        for fold, counts in told.items()
    }
    shutil.copytree(this, tmp_path / "this")
    made = write_results(
        str(tmp_path / "this"),
        open_dataset("folder", str(sounds)),
        Run(
            dataset="folder",
            model="soundstorm",
            mode="fine-tuned",
            settings=identity(epochs=epochs, pretrain_epochs=9),
            folds=folds,
            skipped=[],
        ),
        [open_compared_run(str(other), "folder", "cross_validate")],
    )
    assert made["compared"][0]["is_pretraining"] is is_pretraining
    page = (tmp_path / "this" / "report.html").read_text()
    assert ("What pre-training is worth" in page) is is_pretraining
    assert ("epochs 6 and 5" in page, "codec or network of fold 1" in page) == (epochs == 6, depth == 6)


@pytest.mark.parametrize(
    ("first", "second", "warned"),
    [
        (("one", True), ("one", True), False),
        (("one", True), ("block-24khz", True), True),
        (("one", True), ("one", False), True),
        (("one", False), ("one", False), False),
    ],
)
def test_folds_that_did_not_start_from_the_same_are_told_of(
    first: tuple[str, bool],
    second: tuple[str, bool],
    warned: bool,
    validated: dict[str, Any],
    sounds: Path,
    tmp_path: Path,
) -> None:
    shutil.copytree(validated["output_dir"], tmp_path / "this")
    made = write_results(
        str(tmp_path / "this"),
        open_dataset("folder", str(sounds)),
        Run(
            dataset="folder",
            model="soundstorm",
            mode="fine-tuned",
            settings=identity(),
            folds={
                fold: {
                    "codec": codec,
                    "start": "trained without fold 1, says a sentence that nothing reads",
                    "own_generator": own,
                    "leaks": [],
                }
                for fold, (codec, own) in enumerate((first, second), start=1)
            },
            skipped=[],
        ),
        [],
    )
    assert (
        any("The folds did not all use the same codec or generator" in warning for warning in made["warnings"])
        is warned
    )


def test_folds_are_told_apart_when_their_clips_change(
    cut_short: CutShort, validated: dict[str, Any], sounds: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "sounds"
    shutil.copytree(sounds, moved)
    asked = hearing(moved, cut_short.output)
    before = (moved / "clips.csv").read_text()
    (moved / "clips.csv").write_text(before.replace(",1\n", ",2\n", 1))
    record = json.loads((cut_short.output / "cross_validate.json").read_text())
    record["settings"]["data_dir"] = str(moved)
    other = tmp_path / "out"
    other.mkdir()
    (other / "cross_validate.json").write_text(json.dumps(record))
    with pytest.raises(ClusterError, match=r"made there with other settings: clips: then"):
        run(replace(asked, output_dir=str(other)))


def test_stages_are_not_kept_among_the_recordings(sounds: Path, tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match=r"--stages-dir .* is inside --data-dir"):
        run(hearing(sounds, tmp_path / "out", stages_dir=str(sounds / "stages")))
    assert not (sounds / "stages").exists()


# ---- which folds


def test_folds_without_clips_are_skipped_with_a_note(synthetic_dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "meta").mkdir(parents=True)
    (folder / "audio").symlink_to(synthetic_dataset / "audio")
    rows = (synthetic_dataset / "meta" / "esc50.csv").read_text().splitlines()
    (folder / "meta" / "esc50.csv").write_text("\n".join(row for row in rows if row[:2] not in ("2-", "4-")) + "\n")
    asked = options(folder, tmp_path / "out", folds="all")
    with console.capture() as said:
        assert cross_validate.folds_to_test(
            asked.fold, asked.folds, asked.location, open_dataset("synthetic", str(folder))
        ) == ([1, 3, 5], [2, 4])
    assert "fold 2, 4: no clips there, skipped" in said.get()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": "1,6"}, "--folds is '1,6': the dataset has folds 1 to 5"),
        ({"folds": "one"}, "--folds is 'one': give all, or numbers of folds"),
        ({"fold": 9, "folds": "all"}, "--fold is 9: the dataset has folds 1 to 5"),
        ({"mode": "frozen"}, "--mode is frozen: the cnn is always trained from scratch"),
        ({"max_concurrent": 0}, "--max-concurrent is 0"),
        ({"pretrain_epochs": -1}, "--pretrain-epochs is -1"),
        (
            {"model": "soundstorm", "mode": "frozen", "pretrain_epochs": 0},
            "without a generator there are no weights to freeze",
        ),
        ({"model": "soundstorm", "generator_preset": "huge"}, "--generator-preset is 'huge'"),
        ({"fold": 2, "folds": "1,2"}, "--fold is 2 and --folds is 1,2: give one of the two"),
        ({"max_rejected": 1.5}, "--max-rejected is 1.5"),
        ({"test_views": 0}, "--test-views is 0"),
        ({"checkpoint": "runs/train"}, "--checkpoint is runs/train: only --model soundstorm uses it"),
        ({"model": "soundstorm", "weights": "ast"}, "--weights is ast: only --model ast uses it"),
        ({"views": 3}, "--views is 3: only --model soundstorm uses it; leave it out for cnn"),
        ({"teacher_epochs": 3}, "--teacher-epochs is 3: only --model soundstorm uses it"),
        ({"model": "soundstorm", "taught": False, "teacher_epochs": 3}, "--teacher-epochs is 3: with --no-taught"),
        ({"taught": False}, "--taught is False: only --model soundstorm uses it"),
        ({"max_concurrent": 9}, "--max-concurrent is 9: the cluster has 4 CPUs"),
    ],
)
def test_wrong_options_are_named(
    changes: dict[str, Any], message: str, synthetic_dataset: Path, tmp_path: Path, ray_session: None
) -> None:
    with pytest.raises(SoundStormError, match=message):
        run(options(synthetic_dataset, tmp_path / "out", **changes))


@pytest.mark.parametrize(
    ("changes", "message"), [({"lr": -1.0}, "--lr is -1.0"), ({"preset": "huge"}, "--preset is 'huge'")]
)
def test_a_setting_that_is_wrong_for_a_late_stage_is_told_before_ray_is_started(
    changes: dict[str, Any], message: str, synthetic_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("jobs.cross_validate.connect", refuse)
    with pytest.raises(SoundStormError, match=message):
        run(options(synthetic_dataset, tmp_path / "out", **changes))
