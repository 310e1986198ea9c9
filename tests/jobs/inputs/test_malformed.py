"""Whatever is wrong with a file: the command ends with one message that names it, or works; nothing in a file is ever
run."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster import tables
from cluster.tables import stage_record as records
from jobs import evaluate, generate, tokenize, train
from jobs.inputs.audio_files import load_clip, load_recording
from jobs.inputs.clips import find_clips
from jobs.inputs.tokens import open_tokens
from soundstorm.audio.files import RejectedAudio, encode_audio
from soundstorm.codec.files import load_codec
from soundstorm.data.synthetic import write_dataset
from soundstorm.errors import SoundStormError
from soundstorm.generation.decoding import generate_codes
from soundstorm.model.checkpoints import CheckpointInfo, load_checkpoint, load_training_state, save_checkpoint
from soundstorm.model.config import ModelConfig, SamplerSettings
from soundstorm.model.presets import preset
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.schemas import CLIPS, REJECTED, SAMPLES, TOKENS, Reason, codes_to_lists
from tests.jobs.conftest import noise, wav
from tests.support.malformed import Broken, call, command, counted, many, message_of, tell
from tests.support.mutations import broken_csv, broken_json, broken_safetensors, broken_state, broken_table, damaged

OTHERWISE = {"settings": {"begun": "with other settings"}, "started": "2026-01-01T00:00:00+00:00"}
REFUSED_AT_LAST = "was started there with other settings"
"""What a job says that has read all its input, and is kept from beginning."""
CATEGORIES = ["rain", "dog"]


@dataclass(frozen=True)
class Case:
    """A good file, and a command that reads it."""

    file: Path
    broken: Broken
    run: Callable[[], tuple[int, str, str]]
    use: Callable[[], None] = lambda: None
    """What is done with the file later; may raise SoundStormError."""
    names: str = ""
    """What a message may name instead of the file."""


# ---- good files


def begun_otherwise(folder: Path, stage: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stage}.started.json").write_text(json.dumps(OTHERWISE))
    return str(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_codec: Path, tiny_classifier: str) -> Path:
    """A folder with one good file of every kind."""
    home = tmp_path_factory.mktemp("malformed")
    shutil.copy(tiny_codec, home / "codec.safetensors")
    shutil.copy(tiny_classifier, home / "classifier.safetensors")
    fingerprint = load_codec(tiny_codec).fingerprint
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SoundStorm(ModelConfig(width=16, depth=1, heads=2, kernel=3, ff_mult=1, num_classes=len(CATEGORIES)))
    save_checkpoint(
        home / "checkpoint",
        model,
        CheckpointInfo(
            training=preset("tiny").training,
            categories=CATEGORIES,
            fingerprint=fingerprint,
            step=3,
            sampler=SamplerSettings(iterations=1),
            extra={"epoch": 1},
        ),
        training_state={"network": model.state_dict(), "epochs_done": 1, "rows": [{"epoch": 1, "val_loss": None}]},
    )
    write_dataset(home / "dataset", clips_per_class=1, seed=0, duration_s=0.1)
    (home / "own").mkdir()
    (home / "own" / "clips.csv").write_text("filename,category,fold\na.wav,rain,1\nb.wav,dog,2\nc.wav,dog,3\n")
    sounds = {"a.wav": wav(noise(0.2)), "b.wav": wav(noise(0.2), subtype="FLOAT"), "c.wav": wav(noise(0.3, channels=2))}
    sounds |= {
        "d.flac": encode_audio(noise(0.2)[:, 0], 24_000),
        "e.ogg": wav(noise(0.2), format="OGG", subtype="VORBIS"),
    }
    sounds["f.mp3"] = wav(noise(0.2), format="MP3", subtype="MPEG_LAYER_III")
    for name, content in sounds.items():
        (home / "own" / name).write_bytes(content)
    (home / "log.csv").write_text("epoch,step,train_loss,val_loss,lr\n1,10,6.5,6.6,0.001\n2,20,6.1,,0.0005\n")
    (home / "best.json").write_text(
        json.dumps({"training": {"lr": 0.001, "batch_size": 4, "betas": [0.9, 0.98]}, "loss": 3.0})
    )
    _write_tables(home, fingerprint.to_metadata())
    return home


def _write_tables(home: Path, codec: dict[str, str]) -> None:
    rng = np.random.default_rng(0)
    clips = [
        {
            "clip_id": f"c{index}",
            "dataset": "folder",
            "uri": str(home / "own" / name),
            "fold": 1 + index % 2,
            "label": 0,
            "category": "rain",
        }
        for index, name in enumerate(("a.wav", "b.wav", "c.wav"))
    ]
    tokens = [
        {key: clip[key] for key in ("clip_id", "dataset", "fold", "label", "category")}
        | {"view": 0, "num_frames": 4, "codes": codes_to_lists(rng.integers(0, 1024, (8, 4)))}
        for clip in clips
    ]
    samples = [
        {
            "sample_id": f"rain-{index}",
            "label": 0,
            "category": "rain",
            "seed": 1,
            "num_frames": 4,
            "duration_s": 0.2,
            "sha256": "ab",
        }
        | {"uri": str(home / "own" / name)}
        for index, name in enumerate(("d.flac", "e.ogg"))
    ]
    rejected = [
        {"clip_id": "c9", "uri": "c9.wav", "stage": "decode", "reason": Reason.TRUNCATED.value, "detail": "cut"}
    ]
    about = {"categories": json.dumps(CATEGORIES), "num_folds": "2"}
    real, tokenized, generated = (home / name for name in ("real", "tokenized", "generated"))
    tables.write_table(str(real / "clips.parquet"), pa.Table.from_pylist(clips, CLIPS), about)
    tables.write_table(str(real / "rejected" / "part-00000.parquet"), pa.Table.from_pylist(rejected, REJECTED), {})
    tables.write_table(
        str(tokenized / "tokens" / "part-00000.parquet"), pa.Table.from_pylist(tokens, TOKENS), codec | about
    )
    records.complete_stage(str(tokenized), "tokenize", {"dataset": "folder"}, {"clips": 3})
    sampler = {"checkpoint_sha256": "ab", "sampler_iterations": "1"}
    tables.write_table(str(generated / "samples.parquet"), pa.Table.from_pylist(samples, SAMPLES), codec | sampler)


# ---- the commands that read them


@pytest.fixture(scope="module")
def cases(home: Path) -> dict[str, Case]:
    """By name."""
    stop = {
        name: begun_otherwise(home / "begun" / name, name) for name in ("generate", "evaluate", "train", "tokenize")
    }
    codec = ("--codec", str(home / "codec.safetensors"))

    def run_generate(*arguments: str) -> Callable[[], tuple[int, str, str]]:
        return lambda: command(
            generate, "--checkpoint", str(home / "checkpoint"), *codec, "--output-dir", stop["generate"], *arguments
        )

    def run_evaluate() -> tuple[int, str, str]:
        inputs = (
            "--real-audio",
            str(home / "real"),
            "--generated-audio",
            str(home / "generated"),
            "--training-log",
            str(home / "log.csv"),
        )
        return command(
            evaluate,
            *inputs,
            *codec,
            "--classifier",
            str(home / "classifier.safetensors"),
            "--output-dir",
            stop["evaluate"],
        )

    def run_train() -> tuple[int, str, str]:
        inputs = (
            "--tokens",
            str(home / "tokenized"),
            "--config",
            str(home / "best.json"),
            "--checkpoint",
            str(home / "checkpoint"),
        )
        return command(train, *inputs, "--output-dir", stop["train"])

    def run_tokenize(dataset: str, folder: str) -> Callable[[], tuple[int, str, str]]:
        inputs = ("--dataset", dataset, "--data-dir", str(home / folder))
        return lambda: command(tokenize, *inputs, *codec, "--output-dir", stop["tokenize"])

    def decode() -> None:
        checkpoint = load_checkpoint(home / "checkpoint")
        [codes] = generate_codes(checkpoint.model, torch.tensor([1]), [3], checkpoint.sampler, seeds=[1])
        assert codes.shape == (8, 3)

    def split() -> None:
        for part in open_tokens(str(home / "tokenized"), None).split():
            assert all(
                codes_QT.dtype == np.uint16 and codes_QT.shape[0] == 8 for views in part.views for codes_QT in views
            )

    def measure(option: str, folder: str) -> Callable[[], None]:
        def load_all() -> None:
            for clip in find_clips(option, str(home / folder)):
                with contextlib.suppress(RejectedAudio):
                    assert load_clip(clip.uri).dtype == np.int16

        return load_all

    def resume() -> None:
        assert isinstance(load_training_state(home / "checkpoint"), dict)

    def read_state() -> dict[str, Any]:
        load_training_state(home / "checkpoint")
        raise SoundStormError(REFUSED_AT_LAST)

    checkpoint, tokenized = home / "checkpoint", home / "tokenized"
    found = {
        "checkpoint's settings": Case(checkpoint / "config.json", broken_json, run_generate(), decode),
        "checkpoint's weights": Case(checkpoint / "model.safetensors", broken_safetensors, run_generate(), decode),
        "checkpoint to start from": Case(checkpoint / "config.json", broken_json, run_train, decode),
        "training state": Case(checkpoint / "training_state.pt", broken_state, lambda: call(read_state), resume),
        "codec": Case(home / "codec.safetensors", broken_safetensors, run_tokenize("folder", "own")),
        "classifier": Case(home / "classifier.safetensors", broken_safetensors, run_evaluate),
        "training log": Case(home / "log.csv", broken_csv, run_evaluate),
        "settings of a study": Case(home / "best.json", broken_json, run_train),
        "tokens": Case(tokenized / "tokens" / "part-00000.parquet", broken_table, run_train, split, str(tokenized)),
        "record of tokens": Case(tokenized / "tokenize.json", broken_json, run_train, split),
        "clips": Case(home / "real" / "clips.parquet", broken_table, run_evaluate, measure("--real-audio", "real")),
        "rejected clips": Case(
            home / "real" / "rejected" / "part-00000.parquet",
            broken_table,
            run_evaluate,
            names=str(home / "real" / "rejected"),
        ),
        "manifest": Case(
            home / "generated" / "samples.parquet",
            broken_table,
            run_evaluate,
            measure("--generated-audio", "generated"),
        ),
        "published table": Case(
            home / "dataset" / "meta" / "esc50.csv",
            broken_csv,
            run_tokenize("synthetic", "dataset"),
            names=str(home / "dataset"),
        ),
        "table of one's own": Case(
            home / "own" / "clips.csv", broken_csv, run_tokenize("folder", "own"), names=str(home / "own")
        ),
        "record of a beginning": Case(
            home / "begun" / "generate" / "generate.started.json", broken_json, run_generate(), names=stop["generate"]
        ),
    }
    for name in ("a.wav", "b.wav", "d.flac", "e.ogg", "f.mp3"):
        prompt = run_generate("--prompt", str(home / "own" / name), "--prompt-duration", "0.1")
        found[f"prompt {name}"] = Case(home / "own" / name, damaged, prompt)
    return found


# ---- what must hold

NAMES = [
    *(
        "checkpoint's settings",
        "checkpoint's weights",
        "checkpoint to start from",
        "training state",
        "codec",
        "classifier",
        "training log",
    ),
    *(
        "settings of a study",
        "tokens",
        "record of tokens",
        "clips",
        "rejected clips",
        "manifest",
        "published table",
        "table of one's own",
    ),
    *("record of a beginning", "prompt a.wav", "prompt b.wav", "prompt d.flac", "prompt e.ogg", "prompt f.mp3"),
]


@pytest.fixture(scope="module", autouse=True)
def _told() -> Iterator[None]:
    yield
    tell()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_a_broken_file_is_named_in_one_message_or_can_be_used(
    name: str, cases: dict[str, Case], tmp_path: Path
) -> None:
    case, marker = cases[name], tmp_path / "marker"
    good = case.file.read_bytes()
    assert REFUSED_AT_LAST in message_of(case.run())

    @many
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case.file.write_bytes(data.draw(case.broken(good, marker)))
        try:
            message = message_of(case.run())
            accepted = REFUSED_AT_LAST in message
            assert accepted or case.file.name in message or (case.names and case.names in message), message
            if accepted:
                with contextlib.suppress(SoundStormError):
                    case.use()
        finally:
            case.file.write_bytes(good)
        assert not marker.exists()
        counted["used" if accepted else "refused"] += 1

    check()


@pytest.mark.parametrize("name", ["a.wav", "b.wav", "d.flac", "e.ogg", "f.mp3"])
def test_a_broken_recording_is_rejected_with_a_reason_or_has_sound(name: str, home: Path, tmp_path: Path) -> None:
    good, recording, marker = (home / "own" / name).read_bytes(), tmp_path / name, tmp_path / "marker"

    @many
    @given(st.data())
    def check(data: st.DataObject) -> None:
        recording.write_bytes(data.draw(damaged(good, marker)))
        try:
            waveform = load_recording(str(recording)).waveform
            assert len(waveform) and np.abs(waveform).max() <= 1
            counted["used"] += 1
        except RejectedAudio as error:
            assert error.reason in Reason and error.detail
            counted["refused"] += 1
        assert not marker.exists()

    check()


def test_the_names_are_those_of_the_cases(cases: dict[str, Case]) -> None:
    assert list(cases) == NAMES
