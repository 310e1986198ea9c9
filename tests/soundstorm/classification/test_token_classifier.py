"""The token classifier: padding that is inert, the generator's own hidden_states, the codec's own vectors, files that
come back."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from soundstorm.audio.files import from_pcm16, to_pcm16
from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.classification.token_classifier import (
    FORMAT,
    Origin,
    TrainedTokenClassifier,
    load_token_classifier,
    save_token_classifier,
)
from soundstorm.classification.token_network import AttentiveStatistics, ReadoutConfig, TokenClassifier
from soundstorm.codec.block_codec import BlockCodec
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec, packaged_codec_bytes
from soundstorm.errors import SoundStormError
from soundstorm.model.code_vectors import code_vectors, latent_dim, start_embeddings
from soundstorm.model.config import ModelConfig
from soundstorm.model.soundstorm import SoundStorm
from tests.conftest import shape_of

SMALL = ModelConfig(width=16, depth=2, heads=2, kernel=5, ff_mult=2, num_classes=3)
READOUT = ReadoutConfig(latent_dim=16, heads=2)


@pytest.fixture(scope="module")
def codec(tiny_codec: Path) -> Codec:
    torch.set_num_threads(1)
    return load_codec(tiny_codec)


def network(codec: Codec, readout: ReadoutConfig = READOUT) -> TokenClassifier:
    """A small network for two categories; its weights are random and always the same, and its running statistics those
    of some training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TokenClassifier(2, SMALL, readout)
        model.norm.running_var = torch.rand(2 * (SMALL.width + readout.latent_dim)) + 0.5
        torch.nn.init.normal_(model.stage_weight)
        torch.nn.init.normal_(model.head.weight)
    model.set_codebook_embeddings(codec)
    return model.eval()


def origin(codec: Codec) -> Origin:
    return Origin(codec=codec.fingerprint, mode="fine-tuned", generator_sha256="ab" * 32)


def trained(codec: Codec) -> TrainedTokenClassifier:
    about = {"categories": ["a", "b"], "dataset": "synthetic", "held_out_fold": 5, "accuracy": None, "sha256": ""}
    return TrainedTokenClassifier(model=network(codec), codec=codec, origin=origin(codec), **about)


def codes(frames: int, seed: int = 0) -> torch.Tensor:
    """Random codes (1, Q, T)."""
    return torch.randint(0, 1024, (1, 8, frames), generator=torch.Generator().manual_seed(seed))


def clip(category: str, duration_s: float = 1.0, seed: int = 0) -> np.ndarray:
    return to_pcm16(synthesize(category, seed, duration_s, 24_000))


def test_the_generator_within_a_classifier_says_where_it_is_though_it_has_no_heads(codec: Codec) -> None:
    assert network(codec).backbone.device == torch.device("cpu")
    assert SoundStorm(SMALL).to("meta").device == torch.device("meta")


# ---- what it hears


@pytest.mark.parametrize("readout", [READOUT, ReadoutConfig(latent_dim=0, heads=2, blocks=2)], ids=["", "blocks"])
def test_padding_has_no_part_in_a_score(codec: Codec, readout: ReadoutConfig) -> None:
    model, short_1QT, long_1QT = network(codec, readout), codes(20), codes(35, seed=1)
    alone = [model(one, torch.ones(1, one.shape[2], dtype=torch.bool)) for one in (short_1QT, long_1QT)]
    for padding in (-1, 0, 5):
        padded_1QT = torch.nn.functional.pad(short_1QT, (0, 15), value=padding)
        valid_BT = torch.arange(35) < torch.tensor([[20], [35]])
        together = model(torch.cat([padded_1QT.clamp(min=0) if padding < 0 else padded_1QT, long_1QT]), valid_BT)
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_every_level_and_every_frame_is_heard(codec: Codec) -> None:
    model, codes_1QT = network(codec), codes(12)
    valid_BT = torch.ones(1, 12, dtype=torch.bool)
    before = model(codes_1QT, valid_BT)
    for level, frame in [(level, 3) for level in range(8)] + [(2, frame) for frame in range(12)]:
        other_1QT = codes_1QT.clone()
        other_1QT[0, level, frame] = (other_1QT[0, level, frame] + 1) % 1024
        assert not torch.equal(model(other_1QT, valid_BT), before)


def test_further_blocks_hear_every_stage_of_the_network(codec: Codec) -> None:
    model = network(codec, ReadoutConfig(latent_dim=0, heads=2, blocks=1))
    embedded = model.embed(codes(12), torch.ones(1, 12, dtype=torch.bool))
    before_BTD = model.frames(embedded)
    assert model.all_stages is not None and before_BTD.shape == (1, 12, SMALL.width)
    for stage in range(SMALL.depth + 1):
        with torch.no_grad():
            model.all_stages.weight[:, stage * SMALL.width] += 1
        after_BTD = model.frames(embedded)
        assert not torch.allclose(after_BTD, before_BTD)
        before_BTD = after_BTD


def test_a_clip_hears_what_the_generator_makes_of_it_without_a_class(codec: Codec) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        generator = SoundStorm(SMALL).eval()
    model, codes_1QT, valid_BT = network(codec), codes(12), torch.ones(1, 12, dtype=torch.bool)
    model.load_generator(generator.state_dict())
    torch.nn.init.constant_(model.stage_weight[:-1], -100.0)  # the last stage alone
    frames_BTD = model.frames(model.embed(codes_1QT, valid_BT))
    torch.testing.assert_close(
        frames_BTD, generator.hidden(codes_1QT, torch.tensor([generator.no_class]), valid_BT), atol=1e-5, rtol=1e-4
    )


def test_the_vectors_of_a_frames_codes_add_up_to_what_the_codec_decodes_from(codec: Codec) -> None:
    codes_1QT = codes(12)
    embedded = network(codec).embed(codes_1QT, torch.ones(1, 12, dtype=torch.bool))
    assert isinstance(codec.network, BlockCodec)
    points_TD = torch.from_numpy(codec.network.tables.codebooks.sums(codes_1QT[0].numpy()))
    ratio = points_TD / embedded.latent_BTL[0]
    torch.testing.assert_close(ratio, ratio.median().expand_as(ratio), rtol=1e-2, atol=0)
    assert latent_dim(codec) == 16
    drawn = code_vectors(codec).view(8, 1025, 16)[:, :1024]
    assert float(drawn.var(1).sum(0).mean()) == pytest.approx(1, rel=1e-4)


def test_a_masked_code_has_no_vector(codec: Codec) -> None:
    masked_1QT = torch.full((1, 8, 4), 1024)
    assert not network(codec).embed(masked_1QT, torch.ones(1, 4, dtype=torch.bool)).latent_BTL.any()


def test_attention_takes_the_mean_and_the_deviation_of_the_frames_that_it_weights() -> None:
    pooling, valid_BT = AttentiveStatistics(2, 1), torch.tensor([[True, True, True, True, False]])
    x_BTD = torch.tensor([[[1.0, 1.0], [3.0, 3.0], [1.0, 1.0], [-5.0, -5.0], [9.0, 9.0]]])
    with torch.no_grad():
        pooling.hidden.weight.copy_(torch.eye(2))
        pooling.hidden.bias.zero_()
        pooling.query.weight.zero_()
        mean, deviation = pooling(x_BTD, valid_BT).split(2, 1)
        torch.testing.assert_close(mean, torch.zeros(1, 2))
        torch.testing.assert_close(deviation, torch.full((1, 2), 3.0), atol=1e-4, rtol=0)
        pooling.query.weight.fill_(1e3)  # the largest real frame alone
        mean, deviation = pooling(x_BTD, valid_BT).split(2, 1)
    torch.testing.assert_close(mean, torch.full((1, 2), 3.0), atol=1e-3, rtol=0)
    assert float(deviation.max()) < 0.01


def test_a_prediction_does_not_depend_on_the_clips_beside_it(codec: Codec) -> None:
    classifier = trained(codec)
    clips = [
        *(clip(category) for category in CLASSES[:3]),
        clip(CLASSES[3], 1.5),
        clip(CLASSES[4], 0.2),
        clip(CLASSES[4], 12.0),
    ]
    together = classifier.predict(clips)
    assert together.shape == (6, 2) and together.dtype == np.float32
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-5)
    for position, samples in enumerate(clips):
        np.testing.assert_allclose(classifier.predict([samples])[0], together[position], atol=1e-5)
    assert classifier.predict([]).shape == (0, 2)
    with pytest.raises(SoundStormError, match="clip 1 has no samples"):
        classifier.predict([clips[0], clips[0][:0]])


def test_a_prediction_is_that_of_the_clips_codes(codec: Codec) -> None:
    classifier, samples = trained(codec), clip(CLASSES[0])
    [row] = classifier.predict_codes(codec.encode_clips([from_pcm16(samples)]))
    np.testing.assert_array_equal(classifier.predict([samples])[0], row)
    np.testing.assert_array_equal(
        classifier.predict([samples[:9_000]]), classifier.predict([np.tile(samples[:9_000], 3)])
    )


# ---- files


@pytest.fixture(scope="module")
def saved(codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("classifier") / "classifier.safetensors"
    about = {"categories": ["Möwe", "b"], "dataset": "esc10", "held_out_fold": 3, "accuracy": 0.875}
    save_token_classifier(path, network(codec), origin=origin(codec), **about)  # type: ignore[arg-type]
    return path.read_bytes()


def test_a_saved_classifier_comes_back_with_what_is_known_of_it(saved: bytes, codec: Codec) -> None:
    classifier = load_token_classifier(saved, "it", find_codec=lambda _: codec)
    assert (classifier.kind, classifier.categories, classifier.dataset) == ("soundstorm", ["Möwe", "b"], "esc10")
    assert (classifier.held_out_fold, classifier.accuracy, classifier.origin) == (3, 0.875, origin(codec))
    assert classifier.sha256 == hashlib.sha256(saved).hexdigest()
    assert (classifier.model.network, classifier.model.readout) == (SMALL, READOUT)
    clips = [clip(category) for category in CLASSES[:4]]
    np.testing.assert_allclose(classifier.predict(clips), trained(codec).predict(clips), atol=0.02)


def test_a_saved_classifier_with_further_blocks_comes_back(codec: Codec, tmp_path: Path) -> None:
    model = network(codec, ReadoutConfig(latent_dim=0, heads=2, blocks=1))
    about = {"categories": ["a", "b"], "dataset": "esc10", "held_out_fold": 3, "accuracy": None}
    save_token_classifier(tmp_path / "c", model, origin=origin(codec), **about)  # type: ignore[arg-type]
    found = load_token_classifier((tmp_path / "c").read_bytes(), "it", find_codec=lambda _: codec).model
    assert found.readout == model.readout
    heard = codes(12), torch.ones(1, 12, dtype=torch.bool)
    torch.testing.assert_close(found(*heard), model(*heard), atol=0.02, rtol=0.02)


def test_categories_that_do_not_fit_the_outputs_are_refused(codec: Codec, tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match="1 categories, but the classifier has 2 outputs"):
        save_token_classifier(
            tmp_path / "c", network(codec), categories=["a"], dataset="synthetic", origin=origin(codec)
        )


def test_another_codec_is_refused(saved: bytes) -> None:
    with pytest.raises(
        SoundStormError,
        match=rf"it was made with codec 'tiny' .* but the codec in use is '{load_codec().fingerprint.name}'",
    ):
        load_token_classifier(saved, "it", find_codec=lambda _: load_codec())


def metadata(content: bytes) -> dict[str, str]:
    header: dict[str, str] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    return header


def with_about(content: bytes, **changes: object) -> bytes:
    """The file with another header."""
    about = json.dumps(json.loads(metadata(content)["about"]) | changes)
    return bytes(save(load(content), metadata={"format": FORMAT, "about": about}))


def architecture(network: ModelConfig = SMALL, readout: ReadoutConfig = READOUT) -> dict[str, object]:
    return {"network": network.to_dict(), "readout": readout.to_dict()}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "not a classifier"),
        (lambda content: b"this is a letter", "not a classifier"),
        (lambda content: content[:-100], "not a classifier"),
        (lambda content: packaged_codec_bytes(), "its format is 'soundstorm-block-codec-2'"),
        (lambda content: with_about(content, categories="two"), "its categories are not a list of names"),
        (
            lambda content: with_about(content, categories=["a", "b", "c"]),
            r"'head.bias' has shape \(2,\), its architecture \(3,\)",
        ),
        (lambda content: with_about(content, architecture=architecture(replace(SMALL, depth=3))), "parameters differ"),
        (
            lambda content: with_about(content, architecture=architecture(replace(SMALL, num_levels=4))),
            "its network has 4x1024 codes",
        ),
        (
            lambda content: with_about(content, architecture=architecture(readout=replace(READOUT, heads=3))),
            "heads is 3: give a divisor of width 16",
        ),
        (
            lambda content: with_about(content, architecture={"network": 3, "readout": 4}),
            "network is not a table of settings",
        ),
        (lambda content: with_about(content, codec={"name": "x"}), "no codec fingerprint"),
        (lambda content: with_about(content, codec=3), "not a classifier"),
        (lambda content: with_about(content, mode="asleep"), "its mode is 'asleep'"),
        (lambda content: with_about(content, generator_sha256=[]), "generator_sha256 or teacher_sha256 is not text"),
        (
            lambda content: bytes(
                save(load(content) | {"head.bias": torch.full((2,), torch.nan)}, metadata=metadata(content))
            ),
            "not finite",
        ),
    ],
)
def test_a_file_that_is_no_classifier_is_one_clear_message(
    damage: object, message: str, saved: bytes, codec: Codec
) -> None:
    with pytest.raises(SoundStormError, match=message) as raised:
        load_token_classifier(damage(saved), "its file", find_codec=lambda _: codec)  # type: ignore[operator]
    assert str(raised.value).startswith("its file: not a classifier") and "soundstorm train-classifier" in str(
        raised.value
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"latent_dim": -1}, "latent_dim is -1"), ({"heads": 0}, "heads is 0"), ({"dropout": 1.0}, "dropout is 1.0")],
)
def test_wrong_settings_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        replace(READOUT, **changes)  # type: ignore[arg-type]


def test_embeddings_start_from_the_vectors_of_the_codec() -> None:
    codec = load_codec(packaged_codec_bytes())
    torch.manual_seed(3)
    levels, size = codec.fingerprint.num_levels, codec.fingerprint.codebook_size
    model = SoundStorm(
        ModelConfig(width=64, depth=1, heads=2, kernel=5, ff_mult=2, num_classes=3, **shape_of(codec.fingerprint))
    )
    before_QKD = model.code_embedding.weight.detach().clone().view(levels, size + 1, 64)
    start_embeddings(model, codec)
    after_QKD = model.code_embedding.weight.detach().view(levels, size + 1, 64)
    assert torch.equal(after_QKD[:, size], before_QKD[:, size])  # MASK
    assert after_QKD[:, :size].var(1).sum(0).mean() == pytest.approx(1, abs=0.2)
    vectors_QKL = code_vectors(codec).view(levels, size + 1, -1)[:, :size]
    apart, embedded = torch.pdist(vectors_QKL[0]), torch.pdist(after_QKD[0, :size])
    assert torch.corrcoef(torch.stack([apart, embedded]))[0, 1] > 0.9  # codes that are alike stay alike
