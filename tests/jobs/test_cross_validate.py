"""`soundstorm cross-validate`: folds side by side on a real Ray, one of which fails at first; what all come to; what each fold starts from."""

import json
import os
import shutil
import signal
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from cluster import storage
from cluster.connect import ClusterInfo, connect
from cluster.share import Share, own_share
from cluster.tables import read_table
from jobs import cross_validate
from jobs.cross_validate import Options, run
from jobs.datasets import open_dataset
from jobs.entry import console
from jobs.fold_chain import CODEC_TRAINING, FoldPlan, Settings, Start, describe, plan_fold, stages_of, synthetic_start
from jobs.fold_results import open_other, read_predictions, write_results
from jobs.trials import plan_trials, run_trials
from soundstorm.errors import SoundStormError
from soundstorm.leakage import TrainedOn
from soundstorm.schemas import PREDICTIONS
from soundstorm.synthetic import CLASSES
from tests.jobs.conftest import file_times


def options(dataset: Path, output: Path, **changes: Any) -> Options:
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 20, "folds": "1,2", "max_concurrent": 2, "device": "cpu"}
    return Options(dataset="synthetic", data_dir=str(dataset), output_dir=str(output), **(settings | changes))


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
def cut_short(synthetic_dataset: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> CutShort:
    output = tmp_path_factory.mktemp("cross-validation")
    in_the_way = output / "fold-2" / "classifier" / "log.csv"
    in_the_way.parent.mkdir(parents=True)
    (output / "cross_validate.started.json").write_text(json.dumps({"settings": options(synthetic_dataset, output).settings.identity()}))
    in_the_way.write_text("somebody's own")
    with pytest.raises(SoundStormError) as error, console.capture() as said:
        run(options(synthetic_dataset, output))
    files = file_times(str(output))
    in_the_way.unlink()
    return CutShort(output, str(error.value), said.get(), files)


@pytest.fixture(scope="module")
def validated(cut_short: CutShort, synthetic_dataset: Path) -> dict[str, Any]:
    """The summary of the same command again."""
    return run(options(synthetic_dataset, cut_short.output))


def test_a_fold_that_fails_is_told_with_its_error_and_the_others_are_finished(cut_short: CutShort) -> None:
    assert cut_short.error.startswith("1 of 2 folds failed (fold 2: ")
    assert "holds 'log.csv'" in cut_short.error and "run the same command again" in cut_short.error
    assert "fold-1/fold.json" in cut_short.files and "fold-2/fold.json" not in cut_short.files
    assert "report.html" not in cut_short.files


def test_each_fold_says_where_it_stands(cut_short: CutShort) -> None:
    assert "fold 1, 2 to do, 2 at a time with 2 CPU each" in cut_short.said
    assert "fold 1: stage 1/1 classifier" in cut_short.said and "fold 2: failed: " in cut_short.said


def test_the_same_command_does_the_unfinished_fold_only(cut_short: CutShort, validated: dict[str, Any]) -> None:
    now = file_times(validated["output_dir"])
    of_first = {name: when for name, when in cut_short.files.items() if name.startswith("fold-1/")}
    assert of_first and {name: now[name] for name in of_first} == of_first
    assert "fold-2/fold.json" in now and validated["done"] == [1, 2]


def test_every_clip_is_tested_once_in_its_own_fold(validated: dict[str, Any], synthetic_dataset: Path) -> None:
    clips = open_dataset("synthetic", str(synthetic_dataset)).clips.to_pylist()
    table, categories = read_predictions(f"{validated['output_dir']}/predictions.parquet")
    assert table.schema.names == PREDICTIONS.names and categories == list(CLASSES)
    found = {row["clip_id"]: (row["fold"], row["label"]) for row in table.to_pylist()}
    assert found == {clip["clip_id"]: (clip["fold"], clip["label"]) for clip in clips if clip["fold"] in (1, 2)}
    assert table.num_rows == len(found) == validated["clips"]


def test_the_summary_has_the_mean_and_spread_of_the_folds(validated: dict[str, Any]) -> None:
    summary = json.loads((Path(validated["output_dir"]) / "summary.json").read_text())
    shares = [fold["right"] / fold["clips"] for fold in summary["folds"]]
    assert [fold["fold"] for fold in summary["folds"]] == [1, 2]
    assert summary["accuracy_mean"] == pytest.approx(sum(shares) / 2)
    assert summary["accuracy_std"] == pytest.approx(abs(shares[0] - shares[1]) / 2**0.5)
    assert sum(map(sum, summary["confusion"])) == summary["clips"] == 20
    assert summary["warnings"] == ["Fold 3, 4, 5 was not tested: the figures are of the others alone."]
    assert (summary["name"], summary["leaks"], summary["skipped_folds"]) == ("log-mel CNN", [], [])
    assert "log-mel CNN: accuracy" in validated["message"] and "over 2 folds" in validated["message"]
    for fold in (1, 2):
        assert read_table(f"{validated['output_dir']}/fold-{fold}/classifier/predictions.parquet")[0].num_rows == 10


def test_a_finished_run_is_not_done_again_and_can_be_compared_with_itself(validated: dict[str, Any], synthetic_dataset: Path) -> None:
    output = Path(validated["output_dir"])
    before = file_times(str(output))
    assert run(options(synthetic_dataset, output))["message"].startswith("already done: ")
    assert file_times(str(output)) == before
    run(options(synthetic_dataset, output, compare=(str(output),)))
    [compared] = json.loads((output / "summary.json").read_text())["compared"]
    assert (compared["difference"], compared["only_this"], compared["is_pretraining"]) == (0.0, 0, False)
    assert "Against log-mel CNN" in (output / "report.html").read_text()
    assert {name for name in file_times(str(output)) if name.startswith("fold-")} == {name for name in before if name.startswith("fold-")}


def test_a_run_of_another_dataset_is_not_compared_with(validated: dict[str, Any], synthetic_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    summary = json.loads((Path(validated["output_dir"]) / "summary.json").read_text()) | {"dataset": "esc10"}
    (tmp_path / "other" / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(SoundStormError, match="it is of the dataset 'esc10', this one of 'synthetic'"):
        run(options(synthetic_dataset, tmp_path / "out", compare=(str(tmp_path / "other"),)))
    with pytest.raises(SoundStormError, match=r"--compare .*nothing: no summary.json there"):
        run(options(synthetic_dataset, tmp_path / "out", compare=(str(tmp_path / "nothing"),)))


@pytest.mark.parametrize(("epochs", "is_pretraining"), [(5, True), (6, False)])
def test_the_worth_of_pretraining_is_the_difference_only_where_nothing_else_differs(
    epochs: int, is_pretraining: bool, validated: dict[str, Any], synthetic_dataset: Path, tmp_path: Path
) -> None:
    this, other = Path(validated["output_dir"]), tmp_path / "codec"
    other.mkdir()
    summary = json.loads((this / "summary.json").read_text()) | {"name": "SoundStorm, codec", "model": "soundstorm", "mode": "codec"}
    (other / "summary.json").write_text(json.dumps(summary))
    (other / "predictions.parquet").write_bytes((this / "predictions.parquet").read_bytes())
    control = settings(dataset="synthetic", mode="codec", epochs=5).identity()
    (other / "cross_validate.json").write_text(json.dumps({"settings": control, "counts": {}, "versions": {}}))
    folds = {fold: {"codec": None, "start": None, "leaks": []} for fold in (1, 2)}
    shutil.copytree(this, tmp_path / "this")
    made = write_results(
        str(tmp_path / "this"),
        open_dataset("synthetic", str(synthetic_dataset)),
        folds,
        dataset="synthetic",
        model="soundstorm",
        mode="fine-tuned",
        settings=settings(dataset="synthetic", epochs=epochs, pretrain_epochs=9).identity(),
        others=[open_other(str(other), "synthetic", "cross_validate")],
        skipped=[],
    )
    assert made["compared"][0]["is_pretraining"] is is_pretraining
    page = (tmp_path / "this" / "report.html").read_text()
    assert ("What pre-training is worth" in page) is is_pretraining and ("epochs 6 and 5" in page) is not is_pretraining


# ---- which folds


def test_folds_without_clips_are_skipped_with_a_note(synthetic_dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "meta").mkdir(parents=True)
    (folder / "audio").symlink_to(synthetic_dataset / "audio")
    rows = (synthetic_dataset / "meta" / "esc50.csv").read_text().splitlines()
    (folder / "meta" / "esc50.csv").write_text("\n".join(row for row in rows if row[:2] not in ("2-", "4-")) + "\n")
    asked = options(folder, tmp_path / "out", folds="all")
    with console.capture() as said:
        assert cross_validate._folds(asked, open_dataset("synthetic", str(folder))) == ([1, 3, 5], [2, 4])
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
        ({"codec_steps": 0}, "--codec-steps is 0"),
        ({"model": "soundstorm", "mode": "frozen", "pretrain_epochs": 0}, "without a generator there is nothing to freeze"),
        ({"generator_preset": "huge"}, "--generator-preset is 'huge'"),
        ({"fold": 2, "folds": "1,2"}, "--fold is 2 and --folds is 1,2: give one of the two"),
        ({"max_rejected": 1.5}, "--max-rejected is 1.5"),
        ({"test_views": 0}, "--test-views is 0"),
        ({"checkpoint": "runs/train"}, "--checkpoint is runs/train: only --model soundstorm starts from it"),
        ({"model": "soundstorm", "weights": "ast"}, "--weights is ast: only --model ast starts from it"),
        ({"max_concurrent": 9}, "--max-concurrent is 9: the cluster has 4 CPUs"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], message: str, synthetic_dataset: Path, tmp_path: Path, ray_session: None) -> None:
    with pytest.raises(SoundStormError, match=message):
        run(options(synthetic_dataset, tmp_path / "out", **changes))


# ---- what a fold starts from


PACKAGE = Start(
    codec="codec.weights",
    codec_name="compact-24khz",
    codec_trained_on=TrainedOn(dataset="esc10", held_out_fold=5),
    tokens="out/tokens/000000000000",
    generator_trained_on=TrainedOn(dataset="esc10", held_out_fold=5),
)


def settings(**changes: Any) -> Settings:
    asked = Options(dataset=changes.pop("dataset", "esc10"), data_dir="/data", **({"model": "soundstorm"} | changes))
    return asked.settings


def plans(asked: Settings, folds: range, *starts: Start) -> dict[int, FoldPlan]:
    """Where the codec of synthetic sounds can be had, as in every run."""
    return {fold: plan_fold(asked, fold, [*starts, synthetic_start(asked, "out")]) for fold in folds}


@pytest.mark.parametrize("dataset", ["esc10", "esc50"])
def test_for_a_fold_that_all_have_seen_a_codec_of_synthetic_sounds_and_a_generator_are_trained(dataset: str) -> None:
    asked = settings(dataset=dataset)
    found = plans(asked, range(1, 6), PACKAGE)
    synthetic = synthetic_start(asked, "out")
    assert {fold: (plan.start, plan.generator) for fold, plan in found.items()} == dict.fromkeys(range(1, 5), (synthetic, False)) | {
        5: (PACKAGE, True)
    }
    assert not any(plan.leaks for plan in found.values())
    made = [storage.absolute(f"out/{name}") for name in ("codecs/mel-synthetic-300/codec.safetensors", "tokens/mel-synthetic-300")]
    assert [synthetic.codec, synthetic.tokens] == made
    said = [describe(asked, found[fold]) for fold in (1, 5)]
    assert said[0] == {"codec": "mel-synthetic-300 (synthetic without fold 5)", "start": "a generator trained without fold 1"}
    assert said[1] == {"codec": "compact-24khz (esc10 without fold 5)", "start": "the generator in the package (esc10 without fold 5)"}


def test_a_fold_that_every_codec_has_seen_is_refused_with_their_names() -> None:
    with pytest.raises(
        SoundStormError, match=r"fold 1 of synthetic: every codec at hand .*'mel-synthetic-300' \(synthetic without fold 5\); give --codec"
    ):
        plan_fold(settings(dataset="synthetic"), 1, [synthetic_start(settings(), "out")])


def test_what_was_trained_on_other_recordings_does_for_every_fold() -> None:
    found = plans(settings(dataset="urbansound8k"), range(1, 11), PACKAGE)
    assert all(plan.start == PACKAGE and plan.generator and not plan.leaks for plan in found.values())


def test_a_codec_from_outside_goes_with_a_generator_of_the_fold() -> None:
    outside = replace(PACKAGE, codec_name="encodec-24khz", codec_trained_on=None, generator_trained_on=None)
    plan = plan_fold(settings(), 1, [outside])
    assert plan.start == outside and not plan.generator
    assert describe(settings(), plan) == {"codec": "encodec-24khz (outside data)", "start": "a generator trained without fold 1"}


def test_the_first_codec_that_holds_the_fold_out_is_taken() -> None:
    given = replace(PACKAGE, codec="mine", codec_trained_on=TrainedOn(dataset="esc10", held_out_fold=2), generator_trained_on=None)
    found = plans(settings(), range(1, 6), given, PACKAGE)
    assert [found[fold].start for fold in (1, 2, 5)] == [synthetic_start(settings(), "out"), given, PACKAGE]


def test_a_generator_that_has_seen_the_fold_is_not_used_although_its_codec_is() -> None:
    seen = replace(PACKAGE, codec_trained_on=None)
    plan = plan_fold(settings(), 1, [seen])
    assert plan.start == seen and not plan.generator


def test_a_leak_is_allowed_only_when_asked_for_and_named() -> None:
    plan = plan_fold(settings(allow_leak=True), 1, [PACKAGE])
    assert plan.start == PACKAGE and plan.generator
    assert plan.leaks == (
        "fold 1: the codec 'compact-24khz' was trained on esc10 without fold 5",
        "fold 1: the generator in the package was trained on esc10 without fold 5",
    )
    assert not plan_fold(settings(allow_leak=True), 5, [PACKAGE]).leaks


@pytest.mark.parametrize(
    ("changes", "mode", "start"),
    [
        ({"mode": "scratch"}, "scratch", "random weights"),
        ({"mode": "codec"}, "codec", "the codec's vectors"),
        ({"pretrain_epochs": 0}, "codec", "the codec's vectors"),
    ],
)
def test_from_random_weights_no_generator_is_used(changes: dict[str, Any], mode: str, start: str) -> None:
    asked = settings(**changes)
    assert asked.mode == mode
    plan = plan_fold(asked, 5, [PACKAGE])
    assert plan.start == PACKAGE and not plan.generator
    assert describe(asked, plan)["start"] == start
    assert "generator" not in stages_of(asked, plan, "out/fold-5")


def test_runs_may_have_codecs_tokens_teachers_and_generators_in_common() -> None:
    folders = []
    for asked in (settings(), settings(stages_dir="s3://lab/stages")):
        plan = plan_fold(asked, 1, [synthetic_start(asked, "s3://lab/out")])
        assert plan.start is not None
        stages = stages_of(asked, plan, "s3://lab/out/fold-1")
        assert list(stages) == ["teacher", "generator", "classifier"]
        trained, heard = stages["classifier"].args[0], stages["generator"].args[0]
        assert (heard.codec, heard.tokens) == (trained.codec, trained.tokens) == (plan.start.codec, plan.start.tokens)
        assert (trained.teacher, trained.checkpoint) == (stages["teacher"].args[0].output_dir, heard.output_dir)
        folders.append([plan.start.codec, plan.start.tokens, trained.teacher, trained.checkpoint, trained.output_dir])
    own, common = (
        [
            f"{place}/codecs/mel-synthetic-300/codec.safetensors",
            f"{place}/tokens/mel-synthetic-300",
            f"{place}/fold-1/teacher",
            f"{place}/fold-1/generator",
        ]
        for place in ("s3://lab/out", "s3://lab/stages")
    )
    assert folders == [[*own, "s3://lab/out/fold-1/classifier"], [*common, "s3://lab/out/fold-1/classifier"]]


def test_without_a_teacher_there_is_none() -> None:
    asked = settings(taught=False)
    stages = stages_of(asked, plan_fold(asked, 5, [PACKAGE]), "out/fold-5")
    assert list(stages) == ["classifier"] and stages["classifier"].args[0].teacher is None


def test_the_seed_and_the_paths_reach_every_stage() -> None:
    asked = settings(seed=7, codec="mine", checkpoint="runs/train")
    assert (asked.codec, asked.checkpoint) == (storage.absolute("mine"), storage.absolute("runs/train"))  # trials run in folders of their own
    start = synthetic_start(asked, "out")
    assert start.codec == storage.absolute("out/codecs/mel-synthetic-300-7/codec.safetensors")
    assert {stage.args[0].seed for stage in stages_of(asked, plan_fold(asked, 1, [start]), "out/fold-1").values()} == {7}


def test_two_folds_have_a_codec_of_synthetic_sounds_and_its_tokens_in_common(
    synthetic_dataset: Path, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.fold_chain.SYNTHETIC_CLIPS", 5)
    monkeypatch.setattr("jobs.fold_chain.CODEC_TRAINING", replace(CODEC_TRAINING, codebook_crops=40))
    folder = tmp_path / "sounds"
    folder.mkdir()
    rows = [f"{shutil.copy(file, folder).rpartition('/')[2]},{category},{fold}" for category, fold, file in _some_of_each_fold(synthetic_dataset)]
    (folder / "clips.csv").write_text("\n".join(["filename,category,fold", *rows]) + "\n")
    asked = options(folder, tmp_path / "out", model="soundstorm", mode="codec", packaged=False, taught=False, codec_steps=1, views=0)
    asked = replace(asked, dataset="folder")
    summary = run(asked)
    files = file_times(str(tmp_path / "out"))
    assert sum(name.endswith("codec.safetensors") and name.startswith("codecs/") for name in files) == 1
    assert [name for name in files if name.endswith("tokenize.json")] == ["tokens/mel-synthetic-1/tokenize.json"]
    assert summary["clips"] == len(rows) and summary["leaks"] == []
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [fold["codec"] for fold in told["folds"]] == ["mel-synthetic-1 (synthetic without fold 5)"] * 2
    assert run(asked)["message"].startswith("already done: ")
    assert file_times(str(tmp_path / "out")) == files


def _some_of_each_fold(dataset: Path) -> list[tuple[str, int, Path]]:
    """Category, fold and file of four clips in each of two folds, of two categories."""
    clips = open_dataset("synthetic", str(dataset)).clips.to_pylist()
    chosen = [clip for clip in clips if clip["category"] in CLASSES[:2] and clip["fold"] <= 4]
    return [(clip["category"], 1 + clip["fold"] % 2, Path(clip["uri"])) for clip in chosen]


# ---- side by side


def test_the_cluster_is_shared_out_among_trials(ray_session: None) -> None:
    cluster = ClusterInfo(num_cpus=16, num_gpus=4, nodes=2, started_here=False)
    assert plan_trials(10, 4, None, True, cluster) == (4, Share(num_cpus=4, num_gpus=1))
    assert plan_trials(10, 3, None, False, cluster) == (3, Share(num_cpus=5, num_gpus=0))
    assert plan_trials(2, None, None, True, cluster)[1] == Share(num_cpus=8, num_gpus=2)
    with pytest.raises(SoundStormError, match="--max-concurrent is 3: the cluster has 4 GPUs, which is room for 2 at a time"):
        plan_trials(10, 3, 2, True, cluster)


def _look(folder: str, name: str) -> dict[str, Any]:
    """A trial that dies the first time, and then says what it has of the cluster."""
    mark = Path(folder) / name
    if name == "dies" and not mark.exists():
        mark.touch()
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    console.print("warning: half a thing")
    with connect() as info:
        return {"cpus": info.num_cpus, "share": own_share() == Share(num_cpus=2, num_gpus=0), "threads": torch.get_num_threads(), "pid": os.getpid()}


def _fail() -> dict[str, Any]:
    raise SoundStormError("no such thing: give another")


def test_a_trial_has_its_share_and_one_that_dies_is_begun_again(tmp_path: Path, ray_session: None) -> None:
    trials = {name: partial(_look, str(tmp_path), name) for name in ("dies", "lives")} | {"fails": _fail}
    with console.capture() as said:
        outcomes = run_trials(trials, 2, Share(num_cpus=2, num_gpus=0))
    assert list(outcomes) == ["dies", "lives", "fails"]
    for name in ("dies", "lives"):
        result = outcomes[name].result
        assert result is not None and (result["cpus"], result["share"], result["threads"]) == (2, True, 2)
    assert outcomes["fails"].error == "no such thing: give another"
    assert "dies: its process died and is begun again" in said.get() and "lives: warning: half a thing" in said.get()


def _sleep(folder: str) -> dict[str, Any]:
    (Path(folder) / f"{os.getpid()}").touch()
    time.sleep(600)
    return {}


def test_an_interruption_ends_all_trials(tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = ray.wait

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if len(list(tmp_path.iterdir())) == 2:
            raise KeyboardInterrupt
        return wait(*arguments, **options)

    monkeypatch.setattr("jobs.trials.ray.wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_trials({name: partial(_sleep, str(tmp_path)) for name in ("one", "two")}, 2, Share(num_cpus=1, num_gpus=0))
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{process.name}").exists() for process in tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
