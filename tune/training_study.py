"""Search the training settings with Ray Tune: Optuna proposes them, ASHA stops the trials that fall behind.

A trial is one process that runs the same epochs as `soundstorm train` with one worker; all trials share one copy of the tokens in the
object store. Settings are chosen by the loss on the fold held out, so that fold's loss flatters them: report results on another.
"""

import csv
import io
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import optuna
import pyarrow as pa
import torch
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from cluster import records, storage
from cluster.connect import ClusterInfo, connect
from cluster.tables import write_table
from jobs.entry import console, leave, start
from jobs.finished import told_again
from jobs.tokens import Tokens, TokenSet, open_tokens
from jobs.train import network_for
from jobs.trainer import use_threads
from jobs.training_run import TrainingRun
from soundstorm.errors import SoundStormError
from soundstorm.presets import PRESETS, ModelConfig, TrainingConfig, preset
from tune.space import Range, check_space, training_space

STAGE = "tune"
OUTPUTS = ("trials", "trials.parquet", "trials.csv", "best.json")
REDUCTION_FACTOR = 3
"""ASHA lets the best third of the trials that reach a rung go on."""


@dataclass(kw_only=True)
class Options:
    """Search learning rate, warm-up and span masking with Ray Tune (Optuna and ASHA)."""

    tokens: str = "runs/tokens"
    """Output folder of `tokenize`, a path or s3:// URI."""
    output_dir: str = "runs/tune"
    """Folder or s3:// prefix for trials.parquet, trials.csv, best.json and tune.json."""
    preset: str = "tiny"
    """Network and training that the search starts from: reference, small or tiny."""
    fold: int | None = None
    """The fold that trials are validated with; default: the dataset's last."""
    num_trials: int = 8
    """Settings to try."""
    max_concurrent: int | None = None
    """Trials at a time; default: one per GPU, or one per CPU."""
    epochs: int | None = None
    """Epochs of a trial that is not stopped early; default: the preset's."""
    batch_size: int | None = None
    """Clips per step; default: the preset's."""
    seed: int = 0
    """Seed of the search and of every trial's order, crops, masks and initial weights."""
    overwrite: bool = False
    """Start afresh, whatever the output folder holds."""
    address: str | None = None
    """Ray cluster to join; default: start one here."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise SoundStormError(f"--preset is '{self.preset}': give one of {', '.join(PRESETS)}")
        for option in ("num_trials", "max_concurrent", "epochs", "batch_size"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise SoundStormError(f"--{option.replace('_', '-')} is {value}: give at least 1")
        if self.seed < 0:
            raise SoundStormError(f"--seed is {self.seed}: give 0 or more")


def run(options: Options) -> dict[str, Any]:
    """Run the study; returns the best settings and their loss. One that was cut short begins anew."""
    storage.check_writable(options.output_dir)
    tokens = open_tokens(options.tokens, options.fold)
    base = preset(options.preset)
    given: dict[str, Any] = {"seed": options.seed, "epochs": options.epochs, "batch_size": options.batch_size}
    config = replace(base.training, **{name: value for name, value in given.items() if value is not None})
    space = training_space(config)
    check_space(space)
    settings = {
        "tokens": storage.absolute(options.tokens),
        "tokens_made": tokens.made,
        "fold": tokens.fold,
        "preset": options.preset,
        "training": config.to_dict(),
        "num_trials": options.num_trials,
    }
    record = records.begin(options.output_dir, STAGE, settings, overwrite=options.overwrite, outputs=OUTPUTS)
    if record is not None:
        return told_again(options.output_dir, STAGE, lambda: _summary(options, record.counts, "already done: "))
    storage.delete(storage.join(options.output_dir, "trials"))
    rows = _search(options, tokens, network_for(base.model, tokens), config, space)
    counts = _write_results(options, rows, config, list(space), tokens.fold)
    records.finish(options.output_dir, STAGE, settings, counts)
    return _summary(options, counts, "")


def _summary(options: Options, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    best = storage.join(options.output_dir, "best.json")
    found = ", ".join(f"{name} {value:.3g}" for name, value in counts["best"].items())
    trials = f"{counts['trials']} trials ({counts['stopped']} stopped early)"
    message = f"{prefix}{best}: {found} gave the lowest loss of {trials}, {counts['val_loss']:.3f} nats"
    return {"message": message, "output_dir": options.output_dir, "best_config": best, **counts}


def _search(options: Options, tokens: Tokens, architecture: ModelConfig, config: TrainingConfig, space: dict[str, Range]) -> list[dict[str, Any]]:
    """One row a trial."""
    training, validation = tokens.split()
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its tables would come between the lines of `_Progress`
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends the study, not only the trial at hand
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with connect(options.address) as info:
        concurrent, resources = _resources(options, info)
        console.print(
            f"tune: {options.num_trials} trials of {config.epochs} epochs on {len(training)} clips, {concurrent} at a time with "
            f"{resources['cpu']:g} CPU{' and a GPU' if 'gpu' in resources else ''} each",
            highlight=False,
        )
        trainable = tune.with_parameters(
            trial, training=training, validation=validation, architecture=architecture.to_dict(), config=config.to_dict(), cpus=int(resources["cpu"])
        )
        filesystem, path = storage.filesystem(options.output_dir)
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space={name: span.domain() for name, span in space.items()},
            tune_config=tune.TuneConfig(
                metric="val_loss",
                mode="min",
                num_samples=options.num_trials,
                max_concurrent_trials=concurrent,
                search_alg=OptunaSearch(seed=options.seed),
                scheduler=ASHAScheduler(
                    time_attr="epoch", max_t=config.epochs, grace_period=max(1, config.epochs // 5), reduction_factor=REDUCTION_FACTOR
                ),
                trial_dirname_creator=_name,
                reuse_actors=True,  # importing PyTorch takes longer than a short trial
            ),
            run_config=tune.RunConfig(
                name="trials", storage_path=path, storage_filesystem=filesystem, verbose=0, callbacks=[_Progress(options.num_trials, config.epochs)]
            ),
        )
        results = tuner.fit()
        return [_row(result, config.epochs, list(space)) for result in results]


def _resources(options: Options, info: ClusterInfo) -> tuple[int, dict[str, float]]:
    """Trials at a time, and what each reserves."""
    slots = max(1, int(info.num_gpus) or int(info.num_cpus))
    concurrent = min(options.max_concurrent or slots, slots, options.num_trials)
    cpus = max(1, int(info.num_cpus) // max(concurrent * info.nodes, concurrent))
    return concurrent, {"cpu": float(cpus)} | ({"gpu": 1.0} if info.num_gpus else {})


def _name(trial_: Trial) -> str:
    return str(trial_.trial_id)


class _Progress(tune.Callback):
    """One line for each trial that ends."""

    def __init__(self, num_trials: int, epochs: int) -> None:
        self.num_trials, self.epochs, self.ended, self.best = num_trials, epochs, 0, math.inf

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        last = trial.last_result
        loss = last.get("val_loss", math.nan)
        if last.get("epoch") == self.epochs:
            self.best = min(self.best, loss)
        point = "  ".join(f"{name} {value:.3g}" for name, value in trial.config.items())
        self._show(f"{point}  val {loss:.3f} after {last.get('epoch', 0)} of {self.epochs} epochs  best {self.best:.3f}")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._show(f"[yellow]failed[/], see {trial.error_file}")

    def _show(self, text: str) -> None:
        self.ended += 1
        console.print(f"trial {self.ended}/{self.num_trials}  {text}", highlight=False)


# ---- a trial


def trial(point: dict[str, float], training: TokenSet, validation: TokenSet, architecture: dict[str, Any], config: dict[str, Any], cpus: int) -> None:
    """Train with the settings `point` in place of those of `config`, reporting each epoch to Ray Tune."""
    use_threads(cpus)
    run_trial(point, training, validation, architecture, config, tune.report)


def run_trial(
    point: dict[str, float],
    training: TokenSet,
    validation: TokenSet,
    architecture: dict[str, Any],
    config: dict[str, Any],
    report: Callable[[dict[str, Any]], None],
) -> None:
    """The epochs of a trial. One whose loss is no longer finite reports infinity and ends."""
    trainer = TrainingRun(
        ModelConfig.from_dict(architecture, "architecture"),
        TrainingConfig.from_dict(config | point, "trial"),
        training,
        validation,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )
    while not trainer.is_finished:
        try:
            row = trainer.run_epoch()
        except SoundStormError:
            report({"epoch": trainer.epochs_done + 1, "val_loss": math.inf, "train_loss": math.inf})
            return
        report({name: row[name] for name in ("epoch", "val_loss", "train_loss")})


# ---- results


def _row(result: Any, epochs: int, names: list[str]) -> dict[str, Any]:
    """A row of the table of trials from a result of Ray Tune."""
    metrics = result.metrics or {}
    epoch, val_loss = int(metrics.get("epoch", 0)), float(metrics.get("val_loss", math.inf))
    if result.error is not None or epoch == 0:
        state = "failed"
    elif not math.isfinite(val_loss):
        state = "diverged"
    else:
        state = "finished" if epoch >= epochs else "stopped"
    return {
        "trial": str(metrics.get("trial_id", "")),
        "state": state,
        "epochs": epoch,
        "val_loss": val_loss if math.isfinite(val_loss) else None,
        "train_loss": metrics.get("train_loss") if math.isfinite(val_loss) else None,
        "seconds": float(metrics.get("time_total_s", 0.0)),
        **{name: float(result.config[name]) for name in names},
    }


def _write_results(options: Options, rows: list[dict[str, Any]], config: TrainingConfig, names: list[str], fold: int) -> dict[str, Any]:
    """Write the tables of trials and the best settings; returns the counts for the record."""
    rows = sorted(rows, key=lambda row: (row["state"] != "finished", row["val_loss"] is None, row["val_loss"]))
    best = rows[0]
    columns = [("trial", pa.string()), ("state", pa.string()), ("epochs", pa.int32())]
    schema = pa.schema(columns + [(name, pa.float64()) for name in ("val_loss", "train_loss", "seconds", *names)])
    write_table(storage.join(options.output_dir, "trials.parquet"), pa.Table.from_pylist(rows, schema), {"preset": options.preset})
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=schema.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    storage.write_bytes(storage.join(options.output_dir, "trials.csv"), text.getvalue().encode())
    if best["state"] != "finished":
        states = ", ".join(sorted({row["state"] for row in rows}))
        raise SoundStormError(
            f"no trial ran to its last epoch ({states}); see {storage.join(options.output_dir, 'trials')}, and try lower learning rates"
        )
    found = {name: best[name] for name in names}
    same = {"epochs": config.epochs, "batch_size": config.batch_size, "seed": config.seed}
    content = {"preset": options.preset, "fold": fold, "trial": best["trial"], "val_loss": best["val_loss"], "training": found | same}
    storage.write_bytes(storage.join(options.output_dir, "best.json"), (json.dumps(content, indent=2) + "\n").encode())
    stopped = sum(row["state"] == "stopped" for row in rows)
    return {"trials": len(rows), "stopped": stopped, "epochs": sum(row["epochs"] for row in rows), "val_loss": best["val_loss"], "best": found}


if __name__ == "__main__":
    leave(start(Options, run))
