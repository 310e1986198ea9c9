"""Runs of the jobs that several tests look at: each is made once."""

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from cluster import storage, tables
from jobs import evaluate, generate, tokenize
from jobs.inputs.datasets import open_dataset
from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.classification.cnn import AudioClassifier, AudioClassifierConfig, save_classifier
from soundstorm.codec.files import load_codec
from soundstorm.data.synthetic import write_dataset
from soundstorm.errors import SoundStormError
from soundstorm.model.checkpoints import CheckpointInfo, save_checkpoint
from soundstorm.model.config import ModelConfig
from soundstorm.model.presets import preset
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.serialization.provenance import Parent, TrainedOn
from soundstorm.serialization.recordings import content_of, recordings_of
from tests.conftest import shape_of

os.environ["SOUNDSTORM_OFFLINE"] = "1"  # no test waits for a download of weights that it did not ask for

SHARD_SIZE = 8
NUM_SAMPLES, SAMPLE_S = 20, 1.0
SAMPLES_SHARD = 8


def interrupt(output: str, name: str) -> None:
    """Put the folder of a finished job back to where the job was before its last write: begun, not finished."""
    settings = json.loads(storage.read_bytes(f"{output}/{name}.json"))["settings"]
    storage.write_bytes(
        f"{output}/{name}.started.json", json.dumps({"settings": settings, "started": "earlier"}).encode()
    )
    storage.delete(f"{output}/{name}.json")


# ---- recordings, good and bad


def wav(samples: np.ndarray, sample_rate: int = 44_100, subtype: str = "PCM_16", format: str = "WAV") -> bytes:
    """An audio file of (N,) or (N, channels)."""
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, subtype=subtype, format=format)
    return file.getvalue()


def noise(duration_s: float, sample_rate: int = 44_100, channels: int = 1, seed: int = 0) -> np.ndarray:
    """White noise (N, channels)."""
    return 0.1 * np.random.default_rng(seed).standard_normal((round(duration_s * sample_rate), channels))


def _with_value(value: float) -> np.ndarray:
    samples = noise(0.5)
    samples[1000] = value
    return samples


@dataclass(frozen=True)
class MixedDataset:
    """A dataset of good, odd and bad recordings, and what is to become of each."""

    folder: Path
    good: set[str]
    """Clip ids that must be tokenized."""
    silent: set[str]
    """Those of them that are digital silence."""
    bad: dict[str, tuple[str, str]]
    """Rejected clip ids, with stage and reason; that of the duplicate is good too."""


GOOD: dict[str, bytes] = {
    "eight channels.wav": wav(noise(0.5, channels=8)),
    "96-khz.wav": wav(noise(0.5, 96_000), 96_000),
    "24-bit.wav": wav(noise(0.5), subtype="PCM_24"),
    "float.wav": wav(3.0 * noise(0.5), subtype="FLOAT"),
    "Möwe 鳥.wav": wav(noise(0.5)),
    "short.wav": wav(noise(0.05)),
    "silence.wav": wav(np.zeros(22_050)),
    "flac.flac": wav(noise(0.5), format="FLAC"),
    "ogg.ogg": wav(noise(0.5), format="OGG", subtype="VORBIS"),
    "mp3.mp3": wav(noise(0.5), format="MP3", subtype="MPEG_LAYER_III"),
    "twice.wav": wav(noise(0.5)),
}
BAD_CONTENT: dict[str, tuple[bytes, str]] = {
    "empty.wav": (b"", "empty_file"),
    "truncated.wav": (wav(noise(1.0))[:40_000], "truncated"),
    "text.wav": (b"this is a letter and not a sound\n" * 50, "not_audio"),
    "zero-samples.wav": (wav(np.zeros(0)), "no_samples"),
    "nan.wav": (wav(_with_value(np.nan), subtype="FLOAT"), "not_finite"),
    "infinite.wav": (wav(_with_value(np.inf), subtype="FLOAT"), "not_finite"),
}
BAD_ROWS = [
    ("missing.wav", "1", "0", "missing_file"),
    ("../../outside.wav", "1", "0", "outside_data_folder"),
    ("twice.wav", "2", "0", "duplicate_id"),
    ("fold.wav", "6", "0", "bad_fold"),
    ("label.wav", "1", "99", "bad_label"),
    ("word.wav", "1", "rain", "bad_label"),
]
"""File name, fold, target and the reason for its rejection."""


@pytest.fixture(scope="session")
def mixed_dataset(tmp_path_factory: pytest.TempPathFactory) -> MixedDataset:
    """ESC-50's layout with one clip of each kind that is accepted or rejected, and a few ordinary ones."""
    folder = tmp_path_factory.mktemp("mixed") / "data"
    write_dataset(folder, clips_per_class=1, seed=0, duration_s=0.5)
    table = folder / "meta" / "esc50.csv"
    rows = list(csv.reader(table.read_text().splitlines()))
    good = {Path(row[0]).stem for row in rows[1:]} | {Path(name).stem for name in GOOD}
    bad = {Path(name).stem: ("decode", reason) for name, (_, reason) in BAD_CONTENT.items()}
    bad |= {name.removesuffix(".wav"): ("index", reason) for name, _, _, reason in BAD_ROWS if "/" not in name}
    bad["../../outside.wav"] = ("index", "outside_data_folder")
    for name, content in [*GOOD.items(), *((name, content) for name, (content, _) in BAD_CONTENT.items())]:
        (folder / "audio" / name).write_bytes(content)
        rows.append([name, "1", "0", CLASSES[0], "False", "0", "A"])
    for name, fold, target, _ in BAD_ROWS:
        rows.append([name, fold, target, CLASSES[0], "False", "0", "A"])
        if Path(name).parent == Path() and name not in ("missing.wav", "twice.wav"):
            (folder / "audio" / name).write_bytes(GOOD["short.wav"])
    (folder.parent / "outside.wav").write_bytes(GOOD["short.wav"])
    if Path("/proc/self/mem").exists():  # opens, and cannot be read from its beginning, not even by root
        (folder / "audio" / "unreadable.wav").symlink_to("/proc/self/mem")
        rows.append(["unreadable.wav", "1", "0", CLASSES[0], "False", "0", "A"])
        bad["unreadable"] = ("decode", "unreadable_file")
    with table.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return MixedDataset(folder, good, {"silence"}, bad)


# ---- tokens


def tokenize_options(dataset: MixedDataset, codec: Path, output: str, **changes: Any) -> tokenize.Options:
    """Options for the mixed dataset, most of whose clips are bad."""
    settings: dict[str, Any] = {"codec": str(codec), "shard_size": SHARD_SIZE, "num_actors": 1, "max_rejected": 0.9}
    return tokenize.Options(
        dataset="synthetic", data_dir=str(dataset.folder), output_dir=output, **(settings | changes)
    )


@dataclass(frozen=True)
class Tokenized:
    """A run that rejected more than it was allowed to, and the same command with a higher limit."""

    output: str
    first_error: str
    files_after_first: dict[str, int]
    """Path and time of modification."""
    summary: dict[str, Any]


def file_times(folder: str) -> dict[str, int]:
    """Every file below `folder` with its time of modification."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()
    }


@pytest.fixture(scope="session")
def tokenized(
    mixed_dataset: MixedDataset, tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> Tokenized:
    output = str(tmp_path_factory.mktemp("tokens") / "out")
    with pytest.raises(SoundStormError) as refused:
        tokenize.run(tokenize_options(mixed_dataset, tiny_codec, output, max_rejected=0.05))
    files = file_times(output)
    summary = tokenize.run(tokenize_options(mixed_dataset, tiny_codec, output, num_actors=2))
    return Tokenized(output, str(refused.value), files, summary)


# ---- samples


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny network with random weights for the synthetic classes, on the codec in the package."""
    config, codec = preset("tiny"), load_codec().fingerprint
    architecture = ModelConfig(**(config.model.to_dict() | {"num_classes": len(CLASSES)} | shape_of(codec)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SoundStorm(architecture)
    folder = tmp_path_factory.mktemp("checkpoint") / "checkpoint"
    save_checkpoint(
        folder,
        model,
        CheckpointInfo(
            training=config.training,
            categories=CLASSES,
            fingerprint=codec,
            step=1,
            sampler=config.sampler,
        ),
    )
    return str(folder.parent)


def generate_options(checkpoint: str, output: str, **changes: Any) -> generate.Options:
    """Options for two samples of each class."""
    settings: dict[str, Any] = {
        "num_samples": NUM_SAMPLES,
        "duration": SAMPLE_S,
        "shard_size": SAMPLES_SHARD,
        "num_actors": 1,
        "seed": 5,
    }
    return generate.Options(checkpoint=checkpoint, output_dir=output, **(settings | changes))


@pytest.fixture(scope="session")
def generated(checkpoint: str, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> str:
    """The output folder of a run with two actors."""
    output = str(tmp_path_factory.mktemp("samples") / "out")
    generate.run(generate_options(checkpoint, output, num_actors=2))
    return output


# ---- comparison


@pytest.fixture(scope="session")
def two_classes(synthetic_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of the synthetic dataset, in its layout: ten clips in five folds."""
    folder = tmp_path_factory.mktemp("two-classes")
    (folder / "audio").symlink_to(synthetic_dataset / "audio")
    (folder / "meta").mkdir()
    heading, *rows = (synthetic_dataset / "meta" / "esc50.csv").read_text().splitlines()
    chosen = [row for row in rows if row.split(",")[3] in CLASSES[:2]]
    (folder / "meta" / "esc50.csv").write_text("\n".join([heading, *chosen]) + "\n")
    return folder


@pytest.fixture(scope="session")
def generated_of_two(generated: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The generated clips of these classes, as a manifest."""
    samples, metadata = tables.read_table(storage.join(generated, "samples.parquet"))
    folder = str(tmp_path_factory.mktemp("samples-of-two"))
    chosen = samples.filter([category in CLASSES[:2] for category in samples["category"].to_pylist()])
    tables.write_table(storage.join(folder, "samples.parquet"), chosen, metadata)
    return folder


def evaluate_options(real: str, generated: str, output: str, **changes: Any) -> evaluate.Options:
    """Options for two real clips of each class."""
    return evaluate.Options(
        real_audio=real,
        generated_audio=generated,
        output_dir=output,
        **({"clips_per_class": 2, "num_actors": 1} | changes),
    )


def trained_on_all_but(fold: int, folder: Path, *parents: Parent) -> TrainedOn:
    """What is known of weights that were trained on the other folds of the synthetic dataset in a folder."""
    clips = open_dataset("synthetic", str(folder)).clips.to_pylist()
    folds = {clip["clip_id"]: clip["fold"] for clip in clips}
    contents = {clip["clip_id"]: content_of(storage.read_bytes(clip["uri"])) for clip in clips if clip["fold"] != fold}
    return TrainedOn(recordings=(recordings_of("synthetic", folds, contents, contents),), parents=parents)


@pytest.fixture(scope="session")
def tiny_classifier(synthetic_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small classifier with random weights that names the synthetic classes, and says that it was trained without
    fold 4."""
    path = tmp_path_factory.mktemp("classifier") / "classifier.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AudioClassifier(len(CLASSES), AudioClassifierConfig(widths=(4, 8), embedding=8))
    about: dict[str, Any] = {"dataset": "synthetic", "held_out_fold": 4, "accuracy": 0.1}
    save_classifier(path, model, categories=CLASSES, trained_on=trained_on_all_but(4, synthetic_dataset), **about)
    return str(path)


@dataclass(frozen=True)
class Evaluated:
    """A comparison of real and generated clips."""

    output: str
    again: evaluate.Options
    """The same command."""


@pytest.fixture(scope="session")
def evaluated(
    synthetic_dataset: Path, generated: str, tiny_classifier: str, tmp_path_factory: pytest.TempPathFactory
) -> Evaluated:
    root = tmp_path_factory.mktemp("evaluation")
    (root / "log.csv").write_text("epoch,step,train_loss,val_loss,lr\n1,10,6.5,6.6,0.001\n2,20,6.1,6.3,0.0005\n")
    options = evaluate_options(
        str(synthetic_dataset),
        generated,
        str(root / "out"),
        training_log=str(root / "log.csv"),
        classifier=tiny_classifier,
        num_actors=2,
    )
    evaluate.run(options)
    return Evaluated(str(root / "out"), options)


# ---- command lines


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a job as its command line does; returns the exit code, standard output and standard error."""
    from jobs.console.command import run_command

    def run(module: Any, *arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_command(module.Options, module.run, list(arguments), "soundstorm")
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def assert_one_message(result: tuple[int, str, str], *parts: str) -> None:
    """The command failed with exit code 1, one error, no traceback, nothing on standard output, and `parts` are in the
    message."""
    code, out, err = result
    assert code == 1
    assert out == ""
    assert sum(line.startswith("error:") for line in err.splitlines()) == 1
    assert "Traceback" not in err and 'File "' not in err
    text = " ".join(err.split())
    for part in parts:
        assert part in text


def synthetic_clip(category: str, duration_s: float = 1.0, seed: int = 3) -> np.ndarray:
    """One clip at the codec's rate, float32 (N,)."""
    return synthesize(category, seed, duration_s, 24_000)
