"""The AST: its features are the published ones, its weights survive versions, lengths and the file, and training moves
what it should."""

import builtins
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from soundstorm.audio.files import SAMPLE_RATE, from_pcm16, resample, to_pcm16
from soundstorm.classification.ast_classifier import (
    filled,
    filter_bank,
    load_ast_classifier,
    save_ast_classifier,
    scaled,
)
from soundstorm.classification.ast_network import (
    AstClassifier,
    AstConfig,
    fitted_positions,
    pretrained_ast,
    published_name,
    read_ast_config,
)
from soundstorm.classification.training.ast_trainer import AstTrainer, AstTrainingConfig
from soundstorm.errors import SoundStormError

NAMES = ["dog", "rain", "sea"]
SMALL = AstConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_length=128)


def noise(duration_s: float, seed: int = 0) -> np.ndarray:
    return to_pcm16(0.1 * np.random.default_rng(seed).standard_normal(round(duration_s * SAMPLE_RATE)))


def tone(frequency_hz: float, seed: int, duration_s: float = 1.0) -> np.ndarray:
    time_s = np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
    return to_pcm16(
        0.3 * np.sin(2 * np.pi * frequency_hz * time_s + seed)
        + 0.01 * np.random.default_rng(seed).standard_normal(len(time_s))
    )


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="the extra 'ast' is not installed")


@pytest.fixture(scope="module")
def saved(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small AST with random weights for 5 categories, as `transformers` saves it."""
    folder = tmp_path_factory.mktemp("ast")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AstClassifier(5, SMALL)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)  # so that a network this small hears something
    model.network.save_pretrained(folder)
    transformers.ASTFeatureExtractor(mean=-3.0, std=4.0).save_pretrained(folder)
    return folder


def started(saved: Path, max_length: int = 128) -> AstClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return pretrained_ast(
            len(NAMES), (saved / "model.safetensors").read_bytes(), config_of(saved), max_length, str(saved)
        ).eval()


def config_of(saved: Path) -> AstConfig:
    return read_ast_config(
        (saved / "config.json").read_bytes(), (saved / "preprocessor_config.json").read_bytes(), str(saved)
    )


@pytest.mark.parametrize("duration_s", [0.01, 0.5, 1.28, 2.0])
def test_the_features_are_those_of_the_published_extractor(transformers: Any, duration_s: float) -> None:
    clip = noise(duration_s)
    found_TM = scaled(filled(filter_bank(clip, SMALL), SMALL), SMALL)
    waveform = resample(from_pcm16(clip), SAMPLE_RATE, 16_000)
    extractor = transformers.ASTFeatureExtractor(max_length=SMALL.max_length)  # with the defaults of the published one
    expected = extractor(np.pad(waveform, (0, max(0, 400 - len(waveform)))), sampling_rate=16_000, return_tensors="pt")[
        "input_values"
    ][0]
    assert found_TM.shape == (128, 128)
    torch.testing.assert_close(found_TM, expected, rtol=0, atol=1e-6)


def test_a_network_that_starts_from_saved_weights_hears_what_the_saved_one_heard(
    saved: Path, transformers: Any
) -> None:
    assert config_of(saved) == replace(SMALL, mean=-3.0, std=4.0)
    original = transformers.ASTForAudioClassification.from_pretrained(saved, use_safetensors=True).eval()
    features_BTM = torch.randn(2, 128, 128)
    with torch.no_grad():
        expected_BD = original.audio_spectrogram_transformer(features_BTM).pooler_output
        torch.testing.assert_close(started(saved).pooled(features_BTM), expected_BD, rtol=0, atol=1e-5)


def test_names_of_the_published_file_and_of_later_versions_mean_the_same(saved: Path) -> None:
    published = {published_name(name): value for name, value in load_file(saved / "model.safetensors").items()}
    assert "audio_spectrogram_transformer.encoder.layer.1.attention.attention.query.weight" in published
    assert {published_name(name) for name in published} == set(published)
    later = {name: name for name in published}
    for new, old in (
        ("layers.1.attention.q_proj", "encoder.layer.1.attention.attention.query"),
        ("layers.0.mlp.fc2", "encoder.layer.0.output.dense"),
    ):
        name = f"audio_spectrogram_transformer.{old}.weight"
        later[name] = f"audio_spectrogram_transformer.{new}.weight"
    for folder_names in (dict.fromkeys(published), later):
        content = {folder_names[name] or name: value for name, value in published.items()}
        save_file(content, saved / "other.safetensors")
        model = pretrained_ast(3, (saved / "other.safetensors").read_bytes(), config_of(saved), 128, "there")
        assert all(
            torch.equal(value, published[name])
            for name, value in model.weights().items()
            if not name.startswith("classifier.")
        )


def test_position_embeddings_are_cut_from_the_middle_or_interpolated() -> None:
    rows, columns = SMALL.grid
    grid = (
        torch.arange(columns, dtype=torch.float32).repeat(rows)[None, :, None].expand(1, -1, 4)
    )  # each patch knows its column
    positions = torch.cat([torch.full((1, 2, 4), -1.0), grid], 1)
    same = fitted_positions(positions, SMALL, SMALL)
    torch.testing.assert_close(same, positions, rtol=0, atol=0)
    shorter, longer = replace(SMALL, max_length=68), replace(SMALL, max_length=256)
    cut = fitted_positions(positions, SMALL, shorter)
    assert cut[0, :2].eq(-1).all() and cut[0, 2 : 2 + shorter.grid[1], 0].tolist() == [3, 4, 5, 6, 7, 8]
    stretched = fitted_positions(positions, SMALL, longer)[0, 2:, 0].reshape(longer.grid)
    assert stretched.shape == longer.grid and (stretched[0].diff() >= 0).all() and (stretched[0] == stretched[-1]).all()
    assert stretched.min() == 0 and stretched.max() == columns - 1


def test_a_clip_is_named_alike_alone_and_among_others_after_saving_and_loading(saved: Path, tmp_path: Path) -> None:
    model = started(saved, max_length=64)
    save_ast_classifier(
        tmp_path / "c.safetensors", model, categories=NAMES, dataset="esc10", held_out_fold=5, accuracy=0.5
    )
    trained = load_ast_classifier((tmp_path / "c.safetensors").read_bytes(), "c")
    assert (trained.kind, trained.categories, trained.dataset, trained.held_out_fold, trained.accuracy) == (
        "ast",
        NAMES,
        "esc10",
        5,
        0.5,
    )
    clips = [noise(duration_s, seed) for seed, duration_s in enumerate([0.01, 0.3, 0.64, 2.0])]
    together = trained.predict(clips)
    assert together.dtype == np.float32 and together.shape == (4, 3)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-5)
    for clip, row in zip(clips, together, strict=True):
        np.testing.assert_allclose(trained.predict([clip])[0], row, atol=1e-5)
    with torch.no_grad():  # 8 bits a weight move no probability by a percent
        features_BTM = torch.stack(
            [scaled(filled(filter_bank(clip, model.config), model.config), model.config) for clip in clips[:3]]
        )
        np.testing.assert_allclose(together[:3], model(features_BTM).softmax(1).numpy(), atol=0.01)
    assert trained.predict([]).shape == (0, 3)
    with pytest.raises(SoundStormError, match="clip 1 has no samples"):
        trained.predict([clips[0], clips[0][:0]])


@pytest.mark.parametrize("mode", ["fine-tuned", "frozen", "scratch"])
def test_training_lowers_the_loss_and_moves_a_network_that_is_not_frozen(saved: Path, mode: Any) -> None:
    clips, labels = [tone(300 * 3**label, seed) for seed in range(4) for label in range(3)], [0, 1, 2] * 4
    lr = 0.03 if mode == "frozen" else 3e-3
    config = AstTrainingConfig(mode=mode, epochs=12, batch_size=6, lr=lr, max_length=128, mask_bands=8, mask_frames=16)
    model = started(saved)
    before = {name: value.clone() for name, value in model.weights().items()}
    trainer = AstTrainer(model, config, clips, labels)
    losses = [trainer.step()["loss"] for _ in range(trainer.total_steps)]
    assert trainer.steps_per_epoch == 2 and np.mean(losses[-4:]) < 0.7 * np.mean(losses[:2])
    moved = {
        name.startswith("classifier.")
        for name, value in model.weights().items()
        if not torch.equal(value, before[name])
    }
    assert moved == ({True} if mode == "frozen" else {True, False})


def test_a_run_that_goes_on_makes_the_steps_that_it_would_have_made(saved: Path) -> None:
    clips, labels = [tone(300 * 3**label, seed, 1.5) for seed in range(2) for label in range(3)], [0, 1, 2] * 2
    config = AstTrainingConfig(epochs=8, batch_size=4, max_length=128, lr=1e-3)
    whole = AstTrainer(started(saved), config, clips, labels)
    half = AstTrainer(started(saved), config, clips, labels)
    expected = [whole.step() for _ in range(6)][3:]
    for _ in range(3):
        half.step()
    resumed = AstTrainer(started(saved, max_length=128), config, clips, labels)
    resumed.load_state_dict(half.state_dict())
    assert [resumed.step() for _ in range(3)] == expected


def test_a_gradient_that_is_not_finite_ends_the_training_before_a_weight_is_lost(saved: Path) -> None:
    model = started(saved)
    trainer = AstTrainer(
        model, AstTrainingConfig(epochs=2, batch_size=3, max_length=128, lr=1e-3), [noise(1.0)] * 3, [0, 1, 2]
    )
    with torch.no_grad():
        model.weights()["classifier.dense.weight"][0, 0] = float("nan")
    before = {name: value.clone() for name, value in model.weights().items()}
    with pytest.raises(SoundStormError, match=r"the gradient is nan .* lower --lr \(it is 0.001\)"):
        trainer.step()
    assert all(
        torch.equal(value, before[name]) for name, value in model.weights().items() if name != "classifier.dense.weight"
    )


def test_the_learning_rate_falls_after_the_first_epochs(saved: Path) -> None:
    trainer = AstTrainer(
        started(saved), AstTrainingConfig(epochs=8, batch_size=3, max_length=128), [noise(1.0)] * 3, [0, 1, 2]
    )
    rates = []
    for trainer.step_count in range(8):
        rates.append(trainer.learning_rate())
    np.testing.assert_allclose(rates, [1e-5] * 5 + [1e-5 * 0.85, 1e-5 * 0.85**2, 1e-5 * 0.85**3])


def test_weights_and_configurations_that_are_none_are_refused(saved: Path, tmp_path: Path) -> None:
    content = (saved / "model.safetensors").read_bytes()
    with pytest.raises(
        SoundStormError, match=r"there: not weights of this AST \(.*shape.*give its config.json and model.safetensors"
    ):
        pretrained_ast(3, content, replace(config_of(saved), hidden_size=64), 128, "there")
    with pytest.raises(SoundStormError, match="there: not weights of this AST"):
        pretrained_ast(3, content[:1000], config_of(saved), 128, "there")
    values = json.loads((saved / "config.json").read_bytes())
    for changes, message in (
        ({"model_type": "vit"}, "is of model_type 'vit'"),
        ({"hidden_act": "relu"}, "hidden_act 'relu': only 'gelu'"),
        ({"hidden_size": "many"}, "hidden_size is 'many'"),
        ({"num_attention_heads": 5}, "give a divisor of hidden_size"),
        ({"max_length": 10**9}, "max_length is 1000000000"),
        ({"patch_size": 200}, "patch_size is 200"),
    ):
        with pytest.raises(SoundStormError, match=message):
            read_ast_config(json.dumps(values | changes).encode(), None, "there")
    with pytest.raises(SoundStormError, match="not valid JSON"):
        read_ast_config(b"{", None, "there")
    with pytest.raises(SoundStormError, match="there: not an AST classifier"):
        load_ast_classifier(content, "there")


def test_checking_weights_first_in_a_process_leaves_torchaudio_usable(transformers: Any) -> None:
    """The check is on the meta device, and nothing that keeps tensors may be imported there."""
    code = (
        "from soundstorm.classification.ast_network import AstConfig, require_named\n"
        "try: require_named(2, AstConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1), {})\n"
        "except ValueError: pass\n"
        "from torchaudio.compliance import kaldi\n"
        "print(kaldi.EPSILON.item() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout.strip() == "True", done.stderr[-2000:]


def test_without_transformers_everything_but_the_ast_works_and_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real_import = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.split(".")[0] == "transformers":
            raise ModuleNotFoundError(f"No module named '{name}'")
        return real_import(name, *arguments, **named)

    for name in [name for name in sys.modules if name.split(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(builtins, "__import__", without)
    for use in (
        lambda: AstClassifier(3, SMALL),
        lambda: load_ast_classifier(b"", "there"),
        lambda: pretrained_ast(3, b"", SMALL, 128, "there"),
    ):
        with pytest.raises(SoundStormError, match=r"pip install 'soundstorm-env\[ast\]'"):
            use()
