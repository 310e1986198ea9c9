"""Compare generated with real sound: a pool of actors resamples every clip to one rate and measures it; a report shows
both side by side.

The report has three columns: real; real through the codec, the upper bound for any model with that codec; generated. A
further section compares the distributions, see `soundstorm.evaluation.closeness`. An interrupted run resumes.
"""

import hashlib
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from cluster.scheduling.abandonable import start_abandonable
from jobs.actors.evaluator import TABLES, evaluation_tables
from jobs.actors.job_precision import UNKNOWN, JobPrecision, job_precision
from jobs.actors.sharded_output import TableRun, settings_digest
from jobs.actors.substituter import EvaluatedGenerator, clips_to_substitute, find_generator, substitution_table
from jobs.actors.utility_trainer import UtilityClips, utility_clips, utility_table
from jobs.caching.result_cache import cache_folder
from jobs.console.command import exit_process, print_note, run_command
from jobs.console.resume import Stage, run_once
from jobs.evaluation.bands import common_bands
from jobs.evaluation.examples import PLAYERS_FOLDER, link_examples, read_log
from jobs.evaluation.measurement_cache import BaselineCache
from jobs.evaluation.options import Options
from jobs.evaluation.preparation import Prepared, prepare
from jobs.evaluation.report import ALL_FOLDS, Evaluation, render_evaluation, samples_made_with
from jobs.evaluation.resynthesis import Resynthesizer
from jobs.evaluation.selection import (
    ComparisonSets,
    MeasurementRequest,
    Model,
    choose_model,
    measurement_requests,
    select_comparison_sets,
)
from jobs.inputs.clips import Clip, clips_of_fold, draw_per_category, find_clips, fingerprint_of_clips, is_listed
from jobs.inputs.codecs import choose_codec, codec_of_samples
from jobs.inputs.outputs_apart import check_not_inside
from jobs.inputs.rejections import check_rejected_fraction
from soundstorm.audio.bands import Bands
from soundstorm.audio.files import SAMPLE_RATE
from soundstorm.codec.codec import Codec
from soundstorm.evaluation.closeness import closeness
from soundstorm.evaluation.closeness_result import Closeness
from soundstorm.evaluation.split_distances import Splits
from soundstorm.evaluation.summary import summarize

__all__ = ["Options", "run"]

STAGE = "evaluate"
OUTPUTS = (
    *(f"{name}.parquet" for name in (*TABLES, "substitution", "utility", "failed")),
    *("parts", "summary.json", "report.html", PLAYERS_FOLDER),
)


@dataclass(kw_only=True, frozen=True)
class Inputs:
    """Clips and weights of an evaluation."""

    real: list[Clip]
    generated: list[Clip]
    made_by_codec: bool
    """Whether the generated clips are the output of the codec, according to their manifest."""
    training_log: list[dict[str, Any]]
    weights: bytes
    """Weights of the codec."""
    codec: Codec
    scope: ComparisonSets | None
    """Clips that closeness compares; None without closeness."""
    common_bands: Bands | None
    """With --common-band."""
    generator: EvaluatedGenerator | None
    """Generator of the substitution test; None without it."""
    utility: UtilityClips | None
    """Clips of the utility test; None without it."""


def run(options: Options) -> dict[str, Any]:
    """Measure the clips that are missing, then compare and write the report."""
    _check_paths(options)
    inputs = _open_inputs(options)
    tables = (f"{name}.parquet" for name in TABLES if inputs.scope or name != "features")
    required = (*tables, "summary.json", "report.html")
    by_generator = job_precision(options.precision, options, STAGE) if inputs.generator else nullcontext(UNKNOWN)
    with by_generator as precision:
        settings = _settings(options, inputs) | precision.settings
        return run_once(
            Stage(STAGE, options, settings, OUTPUTS, required=required),
            lambda: _evaluate(options, inputs, settings_digest(settings), precision),
            partial(_summary, options),
        )


def _open_inputs(options: Options) -> Inputs:
    dataset = find_clips("--real-audio", options.real_audio)
    real = draw_per_category(
        clips_of_fold(dataset, options.fold, options.real_audio), options.clips_per_class, options.seed
    )
    generated = find_clips("--generated-audio", options.generated_audio)
    training_log = read_log(options.training_log)
    made_with, manifest = codec_of_samples(options.generated_audio)
    weights, codec = choose_codec(options.codec, made_with, manifest)
    scope = _scope(options, dataset, real, generated) if options.metrics == "all" else None
    return Inputs(
        real=real,
        generated=generated,
        made_by_codec=made_with is not None,
        training_log=training_log,
        weights=weights,
        codec=codec,
        scope=scope,
        common_bands=common_bands(real, generated, options.seed) if options.common_band else None,
        generator=find_generator(options.substitution, codec),
        utility=_utility_clips(options, dataset, generated, scope),
    )


def _evaluate(options: Options, inputs: Inputs, settings: str, precision: JobPrecision) -> dict[str, Any]:
    """Measure, compare and write tables and report; returns the counts. `settings` is the digest of the settings."""
    real, generated, scope = inputs.real, inputs.generated, inputs.scope
    items = measurement_requests(real, generated, scope, made_by_codec=inputs.made_by_codec)
    resynthesize = Resynthesizer(inputs.codec, _cache_folder(options))
    weights = (inputs.weights, *((scope.weights, scope.model) if scope else (None, None)))
    run = TableRun(
        output_dir=options.output_dir, address=options.address, settings=settings, num_actors=options.num_actors
    )
    prepared = start_abandonable(lambda: prepare(options, real, generated, inputs.common_bands, resynthesize))
    low_pass_hz = inputs.common_bands.common_band_hz if inputs.common_bands else None
    metrics, pairs, features, rejected = _measure(run, options, items, weights, low_pass_hz)
    shown = prepared.result()
    reasons = check_rejected_fraction(
        [rejected],
        len(items),
        options.max_rejected,
        problem="cannot be measured",
        named_by="uri",
        remedy="fix or remove them and run again with --overwrite",
    )
    unusable = set(rejected["uri"].to_pylist())
    evaluation = Evaluation(
        real=[clip for clip in real if clip.uri not in unusable],
        generated=[clip for clip in generated if clip.uri not in unusable],
        codec=inputs.codec,
        scope=scope,
        metrics=metrics,
        pairs=pairs,
        features=features,
        rejected=rejected,
        reasons=reasons,
        summary=summarize(metrics, pairs),
        closeness=_closeness(options, scope, inputs.codec, features) if scope else None,
        substitution=_substitution(run, options, inputs, precision),
        utility=_utility(run, options, inputs.utility),
        bands=shown.bands,
    )
    evaluation.write(options.output_dir)
    page = _report(options, evaluation, shown, inputs.training_log)
    storage.write_bytes(storage.join(options.output_dir, "report.html"), page.encode())
    if evaluation.bands.note:
        print_note(evaluation.bands.note)
    return evaluation.counts


def _check_paths(options: Options) -> None:
    for option, uri in (("--real-audio", options.real_audio), ("--generated-audio", options.generated_audio)):
        if is_listed(uri):
            check_not_inside(options.output_dir, uri, "--output-dir", option)
    storage.check_writable(options.output_dir)


def _settings(options: Options, inputs: Inputs) -> dict[str, Any]:
    """The settings that the result depends on, for the record."""
    bands, generator = inputs.common_bands, inputs.generator
    utility = (options.utility_clips, options.utility_seeds, options.utility_steps)
    return {
        "real_audio": storage.absolute(options.real_audio),
        "generated_audio": storage.absolute(options.generated_audio),
        "real_clips": fingerprint_of_clips(inputs.real),
        "generated_clips": fingerprint_of_clips(inputs.generated),
        "training_log": hashlib.sha256(repr(inputs.training_log).encode()).hexdigest(),
        "examples_per_class": options.examples_per_class,
        "metrics": options.metrics,
        "fold": options.fold,
        "clips_per_class": options.clips_per_class,
        "max_duration_s": options.max_duration,
        "seed": options.seed,
        "codec_sha256": inputs.codec.fingerprint.sha256,
        "sample_rate": SAMPLE_RATE,
        "shard_size": options.shard_size,
        "tables": tuple(TABLES),
        **(inputs.scope.settings if inputs.scope else {}),
        **({"players": options.players} if options.players != "inside" else {}),
        **({"common_band_hz": bands.common_band_hz} if bands else {}),
        **(generator.settings(options.substitution_clips) if generator else {}),
        **({"utility": utility} if inputs.utility else {}),
    }


def _scope(options: Options, dataset: list[Clip], real: list[Clip], generated: list[Clip]) -> ComparisonSets:
    model = choose_model(options.embedding_model, options.embedding_rate)
    sets = select_comparison_sets(
        dataset,
        real,
        generated,
        real_audio=options.real_audio,
        classifier=options.classifier,
        held_out_fold=options.held_out_fold,
        fold=options.fold,
        seed=options.seed,
    )
    return replace(sets, model=model)


def _measure(
    run: TableRun,
    options: Options,
    items: list[MeasurementRequest],
    weights: tuple[bytes, bytes | None, Model | None],
    common_band_hz: float | None,
) -> tuple[pa.Table, pa.Table, pa.Table, pa.Table]:
    """Metrics, pairs, features and rejected."""
    found = evaluation_tables(
        run,
        items,
        weights,
        job={
            "max_duration_s": options.max_duration,
            "common_band_hz": common_band_hz,
            "cache_dir": _cache_folder(options),
        },
        shard_size=options.shard_size,
    )
    is_long = pc.greater_equal(found[0]["duration_s"], options.max_duration - 0.5 / SAMPLE_RATE)
    long = found[0].filter(is_long)["clip_id"].unique()
    if len(long):
        named = f"{len(long)} clips last {options.max_duration:g} s or longer, for example {long[0].as_py()}"
        print_note(f"{named}: the rest is not measured (--max-duration)")
    return found


def _cache_folder(options: Options) -> str | None:
    return cache_folder("measurements", options.cache, options.cache_dir)


def _closeness(options: Options, scope: ComparisonSets, codec: Codec, features: pa.Table) -> Closeness:
    found = closeness(
        features,
        held_out_fold=scope.held_out_fold,
        no_fold=scope.no_fold,
        classifier_categories=scope.classifier.categories if scope.classifier else None,
        no_classifier=scope.no_classifier,
        embeddings=scope.embeddings(codec),
        reference=f"{storage.absolute(options.real_audio)}, {f'fold {options.fold}' if options.fold else 'all folds'}",
        splits=Splits(seed=options.seed, store=BaselineCache(_cache_folder(options))),
    )
    return replace(found, warnings=[*scope.warnings, *found.warnings])


def _substitution(run: TableRun, options: Options, inputs: Inputs, precision: JobPrecision) -> pa.Table | None:
    generator = inputs.generator
    if generator is None:
        return None
    return substitution_table(
        run,
        generator,
        inputs.weights,
        None if options.classifier is None else storage.read_bytes(options.classifier),
        clips_to_substitute(inputs.real, generator, options.substitution_clips, options.seed),
        seed=options.seed,
        precision=precision,
    )


def _utility_clips(
    options: Options, dataset: list[Clip], generated: list[Clip], scope: ComparisonSets | None
) -> UtilityClips | None:
    if scope is None or not options.utility:
        return None
    return utility_clips(dataset, generated, scope.held_out_fold, scope.no_fold)


def _utility(run: TableRun, options: Options, clips: UtilityClips | None) -> pa.Table | None:
    if clips is None:
        return None
    return utility_table(
        run, clips, steps=options.utility_steps, sizes=options.utility_clips, seeds=options.utility_seeds
    )


def _report(options: Options, made: Evaluation, shown: Prepared, training_log: list[dict[str, Any]]) -> str:
    examples = shown.examples
    now = datetime.now(UTC)
    notes: list[str] = []
    if options.players == "linked":
        examples, notes = link_examples(examples, options.output_dir, options.link_days, now)
    sampler, checkpoint = samples_made_with(options.generated_audio)
    settings: dict[str, dict[str, Any]] = {
        "Real clips": {
            "from": options.real_audio,
            "fold": options.fold or "all",
            "per class": options.clips_per_class or "all",
        },
        "Generated clips": {"from": options.generated_audio},
        "Sampler": sampler,
        "Comparison": {
            "sample rate": f"{SAMPLE_RATE} Hz",
            "metrics": options.metrics,
            "held-out fold": made.scope and made.scope.held_out_fold,
        },
    }
    return render_evaluation(
        made,
        examples,
        shown.pictures,
        settings=settings,
        checkpoint=checkpoint,
        training_log=training_log,
        warnings=([] if options.fold else [ALL_FOLDS]) + made.warnings + notes,
        generated_at=now,
    )


def _summary(options: Options, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    said = ", ".join(counts[name] for name in ("bands", "worst", "close") if name in counts)
    where = storage.join(options.output_dir, "report.html")
    message = f"{prefix}{counts['generated']} generated against {counts['real']} real clips, {said}: {where}"
    return {"message": message, "output_dir": options.output_dir, **counts}


if __name__ == "__main__":
    exit_process(run_command(Options, run))
