r"""Where a generator loses: true codes of the first N levels of recordings, the rest by the generator, or by noise,
heard by a classifier.

python tests/benchmarks/substitution.py --checkpoint runs/train --dataset esc50 --data-dir PATH/esc50 --fold 4 \
    --classifier runs/classifier/classifier.safetensors

Works for any codec and checkpoint. "Noise" are codes drawn by how often each occurs at its level, in the true codes of
the clips that are heard; "left out" is what the codec makes of the first N levels alone. N = all is the codec itself, N
= 0 of the generator is all its own work. For each: the share of clips that the classifier names as the recording's
class, and the log-mel distance from the recording.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from cluster import storage
from jobs.inputs.audio_files import load_clip
from jobs.inputs.checkpoints import checkpoint_files, open_checkpoint
from jobs.inputs.clips import Clip, draw_per_category
from jobs.inputs.codecs import choose_codec
from jobs.inputs.datasets import DatasetOptions, open_dataset, rows_of_folds
from soundstorm.audio.files import SAMPLE_RATE, from_pcm16, to_pcm16
from soundstorm.classification.cnn import TrainedClassifier, load_classifier
from soundstorm.codec.codec import Codec
from soundstorm.codec.quality import log_mel_distance
from soundstorm.generation.decoding import generate_codes
from soundstorm.model.config import SamplerSettings
from soundstorm.model.generators import GeneratorNetwork
from soundstorm.optimization.precision import uses_bf16

LONGEST_S = 5.0
BATCH = 10
PEAK = 0.999
KEPT_LEVELS = (0, 1, 2, 4, 8)


@dataclass(kw_only=True)
class Options(DatasetOptions):
    """Replace the codes of recordings from a level on, and let a classifier hear what is left."""

    checkpoint: str | None = None
    """Output folder of `train`, or a checkpoint folder; default: the one in the package."""
    codec: str | None = None
    """Weights of its codec; default: from the package or the cache."""
    classifier: str | None = None
    """File of `train-classifier`; default: the one in the package, for the classes of ESC-10."""
    fold: int = 4
    """Recordings of this fold."""
    per_class: int = 2
    """Recordings of each class."""
    levels: tuple[int, ...] = KEPT_LEVELS
    """N to try; those above the codec's levels are left out, and all levels are always tried."""
    seed: int = 0
    """Of the recordings and the samples."""
    threads: int = 1
    """CPU threads."""


@dataclass(kw_only=True, frozen=True)
class Outcome:
    """One line of the table."""

    kept: int
    """Levels whose codes are true."""
    rest: str
    """What made the others."""
    named: float | None
    """Share of the clips named as the recording's class; None where the classifier does not know the classes."""
    log_mel: float
    """Mean log-mel distance from the recordings, nats."""
    clips: int


def playable_pcm(waveform_N: np.ndarray, num_samples: int) -> np.ndarray:
    """16-bit samples, scaled down if they would clip."""
    waveform_N = waveform_N[:num_samples]
    return to_pcm16(waveform_N * min(1.0, PEAK / max(float(np.abs(waveform_N).max()), 1e-9)))


def outcome(
    kept: int,
    rest: str,
    pcms: Sequence[np.ndarray],
    made: Sequence[np.ndarray],
    categories: Sequence[str],
    classifier: TrainedClassifier,
) -> Outcome:
    """Compare what was made of clips (int16) with the clips themselves."""
    known = set(categories) <= set(classifier.categories)
    named = None
    if known:
        heard = [classifier.categories[index] for index in classifier.predict(made).argmax(1)]
        named = float(np.mean([a == b for a, b in zip(heard, categories, strict=True)]))
    distances = [log_mel_distance(from_pcm16(a), from_pcm16(b), SAMPLE_RATE) for a, b in zip(pcms, made, strict=True)]
    return Outcome(kept=kept, rest=rest, named=named, log_mel=float(np.mean(distances)), clips=len(made))


def by_generator(
    model: GeneratorNetwork,
    codes: Sequence[np.ndarray],
    labels: Sequence[int],
    kept: int,
    settings: SamplerSettings,
    seed: int,
) -> list[np.ndarray]:
    """Codes of the generator's levels, the first `kept` of them true and the rest drawn."""
    levels = model.config.num_levels
    made: list[np.ndarray] = []
    bf16 = uses_bf16(model.device, "auto")
    for first in range(0, len(codes), BATCH):
        part = [clip[:levels].astype(np.int64) for clip in codes[first : first + BATCH]]
        lengths = [clip.shape[1] for clip in part]
        known_BQT = torch.zeros(len(part), levels, max(lengths), dtype=torch.int64)
        for row, clip in zip(known_BQT, part, strict=True):
            row[:, : clip.shape[1]] = torch.from_numpy(clip)
        known_mask_BQT = (torch.arange(levels) < kept)[None, :, None].expand_as(known_BQT)
        seeds = [(seed << 32) + first + index for index in range(len(part))]
        drawn = generate_codes(
            model,
            torch.tensor(labels[first : first + BATCH]),
            lengths,
            settings,
            seeds,
            known_BQT=known_BQT,
            known_mask_BQT=known_mask_BQT,
            bf16=bf16,
        )
        made += [clip.numpy() for clip in drawn]
    return made


def by_noise(codes: Sequence[np.ndarray], kept: int, seed: int) -> list[np.ndarray]:
    """The first `kept` levels of codes (Q, T), and above them codes drawn by how often they occur at their level in all
    clips."""
    rng = np.random.default_rng(seed)
    pool_QT = np.concatenate(list(codes), axis=1)
    made = []
    for codes_QT in codes:
        drawn_QT = np.stack([rng.choice(level_T, codes_QT.shape[1]) for level_T in pool_QT])
        made.append(np.concatenate([codes_QT[:kept], drawn_QT[kept:]]))
    return made


def substitute(
    model: GeneratorNetwork,
    codec: Codec,
    settings: SamplerSettings,
    classifier: TrainedClassifier,
    pcms: Sequence[np.ndarray],
    labels: Sequence[int],
    categories: Sequence[str],
    *,
    levels: Sequence[int] = KEPT_LEVELS,
    seed: int = 0,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """The table for clips (int16) with these labels of the network and names of classes."""
    codes = codec.encode_clips([from_pcm16(pcm) for pcm in pcms])
    all_levels, generated = codec.fingerprint.num_levels, model.config.num_levels
    found: list[Outcome] = []

    def add(kept: int, rest: str, made: Sequence[np.ndarray]) -> None:
        waveforms = codec.decode_clips(
            [clip.astype(np.uint16) for clip in made], [seed + index for index in range(len(made))]
        )
        made_pcms = [playable_pcm(wave, len(pcm)) for wave, pcm in zip(waveforms, pcms, strict=True)]
        found.append(outcome(kept, rest, pcms, made_pcms, categories, classifier))
        if on_outcome is not None:
            on_outcome(found[-1])

    found.append(outcome(all_levels, "recordings", pcms, pcms, categories, classifier))
    if on_outcome is not None:
        on_outcome(found[-1])
    add(all_levels, "all true", codes)
    for kept in [level for level in levels if level < all_levels]:
        if kept < generated:
            add(kept, "generator", by_generator(model, codes, labels, kept, settings, seed))
        elif kept == generated:
            add(kept, "generator's levels true", [clip[:kept] for clip in codes])
        if kept > 0:
            add(kept, "left out", [clip[:kept] for clip in codes])
        add(kept, "noise", by_noise(codes, kept, seed))
    return found


def as_table(outcomes: Sequence[Outcome]) -> Table:
    """For the terminal."""
    table = Table("true levels", "the rest", "named rightly", "log-mel distance", "clips")
    for line in outcomes:
        table.add_row(
            str(line.kept),
            line.rest,
            "-" if line.named is None else f"{line.named:.3f}",
            f"{line.log_mel:.3f}",
            str(line.clips),
        )
    return table


def main() -> None:
    """Substitute and print."""
    options, console = tyro.cli(Options), Console()
    torch.set_num_threads(options.threads)
    checkpoint = open_checkpoint(checkpoint_files(options.checkpoint), uri=options.checkpoint)
    _, codec = choose_codec(
        options.codec, checkpoint.fingerprint, options.checkpoint or "the checkpoint in the package"
    )
    classifier = load_classifier(None if options.classifier is None else storage.read_bytes(options.classifier))
    rows = rows_of_folds(open_dataset(options.dataset, options.location).clips, {options.fold}).to_pylist()
    clips = [
        Clip(row["clip_id"], row["uri"], row["category"], row["fold"])
        for row in rows
        if row["category"] in checkpoint.categories
    ]
    chosen = draw_per_category(clips, options.per_class, options.seed)
    pcms = [load_clip(clip.uri)[: round(LONGEST_S * SAMPLE_RATE)] for clip in chosen]
    names = [clip.category for clip in chosen]
    labels = [checkpoint.categories.index(name) for name in names]
    found = substitute(
        checkpoint.model, codec, checkpoint.sampler, classifier, pcms, labels, names, levels=options.levels,
        seed=options.seed,
        on_outcome=lambda line: console.print(line, highlight=False),
    )  # fmt: skip
    console.print(as_table(found))


if __name__ == "__main__":
    main()
