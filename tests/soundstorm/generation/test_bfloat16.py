"""A network whose matrices are rounded once gives the bits that autocast gives when it rounds them in every pass."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from soundstorm.generation import bfloat16
from soundstorm.generation.bfloat16 import PackedLinear, packs, rounded_to_bfloat16
from soundstorm.model.checkpoints import load_checkpoint
from soundstorm.model.config import ModelConfig
from soundstorm.model.place_network import PlaceNetwork
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.serialization.bundled import bundled_file

LEVELS = ModelConfig(width=64, depth=2, heads=2, num_levels=4, codebook_size=100, num_classes=3)
CENTROIDS = replace(LEVELS, centroids=True, centroid_dim=24)
PLACES = replace(CENTROIDS, order="places", head_width=32, timbre_dim=5, timbre_entries=3)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def of_levels(network: nn.Module) -> Tensor:
    codes_BQT = torch.randint(101, (2, 4, 20), generator=torch.Generator().manual_seed(1))
    return network(codes_BQT, torch.tensor([0, 2]), torch.ones(2, 20, dtype=torch.bool), 1)


def of_places(network: PlaceNetwork, num_clips: int = 2, num_places: int = 20) -> Tensor:
    """Hidden states, and the logits of all levels of some places, level by level."""
    drawn = torch.Generator().manual_seed(1)
    shape = (num_clips, network.config.num_levels, num_places)
    codes_BQT = torch.randint(network.config.codebook_size, shape, generator=drawn)
    known_BT = torch.rand(num_clips, num_places, generator=drawn) < 0.5
    timbre_BS = torch.randn(num_clips, network.config.timbre_dim, generator=drawn)
    x_BTD = network.hidden(codes_BQT, known_BT, torch.arange(num_clips), None, timbre_BS)
    levels, found = network.level_by_level(x_BTD[:, ::11].flatten(0, 1)), [x_BTD.flatten()]
    for level in range(network.config.num_levels):
        found.append(levels.logits().flatten())
        levels.take(codes_BQT[:, level, ::11].flatten())
    return torch.cat(found)


def rounded_each_time(network: nn.Module, ask: Callable[..., Tensor], **sizes: int) -> Tensor:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        return ask(network, **sizes)


@pytest.mark.parametrize(
    ("network", "ask"),
    [
        (lambda: SoundStorm(LEVELS), of_levels),
        (lambda: SoundStorm(CENTROIDS), of_levels),
        (lambda: PlaceNetwork(PLACES), of_places),
    ],
    ids=["levels", "levels with centroids", "places"],
)
@pytest.mark.parametrize("is_packed", [True, False])
def test_weights_that_are_rounded_once_give_the_same_bits(
    network: Callable[[], nn.Module], ask: Callable[..., Tensor], is_packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_packed:
        monkeypatch.setattr(bfloat16, "packs", lambda device: False)
    model = network().eval()
    if isinstance(model, PlaceNetwork) or model.centroids is not None:
        model.centroids.take(torch.randn(4, 100, 24))
    rounded = rounded_to_bfloat16(model)
    assert not any(
        isinstance(module, nn.Linear) and module.weight.dtype != torch.bfloat16 for module in rounded.modules()
    )
    assert torch.equal(rounded_each_time(rounded, ask), rounded_each_time(model, ask))


@pytest.mark.parametrize("num_clips", [1, 2, 3, 8])
def test_the_packaged_network_gives_the_same_bits_for_any_number_of_clips(num_clips: int) -> None:
    model = load_checkpoint(Path(str(bundled_file("esc50")))).model
    assert isinstance(model, PlaceNetwork)
    sizes = {"num_clips": num_clips, "num_places": 94}
    rounded = rounded_to_bfloat16(model)
    assert any(isinstance(module, PackedLinear) for module in rounded.modules()) == packs(torch.device("cpu"))
    assert torch.equal(rounded_each_time(rounded, of_places, **sizes), rounded_each_time(model, of_places, **sizes))


def test_a_network_is_rounded_once_and_again_when_its_weights_have_changed() -> None:
    model = SoundStorm(LEVELS).eval()
    first = rounded_to_bfloat16(model)
    assert rounded_to_bfloat16(model) is first
    with torch.no_grad():
        model.head_bias.add_(1)
        model.conformer.blocks[0].attention.project.weight.mul_(2)
    second = rounded_to_bfloat16(model)
    assert second is not first
    assert torch.equal(rounded_each_time(second, of_levels), rounded_each_time(model, of_levels))


def test_what_is_no_matrix_is_shared_with_the_network() -> None:
    model = SoundStorm(LEVELS).eval()
    rounded = rounded_to_bfloat16(model)
    assert rounded.class_embedding.weight is model.class_embedding.weight
    assert rounded.conformer.norm.weight is model.conformer.norm.weight
    assert model.head_weight.dtype == torch.float32
