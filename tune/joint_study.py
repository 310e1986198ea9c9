"""`soundstorm tune joint`: search of learning rate and iterations together, as in the earlier study of environmental
sound.

The training study runs first; the networks of its best trials are then compared in a decoding study. A lower loss alone
does not mean better sound: this study judges the trials by the sound that they generate.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from cluster import storage
from jobs.actors.job_precision import JobPrecision, job_precision
from jobs.console.command import exit_process, run_command
from jobs.console.options import Count, OneOf
from jobs.console.resume import run_once
from jobs.inputs.classifiers import open_reranker
from jobs.inputs.clips import fingerprint_of_clips
from jobs.inputs.codecs import choose_codec
from soundstorm.model.presets import PRESETS
from tune import training_study
from tune.decoding.reference import choose_real, prepare_study_inputs
from tune.decoding.results import About, summary_line, write_decoding
from tune.decoding.search import DecodingStudyOptions, check_decoding_space, default_space, run_decoding, wants_reranker
from tune.search.options import check_resumable
from tune.search.results import study_stage
from tune.search.space import Space, describe_space, load_space
from tune.search.trial_journal import Journal, TrialResult
from tune.training.beginning import TRIALS, Start, prepare
from tune.training.beginning import Options as TrainingOptions
from tune.training.results import best_content
from tune.training.trial import checkpoint_uri

STAGE = "tune"
TRAINING = "training"


@dataclass(kw_only=True)
class Options(DecodingStudyOptions):
    """Search training first, then the decoding of the best networks that came out."""

    tokens: str = "runs/tokens"
    """Output folder of `tokenize`, a path or s3:// URI."""
    output_dir: str = "runs/tune-joint"
    """Folder or s3:// prefix for training/ (a whole training study), trials.parquet, trials.csv, best.json, best.toml
    and report.html."""
    preset: Annotated[str, OneOf(PRESETS)] = "tiny"
    """Network and training that the search starts from: reference, small, hearing, tiny or faults."""
    epochs: Count | None = None
    """Epochs of a trial that is not stopped early; default: the preset's."""
    batch_size: Count | None = None
    """Clips per step and worker; default: the preset's."""
    best: Count = 3
    """Number of networks of the training study, those with the lowest loss, that are passed on."""
    decoding_trials: Count = 24
    """Decoding settings to try beside the curves."""
    decoding_space: str | None = None
    """Python file like that of --space, for the decoding; --space is for the training."""


def run(options: Options) -> dict[str, Any]:
    """Run both studies, or what is missing of them; returns the best settings, their distance from real clips and their
    cost."""
    storage.check_writable(options.output_dir)
    check_resumable(options.output_dir, STAGE, options.resume)
    home = storage.join(options.output_dir, TRAINING)
    given: dict[str, Any] = {
        "tokens": storage.absolute(options.tokens),
        "preset": options.preset,
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "fold": options.fold,
        "num_trials": options.num_trials,
        "seed": options.seed,
    }
    shared: dict[str, Any] = {
        "space": options.space,
        "max_concurrent": options.max_concurrent,
        "log_to": options.log_to,
        "address": options.address,
    }
    training = TrainingOptions(output_dir=home, **shared, **given)
    begin = prepare(training)  # the inputs of the second half are checked before the first, which takes longer
    options = replace(options, fold=begin.tokens.fold)  # both halves leave out one fold
    levels = begin.tokens.fingerprint.num_levels
    space = load_space(options.decoding_space, default_space(levels), "--decoding-space")
    check_decoding_space(space, begin.sampler, levels)
    real = choose_real(options, begin.tokens.categories)
    listener = None
    if wants_reranker(space) or begin.sampler.candidates > 1:
        listener = open_reranker(options.listener, [begin.tokens.categories[label] for label in real.labels])
    choose_codec(options.codec, begin.tokens.fingerprint, begin.tokens.uri)
    settings = _settings(options, begin, given, space, listener, fingerprint_of_clips(real.clips))

    def work(settings: dict[str, Any], precision: JobPrecision) -> dict[str, Any]:
        training_study.run(training)
        networks = best_networks(Journal(storage.join(home, TRIALS, "journal")).ended(), options.best)
        inputs = prepare_study_inputs(
            options, {ended.trial: checkpoint_uri(home, ended.point) for ended in networks}, wants_reranker(space)
        )
        decoding = replace(options, num_trials=options.decoding_trials)
        found = run_decoding(decoding, inputs, space, options.output_dir, precision)
        chosen = next(ended for ended in networks if ended.trial == found.best["checkpoint"])
        command, extra = _chosen(training, begin, home, chosen)
        about = About(
            name="joint",
            extra=extra,
            command=command.format(best=storage.join(options.output_dir, "best.json")),
            settings=settings,
            tiles=_tiles(chosen),
        )
        return write_decoding(options.output_dir, found, inputs, space, about)

    with job_precision(options.precision, options, STAGE) as precision:
        settings |= precision.settings
        stage = study_stage(STAGE, options, settings, TRAINING)
        return run_once(stage, partial(work, settings, precision), partial(_summary, options))


def _settings(
    options: Options,
    begin: Start,
    given: dict[str, Any],
    space: Space,
    listener: bytes | None,
    real_clips: str,
) -> dict[str, Any]:
    """Settings for the record: `given` for the training, `space` and `listener` for the decoding."""
    return {
        "study": "joint",
        TRAINING: given | {"space": describe_space(begin.space), "tokens_made": begin.tokens.made},
        "best": options.best,
        "decoding_trials": options.decoding_trials,
        "decoding_space": describe_space(space),
        "codec_sha256": begin.tokens.fingerprint.sha256,
        "listener_sha256": None if listener is None else hashlib.sha256(listener).hexdigest(),
        "real_clips": real_clips,
        "dataset": options.dataset,
        "data_dir": storage.absolute(options.location),
        "curve_iterations": options.curve_iterations,
        "curve_seeds": options.curve_seeds,
        "clips_per_class": options.clips_per_class,
        "real_per_class": options.real_per_class,
        "duration_s": options.duration,
    }


def best_networks(trials: list[TrialResult], count: int) -> list[TrialResult]:
    """The finished trials with the lowest loss, at most `count`, the best first."""
    finished = sorted(
        (ended for ended in trials if ended.state == "finished"), key=lambda ended: ended.last["val_loss"]
    )
    return finished[:count]


def _tiles(chosen: TrialResult) -> list[tuple[str, str, str]]:
    if "lr" not in chosen.point:
        return []
    return [("Learning rate", f"{chosen.point['lr']:.3g}", f"loss {chosen.last['val_loss']:.3f}")]


def _chosen(training: TrainingOptions, begin: Start, home: str, chosen: TrialResult) -> tuple[str, dict[str, Any]]:
    """The command that uses the chosen network, and its entries in best.json."""
    content = best_content(training, begin, chosen)
    return f"soundstorm generate --checkpoint {checkpoint_uri(home, chosen.point)} --config {{best}}", {
        **{
            name: content[name] for name in ("preset", "fold", "threads", "val_loss", "checkpoint", "model", "training")
        },
        "trained": chosen.point,
    }


def _summary(options: Options, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    best = storage.join(options.output_dir, "best.json")
    return {
        "message": summary_line(options.output_dir, counts, prefix),
        "output_dir": options.output_dir,
        "best_config": best,
        **counts,
    }


if __name__ == "__main__":
    exit_process(run_command(Options, run))
