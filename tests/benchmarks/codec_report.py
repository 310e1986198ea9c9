"""Figures of codecs on one fold of a dataset, side by side: distances of spectra, the six metrics real against
resynthesized, how peaked sounds are, what a classifier names them, and what becomes of sines, clicks and silence.

python tests/benchmarks/codec_report.py --data-dir PATH/esc50 --fold 4 --codecs block.safetensors packaged encodec

`packaged` is the codec in the package, `encodec` the official EnCodec where its weights are in the cache. Nothing here
is to be optimised against but on a fold for choosing: fold 4 of ESC-50.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from jobs.actors.evaluator import resynthesize
from jobs.inputs.audio_files import load_clip
from jobs.inputs.clips import Clip
from jobs.inputs.codecs import official_codec_bytes
from jobs.inputs.datasets import DatasetOptions, open_dataset, rows_of_folds
from soundstorm.audio.files import SAMPLE_RATE, from_pcm16
from soundstorm.classification.cnn import load_classifier
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec
from soundstorm.codec.probes import click_crest_db, probe_clicks, probe_sine, silence_is_exact, tonal_crest_db
from soundstorm.codec.quality import codes_in_use, log_mel_distance, multi_resolution_distance
from soundstorm.evaluation.acoustic import clip_metrics
from soundstorm.evaluation.metric_info import METRIC_NAMES
from soundstorm.evaluation.summary import compare

SINES_HZ = (440, 1_000, 4_000)
TOP_SHARE = 0.25
"""Of the clips, those with the highest crest in the recording, over which crests are averaged."""
OUT = Console(width=150)


@dataclass(kw_only=True)
class Options(DatasetOptions):
    """Measure codecs on one fold of a dataset."""

    fold: int = 4
    """Fold to measure on."""
    codecs: tuple[str, ...] = ("packaged",)
    """Weights files, `packaged`, `encodec`."""
    classifier: str | None = None
    """Classifier of `train-classifier` (.safetensors), path; it should not have been trained on the fold."""
    every: int = 1
    """Measure every n-th clip only."""


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    rows = rows_of_folds(open_dataset(options.dataset, options.location).clips, {options.fold}).to_pylist()
    clips = [Clip(row["clip_id"], row["uri"], row["category"], row["fold"]) for row in rows][:: options.every]
    real = [load_clip(clip.uri) for clip in clips]
    before = {name: [clip_metrics(pcm, SAMPLE_RATE)[name] for pcm in real] for name in METRIC_NAMES}
    OUT.print(f"{len(clips)} clips of fold {options.fold} of {options.dataset}")
    for name in options.codecs:
        codec = _codec(name)
        if codec is None:
            OUT.print(f"{name}: its weights are not at hand")
            continue
        fingerprint = codec.fingerprint
        OUT.rule(
            f"{fingerprint.name} {fingerprint.sha256[:12]}, {fingerprint.num_levels} x {fingerprint.codebook_size} at "
            f"{codec.frame_rate:g}/s"
        )
        _probe(codec)
        _report(codec, clips, real, before, options.classifier)


def _codec(name: str) -> Codec | None:
    if name == "encodec":
        weights = official_codec_bytes()
        return None if weights is None else load_codec(weights)
    return load_codec(None if name == "packaged" else name)


def _probe(codec: Codec) -> None:
    for hz in SINES_HZ:
        sines = [probe_sine(codec, hz, seed) for seed in range(3)]
        worst_db = max((sine.level_db for sine in sines), key=abs)
        peak_hz, beside_db = max((sine.peak_hz for sine in sines), key=abs), max(sine.beside_db for sine in sines)
        OUT.print(
            f"sine of {hz} Hz, worst of 3 seeds: level {worst_db:+.2f} dB, peak {peak_hz:+.0f} Hz, beside it "
            f"{beside_db:.0f} dB"
        )
    clicks = probe_clicks(codec)
    silence = "exact" if silence_is_exact(codec) else "NOT exact"
    OUT.print(
        f"clicks: {clicks.found} of {clicks.clicks} found, furthest {clicks.furthest_samples} samples off; digital "
        f"silence {silence}"
    )


def _report(
    codec: Codec, clips: list[Clip], real: list[np.ndarray], before: dict[str, list[float]], classifier: str | None
) -> None:
    began = time.process_time()
    codes = codec.encode_clips([from_pcm16(pcm) for pcm in real])
    encode_s, began = time.process_time() - began, time.process_time()
    codec.decode_clips(codes)
    decode_s = time.process_time() - began
    decoded = resynthesize(codec, real)
    pairs = [(from_pcm16(one), from_pcm16(other)) for one, other in zip(real, decoded, strict=True)]
    seconds = sum(len(pcm) for pcm in real) / SAMPLE_RATE
    used = codes_in_use(codes, codec.fingerprint.codebook_size)
    OUT.print(
        f"log-mel distance {np.mean([log_mel_distance(*pair, SAMPLE_RATE) for pair in pairs]):.3f} nats, "
        f"multi-resolution STFT distance {np.mean([multi_resolution_distance(*pair) for pair in pairs]):.3f}; "
        f"codes in use {min(used):.0%} to {max(used):.0%}; processor time for 5 s: encode "
        f"{5000 * encode_s / seconds:.0f} ms, "
        f"decode {5000 * decode_s / seconds:.0f} ms"
    )
    for name, crest in (("tones", lambda wave_N: tonal_crest_db(wave_N, SAMPLE_RATE)), ("clicks", click_crest_db)):
        values = [(crest(one), crest(other)) for one, other in pairs]
        defined = sorted((pair for pair in values if None not in pair), reverse=True)
        top = np.mean(defined[: max(1, round(TOP_SHARE * len(defined)))], axis=0)
        OUT.print(f"crest of {name}, the quarter of clips with most: {top[0]:.2f} dB in recordings, {top[1]:.2f} dB")
    after = {name: [clip_metrics(pcm, SAMPLE_RATE)[name] for pcm in decoded] for name in METRIC_NAMES}
    table = Table("metric", "real", "resynthesized", "difference", "KS", "p")
    for name in METRIC_NAMES:
        result = compare(before[name], after[name])
        difference = f"{result.difference_percent:+.1f}%"
        table.add_row(
            name,
            f"{result.mean_real:.4g}",
            f"{result.mean_other:.4g}",
            difference,
            f"{result.ks:.3f}",
            f"{result.p_value:.2f}",
        )
    OUT.print(table)
    named = None if classifier is None else _named(classifier, real, decoded)
    by_class = Table(
        "by class, difference of means", *METRIC_NAMES, *([] if named is None else ["named: recordings", "decoded"])
    )
    for category in sorted({clip.category for clip in clips}):
        chosen = [index for index, clip in enumerate(clips) if clip.category == category]
        means = [
            [float(np.mean([side[name][index] for index in chosen])) for side in (before, after)]
            for name in METRIC_NAMES
        ]
        cells = [f"{100 * (made / true - 1):+.0f}%" if true else "" for true, made in means]
        if named is not None:
            cells += [f"{sum(side[index] == category for index in chosen)} of {len(chosen)}" for side in named]
        by_class.add_row(category, *cells)
    OUT.print(by_class)
    if named is not None:
        shares = [np.mean([side[index] == clip.category for index, clip in enumerate(clips)]) for side in named]
        OUT.print(f"named rightly by the classifier: {shares[0]:.3f} of recordings, {shares[1]:.3f} decoded")


def _named(classifier: str, *sides: list[np.ndarray]) -> list[list[str]]:
    """What the classifier names each clip of each side."""
    trained = load_classifier(classifier)
    return [[trained.categories[index] for index in trained.predict(side).argmax(1)] for side in sides]


if __name__ == "__main__":
    main()
