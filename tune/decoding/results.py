"""Results of a decoding study: the table, the best settings and the report; the joint study writes the same with
several checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster import storage
from soundstorm.evaluation.pareto import fewest_sufficient_iterations
from soundstorm.reports.study_page import Cost, StudyData, stop_text
from tune.decoding.reference import StudyInputs
from tune.decoding.search import Found, best_sampler
from tune.decoding.trial import COST
from tune.search.results import importances, now, versions, write_best, write_page, write_trials
from tune.search.space import Choice, Range, Space


@dataclass(kw_only=True, frozen=True)
class About:
    """What the report and best.json contain besides the results."""

    name: str
    """Name of the study."""
    extra: Mapping[str, Any]
    """Entries of best.json besides the sampler, such as the training of the checkpoint."""
    command: str
    """Command that uses the best settings."""
    settings: Mapping[str, Any]
    """Settings of the study, for the report."""
    tiles: list[tuple[str, str, str]]
    """Tiles at the top of the report besides those of the decoding."""


def write_decoding(output_dir: str, found: Found, inputs: StudyInputs, space: Space, about: About) -> dict[str, Any]:
    """Write trials.parquet, trials.csv, best.json, best.toml and report.html; returns the counts for the record."""
    write_trials(output_dir, found.rows, {"study": about.name})
    best = found.best
    sampler = best_sampler(best, inputs)
    front = [entry | {"sampler": best_sampler(entry, inputs).to_dict()} for entry in found.front]
    write_best(
        output_dir,
        {
            "study": about.name,
            "trial": best["trial"],
            "quality": best["quality"],
            COST: best[COST],
            "spread": found.spread,
            "searched": best["point"],
            "sampler": sampler.to_dict(),
            "front": front,
        }
        | dict(about.extra),
    )
    said = [
        stop_text(name if len(found.curves) > 1 else "", curve, fewest_sufficient_iterations(curve))
        for name, curve in found.curves.items()
        if curve
    ]
    counts = {
        "trials": len(found.rows),
        "failed": sum(row["state"] != "finished" for row in found.rows),
        "quality": best["quality"],
        COST: best[COST],
        "front": len(found.front),
        "best": best["point"],
        "said": " ".join(said),
    }
    write_page(output_dir, _page(found, inputs, space, counts, about))
    return counts


def _page(found: Found, inputs: StudyInputs, space: Space, counts: Mapping[str, Any], about: About) -> StudyData:
    best = found.best
    searched: dict[str, Range | Choice] = dict(space)
    if len(inputs.checkpoints) > 1:
        searched["checkpoint"] = Choice(*inputs.checkpoints)
    return StudyData(
        title={"decoding": "Decoding study", "joint": "Joint study of training and decoding"}[about.name],
        generated_at=now(),
        summary=[
            *about.tiles,
            (
                "Distance",
                f"{best['quality']:.3f}",
                f"from {len(inputs.real)} real clips, none of fold {inputs.fold}; ± {found.spread:.3f} over seeds",
            ),
            ("Cost", f"{best[COST]:.2f} s per clip", "of one processor core, or of the GPU"),
            (
                "Trials",
                str(counts["trials"]),
                f"{counts['failed']} without a result; {counts['front']} Pareto-optimal settings",
            ),
        ],
        metric="Distance from real",
        names=list(searched),
        rows=found.rows,
        value="quality",
        best=found.best_row,
        importances=importances(
            searched,
            [(ended.point, float(ended.last["quality"])) for ended in found.trials if ended.state == "finished"],
        ),
        importances_note="Of the distance, over the trials of the search.",
        cost=Cost(
            iterations=found.curves,
            points=[(row["quality"], row[COST]) for row in found.rows if row["quality"] is not None],
            front=found.front,
            best=(best["quality"], best[COST]),
            spread=found.spread,
        ),
        best_settings=best["point"] | ({"checkpoint": best["checkpoint"]} if len(inputs.checkpoints) > 1 else {}),
        command=about.command,
        settings=dict(about.settings) | {"versions": versions()},
    )


def summary_line(output_dir: str, counts: Mapping[str, Any], prefix: str) -> str:
    """The summary line."""
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    cost = f"{counts[COST]:.2f} s per clip"
    return (
        f"{prefix}{storage.join(output_dir, 'best.json')}: distance {counts['quality']:.3f} at {cost}, of "
        f"{counts['trials']} trials"
        f"{failed} and {counts['front']} Pareto-optimal settings. {counts['said']}".rstrip()
    )
