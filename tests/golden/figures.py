"""What the golden test compares: figures and digests of the synthetic clips, from their codes to the pages, one float32
thread, fixed seeds."""

import contextlib
import hashlib
import io
import platform
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs import cli
from jobs.actors.finishing import playable
from jobs.actors.generator import sample_seed
from jobs.console.command import run_command
from jobs.training.generator_trainer import TrainingRun
from soundstorm.audio.files import SAMPLE_RATE, encode_audio, to_pcm16
from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec
from soundstorm.evaluation.acoustic import clip_metrics
from soundstorm.generation.decoding import generate_codes
from soundstorm.model.generators import GeneratorNetwork
from soundstorm.model.presets import preset
from soundstorm.reports.classification_page import render_classification
from soundstorm.reports.evaluation_page import render_report
from soundstorm.reports.study_page import render_study
from soundstorm.training.token_set import TokenSet
from tests.soundstorm.reports.test_classification_page import classification_data
from tests.soundstorm.reports.test_evaluation_page import report_data
from tests.soundstorm.reports.test_study_page import COST
from tests.soundstorm.reports.test_study_page import data as study_data

CLIP_S = 1.0
STEPS, CLIPS_A_STEP, EPOCHS = 20, 5, 10
GENERATED = 4
FRAMES_PER_SECOND = 10
"""Of the loudness that stands for a waveform on other processors."""


def machine() -> str:
    """What decides the last bits of a figure: the processor and the libraries that add up."""
    model = platform.processor()
    with contextlib.suppress(OSError):
        model = next(
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        )
    return f"{model}, torch {torch.__version__}, numpy {np.__version__}"


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Sums are added in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def clips() -> list[np.ndarray]:
    """One clip of each synthetic class, int16 at the codec's rate."""
    return [to_pcm16(synthesize(category, seed, CLIP_S, SAMPLE_RATE)) for seed, category in enumerate(CLASSES)]


@cache
def codec() -> Codec:
    return load_codec()


@cache
def codes() -> list[np.ndarray]:
    """Codes (Q, T) of every clip."""
    with one_thread():
        return codec().encode_clips([clip.astype(np.float32) / 32768 for clip in clips()])


@cache
def trained() -> tuple[list[float], GeneratorNetwork]:
    """Preset `tiny` trained for 20 steps on the clips: the losses, in training and validation, of each epoch of two
    steps; and the network."""
    fingerprint, tiny = codec().fingerprint, preset("tiny")
    architecture = replace(
        tiny.model, num_levels=fingerprint.num_levels, codebook_size=fingerprint.codebook_size, num_classes=len(CLASSES)
    )
    config = replace(tiny.training, batch_size=CLIPS_A_STEP, epochs=EPOCHS, seed=0)
    tokens = TokenSet.of([[codes_QT] for codes_QT in codes()], range(len(CLASSES)))
    losses: list[float] = []
    with one_thread():
        run = TrainingRun(architecture, config, tokens, tokens, device=torch.device("cpu"))
        assert run.total_steps == STEPS
        while not run.is_finished:
            row = run.run_epoch()
            losses += [float(row["train_loss"] or 0), float(row["val_loss"] or 0)]
    return losses, run.network


@cache
def generated() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Codes (Q, T) and waveforms (N,) of four clips that this network makes with the sampler of the preset."""
    seeds = [sample_seed(0, label, label) for label in range(GENERATED)]
    with one_thread():
        made = generate_codes(
            trained()[1].eval(),
            torch.arange(GENERATED),
            [len(codes()[0][0])] * GENERATED,
            preset("tiny").sampler,
            seeds,
        )
        arrays = [codes_QT.numpy() for codes_QT in made]
        waveforms = codec().decode_clips(arrays, seeds)
    return arrays, [
        playable(waveform, round(CLIP_S * codec().sample_rate), index) for index, waveform in enumerate(waveforms)
    ]


def loudness(waveform: np.ndarray) -> list[float]:
    """RMS of each tenth of a second."""
    return [
        float(np.sqrt(np.mean(part.astype(np.float64) ** 2))) for part in np.array_split(waveform, FRAMES_PER_SECOND)
    ]


def help_line(name: str) -> str:
    """How a command is called, and the first paragraph of its help."""
    job, told = import_module(cli.COMMANDS[name][0]), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        run_command(job.Options, job.run, ["--help"], f"soundstorm {name}")
    text = re.sub(r"\x1b\[[0-9;]*m", "", told.getvalue())
    usage, _, rest = text.partition("\n\n")
    purpose = rest.partition("\n\n")[0]
    return " ".join(f"{usage} | {purpose}".split())


def pages() -> dict[str, str]:
    """SHA-256 of a page of each kind, less the pictures, whose bytes follow the drawing libraries, and the sounds."""
    made = {
        "report": render_report(report_data(("rain", "clock_tick"), clips=4)),
        "study": render_study(study_data(cost=COST)),
        "classification": render_classification(classification_data()),
    }
    return {kind: digest(without_files(page).encode()) for kind, page in made.items()}


def without_files(page: str) -> str:
    """A page without what its `data:` addresses hold."""
    return re.sub(r"(data:[\w/+.-]+;base64,)[A-Za-z0-9+/=]+", r"\1", page)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def figures() -> dict[str, Any]:
    """All of it, as JSON holds it."""
    arrays, waveforms = generated()
    return {
        "machine": machine(),
        "codec": codec().fingerprint.sha256,
        "tokens": [codes_QT.tolist() for codes_QT in codes()],
        "losses": trained()[0],
        "generated_codes": [codes_QT.tolist() for codes_QT in arrays],
        "generated_audio": [digest(encode_audio(waveform, codec().sample_rate, "wav")) for waveform in waveforms],
        "generated_loudness": [loudness(waveform) for waveform in waveforms],
        "metrics": [clip_metrics(clip, SAMPLE_RATE) for clip in clips()],
        "help": {name: help_line(name) for name in cli.COMMANDS},
        "pages": pages(),
    }
