"""Output of an evaluation: tables, summary.json, and the report."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from cluster import storage, tables
from jobs.evaluation.selection import ComparisonSets
from jobs.inputs.clips import Clip
from soundstorm.audio.bands import Bands
from soundstorm.classification.utility_result import utility_lines
from soundstorm.codec.codec import Codec
from soundstorm.data.datasets import DATASETS
from soundstorm.evaluation.closeness_result import Closeness
from soundstorm.evaluation.summary import Summary, most_distant_metric
from soundstorm.reports.evaluation_page import ReportData, render_report
from soundstorm.reports.listening_section import Example, Pictures

ALL_FOLDS = "The real clips come from all folds, also from those that the model was trained on; --fold takes one."


@dataclass(kw_only=True, frozen=True)
class Evaluation:
    """Clips, measurements and results of an evaluation."""

    real: list[Clip]
    generated: list[Clip]
    codec: Codec
    scope: ComparisonSets | None
    """None: the metrics of single clips alone."""
    metrics: pa.Table
    pairs: pa.Table
    features: pa.Table
    rejected: pa.Table
    bands: Bands
    summary: Summary
    closeness: Closeness | None
    reasons: dict[str, int]
    """Number of rejected clips by reason."""
    substitution: pa.Table | None = None
    """Table of the substitution test; None: not requested."""
    utility: pa.Table | None = None
    """Table of the utility test; None: not requested."""

    @property
    def counts(self) -> dict[str, Any]:
        """For the record of the job."""
        counts: dict[str, Any] = {
            "real": len(self.real),
            "generated": len(self.generated),
            "rejected": self.rejected.num_rows,
            "worst": most_distant_metric(self.summary),
        }
        if self.closeness and self.closeness.verdict:
            counts["close"] = self.closeness.verdict
        if self.bands.verdict:
            counts["bands"] = self.bands.verdict
        return counts

    @property
    def warnings(self) -> list[str]:
        """Warnings that limit what the comparison shows."""
        return ([self.bands.note] if self.bands.note else []) + (self.closeness.warnings if self.closeness else [])

    def write(self, output_dir: str) -> None:
        """Write the tables and summary.json."""
        written: dict[str, tuple[pa.Table, dict[str, str]]] = {
            "metrics": (self.metrics, self.codec.fingerprint.to_metadata()),
            "pairs": (self.pairs, {}),
            "rejected": (self.rejected, {}),
        }
        if self.scope:
            about = {
                "held_out_fold": str(self.scope.held_out_fold),
                "classifier_sha256": str(self.scope.settings["classifier_sha256"]),
            }
            written["features"] = self.features, self.codec.fingerprint.to_metadata() | about
        if self.substitution is not None:
            written["substitution"] = self.substitution, {}
        if self.utility is not None:
            written["utility"] = self.utility, {}
        for name, (table, metadata) in written.items():
            tables.write_table(storage.join(output_dir, f"{name}.parquet"), table, metadata)
        closeness = self.closeness and self.closeness.to_dict()
        record = self.summary.to_dict() | {"bands": self.bands.to_dict(), "closeness": closeness}
        if self.utility is not None:
            record["utility"] = [asdict(line) for line in utility_lines(self.utility)]
        content = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        storage.write_bytes(storage.join(output_dir, "summary.json"), content.encode())


def samples_made_with(generated_audio: str) -> tuple[dict[str, str], dict[str, str]]:
    """Settings of the sampler that made the clips, and the fingerprint of its checkpoint, as far as their manifest has
    them."""
    manifest = (
        generated_audio if generated_audio.endswith(".parquet") else storage.join(generated_audio, "samples.parquet")
    )
    metadata = tables.table_info(manifest).metadata if storage.exists(manifest) else {}
    sampler = {name.removeprefix("sampler_"): value for name, value in metadata.items() if name.startswith("sampler_")}
    return sampler, {"checkpoint": metadata["checkpoint_sha256"]} if "checkpoint_sha256" in metadata else {}


def render_evaluation(
    made: Evaluation,
    examples: list[Example],
    pictures: Pictures,
    *,
    settings: dict[str, dict[str, Any]],
    checkpoint: dict[str, str],
    training_log: list[dict[str, Any]],
    warnings: list[str],
    generated_at: datetime,
) -> str:
    """The page as HTML.

    Args:
        made: what is shown.
        examples: clips to listen to.
        pictures: of the examples.
        settings: of the run, by what they are about.
        checkpoint: fingerprint of the network that made the clips, where it is known.
        training_log: rows of its log.csv.
        warnings: to be shown above all else.
        generated_at: when.
    """
    fingerprints = {"codec": f"{made.codec.fingerprint.name} {made.codec.fingerprint.sha256}"}
    if made.scope is not None and made.scope.classifier is not None:
        fingerprints["classifier"] = made.scope.classifier.sha256
    if made.scope is not None and made.scope.model is not None:
        fingerprints[f"model {made.scope.model.name}"] = str(made.scope.settings["embedding_model_sha256"])
    return render_report(
        ReportData(
            title="Generated against real",
            generated_at=generated_at,
            summary=made.summary,
            metrics=made.metrics,
            closeness=made.closeness,
            features=made.features if made.closeness else None,
            examples=examples,
            pictures=pictures,
            training_log=training_log,
            settings=settings,
            fingerprints=fingerprints | checkpoint,
            rejected=made.reasons,
            substitution=made.substitution,
            utility=made.utility,
            bands=made.bands,
            warnings=warnings,
            credits=[
                f"{DATASETS[name].credit} ({DATASETS[name].licence})"
                for name in sorted({clip.dataset for clip in made.real})
                if name in DATASETS
            ],
        )
    )
