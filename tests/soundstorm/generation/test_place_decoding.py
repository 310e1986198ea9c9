"""Decoding by places: what is kept stays, what is given is followed, and a sample follows from its seed."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from soundstorm.errors import SoundStormError
from soundstorm.generation.decoding import Known, continuation, generate_codes
from soundstorm.generation.decoding_task import DecodingStep
from soundstorm.model.config import ModelConfig, SamplerSettings
from soundstorm.model.mask_schedule import num_still_masked
from soundstorm.model.place_network import PlaceNetwork

CONFIG = ModelConfig(
    width=32, depth=1, heads=2, kernel=7, ff_mult=2, num_levels=3, codebook_size=20, num_classes=3,
    order="places", centroids=True, centroid_dim=6, head_width=32, head_depth=1,
)  # fmt: skip
SETTINGS = SamplerSettings(iterations=5, order="even", final_temperature=1.0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def model() -> PlaceNetwork:
    """A network with decided, yet not certain, opinions."""
    model = PlaceNetwork(CONFIG).eval()
    model.centroids.take(torch.randn(3, 20, 6))
    with torch.no_grad():
        model.head.project_QHL.mul_(8)
    return model


def watched(
    model: PlaceNetwork, settings: SamplerSettings, num_frames_B: list[int], **known: Tensor
) -> tuple[list[Tensor], list[DecodingStep]]:
    steps: list[DecodingStep] = []
    labels = torch.arange(len(num_frames_B)) % CONFIG.num_classes
    codes = generate_codes(
        model, labels, num_frames_B, settings, list(range(len(num_frames_B))), on_step=steps.append, **known
    )
    return codes, steps


@pytest.mark.parametrize("order", ["even", "confidence"])
def test_places_are_kept_as_a_whole_as_many_as_the_schedule_says_and_never_change(
    model: PlaceNetwork, order: str
) -> None:
    codes, steps = watched(model, SamplerSettings(iterations=5, order=order, choice_temperature=3.0), [30, 12])  # type: ignore[arg-type]
    assert len(steps) == 5
    for step in steps:
        assert step.level is None
        assert step.masked_after_BT.sum(1).tolist() == [
            num_still_masked(length, step.iteration, 5) for length in (30, 12)
        ]
        masked_BQT = step.after_BQT == CONFIG.codebook_size
        assert torch.equal(masked_BQT.any(1), masked_BQT.all(1))
        was_known = step.before_BQT != CONFIG.codebook_size
        assert torch.equal(step.after_BQT[was_known], step.before_BQT[was_known])
    for codes_QT, length in zip(codes, (30, 12), strict=True):
        assert codes_QT.shape == (3, length)
        assert 0 <= int(codes_QT.min()) <= int(codes_QT.max()) < CONFIG.codebook_size


def test_even_places_are_drawn_by_the_head_once_each(model: PlaceNetwork) -> None:
    asked: list[int] = []
    plain = model.level_by_level
    model.level_by_level = lambda x_ND: (asked.append(len(x_ND)), plain(x_ND))[1]  # type: ignore[method-assign]
    watched(model, SETTINGS, [30, 12])
    assert sum(asked) == 42


@pytest.mark.parametrize("order", ["even", "confidence"])
def test_an_iteration_that_keeps_no_place_does_not_ask_the_network(model: PlaceNetwork, order: str) -> None:
    seen: list[Tensor] = []
    plain = model.hidden
    model.hidden = lambda codes_BQT, *others: (seen.append(codes_BQT.clone()), plain(codes_BQT, *others))[1]  # type: ignore[method-assign]
    settings = SamplerSettings(iterations=32, order=order, final_temperature=1.0)  # type: ignore[arg-type]
    _, steps = watched(model, settings, [30])
    keeping = [step for step in steps if not torch.equal(step.masked_before_BT, step.masked_after_BT)]
    assert len(steps) == 32
    assert len(seen) == len(keeping) < 32
    for codes_BQT, step in zip(seen, keeping, strict=True):
        assert torch.equal(codes_BQT, step.before_BQT)


def test_codes_are_drawn_as_often_as_the_network_says(model: PlaceNetwork) -> None:
    with torch.no_grad():
        for parameter in (model.head.project_QHL, model.class_embedding.weight):
            parameter.zero_()
        share_QK = torch.rand(3, 20).add(0.1)
        share_QK /= share_QK.sum(1, keepdim=True)
        model.head.head_bias.copy_(share_QK.log())
    (codes,) = generate_codes(
        model, torch.tensor([0]), [6000], SamplerSettings(iterations=1, order="even", final_temperature=1.0), [0]
    )
    for level in range(3):
        found_K = torch.bincount(codes[level], minlength=20) / 6000
        torch.testing.assert_close(found_K, share_QK[level], atol=0.02, rtol=0)


def test_a_level_follows_from_the_codes_drawn_below_it(model: PlaceNetwork) -> None:
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
        model.head.norm.weight.fill_(1.0)
        model.head.take_below.weight[:6, :6] = torch.eye(6)
        direction_QHL = torch.zeros(3, 32, 6)
        direction_QHL[1, :6] = 60 * torch.eye(6)
        model.head.project_QHL.copy_(direction_QHL)
        vectors_QKL = torch.nn.functional.normalize(torch.randn(1, 20, 6), dim=2).repeat(3, 1, 1)
        model.centroids.take(vectors_QKL)
    (codes,) = generate_codes(
        model, torch.tensor([0]), [200], SamplerSettings(iterations=3, order="even", final_temperature=1.0), [0]
    )
    assert float((codes[1] == codes[0]).float().mean()) > 0.9
    assert float((codes[2] == codes[0]).float().mean()) < 0.2


def test_a_sample_does_not_depend_on_its_batch_mates(model: PlaceNetwork) -> None:
    for settings in (
        SamplerSettings(iterations=5, order="even", guidance=1.5, final_temperature=1.0),
        SamplerSettings(iterations=4, choice_temperature=2.0, upper_guidance=2.0, upper_temperature=0.8),
    ):
        together = generate_codes(model, torch.tensor([0, 1, 2]), [30, 45, 8], settings, [11, 22, 33])
        reordered = generate_codes(model, torch.tensor([2, 0]), [8, 30], settings, [33, 11])
        alone = generate_codes(model, torch.tensor([1]), [45], settings, [22])[0]
        assert torch.equal(together[0], reordered[1])
        assert torch.equal(together[2], reordered[0])
        assert torch.equal(together[1], alone)


def test_a_sample_known_in_full_does_not_change_its_batch_mate(model: PlaceNetwork) -> None:
    known_BQT, known_mask_BQT = torch.randint(20, (2, 3, 25)), torch.zeros(2, 3, 25, dtype=torch.bool)
    known_mask_BQT[0] = True
    together = generate_codes(
        model, torch.tensor([0, 1]), [25, 25], SETTINGS, [1, 2], known=Known(known_BQT, known_mask_BQT)
    )
    alone = generate_codes(model, torch.tensor([1]), [25], SETTINGS, [2])
    assert torch.equal(together[0], known_BQT[0])
    assert torch.equal(together[1], alone[0])


def test_the_seed_and_nothing_else_decides_the_draws(model: PlaceNetwork) -> None:
    first = generate_codes(model, torch.tensor([1]), [40], SETTINGS, [5])[0]
    torch.manual_seed(99)
    assert torch.equal(first, generate_codes(model, torch.tensor([1]), [40], SETTINGS, [5])[0])
    assert not torch.equal(first, generate_codes(model, torch.tensor([1]), [40], SETTINGS, [6])[0])


def test_a_prompt_stays_and_is_seen_from_the_first_pass(model: PlaceNetwork) -> None:
    prompts = [torch.randint(20, (3, 15)), torch.randint(20, (3, 4))]
    known = continuation(prompts, [30, 12])
    codes, steps = watched(model, SETTINGS, [30, 12], known=known)
    for row, (prompt_QT, num_frames) in enumerate(zip(prompts, (30, 12), strict=True)):
        length = prompt_QT.shape[1]
        assert torch.equal(codes[row][:, :length], prompt_QT)
        assert all(torch.equal(step.before_BQT[row, :, :length], prompt_QT) for step in steps)
        assert steps[0].masked_before_BT[row].sum() == num_frames - length


def test_a_gap_is_filled_and_single_codes_that_are_known_are_kept(model: PlaceNetwork) -> None:
    known_BQT = torch.randint(20, (1, 3, 50))
    known_mask_BQT = torch.ones(1, 3, 50, dtype=torch.bool)
    known_mask_BQT[0, :, 20:35] = False
    known_mask_BQT[0, 1, 40:45] = False
    known_mask_BQT[0, 0, 25] = True
    for order in ("even", "confidence"):
        settings = SamplerSettings(iterations=4, order=order)  # type: ignore[arg-type]
        (codes,) = generate_codes(model, torch.tensor([1]), [50], settings, [0], known=Known(known_BQT, known_mask_BQT))
        assert torch.equal(codes[known_mask_BQT[0]], known_BQT[0][known_mask_BQT[0]])
        assert int(codes.max()) < 20


def test_guidance_moves_away_from_what_no_class_would_be(model: PlaceNetwork) -> None:
    with torch.no_grad():
        model.head.project_QHL.zero_()
        model.head.take_in.weight.zero_()
    plain = generate_codes(model, torch.tensor([1]), [40], SETTINGS, [0])[0]
    alike = generate_codes(
        model,
        torch.tensor([1]),
        [40],
        SamplerSettings(iterations=5, order="even", final_temperature=1.0, guidance=7.0),
        [0],
    )[0]
    assert torch.equal(plain, alike)  # nothing tells the classes apart, so there is nothing to move away from
    torch.manual_seed(1)
    opinionated = PlaceNetwork(CONFIG).eval()
    opinionated.centroids.take(torch.randn(3, 20, 6))
    with torch.no_grad():
        opinionated.head.project_QHL.mul_(4)
    counts = []
    for weight in (1.0, 4.0):
        settings = SamplerSettings(iterations=1, order="even", final_temperature=1.0, guidance=weight)
        (codes,) = generate_codes(opinionated, torch.tensor([1]), [2000], settings, [0])
        counts.append(torch.bincount(codes[0], minlength=20) / 2000)
    assert float(counts[1].max()) > 1.1 * float(counts[0].max())


def test_upper_levels_have_their_own_nucleus(model: PlaceNetwork) -> None:
    with torch.no_grad():
        for parameter in (model.head.project_QHL, model.class_embedding.weight):
            parameter.zero_()
        share_K = torch.tensor([0.6] + [0.4 / 19] * 19)
        model.head.head_bias.copy_(share_K.log().expand(3, 20))
    settings = SamplerSettings(iterations=1, order="even", final_temperature=1.0, upper_top_p=0.5)
    (codes_QT,) = generate_codes(model, torch.tensor([0]), [500], settings, [0])
    assert len(codes_QT[0].unique()) == 20
    assert not codes_QT[1:].any()
    (codes_QT,) = generate_codes(model, torch.tensor([0]), [500], replace(settings, top_p=0.5, upper_top_p=1.0), [0])
    assert not codes_QT[0].any()
    assert len(codes_QT[1].unique()) == len(codes_QT[2].unique()) == 20


def test_upper_levels_have_their_own_temperature(model: PlaceNetwork) -> None:
    settings = SamplerSettings(
        iterations=3, order="even", temperature=1.0, final_temperature=1.0, upper_temperature=0.0
    )
    known_BQT = torch.randint(20, (1, 3, 30))
    known_mask_BQT = torch.zeros(1, 3, 30, dtype=torch.bool)
    known_mask_BQT[0, 0] = True
    first, second = (
        generate_codes(model, torch.tensor([1]), [30], settings, [seed], known=Known(known_BQT, known_mask_BQT))[0]
        for seed in (1, 1)
    )
    assert torch.equal(first, second)
    varied = {
        tuple(
            generate_codes(
                model,
                torch.tensor([1]),
                [1],
                settings,
                [seed],
                known=Known(known_BQT[..., :1], known_mask_BQT[..., :1]),
            )[0][1:, 0].tolist()
        )
        for seed in range(8)
    }
    assert len(varied) == 1


def test_passes_for_each_level_are_refused(model: PlaceNetwork) -> None:
    with pytest.raises(SoundStormError, match=r"iterations is \(5, 1, 1\): it must be one number"):
        generate_codes(model, torch.tensor([1]), [10], SamplerSettings(iterations=(5, 1, 1)), [0])
