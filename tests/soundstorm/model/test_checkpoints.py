"""Checkpoints: whole or not at all, exact when read back, and a sentence for everything that can be wrong with one."""

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from soundstorm.errors import SoundStormError
from soundstorm.model import checkpoints
from soundstorm.model.checkpoints import (
    CheckpointInfo,
    load_checkpoint,
    load_training_state,
    pack_checkpoint,
    save_checkpoint,
)
from soundstorm.model.config import ModelConfig, SamplerSettings
from soundstorm.model.presets import preset
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.optimization.ema import EMA
from soundstorm.schemas import CodecFingerprint
from soundstorm.training.batches import collate, seeded_generator
from soundstorm.training.step import apply_gradients, build_optimizer, build_schedule, training_step

CONFIG = ModelConfig(width=16, depth=1, heads=2, ff_mult=2, num_levels=2, codebook_size=30, num_classes=3)
FINGERPRINT = CodecFingerprint(
    name="test codec", sha256="ab" * 32, sample_rate=24_000, frame_rate=75, num_levels=2, codebook_size=30
)
TRAINING = replace(preset("tiny").training, precision="fp32")
SAMPLER = SamplerSettings(iterations=(5, 2), top_p=0.9)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


INFO = CheckpointInfo(
    training=TRAINING,
    categories=["rain", "dog bark", "grillons ❄"],
    fingerprint=FINGERPRINT,
    step=40,
    sampler=SAMPLER,
    extra={"fold": 5},
)
STATE: dict[str, Any] = {"epoch": 3, "noise": torch.arange(3), "nested": [{"lr": 0.1}]}


def save(
    folder: Path, model: SoundStorm | None = None, training_state: dict[str, Any] | None = STATE, **changes: Any
) -> str:
    return save_checkpoint(folder, model or SoundStorm(CONFIG), replace(INFO, **changes), training_state=training_state)


def test_a_packed_checkpoint_is_a_third_as_large_and_predicts_nearly_the_same(tmp_path: Path) -> None:
    model = SoundStorm(replace(CONFIG, width=128, depth=2)).eval()
    save(tmp_path / "checkpoint", model)
    sha256 = pack_checkpoint(tmp_path / "checkpoint", tmp_path / "packed")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("checkpoint", "packed")]
    assert sizes[1] < 0.36 * sizes[0]
    whole, packed = (load_checkpoint(tmp_path / name) for name in ("checkpoint", "packed"))
    assert packed.sha256 == sha256 != whole.sha256 == packed.extra["packed_from_sha256"]
    assert (packed.sampler, packed.categories, packed.step, packed.training) == (
        whole.sampler,
        whole.categories,
        whole.step,
        whole.training,
    )
    arguments = (torch.randint(30, (1, 2, 9)), torch.tensor([1]), torch.ones(1, 9, dtype=torch.bool), 1)
    expected = model(*arguments)
    assert ((packed.model(*arguments) - expected).norm() / expected.norm()).item() < 0.03


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    model = SoundStorm(CONFIG)
    sha256 = save(tmp_path / "checkpoint", model)
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert loaded.categories == ["rain", "dog bark", "grillons ❄"]
    assert (loaded.fingerprint, loaded.step, loaded.sampler, loaded.training, loaded.extra) == (
        FINGERPRINT,
        40,
        SAMPLER,
        TRAINING,
        {"fold": 5},
    )
    assert (
        loaded.sha256
        == sha256
        == hashlib.sha256((tmp_path / "checkpoint" / "model.safetensors").read_bytes()).hexdigest()
    )
    assert loaded.model.config == CONFIG
    assert not loaded.model.training
    arguments = (torch.randint(30, (1, 2, 9)), torch.tensor([1]), torch.ones(1, 9, dtype=torch.bool), 1)
    assert torch.equal(loaded.model(*arguments), model.eval()(*arguments))
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in loaded.model.parameters())
    state = load_training_state(tmp_path / "checkpoint")
    assert state["epoch"] == 3
    assert state["noise"].tolist() == [0, 1, 2]
    assert state["nested"] == [{"lr": 0.1}]


def test_the_folder_holds_three_files_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    save(tmp_path / "checkpoint")
    save(tmp_path / "checkpoint", step=41)
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == [
        "config.json",
        "model.safetensors",
        "training_state.pt",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert load_checkpoint(tmp_path / "checkpoint").step == 41
    save(tmp_path / "checkpoint", step=42, training_state=None)
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("failing", ["save", "rename"])
def test_a_failed_write_leaves_the_earlier_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    folder = tmp_path / "checkpoint"
    first = save(folder)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if failing == "save":
        monkeypatch.setattr(checkpoints.torch, "save", full_disk)
    else:
        rename = Path.replace
        monkeypatch.setattr(
            Path,
            "replace",
            lambda self, target: full_disk() if self.name.endswith(".partial") else rename(self, target),
        )
    with pytest.raises(SoundStormError, match="No space left on device"):
        save(folder, step=41)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert (load_checkpoint(folder).sha256, load_checkpoint(folder).step) == (first, 40)


def test_training_resumed_from_a_checkpoint_equals_training_without_a_stop(tmp_path: Path) -> None:
    batch = collate([np.random.default_rng(index).integers(30, size=(2, 12)) for index in range(4)], [0, 1, 2, 0])

    def start() -> tuple[SoundStorm, torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR, EMA]:
        model = SoundStorm(CONFIG)
        optimizer = build_optimizer(model, TRAINING)
        return model, optimizer, build_schedule(optimizer, TRAINING, 6), EMA(model, TRAINING.ema_decay)

    def run(
        parts: tuple[SoundStorm, torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR, EMA],
        generator: torch.Generator,
        steps: int,
    ) -> dict[str, torch.Tensor]:
        model, optimizer, schedule, ema = parts
        for _ in range(steps):
            apply_gradients(
                model, training_step(model, batch, generator, TRAINING).loss, optimizer, schedule, TRAINING, ema
            )
        return {**{f"average.{name}": value for name, value in ema.average.items()}, **model.state_dict()}

    torch.manual_seed(1)
    expected = run(start(), seeded_generator(5), 6)
    torch.manual_seed(1)
    parts, generator = start(), seeded_generator(5)
    run(parts, generator, 3)
    model, optimizer, schedule, ema = parts
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "ema": ema.state_dict(),
        "generator": generator.get_state(),
    }
    save(tmp_path / "checkpoint", ema.averaged(model), training_state=state)

    state = load_training_state(tmp_path / "checkpoint")
    resumed, generator = start(), torch.Generator()
    for part, name in zip(resumed, ("model", "optimizer", "schedule", "ema"), strict=True):
        part.load_state_dict(state[name])
    generator.set_state(state["generator"])
    got = run(resumed, generator, 3)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), ["config.json", "soundstorm train"]),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        ["model.safetensors", "complete checkpoint"],
    ),
    "garbage json": (
        lambda folder: (folder / "config.json").write_bytes(b"\xff{nonsense"),
        ["config.json", "not JSON"],
    ),
    "deep json": (lambda folder: (folder / "config.json").write_text("[" * 100_000), ["config.json", "not JSON"]),
    "json of another kind": (lambda folder: (folder / "config.json").write_text("[1, 2]"), ["config.json"]),
    "another format": (
        lambda folder: edit(folder, lambda config: config.update(format=99)),
        ["config.json", "format 99"],
    ),
    "no sampler": (
        lambda folder: edit(folder, lambda config: config.pop("sampler")),
        ["config.json", "'sampler' is missing"],
    ),
    "no width": (
        lambda folder: edit(folder, lambda config: config["architecture"].pop("width")),
        ["config.json", "'width' is missing"],
    ),
    "absurd depth": (
        lambda folder: edit(folder, lambda config: config["architecture"].update(depth=10**9)),
        ["config.json", "depth", "1000000000"],
    ),
    "depth as text": (
        lambda folder: edit(folder, lambda config: config["architecture"].update(depth="1")),
        ["config.json", "depth", "'1'"],
    ),
    "no fingerprint": (
        lambda folder: edit(folder, lambda config: config["codec"].pop("sha256")),
        ["config.json", "sha256", "make it again with `soundstorm train`"],
    ),
    "another codec geometry": (
        lambda folder: edit(folder, lambda config: config["codec"].update(num_levels=8)),
        ["config.json", "8x30", "2x30"],
    ),
    "too few categories": (
        lambda folder: edit(folder, lambda config: config["categories"].pop()),
        ["config.json", "2 categories", "3 classes"],
    ),
    "equal categories": (
        lambda folder: edit(folder, lambda config: config.update(categories=["a", "a", "b"])),
        ["config.json", "categories"],
    ),
    "negative step": (
        lambda folder: edit(folder, lambda config: config.update(step=-1)),
        ["config.json", "step is -1"],
    ),
    "truncated weights": (lambda folder: cut(folder / "model.safetensors", 2000), ["model.safetensors", "cut off"]),
    "empty weights": (lambda folder: cut(folder / "model.safetensors", 0), ["model.safetensors"]),
    "wrong shape": (
        lambda folder: change_weights(folder, lambda tensors: tensors.update(head_bias=torch.zeros(2, 31))),
        ["model.safetensors", "head_bias", "(2, 31)", "(2, 30)"],
    ),
    "wider than its weights": (
        lambda folder: edit(folder, lambda config: config["architecture"].update(width=4096)),
        ["model.safetensors", "4096"],
    ),
    "missing tensor": (
        lambda folder: change_weights(folder, lambda tensors: tensors.pop("head_bias")),
        ["model.safetensors", "head_bias", "missing"],
    ),
    "unknown tensor": (
        lambda folder: change_weights(folder, lambda tensors: tensors.update(odd=torch.zeros(1))),
        ["model.safetensors", "odd", "unknown"],
    ),
    "not a number": (
        lambda folder: change_weights(folder, lambda tensors: tensors["head_bias"].fill_(float("nan"))),
        ["model.safetensors", "finite"],
    ),
    "double precision": (
        lambda folder: change_weights(folder, lambda tensors: tensors.update(head_bias=tensors["head_bias"].double())),
        ["model.safetensors", "float32"],
    ),
    "weights of another run": (
        lambda folder: change_weights(folder, lambda tensors: tensors["head_bias"].add_(1)),
        ["model.safetensors", "SHA-256"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_in_a_sentence_that_names_the_file(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "checkpoint"
    save(folder)
    break_it, words = DAMAGES[damage]
    break_it(folder)
    with pytest.raises(SoundStormError) as error:
        load_checkpoint(folder)
    for word in [str(folder), *words]:
        assert word in str(error.value)


class Payload:
    """Unpickling this touches a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_training_state_with_a_payload_is_refused_and_not_run(tmp_path: Path, writer: str) -> None:
    folder, evidence = tmp_path / "checkpoint", tmp_path / "evidence"
    save(folder)
    path = folder / "training_state.pt"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Payload(evidence)))
    else:
        torch.save({"epoch": Payload(evidence)}, path)
    with pytest.raises(SoundStormError, match=r"training_state\.pt is not a training state"):
        load_training_state(folder)
    assert not evidence.exists()
    assert load_checkpoint(folder).step == 40


@pytest.mark.parametrize(
    "content", [None, b"", b"PK\x03\x04 cut", "half", [1, 2]], ids=["missing", "empty", "no archive", "half", "a list"]
)
def test_a_training_state_that_is_none_is_refused(tmp_path: Path, content: object) -> None:
    folder = tmp_path / "checkpoint"
    save(folder)
    path = folder / "training_state.pt"
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "half":
        cut(path, path.stat().st_size // 2)
    else:
        torch.save(content, path)
    with pytest.raises(SoundStormError, match=r"training_state\.pt"):
        load_training_state(folder)


def test_a_network_that_does_not_fit_its_categories_or_codec_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match="1 categories, but the network has 3 classes"):
        save(tmp_path / "checkpoint", categories=["rain"])
    with pytest.raises(SoundStormError, match="8x1024"):
        save(tmp_path / "checkpoint", fingerprint=replace(FINGERPRINT, num_levels=8, codebook_size=1024))
    assert list(tmp_path.iterdir()) == []
