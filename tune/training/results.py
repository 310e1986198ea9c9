"""Tables, best settings and page of a training study."""

from typing import Any

from cluster import storage
from soundstorm.errors import SoundStormError
from soundstorm.reports.study_page import Curve, StudyData
from tune.search.results import (
    importances,
    now,
    trial_row,
    versions,
    write_best,
    write_page,
    write_trials,
)
from tune.search.runner import Search
from tune.search.trial_journal import TrialResult
from tune.training.beginning import TRIALS, Options, Start
from tune.training.trial import (
    FOLLOWS,
    applied,
    checkpoint_uri,
)


def write_results(
    options: Options, begin: Start, trials: list[TrialResult], settings: dict[str, Any]
) -> dict[str, Any]:
    """Write tables, best settings and page; returns the counts for the record."""
    order = {"finished": 0, "stopped": 1}
    trials = sorted(trials, key=lambda ended: (order.get(ended.state, 2), ended.last.get("val_loss", float("inf"))))
    names = list(begin.space)
    rows = [trial_row(ended, names, ("val_loss", "train_loss")) | {"seconds": _seconds(ended)} for ended in trials]
    write_trials(options.output_dir, rows, {"study": "training", "preset": options.preset})
    best = trials[0]
    if best.state != "finished":
        reasons = "; ".join(sorted({ended.problem for ended in trials if ended.problem})[:3]) or "see trials.csv"
        raise SoundStormError(
            f"no trial of {len(trials)} reached its last epoch ({reasons}): search other values with --space"
        )
    write_best(options.output_dir, best_content(options, begin, best))
    epochs = sum(len(ended.rows) for ended in trials)
    states = {
        state: sum(ended.state == state for ended in trials) for state in ("finished", "stopped", "diverged", "failed")
    }
    write_page(options.output_dir, _page(options, begin, trials, rows, states, settings))
    return {
        "trials": len(trials),
        "epochs": epochs,
        **states,
        "val_loss": best.last["val_loss"],
        "best": best.point,
        "seconds": sum(map(_seconds, trials)),
    }


def _page(
    options: Options,
    begin: Start,
    trials: list[TrialResult],
    rows: list[dict[str, Any]],
    states: dict[str, int],
    settings: dict[str, Any],
) -> StudyData:
    """Content of the report; `trials` and their `rows` are sorted, the best first, and `states` counts the trials by
    state."""
    best, epochs, names = trials[0], sum(len(ended.rows) for ended in trials), list(begin.space)
    rung = Search(
        name=TRIALS, space=begin.space, metrics=("val_loss",), num_trials=len(trials), epochs=begin.training.epochs
    ).first_rung
    early = [(ended.point, float(ended.rows[rung - 1]["val_loss"])) for ended in trials if len(ended.rows) >= rung]
    found = importances(begin.space, early)
    return StudyData(
        title="Training study",
        generated_at=now(),
        summary=[
            (
                "Lowest loss",
                f"{best.last['val_loss']:.3f} nats",
                f"on fold {begin.tokens.fold}, which chose it: report results on another",
            ),
            ("Trials", f"{len(trials)}", ", ".join(f"{count} {state}" for state, count in states.items() if count)),
            (
                "Epochs",
                f"{epochs} of {len(trials) * begin.training.epochs}",
                "run, of those that all trials would have had without early stopping",
            ),
        ],
        metric="Validation loss (nats)",
        names=names,
        rows=rows,
        value="val_loss",
        best=best.trial,
        curves=[
            Curve(
                ended.trial, [row["epoch"] for row in ended.rows], [row["val_loss"] for row in ended.rows], ended.state
            )
            for ended in trials
            if ended.rows
        ],
        importances=found,
        importances_note=f"Of the loss after epoch {rung}, which every trial reached: later losses are only known of "
        "trials that were let go on.",
        best_settings=best.point,
        command=f"soundstorm train --tokens {options.tokens} --config {storage.join(options.output_dir, 'best.json')}"
        + (f" --checkpoint {options.checkpoint}" if options.checkpoint else "")
        + (f" --num-workers {options.num_workers}" if options.num_workers > 1 else ""),
        settings=settings | {"versions": versions()},
    )


def best_content(options: Options, begin: Start, best: TrialResult) -> dict[str, Any]:
    """Content of best.json for a trial: everything that `train --config` needs to reproduce it."""
    model, training = applied(best.point, begin.model, begin.training)
    return {
        "study": "training",
        "preset": options.preset,
        "fold": begin.tokens.fold,
        "threads": best.last["threads"],
        "num_workers": options.num_workers,
        **({"started_from": options.checkpoint} if options.checkpoint else {}),
        "trial": best.trial,
        "val_loss": best.last["val_loss"],
        "checkpoint": checkpoint_uri(options.output_dir, best.point),
        "searched": best.point,
        "model": {name: value for name, value in model.to_dict().items() if name not in FOLLOWS},
        "training": training.to_dict(),
    }


def _seconds(ended: TrialResult) -> float:
    return float(sum(row["seconds"] for row in ended.rows))
