"""Examples in a report: a few clips of each class from every source, and the training log."""

import contextlib
import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from cluster import storage
from jobs.inputs.clips import Clip
from soundstorm.audio.files import SAMPLE_RATE, RejectedAudio, encode_audio, from_pcm16
from soundstorm.data.categories import normalized
from soundstorm.errors import SoundStormError
from soundstorm.reports.listening_section import Example
from soundstorm.schemas import Source

PLAYERS_FOLDER = "players"
"""Folder beside the report with the audio of linked players."""
MAX_CLASSES = 50
"""Maximum number of classes with players, so that a page stays below some tens of megabytes."""
MAX_EXAMPLE_S = 10.0
"""Longest part of a clip that a page plays."""
LOG_COLUMNS = {"epoch", "step", "train_loss", "val_loss", "lr"}
"""Columns of log.csv that the report plots."""


def choose_examples(
    real: Sequence[Clip],
    generated: Sequence[Clip],
    per_class: int,
    load: Callable[[Clip], np.ndarray],
    resynthesize: Callable[[list[np.ndarray]], list[np.ndarray]],
) -> list[Example]:
    """The first `per_class` clips of each class, real, through the codec and generated; classes with generated clips
    first. Clips that cannot be read are left out.

    Of clips that are longer the first MAX_EXAMPLE_S.

    Args:
        real: real clips.
        generated: generated clips.
        per_class: clips of each class and source.
        load: a clip to int16 (N,) at 24 kHz; raises RejectedAudio if it cannot be read.
        resynthesize: clips, int16 (N,), through the codec.
    """
    have_generated = {normalized(clip.category) for clip in generated}
    names = {normalized(clip.category): clip.category for clip in (*real, *generated)}

    def loaded(clips: Sequence[Clip], key: str) -> list[tuple[Clip, np.ndarray]]:
        found: list[tuple[Clip, np.ndarray]] = []
        for clip in clips:
            if len(found) < per_class and normalized(clip.category) == key:
                with contextlib.suppress(RejectedAudio):
                    found.append((clip, load(clip)[: round(MAX_EXAMPLE_S * SAMPLE_RATE)].copy()))
        return found

    shown: dict[str, tuple[list[tuple[Clip, np.ndarray]], list[tuple[Clip, np.ndarray]]]] = {}
    for key in sorted(names, key=lambda key: (key not in have_generated, key)):
        if len(shown) < MAX_CLASSES:
            of_class = loaded(real, key), loaded(generated, key)
            if any(of_class):
                shown[key] = of_class
    decoded = iter(resynthesize([pcm for recorded, _ in shown.values() for _, pcm in recorded]))
    examples = []
    for key, (recorded, made) in shown.items():
        for clip, pcm in recorded:
            examples.append(_example(names[key], Source.REAL, clip.clip_id, pcm))
            examples.append(_example(names[key], Source.RESYNTHESIZED, clip.clip_id, next(decoded)))
        examples.extend(_example(names[key], Source.GENERATED, clip.clip_id, pcm) for clip, pcm in made)
    return examples


def _example(category: str, source: Source, clip_id: str, pcm: np.ndarray) -> Example:
    waveform = from_pcm16(pcm)
    return Example(
        category=category,
        source=source,
        clip_id=clip_id,
        duration_s=len(pcm) / SAMPLE_RATE,
        audio_bytes=encode_audio(waveform, SAMPLE_RATE, "flac"),
        waveform=waveform,
        sample_rate=SAMPLE_RATE,
    )


def link_examples(
    examples: Sequence[Example], output_dir: str, days: int, now: datetime
) -> tuple[list[Example], list[str]]:
    """The examples with their audio in files beside the page, and what the page should say of that.

    A page on a disk finds them by relative paths. In object storage each has a signed link, which plays for whoever has
    it, and ends.

    Args:
        examples: with the audio inside.
        output_dir: folder of the page.
        days: how long signed links are valid.
        now: when they are signed.
    """
    linked = []
    for number, example in enumerate(examples, 1):
        name = f"{number:04d}-{example.source.value}.flac"
        uri = storage.join(output_dir, PLAYERS_FOLDER, name)
        storage.write_bytes(uri, example.audio_bytes or b"")
        link = storage.presign(uri, days * 24 * 3600) if storage.is_remote(uri) else f"{PLAYERS_FOLDER}/{name}"
        linked.append(replace(example, audio_bytes=None, audio_src=link))
    if not linked or not storage.is_remote(output_dir):
        return linked, []
    until = now + timedelta(days=days)
    return linked, [
        f"Whoever has this page can play its clips until {until.day} {until:%B %Y, %H:%M %Z}, or until the "
        "credentials of the run expire, if that is "
        f"sooner: then the links end. The files stay in {storage.join(output_dir, PLAYERS_FOLDER)}."
    ]


def read_log(uri: str | None) -> list[dict[str, Any]]:
    """Rows of a log.csv, [] where there is none to read.

    Raises:
        SoundStormError: it is not such a table.
    """
    if uri is None:
        return []
    try:
        rows = list(csv.DictReader(io.StringIO(storage.read_bytes(uri).decode("utf-8-sig"))))
        for row in rows:
            for name in LOG_COLUMNS & row.keys():
                if row[name] and not math.isfinite(float(row[name])):
                    raise ValueError(f"{name} is {row[name]}")
    except (ValueError, TypeError, csv.Error) as error:
        raise SoundStormError(
            f"--training-log {uri}: not a log.csv of `soundstorm train` ({error}): give another, or leave it out"
        ) from error
    return rows
