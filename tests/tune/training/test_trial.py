"""A trial of the training study by itself, without Ray."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cluster import storage
from jobs.inputs.tokens import open_tokens
from jobs.training.generator_recipe import GeneratorSettings, network_for
from soundstorm.errors import SoundStormError
from soundstorm.model.checkpoints import load_checkpoint
from soundstorm.model.config import ModelConfig, TrainingConfig
from soundstorm.model.presets import preset
from tune.search.failures import failure_reason
from tune.search.runner import PENALTY
from tune.search.trial_journal import Journal, TrialResult
from tune.training import trial as training_trial
from tune.training.trial import Base, applied, checkpoint_uri, run_trial

MODEL = ModelConfig(width=16, depth=1, heads=2)
TRAINING = TrainingConfig(batch_size=4, epochs=4, lr=1e-3)
POINT = {"lr": 3e-3, "dropout": 0.1}


class KilledError(Exception):
    """Stands for the end of a process."""


def trial(tokens: str, folder: Path, point: dict[str, Any], die_after: int | None = None) -> list[dict[str, Any]]:
    """What a trial of `point` reports."""
    chosen = open_tokens(tokens, None)
    settings = GeneratorSettings.of(chosen, network_for(MODEL, chosen), TRAINING, preset("tiny").sampler)
    base = Base(generator=settings, folder=str(folder))
    rows: list[dict[str, Any]] = []

    def report(row: dict[str, Any]) -> None:
        rows.append(row)
        if len(rows) == die_after:
            raise KilledError

    if die_after is None:
        run_trial(point, *chosen.split(), base, report)
    else:
        with pytest.raises(KilledError):
            run_trial(point, *chosen.split(), base, report)
    return rows


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_a_trial_that_was_killed_goes_on_to_the_same_numbers(
    tokens: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_trial, "SAVE_EVERY_S", 0.0)
    whole = trial(tokens, tmp_path / "whole", POINT)
    cut = trial(tokens, tmp_path / "cut", POINT, die_after=3)
    [state] = storage.list_objects(str(tmp_path / "cut" / "states"))
    again = trial(tokens, tmp_path / "cut", POINT)
    assert without_times(again) == without_times(whole)
    assert again[:3] == cut  # to the time that they took: these were not trained again
    assert not storage.exists(state.uri)
    found = load_checkpoint(Path(checkpoint_uri(str(tmp_path / "cut"), POINT)))
    assert (
        found.extra["val_loss"] == whole[-1]["val_loss"] and found.provenance == open_tokens(tokens, None).trained_on()
    )


def test_a_state_that_is_damaged_is_not_gone_on_with(
    tokens: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_trial, "SAVE_EVERY_S", 0.0)
    trial(tokens, tmp_path, POINT, die_after=2)
    [state] = storage.list_objects(str(tmp_path / "states"))
    storage.write_bytes(state.uri, storage.read_bytes(state.uri)[:1000])
    assert [row["epoch"] for row in trial(tokens, tmp_path, POINT)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("point", "state", "problem"),
    [
        ({"lr": 1e30, "warmup_share": 0.0}, "diverged", "gradient is"),
        ({"width": 24, "heads": 8}, "failed", "heads is 8"),
        ({"lr": -1.0}, "failed", "lr is -1.0"),
    ],
)
def test_a_trial_that_cannot_go_on_says_why(
    point: dict[str, Any], state: str, problem: str, tokens: str, tmp_path: Path
) -> None:
    last = trial(tokens, tmp_path, point)[-1]
    assert last["val_loss"] == PENALTY and last["state"] == state and problem in last["problem"]


def test_running_out_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert "out of memory" in str(failure_reason(caught.value)) and "fewer trials at a time" in str(
        failure_reason(caught.value)
    )
    assert "out of memory" in str(failure_reason(MemoryError()))
    assert failure_reason(SoundStormError("lr is 0")) == "lr is 0"
    assert failure_reason(RuntimeError("a bug")) is None


def test_a_point_changes_network_and_training() -> None:
    model, training = applied({"dropout": 0.2, "depth": 3, "lr": 0.5, "span_share": 0.4}, MODEL, TRAINING)
    assert (model.dropout, model.depth, model.width) == (0.2, 3, 16) and (
        training.lr,
        training.span_share,
        training.epochs,
    ) == (0.5, 0.4, 4)


def test_the_journal_knows_what_ended_and_what_did_not(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    assert journal.ended() == [] and journal.interrupted() == []
    done = TrialResult(
        trial="a_1",
        point={"lr": 0.1, "schedule": "cosine"},
        state="failed",
        rows=[{"epoch": 1, "val_loss": 4.25}],
        problem="why",
    )
    for point in (done.point, {"lr": 0.2}):
        journal.begin(point)
    journal.end(done)
    assert journal.ended() == [done] and journal.interrupted() == [{"lr": 0.2}]
    storage.write_bytes(str(tmp_path / "ended" / "b.json"), b'{"trial": "b"}')
    with pytest.raises(SoundStormError, match=r"b\.json: not the record of a trial"):
        journal.ended()
