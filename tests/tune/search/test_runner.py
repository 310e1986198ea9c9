"""Trials whose process dies: begun again, marked if it dies each time, and the study goes on."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from jobs.training.ray_trainer import WorkerScaling
from tune.search.options import StudyOptions
from tune.search.runner import PENALTY, RESTARTS, Search, _optuna, run_search
from tune.search.space import Choice, Range
from tune.search.trial_journal import TrialConfig, TrialResult


def trainable(folder: Path) -> Callable[[TrialConfig], None]:
    """Trials of which one is killed once, one each time, and one fails with an error of its own."""

    def trial(point: TrialConfig) -> None:
        name = point["name"]
        attempts = folder / name
        attempts.write_text((attempts.read_text() if attempts.exists() else "") + "x")
        if name == "always killed" or (name == "killed once" and attempts.read_text() == "x"):
            os.kill(os.getpid(), 9)
        if name == "broken":
            raise ValueError("a bug in [/some/where]")
        tune.report({"epoch": 1, "loss": float(len(name))})

    return trial


def test_a_trial_that_is_killed_is_begun_again_and_one_that_always_is_marked(tmp_path: Path, ray_session: None) -> None:
    names = ["well", "killed once", "always killed", "broken"]
    attempts = tmp_path / "attempts"
    attempts.mkdir()
    search = Search(
        name="trials",
        space={"name": Choice(*names)},
        metrics=("loss",),
        num_trials=len(names),
        points=[{"name": name} for name in names],
    )
    plan = WorkerScaling(num_workers=2, cpus_per_worker=1, use_gpu=False)
    told: list[Any] = []

    def describe(ended: TrialResult) -> str:
        told.append(ended)
        return ""

    trials = run_search(search, trainable(attempts), plan, str(tmp_path / "study"), StudyOptions(), describe=describe)
    found = {ended.point["name"]: ended for ended in trials}
    assert {name: found[name].state for name in names} == dict(
        zip(names, ["finished", "finished", "failed", "failed"], strict=True)
    )
    assert "memory" in str(found["always killed"].problem) and "a bug in [/some/where]" in str(found["broken"].problem)
    assert {name: len((attempts / name).read_text()) for name in names} == {
        "well": 1,
        "killed once": 2,
        "always killed": RESTARTS + 1,
        "broken": 1,
    }
    assert {ended.point["name"] for ended in told} == {"well", "killed once"}


def test_a_search_that_goes_on_takes_trials_that_went_wrong_for_the_worst() -> None:
    search = Search(name="trials", space={"lr": Range(0.0, 1.0)}, metrics=("loss",), num_trials=4)
    before = [
        TrialResult(trial=state, point={"lr": 0.5}, state=state, rows=[{"loss": 5.0}])
        for state in ("finished", "stopped", "diverged", "failed")
    ]
    study = _optuna(search, before, [], 0)._ot_study
    assert study is not None and [trial.value for trial in study.trials] == [5.0, 5.0, PENALTY, PENALTY]
