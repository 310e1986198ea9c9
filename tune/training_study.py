"""`soundstorm tune training`: search the settings of training with Ray Tune; Optuna proposes them, ASHA stops the
trials that fall behind.

A trial is one process that runs the same epochs as `soundstorm train` with one worker, or a run of Ray Train with
--num-workers; all trials
share one copy of the tokens in the object store. Settings are chosen by the loss on the fold held out, so that fold's
loss flatters them: report results on another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import tune
from torch import Tensor

from cluster import storage
from cluster.runtime.connect import connect
from cluster.runtime.ray_data import quiet_ray_data
from cluster.tables import stage_record as records
from jobs.console.command import console, leave, start
from jobs.console.resume import told_again
from jobs.inputs.checkpoints import checkpoint_files, open_checkpoint
from jobs.inputs.codecs import choose_codec
from jobs.inputs.tokens import Tokens, open_tokens
from jobs.training.generator_loop import first_weights, network_for
from jobs.training.ray_trainer import WorkerPlan, plan_workers
from soundstorm.errors import SoundStormError
from soundstorm.model.checkpoints import Checkpoint
from soundstorm.model.presets import PRESETS, ModelConfig, SamplerSettings, TrainingConfig, preset
from soundstorm.reports.page import decimal
from soundstorm.reports.study_page import Curve, StudyData
from tune.search.results import (
    OUTPUTS,
    all_there,
    importances,
    now,
    trial_row,
    versions,
    write_best,
    write_page,
    write_trials,
)
from tune.search.runner import Search, StudyOptions, plan_trials, require_begun, require_least, run_search
from tune.search.space import Choice, Range, Space, check_space, load_space, spans_of
from tune.search.trial_journal import Ended, Journal
from tune.training.distributed_trial import trial_on_workers, workers_end_with_their_run
from tune.training.trial import (
    FIGURES,
    FOLLOWS,
    MODEL_NAMES,
    STATES,
    TRAINING_NAMES,
    Base,
    applied,
    checkpoint_uri,
    trial,
)

STAGE = "tune"
TRIALS = "trials"


@dataclass(kw_only=True)
class Options(StudyOptions):
    """Search learning rate, schedule, dropout, mask spans, width and depth with Ray Tune (Optuna and ASHA)."""

    tokens: str = "runs/tokens"
    """Output folder of `tokenize`, a path or s3:// URI."""
    output_dir: str = "runs/tune"
    """Folder or s3:// prefix for trials.parquet, trials.csv, best.json, best.toml, report.html and the trials'
    networks."""
    preset: str = "tiny"
    """Network and training that the search starts from: reference, small, hearing, tiny or faults."""
    checkpoint: str | None = None
    """Checkpoint folder or URI that every trial starts from; its architecture is used."""
    fold: int | None = None
    """The fold that trials are validated with; default: the dataset's last."""
    epochs: int | None = None
    """Epochs of a trial that is not stopped early; default: the preset's."""
    batch_size: int | None = None
    """Clips per step and worker; default: the preset's."""
    num_workers: int = 1
    """Training processes of each trial; more than one makes it a distributed run of Ray Train."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset not in PRESETS:
            raise SoundStormError(f"--preset is '{self.preset}': give one of {', '.join(PRESETS)}")
        for option in ("epochs", "batch_size", "num_workers"):
            require_least(option, getattr(self, option), 1)


@dataclass(kw_only=True, frozen=True)
class Start:
    """What the trials start from, and what they search."""

    tokens: Tokens
    model: ModelConfig
    training: TrainingConfig
    space: Space
    sampler: SamplerSettings
    """Of the networks that come out."""
    weights: dict[str, Tensor] | None
    checkpoint_sha256: str | None
    generator: Checkpoint | None
    """Where the weights are from; None: they are random."""


def default_space(config: TrainingConfig, model: ModelConfig, fixed_network: bool) -> Space:
    """Values around a preset: learning rate within a factor of 10, schedule, warm-up, dropout, spans; width and depth
    up to half as much again."""
    space: dict[str, Range | Choice] = {
        "lr": Range(config.lr / 10, config.lr * 10, is_log=True),
        "schedule": Choice("onecycle", "cosine", "trapezoid"),
        "warmup_share": Range(0.02, 0.4, is_log=True),
        "dropout": Range(0.0, 0.3),
        "span_share": Range(0.0, 0.6),
    }
    if not fixed_network:
        unit = 2 * model.heads
        space["width"] = Choice(*(max(unit, round(model.width * share / unit) * unit) for share in (0.75, 1.0, 1.5)))
        space["depth"] = Range(max(1, model.depth // 2), max(2, model.depth + model.depth // 2), is_whole=True)
    return space


def prepare(options: Options) -> Start:
    """Read the tokens and the space, and refuse what cannot be tried."""
    tokens = open_tokens(options.tokens, options.fold)
    base = preset(options.preset)
    given: dict[str, Any] = {"seed": options.seed, "epochs": options.epochs, "batch_size": options.batch_size}
    config = replace(
        base.training.at_frame_rate(tokens.fingerprint.frame_rate),
        **{name: value for name, value in given.items() if value is not None},
    )
    origin = (
        None
        if options.checkpoint is None
        else open_checkpoint(checkpoint_files(options.checkpoint), uri=options.checkpoint)
    )
    if origin is not None:
        tokens.fingerprint.require_equal(origin.fingerprint, tokens.uri)
    wanted = origin.model.config if origin else base.model.at_most(tokens.fingerprint.num_levels)
    codec = choose_codec(None, tokens.fingerprint, tokens.uri)[1] if wanted.centroids and origin is None else None
    model = network_for(wanted, tokens, codec)
    space = load_space(options.space, default_space(config, model, origin is not None))
    allowed = [*TRAINING_NAMES, *(MODEL_NAMES if origin is None else ("dropout",))]
    check_space(space, allowed, lambda point: applied(point, model, config))
    weights = first_weights(model, config.seed, tokens, origin, codec)
    return Start(
        tokens=tokens,
        model=model,
        training=config,
        space=space,
        sampler=origin.sampler if origin else base.sampler,
        weights=weights,
        checkpoint_sha256=origin.sha256 if origin else None,
        generator=origin,
    )


def run(options: Options) -> dict[str, Any]:
    """Run the study, or what is missing of it; returns the best settings and their loss."""
    storage.check_writable(options.output_dir)
    require_begun(options.output_dir, STAGE, options.resume)
    begin = prepare(options)
    settings = {
        "study": "training",
        "tokens": storage.absolute(options.tokens),
        "tokens_made": begin.tokens.made,
        "fold": begin.tokens.fold,
        "preset": options.preset,
        "architecture": begin.model.to_dict(),
        "training": begin.training.to_dict(),
        "checkpoint_sha256": begin.checkpoint_sha256,
        "space": spans_of(begin.space),
        "num_workers": options.num_workers,
    }
    record = records.begin(options.output_dir, STAGE, settings, overwrite=options.overwrite, outputs=OUTPUTS)
    if record is not None and record.counts.get("trials", 0) >= options.num_trials and all_there(options.output_dir):
        return told_again(options.output_dir, STAGE, lambda: _summary(options, record.counts, "already done: "))
    trials = _search(options, begin)
    storage.delete(storage.join(options.output_dir, STATES))  # of trials that were stopped early
    counts = _write_results(options, begin, trials, settings | {"num_trials": options.num_trials})
    records.finish(options.output_dir, STAGE, settings, counts)
    return _summary(options, counts, "")


def _search(options: Options, begin: Start) -> list[Ended]:
    """The trials."""
    training, validation = begin.tokens.split()
    with connect(options.address) as info:
        search = Search(
            name=TRIALS,
            space=begin.space,
            metrics=("val_loss",),
            figures=FIGURES,
            num_trials=options.num_trials,
            epochs=begin.training.epochs,
            stops_early=options.num_workers == 1 or workers_end_with_their_run(),
        )
        if not search.stops_early:
            console.print(
                "[yellow]note:[/] no trial is stopped early: without Ray's dashboard the CPUs of its workers would "
                "not be free again",
                highlight=False,
            )
        if options.num_workers > 1:
            each = plan_workers(options.num_workers, "auto", info)
            total = int(info.num_gpus) if each.use_gpu else int(info.num_cpus)
            at_a_time = min(
                options.max_concurrent or total,
                max(1, total // (options.num_workers * (1 if each.use_gpu else each.cpus_per_worker))),
            )
            plan = WorkerPlan(num_workers=at_a_time, cpus_per_worker=each.cpus_per_worker, use_gpu=each.use_gpu)
        else:
            each = plan = plan_trials(options, info, options.num_trials)
        console.print(
            f"tune: {options.num_trials} trials of {begin.training.epochs} epochs on {len(training)} clips, "
            f"{plan.num_workers} at a time, each {each}"
            if options.num_workers > 1
            else f"tune: {options.num_trials} trials of {begin.training.epochs} epochs on {len(training)} clips, "
            f"{plan.num_workers} at a time with "
            f"{plan.cpus_per_worker} "
            f"CPU{'s' if plan.cpus_per_worker > 1 else ''}{' and a GPU' if plan.use_gpu else ''} each",
            highlight=False,
        )
        base = Base.of(
            begin.tokens,
            model=begin.model,
            training=begin.training,
            sampler=begin.sampler,
            folder=storage.absolute(options.output_dir),
            cpus=plan.cpus_per_worker,
            generator=begin.generator,
        )
        resources = None
        if options.num_workers > 1:
            quiet_ray_data()
            trainable = tune.with_parameters(
                trial_on_workers,
                tokens=ray.data.from_arrow(begin.tokens.table),
                base=base,
                weights=begin.weights,
                plan=each,
            )
            resources = {
                "memory": 1.0
            }  # one byte: what the trial's own process needs is beside what its workers reserve
        else:
            trainable = tune.with_parameters(
                trial, training=training, validation=validation, base=base, weights=begin.weights
            )
        describe = _describer(
            begin.training.epochs, Journal(storage.join(options.output_dir, TRIALS, "journal")).ended()
        )
        return run_search(search, trainable, plan, options.output_dir, options, describe=describe, resources=resources)


def _describer(epochs: int, before: Sequence[Ended]) -> Any:
    """Says of each trial what it reached and what the best so far has."""
    finished = [ended.last["val_loss"] for ended in before if ended.state == "finished"]

    def describe(ended: Ended) -> str:
        if ended.state == "finished":
            finished.append(ended.last["val_loss"])
        best = f"best {min(finished):.3f}" if finished else "none has finished yet"
        return f"val {ended.last.get('val_loss', float('nan')):.3f} after {len(ended.rows)} of {epochs} epochs  {best}"

    return describe


def _write_results(options: Options, begin: Start, trials: list[Ended], settings: dict[str, Any]) -> dict[str, Any]:
    """Write tables, best settings and page; returns the counts for the record."""
    order = {"finished": 0, "stopped": 1}
    trials = sorted(trials, key=lambda ended: (order.get(ended.state, 2), ended.last.get("val_loss", float("inf"))))
    names = list(begin.space)
    rows = [trial_row(ended, names, ("val_loss", "train_loss")) | {"seconds": _seconds(ended)} for ended in trials]
    write_trials(options.output_dir, rows, {"study": "training", "preset": options.preset})
    best = trials[0]
    if best.state != "finished":
        told = "; ".join(sorted({ended.problem for ended in trials if ended.problem})[:3]) or "see trials.csv"
        raise SoundStormError(
            f"no trial of {len(trials)} ran to its last epoch ({told}): search other values with --space"
        )
    write_best(options.output_dir, best_content(options, begin, best))
    rung = Search(
        name=TRIALS, space=begin.space, metrics=("val_loss",), num_trials=len(trials), epochs=begin.training.epochs
    ).first_rung
    early = [(ended.point, float(ended.rows[rung - 1]["val_loss"])) for ended in trials if len(ended.rows) >= rung]
    epochs = sum(len(ended.rows) for ended in trials)
    states = {
        state: sum(ended.state == state for ended in trials) for state in ("finished", "stopped", "diverged", "failed")
    }
    found = importances(begin.space, early)
    page = StudyData(
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
    write_page(options.output_dir, page)
    return {
        "trials": len(trials),
        "epochs": epochs,
        **states,
        "val_loss": best.last["val_loss"],
        "best": best.point,
        "seconds": sum(map(_seconds, trials)),
    }


def best_content(options: Options, begin: Start, best: Ended) -> dict[str, Any]:
    """What best.json says of a trial: all that `train --config` needs to do the same."""
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


def _seconds(ended: Ended) -> float:
    return float(sum(row["seconds"] for row in ended.rows))


def _summary(options: Options, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    best = storage.join(options.output_dir, "best.json")
    found = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in counts["best"].items()
    )
    marked = "".join(f", {counts[state]} {state}" for state in ("diverged", "failed") if counts[state])
    trials = f"{counts['trials']} trials ({counts['stopped']} stopped early{marked})"
    message = f"{prefix}{best}: {found} gave the lowest loss of {trials}, {decimal(counts['val_loss'], 3)} nats"
    return {"message": message, "output_dir": options.output_dir, "best_config": best, **counts}


if __name__ == "__main__":
    leave(start(Options, run))
