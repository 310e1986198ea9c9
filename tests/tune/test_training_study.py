"""`soundstorm tune training`: real Ray Tune studies on a small token table."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster import storage, tables
from cluster.errors import ClusterError
from jobs import train
from jobs.console.command import console
from soundstorm.errors import SoundStormError
from tests.conftest import ROOT
from tune.search.trial_journal import Journal
from tune.training.beginning import Options
from tune.training.distributed_trial import workers_end_with_their_run
from tune.training_study import run

NUM_TRIALS, EPOCHS = 5, 6
SPACE = """
from tune.space import Choice, Range
SPACE = {
    "lr": Range(1e-4, 1e-1, is_log=True),
    "dropout": Range(0.0, 0.3),
    "width": Choice(16, 32),
    "depth": Range(1, 2, is_whole=True),
}
"""


@pytest.fixture(scope="session")
def space(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file for --space, of small networks."""
    path = tmp_path_factory.mktemp("space") / "space.py"
    path.write_text(SPACE)
    return str(path)


def options(tokens: str, output: str, **changes: Any) -> Options:
    settings: dict[str, Any] = {
        "num_trials": NUM_TRIALS,
        "max_concurrent": 2,
        "epochs": EPOCHS,
        "batch_size": 4,
        "seed": 3,
    }
    return Options(tokens=tokens, output_dir=output, **(settings | changes))


@pytest.fixture(scope="module")
def study(tokens: str, space: str, s3: Any, ray_session: None) -> dict[str, Any]:
    """One study whose output is in object storage; the tests below look at it."""
    return run(options(tokens, storage.join(s3.make_bucket(), "study"), space=space))


def rows_of(output: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = tables.read_table(storage.join(output, "trials.parquet"))[0].to_pylist()
    return rows


def test_every_trial_has_a_row_and_the_first_is_the_best(study: dict[str, Any]) -> None:
    rows = rows_of(study["output_dir"])
    assert len(rows) == NUM_TRIALS and len({row["trial"] for row in rows}) == NUM_TRIALS
    finished = [row for row in rows if row["state"] == "finished"]
    assert finished and all(row["epochs"] == EPOCHS for row in finished)
    assert all(row["epochs"] < EPOCHS for row in rows if row["state"] == "stopped")
    assert rows[0]["val_loss"] == min(row["val_loss"] for row in finished) == study["val_loss"]
    assert all(1e-4 <= row["lr"] <= 1e-1 and row["width"] in (16, 32) and row["depth"] in (1, 2) for row in rows)
    listed = list(
        csv.DictReader(storage.read_bytes(storage.join(study["output_dir"], "trials.csv")).decode().splitlines())
    )
    assert [row["trial"] for row in listed] == [row["trial"] for row in rows]


def test_the_page_and_the_curves_for_tensorboard_are_there(study: dict[str, Any]) -> None:
    page = storage.read_bytes(storage.join(study["output_dir"], "report.html")).decode()
    assert all(row["trial"] in page for row in rows_of(study["output_dir"]))
    assert "soundstorm train --tokens" in page
    assert any(
        "events.out.tfevents" in entry.uri
        for entry in storage.list_objects(storage.join(study["output_dir"], "trials"))
    )


def test_a_trial_that_finished_has_left_its_network_and_no_state(study: dict[str, Any]) -> None:
    best = json.loads(storage.read_bytes(study["best_config"]))
    config = json.loads(storage.read_bytes(storage.join(best["checkpoint"], "config.json")))
    assert config["extra"]["val_loss"] == best["val_loss"]
    assert storage.list_objects(storage.join(study["output_dir"], "states")) == []


def test_training_with_the_best_settings_gives_the_loss_that_the_study_reported(
    study: dict[str, Any], tokens: str, tmp_path: Path
) -> None:
    (tmp_path / "best.toml").write_bytes(storage.read_bytes(storage.join(study["output_dir"], "best.toml")))
    trained = train.run(
        train.Options(tokens=tokens, config=str(tmp_path / "best.toml"), output_dir=str(tmp_path / "out"), device="cpu")
    )
    assert trained["epochs"] == EPOCHS
    assert trained["val_loss"] == pytest.approx(study["val_loss"], abs=1e-6)
    best = json.loads(storage.read_bytes(study["best_config"]))
    ours, theirs = (
        json.loads(storage.read_bytes(storage.join(uri, "config.json")))
        for uri in (str(tmp_path / "out" / "checkpoint"), best["checkpoint"])
    )
    assert ours["sampler"] == theirs["sampler"]  # of the study's preset, not of the default
    (tmp_path / "best.json").write_text(json.dumps(best | {"sampler": {"iterations": 3}}))
    other = train.Options(
        tokens=tokens, config=str(tmp_path / "best.json"), output_dir=str(tmp_path / "out"), device="cpu"
    )
    with pytest.raises(ClusterError, match="made there with other settings: sampler"):
        train.run(other)


def test_a_finished_study_is_not_repeated(study: dict[str, Any], tokens: str, space: str) -> None:
    assert "already done" in run(options(tokens, study["output_dir"], space=space, resume=True))["message"]


def test_what_a_finished_study_has_lost_is_written_again(study: dict[str, Any], tokens: str, space: str) -> None:
    trials, best = rows_of(study["output_dir"]), storage.read_bytes(study["best_config"])
    for name in ("best.json", "report.html", "trials.parquet"):
        storage.delete(storage.join(study["output_dir"], name))
    run(options(tokens, study["output_dir"], space=space))
    assert storage.read_bytes(study["best_config"]) == best and rows_of(study["output_dir"]) == trials
    assert storage.exists(storage.join(study["output_dir"], "report.html"))


def test_a_study_goes_on_without_running_again_what_had_ended(study: dict[str, Any], tokens: str, space: str) -> None:
    output = study["output_dir"]
    journal = Journal(storage.join(output, "trials", "journal"))
    before = {ended.trial: ended for ended in journal.ended()}
    lost = sorted(before)[-1]
    storage.delete(
        storage.join(journal.uri, "ended", f"{lost}.json")
    )  # as if the driver had been killed while this trial was at work
    record = json.loads(storage.read_bytes(storage.join(output, "tune.json")))
    storage.write_bytes(
        storage.join(output, "tune.started.json"),
        json.dumps({"settings": record["settings"], "started": "earlier"}).encode(),
    )
    storage.delete(storage.join(output, "tune.json"))
    found = run(options(tokens, output, space=space, resume=True))
    after = {ended.trial: ended for ended in journal.ended()}
    assert found["trials"] == NUM_TRIALS == len(rows_of(output))
    assert {name: after[name] for name in before if name != lost} == {
        name: ended for name, ended in before.items() if name != lost
    }
    [again] = [ended for name, ended in after.items() if name not in before]
    assert again.point == before[lost].point  # what was at work is what runs again


def test_a_finished_study_may_have_more_trials(study: dict[str, Any], tokens: str, space: str) -> None:
    before = {row["trial"]: row for row in rows_of(study["output_dir"])}
    found = run(options(tokens, study["output_dir"], space=space, num_trials=NUM_TRIALS + 1))
    after = {row["trial"]: row for row in rows_of(study["output_dir"])}
    assert found["trials"] == len(after) == NUM_TRIALS + 1
    assert {name: after[name] for name in before} == before
    assert "already done" in run(options(tokens, study["output_dir"], space=space))["message"]


def test_trials_that_cannot_be_trained_are_marked_and_the_study_goes_on(
    tokens: str, tmp_path: Path, ray_session: None
) -> None:
    (tmp_path / "space.py").write_text(
        "from tune.space import Choice\n"
        "SPACE = {'lr': Choice(1e-3, 1e30), 'width': Choice(16, 24), 'heads': Choice(2, 8), 'ema_decay': Choice(0.9, "
        "0.99)}"
    )
    found = run(options(tokens, str(tmp_path / "out"), space=str(tmp_path / "space.py"), num_trials=8, epochs=2))
    rows = rows_of(str(tmp_path / "out"))
    failed = [row for row in rows if row["state"] == "failed"]
    diverged = [row for row in rows if row["state"] == "diverged"]
    assert len(rows) == 8 and found["failed"] == len(failed) and found["diverged"] == len(diverged)
    assert all(row["lr"] > 1 and "gradient is" in row["problem"] for row in diverged)
    assert all((row["width"], row["heads"]) == (24, 8) and "heads is 8" in row["problem"] for row in failed)
    assert found["failed"] + found["diverged"] >= 1


def test_a_trial_may_be_several_workers_at_once(tokens: str, space: str, tmp_path: Path, ray_session: None) -> None:
    with console.capture() as said:
        found = run(options(tokens, str(tmp_path / "out"), space=space, num_trials=1, epochs=2, num_workers=2))
    assert ("no trial is stopped early" in said.get()) is not workers_end_with_their_run()
    [row] = rows_of(str(tmp_path / "out"))
    assert row["state"] == "finished" and row["epochs"] == 2 and row["val_loss"] == found["val_loss"]
    best = json.loads((tmp_path / "out" / "best.json").read_text())
    assert best["num_workers"] == 2
    assert json.loads((Path(best["checkpoint"]) / "config.json").read_text())["extra"]["val_loss"] == found["val_loss"]
    assert "--num-workers 2" in (tmp_path / "out" / "report.html").read_text()


def test_a_study_that_is_submitted_is_named_after_the_module(tmp_path: Path) -> None:
    arguments = ["training", "--tokens", str(tmp_path / "nothing"), "--output-dir", str(tmp_path / "out")]
    ended = subprocess.run(
        [sys.executable, "-m", "jobs.tune", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (
        ended.returncode == 1
        and "no finished tokens there" in " ".join(ended.stderr.split())
        and "Traceback" not in ended.stderr
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_trials": 0}, "--num-trials is 0"),
        ({"preset": "huge"}, "--preset is 'huge'"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"seed": -1}, "--seed is -1"),
        ({"resume": True, "overwrite": True}, "--resume goes on with a study and --overwrite deletes it"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        options("tokens", "out", **changes)


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is not None, reason="mlflow is installed")
def test_a_tracker_that_is_not_installed_is_told() -> None:
    with pytest.raises(SoundStormError, match=r"pip install 'soundstorm-env\[mlflow\]'"):
        options("tokens", "out", log_to="mlflow")


def test_there_must_be_something_to_resume(tokens: str, tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match="no study was begun"):
        run(options(tokens, str(tmp_path / "out"), resume=True))


def test_tokens_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match="no finished tokens there"):
        run(options(str(tmp_path / "nothing"), str(tmp_path / "out")))
