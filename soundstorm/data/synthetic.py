"""Writes the synthetic classes as a dataset in ESC-50's layout."""

import csv
import io
from pathlib import Path

import numpy as np

from soundstorm.audio.files import encode_audio
from soundstorm.audio.synthesis import CLASSES, SYNTHETIC_RATE, synthesize
from soundstorm.errors import SoundStormError

NUM_FOLDS = 5


def write_dataset(folder: Path, clips_per_class: int = 40, seed: int = 0, duration_s: float = 5.0) -> Path:
    """Write all classes as 16-bit 44.1 kHz WAV files in ESC-50's layout: first `audio/*.wav`, then `meta/esc50.csv`.

    Each clip has a source recording of its own, and the clips of each class are distributed over the 5 folds. Returns
    `folder`.

    Raises:
        SoundStormError: `clips_per_class` is not positive, or as `synthesize`.
    """
    if clips_per_class < 1:
        raise SoundStormError(f"{clips_per_class} clips per class make no dataset: choose at least 1")
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    (folder / "meta").mkdir(exist_ok=True)
    rows = io.StringIO(newline="")
    table = csv.writer(rows, lineterminator="\n")
    table.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
    for label, category in enumerate(CLASSES):
        for number in range(clips_per_class):
            clip_seed = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
            fold = (label + number) % NUM_FOLDS + 1
            source = label * clips_per_class + number
            name = f"{fold}-{source:06d}-A-{label}.wav"
            (folder / "audio" / name).write_bytes(
                encode_audio(synthesize(category, clip_seed, duration_s), SYNTHETIC_RATE, "wav")
            )
            table.writerow([name, fold, label, category, False, f"{source:06d}", "A"])
    (folder / "meta" / "esc50.csv").write_text(rows.getvalue(), encoding="utf-8")
    return folder
