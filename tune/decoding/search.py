"""The trials of a decoding study: the curve over iterations with several seeds, the search, and the summary of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray import tune

from cluster.runtime.connect import connect
from jobs.actors.job_precision import JobPrecision
from jobs.console.command import console
from jobs.console.options import Count
from soundstorm.errors import SoundStormError
from soundstorm.evaluation.pareto import CurvePoint, iterations_curve, pareto_front, pooled_std
from soundstorm.model.config import SamplerSettings
from tune.decoding.reference import ReferenceOptions, StudyInputs, load_reference
from tune.decoding.trial import COST, PASSES, TRIAL_FIGURES, sampler_of, setting_names, trial
from tune.search.options import StudyOptions
from tune.search.results import trial_row
from tune.search.runner import Search, concurrency_for, run_search
from tune.search.space import Choice, Range, Space, check_space
from tune.search.trial_journal import TrialConfig, TrialResult

LEVEL_0 = f"{PASSES}0"
CURVE, TRIALS = "curve", "trials"


@dataclass(kw_only=True)
class DecodingOptions(ReferenceOptions):
    """What a decoding study tries."""

    curve_iterations: tuple[int, ...] = (1, 2, 4, 8, 12, 16, 24, 32)
    """Passes at level 0 of the curve, all else as the checkpoint has it; one number: no curve."""
    curve_seeds: Count = 3
    """Seeds of each point of the curve."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            not self.curve_iterations
            or min(self.curve_iterations) < 1
            or len(set(self.curve_iterations)) < len(self.curve_iterations)
        ):
            raise SoundStormError(
                f"--curve-iterations is {self.curve_iterations}: give different whole numbers, each at least 1"
            )

    @property
    def num_curve_trials(self) -> int:
        """Number of trials of the curve of one checkpoint."""
        return self.curve_seeds * len(self.curve_iterations) if len(self.curve_iterations) > 1 else 0


@dataclass(kw_only=True)
class DecodingStudyOptions(StudyOptions, DecodingOptions):
    """Options of a study that searches the decoding."""


@dataclass(kw_only=True, frozen=True)
class Found:
    """Result of the trials."""

    rows: list[dict[str, Any]]
    """A row per trial, including those of the curve, the best first."""
    curves: dict[str, list[CurvePoint]]
    """Curve of each checkpoint."""
    spread: float
    """Standard deviation of the quality over seeds; 0 without a curve."""
    front: list[dict[str, Any]]
    """Pareto-optimal settings, the cheapest first: trial, checkpoint, quality, seconds_per_clip, point."""
    best: dict[str, Any]
    """The cheapest of the front whose quality is within one standard deviation of the best."""
    best_row: str
    """The trial that represents the best settings in the table; for a point of the curve, the seed closest to its
    mean."""
    trials: list[TrialResult]
    """Trials of the search."""


def default_space(num_levels: int) -> Space:
    """Iterations of the first two levels, temperatures, noise of the choice, top-p and guidance."""
    space: dict[str, Range | Choice] = {LEVEL_0: Range(1, 48, is_log=True, is_whole=True)}
    if num_levels > 1:
        space[f"{PASSES}1"] = Range(1, 8, is_log=True, is_whole=True)
    return space | {
        "temperature": Range(0.7, 1.2),
        "final_temperature": Range(0.0, 1.0),
        "choice_temperature": Range(0.1, 10.0, is_log=True),
        "top_p": Range(0.8, 1.0),
        "guidance": Range(1.0, 3.0),
    }


def check_decoding_space(space: Space, sampler: SamplerSettings, levels: int) -> None:
    """Raise SoundStormError for what cannot be searched with a network of `levels` levels whose own settings are
    `sampler`."""
    check_space(space, setting_names(levels), lambda point: sampler_of(point, sampler, levels))


def wants_reranker(space: Space) -> bool:
    """Whether trials may generate more than one candidate per clip."""
    return "candidates" in space


def run_decoding(
    options: DecodingStudyOptions, inputs: StudyInputs, space: Space, output_dir: str, precision: JobPrecision
) -> Found:
    """Run what is missing of the curve and the search."""
    names = list(inputs.checkpoints)
    searched: dict[str, Range | Choice] = dict(space) | ({"checkpoint": Choice(*names)} if len(names) > 1 else {})
    with connect(options.address) as info:
        plan = concurrency_for(options, info, max(options.num_trials, options.num_curve_trials * len(names)))
        per_trial = options.clips_per_class * len(inputs.labels)
        console.print(
            f"tune: {options.num_curve_trials * len(names)} trials of the curve and {options.num_trials} of the "
            f"search, {per_trial} clips each, "
            f"against {len(inputs.real)} real clips; {plan.num_workers} at a time"
        )
        reference_set = load_reference(inputs, options, options.seed, precision.of_actors(info))
        trainable = tune.with_parameters(trial, reference_set=reference_set)
        metrics = ("quality", COST)
        ended: dict[str, list[TrialResult]] = {CURVE: [], TRIALS: []}
        if options.num_curve_trials:
            points = curve_points(options, names, options.seed)
            curve_space = {name: Choice(*sorted({point[name] for point in points})) for name in points[0]}
            search = Search(
                name=CURVE,
                space=curve_space,
                metrics=metrics,
                figures=TRIAL_FIGURES,
                num_trials=len(points),
                points=points,
            )
            ended[CURVE] = run_search(search, trainable, plan, output_dir, options, describe=_describe)
        if options.num_trials:
            search = Search(
                name=TRIALS, space=searched, metrics=metrics, figures=TRIAL_FIGURES, num_trials=options.num_trials
            )
            ended[TRIALS] = run_search(search, trainable, plan, output_dir, options, describe=_describe)
    return summarize_trials(ended[CURVE], ended[TRIALS], list(searched), names)


def curve_points(decoding: DecodingOptions, checkpoints: Sequence[str], seed: int) -> list[TrialConfig]:
    """Each number of iterations with each seed, for each checkpoint."""
    several = len(checkpoints) > 1
    return [
        {LEVEL_0: passes, "seed": seed + number} | ({"checkpoint": name} if several else {})
        for name in checkpoints
        for number in range(decoding.curve_seeds)
        for passes in decoding.curve_iterations
    ]


def _describe(ended: TrialResult) -> str:
    last = ended.last
    return (
        f"quality {last['quality']:.3f} (KS {last['ks_mean']:.3f} + embedding {last['embedding_distance']:.3f})  "
        f"{last[COST]:.2f} s per clip"
    )


def summarize_trials(
    curve: list[TrialResult], trials: list[TrialResult], searched: list[str], checkpoints: list[str]
) -> Found:
    """Summary of the trials; raises SoundStormError if none finished."""
    names = [*dict.fromkeys([*([LEVEL_0] if curve else []), *searched])]
    curves = {name: _curve(curve, name, checkpoints) for name in checkpoints if curve}
    spread = pooled_std([point for points in curves.values() for point in points])
    candidates = [
        {
            "trial": ended.trial,
            "checkpoint": ended.point.get("checkpoint", checkpoints[0]),
            "point": _sampler_point(ended.point),
        }
        | {name: ended.last[name] for name in ("quality", COST)}
        for ended in trials
        if ended.state == "finished"
    ]
    for name, points in curves.items():
        candidates += [
            {
                "trial": CURVE,
                "checkpoint": name,
                "point": {LEVEL_0: point.iterations},
                "quality": point.quality,
                COST: point.cost,
            }
            for point in points
        ]
    if not candidates:
        reasons = "; ".join(sorted({ended.problem for ended in [*curve, *trials] if ended.problem})[:3])
        raise SoundStormError(
            f"no trial of {len(curve) + len(trials)} finished ({reasons}): search other values with --space"
        )
    front = [
        candidates[position] for position in pareto_front([(found["quality"], found[COST]) for found in candidates])
    ]
    best = next(found for found in front if found["quality"] <= front[-1]["quality"] + spread)
    of_entry: dict[str | tuple[str, int], list[TrialResult]] = {ended.trial: [ended] for ended in trials}
    for name, points in curves.items():
        of_entry |= {(name, point.iterations): _seeds(curve, name, checkpoints, point.iterations) for point in points}
    on_front = {ended.trial for found in front for ended in of_entry[_key(found)]}
    best_row = min(of_entry[_key(best)], key=lambda ended: abs(ended.last["quality"] - best["quality"])).trial
    rows = [
        {"part": part}
        | trial_row(ended, [*names, "seed"], ("quality", COST, *TRIAL_FIGURES))
        | {"on_front": ended.trial in on_front}
        for part, found in (("curve", curve), ("search", trials))
        for ended in found
    ]
    rows.sort(key=lambda row: (row["state"] != "finished", row["quality"] if row["quality"] is not None else 0.0))
    return Found(rows=rows, curves=curves, spread=spread, front=front, best=best, best_row=best_row, trials=trials)


def _curve(curve: list[TrialResult], checkpoint: str, checkpoints: list[str]) -> list[CurvePoint]:
    passes = {int(ended.point[LEVEL_0]) for ended in curve}
    seeds = {count: _seeds(curve, checkpoint, checkpoints, count) for count in passes}
    return iterations_curve(
        {count: [(ended.last["quality"], ended.last[COST]) for ended in found] for count, found in seeds.items()}
    )


def _seeds(curve: list[TrialResult], checkpoint: str, checkpoints: list[str], passes: int) -> list[TrialResult]:
    """The trials of a point of the curve."""
    return [
        ended
        for ended in curve
        if ended.state == "finished"
        and ended.point.get("checkpoint", checkpoints[0]) == checkpoint
        and int(ended.point[LEVEL_0]) == passes
    ]


def _key(found: Mapping[str, Any]) -> str | tuple[str, int]:
    """Identifies an entry of the front: a trial of the search, or a point of a checkpoint's curve."""
    return str(found["trial"]) if found["trial"] != CURVE else (str(found["checkpoint"]), int(found["point"][LEVEL_0]))


def _sampler_point(point: TrialConfig) -> TrialConfig:
    return {name: value for name, value in point.items() if name not in ("checkpoint", "seed")}


def best_sampler(found: dict[str, Any], inputs: StudyInputs) -> SamplerSettings:
    """Sampler settings of an entry of the front."""
    return sampler_of(
        found["point"], inputs.checkpoints[found["checkpoint"]].sampler, inputs.first.model.config.iterated_levels
    )
