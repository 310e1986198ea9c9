"""`soundstorm tune decoding`: the effect of iterations, temperatures, top-p and guidance on quality and cost, for one
checkpoint.

First, a curve over the number of iterations at level 0, with several seeds; then a search by Optuna for quality and
cost at once. Real clips of the test fold are left out, so that the result can be measured on them with `soundstorm
evaluate`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from cluster import storage
from jobs.actors.job_precision import JobPrecision, job_precision
from jobs.console.command import exit_process, run_command
from jobs.console.options import NotNegative
from jobs.console.resume import run_once
from soundstorm.errors import SoundStormError
from tune.decoding.reference import prepare_study_inputs
from tune.decoding.results import About, summary_line, write_decoding
from tune.decoding.search import DecodingStudyOptions, check_decoding_space, default_space, run_decoding, wants_reranker
from tune.search.options import check_resumable
from tune.search.results import study_stage
from tune.search.space import describe_space, load_space

STAGE = "tune"


@dataclass(kw_only=True)
class Options(DecodingStudyOptions):
    """Find the decoding that is worth its cost: passes, temperatures, choice noise, top-p and guidance on one
    checkpoint."""

    checkpoint: str | None = None
    """Output folder of `train`, or a checkpoint folder, path or URI; default: the one in the package, trained on
    ESC-10."""
    output_dir: str = "runs/tune-decoding"
    """Folder or s3:// prefix for trials.parquet, trials.csv, best.json, best.toml and report.html."""
    num_trials: NotNegative = 24
    """Settings to try beside the curve; 0: the curve alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.num_trials and not self.num_curve_trials:
            raise SoundStormError("--num-trials is 0 and --curve-iterations has one number: there is nothing to try")


def run(options: Options) -> dict[str, Any]:
    """Run the study, or what is missing of it; returns the best settings, their distance from real clips and their
    cost."""
    storage.check_writable(options.output_dir)
    check_resumable(options.output_dir, STAGE, options.resume)
    space = load_space(options.space, {}) if options.space else None
    inputs = prepare_study_inputs(options, {"checkpoint": options.checkpoint}, wants_reranker(space or {}))
    space = space or default_space(inputs.first.model.config.iterated_levels)
    check_decoding_space(space, inputs.first.sampler, inputs.first.model.config.iterated_levels)
    settings = {
        "study": "decoding",
        **inputs.settings,
        "sampler": inputs.first.sampler.to_dict(),
        "space": describe_space(space),
        "curve_iterations": options.curve_iterations,
        "curve_seeds": options.curve_seeds,
        "clips_per_class": options.clips_per_class,
        "duration_s": options.duration,
        "seed": options.seed,
    }

    def work(settings: dict[str, Any], precision: JobPrecision) -> dict[str, Any]:
        command = f"soundstorm generate{f' --checkpoint {options.checkpoint}' if options.checkpoint else ''}"
        about = About(
            name="decoding",
            extra={},
            command=f"{command} --config {storage.join(options.output_dir, 'best.json')}",
            settings=settings | {"num_trials": options.num_trials},
            tiles=[],
        )
        found = run_decoding(options, inputs, space, options.output_dir, precision)
        return write_decoding(options.output_dir, found, inputs, space, about)

    with job_precision(options.precision, options, STAGE) as precision:
        settings |= precision.settings
        return run_once(
            study_stage(STAGE, options, settings),
            partial(work, settings, precision),
            partial(_summary, options),
            is_complete=lambda counts: counts.get("trials", 0) >= options.num_trials + options.num_curve_trials,
        )


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
