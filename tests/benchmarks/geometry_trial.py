r"""One codec and one order of generation, trained for a fixed time on one core: what can a generator make of these
codes?

python tests/benchmarks/geometry_trial.py --codec b4.safetensors --order places --minutes 60 --data-dir PATH/esc50 \
    --classifier fifty.safetensors --output runs/b4-places

Trains on folds 1 to 3 of ESC-50, all its classes, in views that are ever new, and validates on fold 4. All that is
needed to go on is saved every two minutes: the same command goes on where it was, and after the last minute does what
comes at the end. No Ray cluster is used. Into the folder go

- `log.csv`: cross-entropy in nats of each level on fold 4 with 70% of the places masked (order `levels`: of the places
  of that level, all levels below visible), beside what the counts of the codes alone give;
- `checkpoint/`, the averaged network, and `state.pt`, to go on with;
- `samples/CLASS/*.wav`, and `figures.json`: the six metrics against fold 4 with KS, what the classifier takes the
  samples for, the kernel distance in its penultimate layer, and the table of `substitution.py`.
"""

import csv
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from fresh_views import ViewPool
from rich.console import Console
from rich.table import Table
from substitution import as_table, substitute

from cluster import storage
from jobs.inputs.audio_files import load_clip
from jobs.inputs.datasets import DatasetOptions, open_dataset, rows_of_folds
from soundstorm.audio.files import SAMPLE_RATE, encode_audio, from_pcm16
from soundstorm.classification.cnn import TrainedClassifier, load_classifier
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec
from soundstorm.evaluation.acoustic import clip_metrics
from soundstorm.evaluation.distances import kernel_distance
from soundstorm.evaluation.metric_info import METRIC_NAMES
from soundstorm.evaluation.summary import compare
from soundstorm.generation.decoding import generate_codes
from soundstorm.generation.substitution import Substitution, playable_pcm
from soundstorm.model.centroids import entropy_of_counts, log_counts
from soundstorm.model.checkpoints import CheckpointInfo, load_checkpoint, save_checkpoint
from soundstorm.model.code_vectors import centroid_weights, latent_dim
from soundstorm.model.config import ModelConfig, SamplerSettings, TrainingConfig
from soundstorm.model.generators import GeneratorNetwork, make_generator
from soundstorm.model.place_network import PlaceNetwork
from soundstorm.model.presets import preset
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.optimization.ema import EMA
from soundstorm.optimization.precision import autocast, uses_bf16
from soundstorm.training.batches import Batch, collate, seeded_generator
from soundstorm.training.losses import LevelLosses
from soundstorm.training.masking import mask_level, masked_frames
from soundstorm.training.place_step import MaskedPlaces, place_losses
from soundstorm.training.step import apply_gradients, build_optimizer, lr_factor, masked_nats, training_step

LONGEST_S = 5.0
SAVE_EVERY_S = 120.0
MASKED_SHARE = 0.7
SAMPLE_BATCH = 10
CLOCK_STEPS = 100_000
"""Resolution of the learning rate's schedule, which follows the clock."""


@dataclass(kw_only=True)
class Options(DatasetOptions):
    """Train one order of generation on one codec's codes for a fixed time, then generate and measure."""

    dataset: Literal["esc50", "esc10", "synthetic", "urbansound8k", "folder"] = "esc50"
    """The recordings."""
    codec: Path | None = None
    """Weights of the codec; default: the one in the package."""
    order: Literal["levels", "places"] = "places"
    """Order of generation."""
    minutes: float = 60.0
    """Of training, validation and fresh views included; encoding all recordings at the start and what comes at the end
    are not."""
    clock: Literal["wall", "processor"] = "wall"
    """Which clock the minutes are of: `processor` counts this process's time only, where other work shares the core."""
    output: Path
    """Folder for all results."""
    preset: str = "small"
    """Width, depth and sampler, where the options below do not say otherwise."""
    width: int | None = None
    """Channels."""
    depth: int | None = None
    """Conformer blocks."""
    head_width: int = 256
    """Channels of the head over the levels (order places)."""
    head_depth: int = 2
    """Its blocks."""
    head_share: float = 0.5
    """Share of the masked places that a step asks the head for."""
    centroids: bool = True
    """Codes go in and out through the codec's vectors (order places always)."""
    generated_levels: int | None = None
    """Generate the first so many levels only."""
    batch_size: int = 16
    """Clips a step."""
    lr: float = 1e-3
    """Highest learning rate."""
    first_level_share: float | None = None
    """Share of the examples (order levels) or weight in the loss (order places) of level 0; default: 0.4 and 1 /
    levels."""
    training_folds: tuple[int, ...] = (1, 2, 3)
    """Folds to learn from."""
    validation_fold: int = 4
    """Fold to measure on."""
    views: int = 2
    """Views of each recording to begin with."""
    fresh_views: int = 1
    """Views that are made anew in each step."""
    validation_clips: int = 200
    """Clips of the validation fold in a validation, the same each time."""
    validate_every: float = 5.0
    """Minutes between validations."""
    num_samples: int = 200
    """Clips to generate at the end, of all classes alike."""
    duration: float = LONGEST_S
    """Seconds of each."""
    passes: int = 32
    """Decoding passes (at level 0 where the order is by levels)."""
    guidance: float = 3.0
    """Guidance weight at level 0."""
    upper_guidance: float = 1.5
    """At the levels above."""
    final_temperature: float = 0.8
    """Temperature at level 0 in the last pass; above it all is drawn at 1."""
    substitution_clips: int = 100
    """Recordings of the validation fold for the substitution table; 0: no table."""
    classifier: str | None = None
    """File of `train-classifier` for these classes; without one nothing is heard."""
    seed: int = 0
    """Of everything."""
    threads: int = 1
    """CPU threads."""


class Clock:
    """Seconds of the run so far, those of earlier calls included."""

    def __init__(self, kind: str, before_s: float) -> None:
        self._now = time.monotonic if kind == "wall" else time.process_time
        self._began = self._now() - before_s

    def seconds(self) -> float:
        return self._now() - self._began


@dataclass
class Clips:
    """Recordings of some folds, int16 at 24 kHz, the first LONGEST_S of each."""

    pcms: list[np.ndarray]
    labels: list[int]
    categories: list[str]


def read_clips(options: Options, folds: set[int]) -> Clips:
    """All clips of these folds."""
    index = open_dataset(options.dataset, options.location)
    rows = rows_of_folds(index.clips, folds).to_pylist()
    pcms = [load_clip(row["uri"])[: round(LONGEST_S * SAMPLE_RATE)] for row in rows]
    return Clips(pcms=pcms, labels=[row["label"] for row in rows], categories=index.categories)


def spread(clips: Clips, count: int) -> list[int]:
    """Positions of `count` clips, as many of each class as can be, the same each time."""
    by_class = sorted(
        range(len(clips.labels)),
        key=lambda index: (clips.labels[:index].count(clips.labels[index]), clips.labels[index]),
    )
    return sorted(by_class[:count])


def losses_at(
    network: GeneratorNetwork, codes: list[np.ndarray], labels: list[int], config: TrainingConfig, share: float
) -> LevelLosses:
    """Losses of all levels with `share` of the places masked, the same places each time and for either order."""
    num_levels = network.config.num_levels
    total = LevelLosses.none(num_levels, network.device)
    with torch.no_grad():
        for first in range(0, len(codes), config.batch_size):
            batch = collate(
                [clip[:num_levels] for clip in codes[first : first + config.batch_size]],
                labels[first : first + config.batch_size],
            )
            rank_BT = torch.zeros(batch.valid_BT.shape)
            for number, (row, length) in enumerate(zip(rank_BT, batch.valid_BT.sum(1).tolist(), strict=True)):
                row[:length] = torch.rand(length, generator=seeded_generator(7, first + number))
            share_B = torch.full((len(batch.label_B),), share)
            if isinstance(network, PlaceNetwork):
                masked_BT = masked_frames(batch.valid_BT, share_B, rank_BT)
                masked = MaskedPlaces(
                    codes_BQT=batch.codes_BQT, known_BT=batch.valid_BT & ~masked_BT, asked_BT=masked_BT
                )
                total = total + place_losses(network, batch, masked, batch.label_B, config).levels
            else:
                total = total + _level_losses(network, batch, share_B, rank_BT, config)
    return total


def _level_losses(
    network: SoundStorm, batch: Batch, share_B: torch.Tensor, rank_BT: torch.Tensor, config: TrainingConfig
) -> LevelLosses:
    num_levels = network.config.num_levels
    total = LevelLosses.none(num_levels, network.device)
    for level in range(num_levels):
        level_B = torch.full_like(batch.label_B, level)
        nothing_BT = torch.zeros_like(batch.valid_BT)
        masked = mask_level(batch.codes_BQT, batch.valid_BT, nothing_BT, level_B, share_B, rank_BT, network.mask_id)
        with autocast(network.device, config.precision):
            logits_BTK = network(masked.input_codes_BQT, batch.label_B, batch.valid_BT, level)
        total.nats_Q[level] += masked_nats(logits_BTK, masked, 0.0)[1].double().sum()
        total.frames_Q[level] += masked.loss_mask_BT.sum()
    return total


class Trial:
    """The network in training and everything that is saved with it."""

    def __init__(self, options: Options, codec: Codec, pool: ViewPool, validation: Clips, console: Console) -> None:
        self.options, self.codec, self.pool, self.validation, self.console = options, codec, pool, validation, console
        base, fingerprint = preset(options.preset), codec.fingerprint
        num_levels = options.generated_levels or fingerprint.num_levels
        with_centroids = options.centroids or options.order == "places"
        self.architecture: ModelConfig = replace(
            base.model,
            order=options.order,
            width=options.width or base.model.width,
            depth=options.depth or base.model.depth,
            centroids=with_centroids,
            centroid_dim=latent_dim(codec) if with_centroids else 0,
            head_width=options.head_width,
            head_depth=options.head_depth,
            num_levels=num_levels,
            generated_levels=options.generated_levels,
            codebook_size=fingerprint.codebook_size,
            num_classes=len(validation.categories),
        )
        first_share = (
            options.first_level_share
            if options.first_level_share is not None
            else {"levels": 0.4, "places": 1 / num_levels}[options.order]
        )
        self.config: TrainingConfig = replace(
            base.training,
            batch_size=options.batch_size,
            lr=options.lr,
            first_level_share=first_share,
            head_share=options.head_share,
            span_frames=max(1, round(base.training.span_frames * float(fingerprint.frame_rate) / 75)),
            seed=options.seed,
        )
        self.sampler = SamplerSettings(
            iterations=options.passes,
            order="even",
            final_temperature=options.final_temperature,
            upper_temperature=1.0,
            guidance=options.guidance,
            upper_guidance=options.upper_guidance,
        )
        torch.manual_seed(options.seed)
        self.network = make_generator(self.architecture)
        self.log_share_QK = log_counts(
            (view for views in pool.views for view in views), num_levels, fingerprint.codebook_size
        )
        if with_centroids:
            self.network.load_state_dict(centroid_weights(self.architecture, codec, self.log_share_QK), strict=False)
        self.ema = EMA(self.network, self.config.ema_decay)
        self.optimizer = build_optimizer(self.network, self.config)
        self.clock = Clock(options.clock, 0.0)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda _: lr_factor(self.clock_step(), CLOCK_STEPS, self.config)
        )
        self.step = 0
        self.rows: list[dict[str, Any]] = []
        self.validation_codes = codec.encode_clips([from_pcm16(validation.pcms[index]) for index in self.measured])
        if self.state_path.exists():
            self.load()

    @property
    def measured(self) -> list[int]:
        return spread(self.validation, self.options.validation_clips)

    @property
    def state_path(self) -> Path:
        return self.options.output / "state.pt"

    def share_done(self) -> float:
        return min(1.0, self.clock.seconds() / (60 * self.options.minutes))

    def clock_step(self) -> int:
        """The clock as a step of the learning rate's schedule."""
        return min(CLOCK_STEPS - 1, int(self.share_done() * CLOCK_STEPS))

    def load(self) -> None:
        """Go on where an earlier call was."""
        state = torch.load(self.state_path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.step, self.rows = state["step"], state["rows"]
        self.clock = Clock(self.options.clock, state["seconds"])
        self.console.print(
            f"going on at step {self.step}, {state['seconds'] / 60:.1f} of {self.options.minutes:g} minutes",
            highlight=False,
        )

    def save(self) -> None:
        """Everything, such that a reader never sees half of a file."""
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "step": self.step,
            "rows": self.rows,
            "seconds": self.clock.seconds(),
        }
        partial = self.state_path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.state_path)
        save_checkpoint(
            self.options.output / "checkpoint",
            self.ema.averaged(self.network),
            CheckpointInfo(
                training=self.config,
                categories=self.validation.categories,
                fingerprint=self.codec.fingerprint,
                step=self.step,
                sampler=self.sampler,
                extra={
                    "minutes": self.clock.seconds() / 60,
                    "dataset": self.options.dataset,
                    "test_fold": self.options.validation_fold,
                },
            ),
        )

    def batches(self) -> Iterator[list[int]]:
        """Members of the batches from this step on: a permutation of all clips after the other."""
        per_epoch = math.ceil(len(self.pool.labels) / self.config.batch_size)
        while True:
            epoch, place = divmod(self.step, per_epoch)
            order = np.random.default_rng([self.options.seed, epoch]).permutation(len(self.pool.labels))
            yield np.array_split(order, per_epoch)[place].tolist()

    def run(self) -> None:
        """Steps until the time is up."""
        torch.manual_seed(self.options.seed + self.step)
        saved_s, validated_s, losses = self.clock.seconds(), self.rows[-1]["seconds"] if self.rows else 0.0, []
        for members in self.batches():
            if self.share_done() >= 1:
                break
            rng = np.random.default_rng([self.options.seed, 1, self.step])
            views = self.pool.draw(members, self.config.recorded_share, rng)
            batch = collate(
                [view[: self.architecture.num_levels] for view in views], [self.pool.labels[index] for index in members]
            )
            self.network.train()
            outcome = training_step(self.network, batch, seeded_generator(self.options.seed, 2, self.step), self.config)
            apply_gradients(self.network, outcome.loss, self.optimizer, self.schedule, self.config, self.ema)
            losses.append(float(outcome.loss.detach()))
            self.step += 1
            for _ in range(self.options.fresh_views):
                self.pool.refresh(rng)
            if self.clock.seconds() - validated_s >= 60 * self.options.validate_every:
                self.validate(float(np.mean(losses)))
                validated_s, losses = self.clock.seconds(), []
            if self.clock.seconds() - saved_s >= SAVE_EVERY_S:
                self.save()
                saved_s = self.clock.seconds()
        if not self.rows or self.rows[-1]["step"] < self.step:
            self.validate(float(np.mean(losses)) if losses else math.nan)
            self.save()

    def validate(self, train_loss: float) -> None:
        """Add a row to the log."""
        labels = [self.validation.labels[index] for index in self.measured]
        found = losses_at(
            self.ema.averaged(self.network), self.validation_codes, labels, self.config, MASKED_SHARE
        ).per_level()
        row = {
            "step": self.step,
            "seconds": round(self.clock.seconds(), 1),
            "train_loss": round(train_loss, 4),
            "sum": round(sum(filter(None, found)), 3),
        }
        row |= {f"level_{level}": round(value or math.nan, 4) for level, value in enumerate(found)}
        self.rows.append(row)
        counts = entropy_of_counts(self.log_share_QK)
        counts_row = {"step": "counts", "seconds": "", "train_loss": "", "sum": round(sum(counts), 3)}
        counts_row |= {f"level_{level}": round(value, 4) for level, value in enumerate(counts)}
        with (self.options.output / "log.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerows([counts_row, *self.rows])
        levels = " ".join(f"{value or math.nan:.2f}" for value in found)
        self.console.print(
            f"{self.clock.seconds() / 60:6.1f} min  step {self.step:6}  train {train_loss:.3f}  fold 4: {levels}",
            highlight=False,
        )


def generate(trial: Trial, model: GeneratorNetwork) -> tuple[list[np.ndarray], list[int]]:
    """Samples as int16, and their labels."""
    options, codec = trial.options, trial.codec
    labels = [index % len(trial.validation.categories) for index in range(options.num_samples)]
    num_samples = round(options.duration * SAMPLE_RATE)
    num_places = math.ceil(num_samples / codec.hop)
    pcms: list[np.ndarray] = []
    for first in range(0, len(labels), SAMPLE_BATCH):
        part = labels[first : first + SAMPLE_BATCH]
        seeds = [(options.seed << 40) + first + index for index in range(len(part))]
        bf16 = uses_bf16(model.device, "auto")
        codes = generate_codes(model, torch.tensor(part), [num_places] * len(part), trial.sampler, seeds, bf16=bf16)
        waveforms = codec.decode_clips([codes_QT.numpy().astype(np.uint16) for codes_QT in codes], seeds)
        pcms += [playable_pcm(wave, num_samples) for wave in waveforms]
    for index, (pcm, label) in enumerate(zip(pcms, labels, strict=True)):
        category = trial.validation.categories[label]
        path = options.output / "samples" / category / f"{category}-{index:05}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_audio(from_pcm16(pcm), SAMPLE_RATE, "wav"))
    return pcms, labels


def metrics_table(real: list[np.ndarray], made: list[np.ndarray]) -> dict[str, dict[str, float | None]]:
    """The six metrics: means, difference in per cent and KS."""
    found: dict[str, dict[str, float | None]] = {}
    rows = [[clip_metrics(pcm, SAMPLE_RATE) for pcm in pcms] for pcms in (real, made)]
    for name in METRIC_NAMES:
        result = compare(*([row[name] for row in side] for side in rows))
        found[name] = {
            "real": result.mean_real,
            "generated": result.mean_other,
            "difference_percent": result.difference_percent,
            "ks": result.ks,
        }
    return found


def finish(trial: Trial, classifier: TrainedClassifier | None) -> None:
    """Generate, measure, substitute, and write it all down."""
    options, console, validation = trial.options, trial.console, trial.validation
    model = load_checkpoint(options.output / "checkpoint").model
    began = time.monotonic()
    pcms, labels = generate(trial, model)
    figures: dict[str, Any] = {
        "codec": asdict(trial.codec.fingerprint),
        "architecture": trial.architecture.to_dict(),
        "parameters": model.num_parameters(),
        "steps": trial.step,
        "minutes": trial.clock.seconds() / 60,
        "sampler": trial.sampler.to_dict(),
        "seconds_per_sample": (time.monotonic() - began) / max(1, len(pcms)),
        "losses": trial.rows[-1],
        "metrics": metrics_table(validation.pcms, pcms),
    }
    table = Table("metric", "fold 4", "generated", "difference", "KS")
    for name, values in figures["metrics"].items():
        table.add_row(name, *(f"{values[key]:.4g}" for key in ("real", "generated", "difference_percent", "ks")))
    console.print(table)
    if classifier is not None:
        names = [validation.categories[label] for label in labels]
        if set(names) <= set(classifier.categories):
            heard = [classifier.categories[index] for index in classifier.predict(pcms).argmax(1)]
            figures["named"] = float(np.mean([a == b for a, b in zip(heard, names, strict=True)]))
        figures["kernel_distance_x1000"] = 1000 * kernel_distance(
            classifier.embed(validation.pcms), classifier.embed(pcms)
        )
        console.print(
            f"named rightly {figures.get('named')}, kernel distance x 1000 {figures['kernel_distance_x1000']:.1f}",
            highlight=False,
        )
        if options.substitution_clips:
            chosen = spread(validation, options.substitution_clips)
            chosen_labels = [validation.labels[index] for index in chosen]
            lines = substitute(
                Substitution(
                    model=model,
                    settings=trial.sampler,
                    codec=trial.codec,
                    classifier=classifier,
                    seed=options.seed,
                ),
                [validation.pcms[index] for index in chosen],
                chosen_labels,
                [validation.categories[label] for label in chosen_labels],
            )
            console.print(as_table(lines))
            figures["substitution"] = [asdict(line) for line in lines]
    (options.output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


def main() -> None:
    """Encode, train until the time is up, generate and measure."""
    options, console = tyro.cli(Options), Console(width=150)
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    classifier = None if options.classifier is None else load_classifier(storage.read_bytes(options.classifier))
    codec = load_codec(options.codec)
    training, validation = (
        read_clips(options, set(options.training_folds)),
        read_clips(options, {options.validation_fold}),
    )
    pool = ViewPool(training.pcms, training.labels, codec)
    began = time.monotonic()
    pool_path = options.output / "views.npz"
    if pool_path.exists():
        pool.load(pool_path)
    else:
        pool.fill(options.views, options.seed)
        pool.save(pool_path)
    trial = Trial(options, codec, pool, validation, console)
    console.print(
        f"{codec.fingerprint.name}: {codec.fingerprint.num_levels} levels x {codec.fingerprint.frame_rate} places/s; "
        f"{len(pool.pcms)} recordings in "
        f"{options.views + 1} views, encoded in {time.monotonic() - began:.0f} s; order {options.order}, "
        f"{trial.network.num_parameters() / 1e6:.1f} M parameters",
        highlight=False,
    )
    trial.run()
    finish(trial, classifier)


if __name__ == "__main__":
    main()
