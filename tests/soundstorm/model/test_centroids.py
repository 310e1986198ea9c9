"""Codes in and out through the codec's centroids, in either order of generation, and checkpoints that hold them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from soundstorm.errors import SoundStormError
from soundstorm.generation.decoding import generate_codes
from soundstorm.model.centroids import Centroids, entropy_of_counts, log_counts
from soundstorm.model.checkpoints import CheckpointInfo, load_checkpoint, pack_checkpoint, save_checkpoint
from soundstorm.model.config import ModelConfig, SamplerSettings, TrainingConfig
from soundstorm.model.generators import GeneratorNetwork, make_generator
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.schemas import CodecFingerprint

VECTORS_QKL = (
    torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.5, 0.25])[:, None, None]
)
LEVELS = ModelConfig(
    width=32, depth=2, heads=2, kernel=7, ff_mult=2, num_levels=3, codebook_size=20, num_classes=3, centroids=True,
    centroid_dim=6
)  # fmt: skip
PLACES = replace(LEVELS, order="places", head_width=32)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def centroids() -> Centroids:
    made = Centroids(3, 20, 6)
    made.take(VECTORS_QKL)
    return made


def network(config: ModelConfig) -> GeneratorNetwork:
    model = make_generator(config).eval()
    assert model.centroids is not None
    model.centroids.take(VECTORS_QKL[: config.num_levels])
    return model


def test_sums_are_those_of_the_centroids_with_a_mean_square_of_one(centroids: Centroids) -> None:
    codes_NQ = torch.randint(20, (4000, 3))
    vectors_NQL = torch.stack([VECTORS_QKL[level, codes_NQ[:, level]] for level in range(3)], 1)
    scale = VECTORS_QKL.var(1, correction=0).sum(0).mean().rsqrt()
    torch.testing.assert_close(centroids.sums(codes_NQ), vectors_NQL.sum(1) * scale)
    assert float(centroids.sums(codes_NQ).var(0).mean()) == pytest.approx(1, abs=0.05)
    for level in range(3):
        torch.testing.assert_close(centroids.below(codes_NQ)[:, level], vectors_NQL[:, :level].sum(1) * scale)
    visible_NQ = torch.rand(4000, 3) < 0.5
    hidden_codes_NQ = codes_NQ.where(visible_NQ, 20)  # MASK
    torch.testing.assert_close(
        centroids.visible_sums(hidden_codes_NQ, visible_NQ), (vectors_NQL * visible_NQ[..., None]).sum(1) * scale
    )


def test_logits_are_products_with_the_centroids_of_the_level_and_biases(centroids: Centroids) -> None:
    x_QNL, bias_QK = torch.randn(3, 7, 6), torch.randn(3, 20)
    scaled_QKL = VECTORS_QKL * VECTORS_QKL.var(1, correction=0).mean(1).rsqrt()[:, None, None]
    expected_QNK = torch.einsum("qnl,qkl->qnk", x_QNL, scaled_QKL) / math.sqrt(6) + bias_QK[:, None]
    torch.testing.assert_close(centroids.logits(x_QNL, bias_QK, slice(None)), expected_QNK)
    torch.testing.assert_close(centroids.logits(x_QNL[2:], bias_QK, slice(2, 3)), expected_QNK[2:])


def test_a_level_whose_centroids_are_all_the_same_breaks_nothing() -> None:
    flat_QKL = VECTORS_QKL.clone()
    flat_QKL[1] = 0.0
    centroids = Centroids(3, 20, 6)
    centroids.take(flat_QKL)
    assert bool(centroids.logits(torch.randn(3, 7, 6), torch.zeros(3, 20), slice(None)).isfinite().all())


def test_centroids_of_another_codec_are_refused(centroids: Centroids) -> None:
    with pytest.raises(
        SoundStormError, match=r"centroids of shape \(2, 20, 6\): this network needs those of 3 levels, \(20, 6\) each"
    ):
        centroids.take(VECTORS_QKL[:2])
    with pytest.raises(SoundStormError, match=r"\(3, 20, 5\)"):
        centroids.take(VECTORS_QKL[..., :5])


def test_counts_become_log_shares_and_their_entropy_is_the_loss_of_knowing_nothing_else() -> None:
    codes_QT = np.stack([np.zeros(1_000_000, np.uint16), np.arange(1_000_000, dtype=np.uint16) % 4])
    shares_QK = log_counts([codes_QT[:, :600_000], codes_QT[:, 600_000:]], 2, 4)
    assert entropy_of_counts(shares_QK) == pytest.approx([0.0, math.log(4)], abs=1e-3)
    assert bool(shares_QK.isfinite().all())
    torch.testing.assert_close(shares_QK.exp().sum(1), torch.ones(2))


def test_by_levels_a_masked_code_is_unseen_and_a_visible_one_is_seen() -> None:
    model = network(LEVELS)
    assert isinstance(model, SoundStorm)
    label_B, valid_BT = torch.tensor([0, 2]), torch.ones(2, 12, dtype=torch.bool)
    codes_BQT = torch.randint(20, (2, 3, 12))
    codes_BQT[:, 1:, 4:] = model.mask_id
    with torch.no_grad():
        before_BTD = model.embed(codes_BQT, label_B, valid_BT)
        for level, expected in enumerate((True, False, False)):
            changed_BQT = codes_BQT.clone()
            changed_BQT[:, level, 8] = (codes_BQT[:, level, 8] + 1) % 20 if expected else 3
            other_BQT = changed_BQT.clone()
            other_BQT[:, level, 8] = model.mask_id
            assert not torch.equal(model.embed(changed_BQT, label_B, valid_BT), before_BTD)
            assert torch.equal(model.embed(other_BQT, label_B, valid_BT), before_BTD) != expected


def test_by_levels_logits_of_mixed_levels_equal_those_of_each_level_alone() -> None:
    model = network(LEVELS)
    assert isinstance(model, SoundStorm)
    codes_BQT, label_B, valid_BT = (
        torch.randint(20, (2, 3, 12)),
        torch.tensor([0, 2]),
        torch.ones(2, 12, dtype=torch.bool),
    )
    with torch.no_grad():
        mixed_BTK = model(codes_BQT, label_B, valid_BT, torch.tensor([2, 1]))
        for row, level in enumerate((2, 1)):
            torch.testing.assert_close(
                mixed_BTK[row], model(codes_BQT, label_B, valid_BT, level)[row], atol=1e-5, rtol=1e-5
            )


# ---- checkpoints


def fingerprint(num_levels: int = 3) -> CodecFingerprint:
    return CodecFingerprint(
        name="test", sha256="ab" * 32, sample_rate=24_000, frame_rate=75, num_levels=num_levels, codebook_size=20
    )


def saved(folder: Path, model: GeneratorNetwork, num_levels: int = 3) -> None:
    training = TrainingConfig(batch_size=2, epochs=1, lr=1e-3)
    save_checkpoint(
        folder,
        model,
        CheckpointInfo(
            training=training,
            categories=["a", "b", "c"],
            fingerprint=fingerprint(num_levels),
            step=1,
            sampler=SamplerSettings(iterations=3),
        ),
    )


@pytest.mark.parametrize("config", [LEVELS, PLACES], ids=["levels", "places"])
def test_a_checkpoint_needs_no_codec_to_generate_what_its_network_did(config: ModelConfig, tmp_path: Path) -> None:
    model = network(config)
    saved(tmp_path / "checkpoint", model)
    loaded = load_checkpoint(tmp_path / "checkpoint").model
    assert loaded.config == config
    settings = SamplerSettings(iterations=3, order="even", final_temperature=1.0)
    before, after = (generate_codes(each, torch.tensor([1]), [20], settings, [4])[0] for each in (model, loaded))
    assert torch.equal(before, after)


def test_a_network_of_fewer_levels_than_its_codec_says_so(tmp_path: Path) -> None:
    saved(tmp_path / "first", network(replace(PLACES, num_levels=2, generated_levels=2)))
    checkpoint = load_checkpoint(tmp_path / "first")
    assert (checkpoint.model.config.num_levels, checkpoint.fingerprint.num_levels) == (2, 3)
    with pytest.raises(SoundStormError, match=r"has 3x20 codes, but the network 2x20"):
        saved(tmp_path / "second", network(replace(PLACES, num_levels=2)))
    with pytest.raises(SoundStormError, match=r"has 3x20 codes, but the network 4x20"):
        saved(tmp_path / "third", make_generator(replace(PLACES, num_levels=4, generated_levels=4)))


def test_a_checkpoint_from_before_there_were_two_orders_is_soundstorms(tmp_path: Path) -> None:
    model = make_generator(replace(LEVELS, centroids=False, centroid_dim=0)).eval()
    saved(tmp_path / "checkpoint", model)
    path = tmp_path / "checkpoint" / "config.json"
    config = json.loads(path.read_text())
    for name in ("order", "centroids", "centroid_dim", "generated_levels", "head_width", "head_depth"):
        del config["architecture"][name]
    del config["sampler"]["upper_guidance"]
    for table, name in (("training", "head_share"), ("sampler", "upper_temperature"), ("sampler", "upper_top_p")):
        del config[table][name]
    path.write_text(json.dumps(config))
    loaded = load_checkpoint(tmp_path / "checkpoint").model
    assert isinstance(loaded, SoundStorm) and loaded.config == model.config
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_packed_centroids_keep_their_small_dimensions(tmp_path: Path) -> None:
    config = replace(PLACES, codebook_size=300, centroid_dim=16)
    model = make_generator(config)
    vectors_QKL = torch.randn(3, 300, 16) * torch.tensor([1.0, 0.3, 0.1])[:, None, None] * torch.linspace(1, 0.05, 16)
    assert model.centroids is not None
    model.centroids.take(vectors_QKL)
    training = TrainingConfig(batch_size=2, epochs=1, lr=1e-3)
    print300 = replace(fingerprint(), codebook_size=300)
    save_checkpoint(
        tmp_path / "whole",
        model,
        CheckpointInfo(
            training=training,
            categories=["a", "b", "c"],
            fingerprint=print300,
            step=1,
            sampler=SamplerSettings(iterations=3),
        ),
    )
    pack_checkpoint(tmp_path / "whole", tmp_path / "packed")
    packed = load_checkpoint(tmp_path / "packed").model.centroids
    assert packed is not None
    error_QL, spread_QL = (packed.vectors_QKL - vectors_QKL).std(1), vectors_QKL.std(1)
    assert float((error_QL / spread_QL).max()) < 1e-3
    torch.testing.assert_close(packed.level_scale_Q, model.centroids.level_scale_Q, rtol=2e-3, atol=0)
