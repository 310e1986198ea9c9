"""Decoding: an oracle's codes come back, and each rule is watched from inside."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from soundstorm.errors import SoundStormError
from soundstorm.generation import decoding_task, level_decoding
from soundstorm.generation.decoding import Known, continuation, generate_codes
from soundstorm.generation.decoding_task import DecodingStep
from soundstorm.generation.sampling import annealing, filtered_probability, most_confident, sample_codes
from soundstorm.model.config import ModelConfig, SamplerSettings
from soundstorm.model.mask_schedule import num_still_masked
from soundstorm.model.soundstorm import SoundStorm

CONFIG = ModelConfig(width=32, depth=1, heads=2, ff_mult=2, num_levels=4, codebook_size=20, num_classes=3)
PASSES = (6, 3, 1, 1)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


class KnownLogits(nn.Module):
    """A network that gives logits (classes + 1, Q, T, K) by label and level, whatever it is shown, and notes each
    call."""

    def __init__(self, logits_CQTK: Tensor) -> None:
        super().__init__()
        self.config, self.logits_CQTK, self.calls = CONFIG, logits_CQTK, []
        self.mask_id, self.no_class, self.device = CONFIG.codebook_size, CONFIG.num_classes, torch.device("cpu")

    def forward(self, codes_BQT: Tensor, label_B: Tensor, valid_BT: Tensor, level: int) -> Tensor:
        self.calls.append((codes_BQT.clone(), label_B.clone(), valid_BT.clone(), level))
        return self.logits_CQTK[label_B, level, : codes_BQT.shape[2]]


def oracle(num_frames: int = 50) -> tuple[KnownLogits, Tensor]:
    """A network that is sure of the codes (classes, Q, T) it was made with."""
    answer_CQT = torch.randint(CONFIG.codebook_size, (CONFIG.num_classes, CONFIG.num_levels, num_frames))
    sure = 40.0 * nn.functional.one_hot(answer_CQT, CONFIG.codebook_size)
    return KnownLogits(torch.cat((sure, torch.zeros_like(sure[:1])))), answer_CQT


def trained_like() -> SoundStorm:
    """A real network with decided, yet not certain, opinions."""
    model = SoundStorm(CONFIG).eval()
    with torch.no_grad():
        model.head_weight.mul_(8)
    return model


def watched(
    model: nn.Module, settings: SamplerSettings, num_frames_B: list[int], **known: Tensor
) -> tuple[list[Tensor], list[DecodingStep]]:
    steps: list[DecodingStep] = []
    labels = torch.arange(len(num_frames_B)) % CONFIG.num_classes
    codes = generate_codes(
        model, labels, num_frames_B, settings, list(range(len(num_frames_B))), on_step=steps.append, **known
    )
    return codes, steps


@pytest.mark.parametrize(
    "settings",
    [
        SamplerSettings(),
        SamplerSettings(iterations=1),
        SamplerSettings(iterations=PASSES, top_p=0.9, typical_mass=0.9),
        SamplerSettings(iterations=(5, 5, 5, 5), guidance=3.0, choice_temperature=10.0),
        SamplerSettings(iterations=PASSES, order="even", final_temperature=1.0),
    ],
    ids=["default", "one pass", "filtered", "guided", "even order"],
)
def test_the_codes_of_an_oracle_come_back_exactly(settings: SamplerSettings) -> None:
    model, answer_CQT = oracle()
    codes = generate_codes(model, torch.tensor([2, 0, 1, 1]), [50, 7, 1, 33], settings, [3, 3, 4, 5])
    for codes_QT, label, num_frames in zip(codes, [2, 0, 1, 1], [50, 7, 1, 33], strict=True):
        assert codes_QT.dtype == torch.int64
        assert torch.equal(codes_QT, answer_CQT[label, :, :num_frames])


def test_levels_above_the_current_one_are_mask_and_levels_below_are_done() -> None:
    codes, steps = watched(trained_like(), SamplerSettings(iterations=PASSES), [30, 12])
    assert [(step.level, step.iteration) for step in steps] == [
        (level, number) for level, passes in enumerate(PASSES) for number in range(passes)
    ]
    for step in steps:
        for row, num_frames in enumerate((30, 12)):
            seen_QT = step.before_BQT[row, :, :num_frames]
            assert bool((seen_QT[step.level + 1 :] == 20).all())
            assert torch.equal(seen_QT[: step.level], codes[row][: step.level])
            assert torch.equal(seen_QT[step.level] == 20, step.masked_before_BT[row, :num_frames])


def test_the_network_sees_what_on_step_reports_and_the_mask_of_real_frames() -> None:
    model = KnownLogits(torch.randn(4, 4, 30, 20))
    _, steps = watched(model, SamplerSettings(iterations=PASSES), [30, 12])
    assert len(model.calls) == len(steps) == sum(PASSES)
    for (codes_BQT, _, valid_BT, level), step in zip(model.calls, steps, strict=True):
        assert torch.equal(codes_BQT, step.before_BQT)
        assert level == step.level
        assert valid_BT.sum(1).tolist() == [30, 12]


def test_kept_codes_never_change_and_the_masked_ones_follow_the_cosine_schedule() -> None:
    codes, steps = watched(trained_like(), SamplerSettings(iterations=PASSES, choice_temperature=5.0), [30, 12])
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        kept_BT = ~step.masked_before_BT
        assert torch.equal(step.after_BQT[:, step.level][kept_BT], step.before_BQT[:, step.level][kept_BT])
        assert not bool((step.masked_after_BT & kept_BT).any())
        others = [level for level in range(4) if level != step.level]
        assert torch.equal(step.after_BQT[:, others], step.before_BQT[:, others])
        expected = [num_still_masked(num_frames, step.iteration, PASSES[step.level]) for num_frames in (30, 12)]
        assert step.masked_after_BT.sum(1).tolist() == expected
        if following is not None:
            assert torch.equal(following.before_BQT, step.after_BQT)
    assert all(int(codes_QT.max()) < 20 for codes_QT in codes)


def test_frames_are_kept_in_the_order_of_their_confidence_and_never_ranked_again() -> None:
    # Confidence falls from the last frame to the first in odd calls and rises in even ones: only the masked frames may
    # be compared.
    class Turning(KnownLogits):
        def forward(self, codes_BQT: Tensor, label_B: Tensor, valid_BT: Tensor, level: int) -> Tensor:
            logits = super().forward(codes_BQT, label_B, valid_BT, level)
            return logits.flip(1) if len(self.calls) % 2 else logits

    logits = torch.zeros(4, 4, 40, 20)
    logits[..., 5] = torch.arange(1.0, 41.0) / 4
    _, steps = watched(
        Turning(logits), SamplerSettings(iterations=(6, 1, 1, 1), temperature=0.0, choice_temperature=0.0), [40]
    )
    masked = list(range(40))
    for iteration, step in enumerate(steps[:6]):
        num_kept = len(masked) - num_still_masked(40, iteration, 6)
        expected = set(masked[:num_kept] if iteration % 2 == 0 else masked[len(masked) - num_kept :])
        newly = step.masked_before_BT[0] & ~step.masked_after_BT[0]
        assert set(newly.nonzero().flatten().tolist()) == expected
        masked = [frame for frame in masked if frame not in expected]
    assert masked == []


def test_only_the_head_of_the_current_level_is_computed() -> None:
    model = trained_like()
    levels: list[object] = []
    head = model.head

    def noting_head(x_BTD: Tensor, level: int | Tensor) -> Tensor:
        levels.append(level)
        logits_BTK = head(x_BTD, level)
        assert logits_BTK.shape == (2, 9, 20)
        return logits_BTK

    model.head = noting_head  # type: ignore[method-assign]
    watched(model, SamplerSettings(iterations=PASSES), [9, 9])
    assert levels == [level for level, passes in enumerate(PASSES) for _ in range(passes)]


def test_both_temperatures_fall_to_zero_in_the_last_pass() -> None:
    assert [annealing(iteration, 5) for iteration in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert annealing(0, 1) == 0.0
    _, steps = watched(trained_like(), SamplerSettings(iterations=(3, 1, 1, 2)), [10])
    assert [step.annealing for step in steps] == [1.0, 0.5, 0.0, 0.0, 0.0, 1.0, 0.0]


def test_a_final_temperature_is_that_of_the_last_pass_and_of_an_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    temperatures = []

    def noting(logits_K: Tensor, temperature: float, top_p: float, typical_mass: float) -> Tensor:
        temperatures.append(temperature)
        return filtered_probability(logits_K, temperature, top_p, typical_mass)

    monkeypatch.setattr(decoding_task, "filtered_probability", noting)
    watched(trained_like(), SamplerSettings(iterations=(3, 1, 1, 2), temperature=2.0, final_temperature=1.0), [10])
    assert temperatures == [2.0, 1.5, 1.0, 1.0, 1.0, 2.0, 1.0]


def test_in_even_order_a_pass_keeps_the_frames_of_the_lowest_rank_whatever_was_drawn() -> None:
    _, steps = watched(
        KnownLogits(torch.randn(4, 4, 40, 20)), SamplerSettings(iterations=(6, 1, 1, 1), order="even"), [40, 25]
    )
    kept = [(step.masked_before_BT & ~step.masked_after_BT) for step in steps[:6]]
    for clip, num_frames in enumerate([40, 25]):
        order = torch.stack(kept)[:, clip, :num_frames].float().argmax(0)  # the pass in which a frame was kept
        assert sorted(set(order.tolist())) == list(range(6))
        first = [frame for frame in range(num_frames) if order[frame] <= 2]
        assert max(b - a for a, b in itertools.pairwise(first)) <= 6
    _, others = watched(
        KnownLogits(10 * torch.randn(4, 4, 40, 20)),
        SamplerSettings(iterations=(6, 1, 1, 1), order="even", temperature=3.0),
        [40, 25],
    )
    assert torch.equal(others[0].masked_after_BT, steps[0].masked_after_BT)


def test_frames_that_are_drawn_alone_get_the_codes_that_they_get_when_all_are_drawn() -> None:
    model = trained_like()
    settings = SamplerSettings(iterations=PASSES, order="even", final_temperature=0.7, top_p=0.9)
    _, steps = watched(model, settings, [30])
    generator = torch.Generator().manual_seed(0)
    for step in steps:
        if step.iteration == 0:
            torch.rand(1, generator=generator, dtype=torch.float64)  # the offset of the order
        temperature = 0.7 + 0.3 * step.annealing
        with torch.no_grad():
            logits_BTK = model(step.before_BQT, torch.tensor([0]), torch.ones(1, 30, dtype=torch.bool), step.level)
        probability_BTK = filtered_probability(logits_BTK, temperature, 0.9, 1.0)
        drawn_BT = sample_codes(probability_BTK, torch.rand(1, 30, generator=generator, dtype=torch.float64))
        kept_BT = step.masked_before_BT & ~step.masked_after_BT
        assert torch.equal(step.after_BQT[:, step.level][kept_BT], drawn_BT[kept_BT])


def test_the_noise_on_confidence_is_gumbel_noise_that_shrinks_from_pass_to_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise_B = []
    model = KnownLogits(torch.zeros(4, 4, 2000, 20))
    log_probability = -math.log(20)

    def noting(confidence_BT: Tensor, masked_BT: Tensor, num_kept_B: Tensor) -> Tensor:
        noise_B.append((confidence_BT - log_probability)[0][masked_BT[0]])
        return most_confident(confidence_BT, masked_BT, num_kept_B)

    monkeypatch.setattr(level_decoding, "most_confident", noting)
    watched(model, SamplerSettings(iterations=(5, 1, 1, 1), temperature=0.0, choice_temperature=3.0), [2000])
    spreads = [float(noise.std()) * math.sqrt(6) / math.pi for noise in noise_B]
    assert spreads == pytest.approx([3.0, 2.25, 1.5, 0.75, 0.0, 0.0, 0.0, 0.0], abs=0.2)


def test_the_last_pass_takes_the_likeliest_codes_however_hot_the_others_are() -> None:
    model = KnownLogits(torch.randn(4, 4, 60, 20))
    _, steps = watched(model, SamplerSettings(iterations=PASSES, temperature=50.0, choice_temperature=50.0), [60])
    disagreeing = 0
    for step in steps:
        newly = step.masked_before_BT[0] & ~step.masked_after_BT[0]
        likeliest = model.logits_CQTK[0, step.level].argmax(-1)[newly]
        agrees = step.after_BQT[0, step.level][newly] == likeliest
        if step.annealing == 0:
            assert bool(agrees.all())
        else:
            disagreeing += int((~agrees).sum())
    assert disagreeing > 20


def test_first_pass_codes_have_the_distribution_of_the_network() -> None:
    model = KnownLogits(torch.tensor([0.5, 0.3, 0.2] + [0.0] * 17).log().expand(4, 4, 3000, 20))
    settings = SamplerSettings(
        iterations=(2, 1, 1, 1), choice_temperature=1e9
    )  # with such noise the choice of frames is blind
    _, steps = watched(model, settings, [3000])
    newly = steps[0].masked_before_BT[0] & ~steps[0].masked_after_BT[0]
    drawn = steps[0].after_BQT[0, 0][newly]
    shares = torch.bincount(drawn, minlength=20) / len(drawn)
    torch.testing.assert_close(shares[:3], torch.tensor([0.5, 0.3, 0.2]), atol=0.05, rtol=0)
    assert float(shares[3:].sum()) == 0


def test_guidance_runs_both_halves_in_one_call_and_falls_with_the_masked_share() -> None:
    model = KnownLogits(torch.randn(4, 4, 40, 20))
    _, steps = watched(model, SamplerSettings(iterations=PASSES, guidance=4.0), [40, 20])
    assert len(model.calls) == sum(PASSES)
    for (_, label_B, _, _), step in zip(model.calls, steps, strict=True):
        assert label_B.tolist() == [0, 1, 3, 3]
        share_B = step.masked_before_BT.sum(1) / torch.tensor([40, 20])
        torch.testing.assert_close(step.guidance_B, 1 + 3 * share_B)
    assert steps[0].guidance_B.tolist() == [4.0, 4.0]
    assert float(steps[5].guidance_B[0]) < 2


def test_guided_logits_are_uncond_plus_w_times_the_difference() -> None:
    logits = torch.randn(4, 4, 40, 20)
    codes = generate_codes(
        KnownLogits(logits), torch.tensor([1]), [40], SamplerSettings(iterations=1, guidance=2.5), [0]
    )[0]
    expected = logits[3] + 2.5 * (logits[1] - logits[3])
    assert torch.equal(codes, expected.argmax(-1))
    assert not torch.equal(codes, logits[1].argmax(-1))


def test_a_sample_does_not_depend_on_its_batch_mates() -> None:
    model = trained_like()
    settings = SamplerSettings(iterations=PASSES, guidance=1.5)
    together = generate_codes(model, torch.tensor([0, 1, 2]), [30, 45, 8], settings, [11, 22, 33])
    reordered = generate_codes(model, torch.tensor([2, 0]), [8, 30], settings, [33, 11])
    alone = generate_codes(model, torch.tensor([1]), [45], settings, [22])[0]
    assert torch.equal(together[0], reordered[1])
    assert torch.equal(together[2], reordered[0])
    assert torch.equal(together[1], alone)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_large_batch_is_decoded_in_groups_that_do_not_depend_on_the_threads(
    bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, settings, labels = trained_like(), SamplerSettings(iterations=(3, 1, 1, 1)), torch.arange(8) % 3
    lengths, seeds, shapes = [400, 300] * 4, list(range(8)), []
    forward = SoundStorm.forward

    def noting(self: SoundStorm, codes_BQT: Tensor, *arguments: Tensor) -> Tensor:
        shapes.append(codes_BQT.shape)
        return forward(self, codes_BQT, *arguments)

    monkeypatch.setattr(SoundStorm, "forward", noting)
    known_BQT, known_mask_BQT = torch.randint(20, (8, 4, 400)), torch.rand(8, 4, 400) < 0.2
    known = Known(known_BQT, known_mask_BQT)
    one = generate_codes(model, labels, lengths, settings, seeds, known=known, bf16=bf16)
    assert set(shapes) == {(2, 4, 400)}
    torch.set_num_threads(2)
    two = generate_codes(model, labels, lengths, settings, seeds, known=known, bf16=bf16)
    assert torch.get_num_threads() == 2
    pairs = [
        generate_codes(
            model,
            labels[first : first + 2],
            lengths[first : first + 2],
            settings,
            seeds[first : first + 2],
            known=Known(known_BQT[first : first + 2], known_mask_BQT[first : first + 2]),
            bf16=bf16,
        )
        for first in range(0, 8, 2)
    ]
    for index, (codes, same, known_QT, mask_QT) in enumerate(zip(one, two, known_BQT, known_mask_BQT, strict=True)):
        assert torch.equal(codes, same)
        assert torch.equal(codes, pairs[index // 2][index % 2])
        is_known = mask_QT[:, : lengths[index]]
        assert torch.equal(codes[is_known], known_QT[:, : lengths[index]][is_known])
        assert codes.max() < CONFIG.codebook_size


@pytest.mark.parametrize(
    ("samples", "frames", "watched", "group"),
    [(5, 400, False, 5), (4, 400, True, 4), (4, 400, False, 2), (10, 375, False, 2), (3, 400, False, 3)],
)
def test_a_batch_is_decoded_whole_if_it_is_watched_or_has_no_equal_groups(
    samples: int, frames: int, watched: bool, group: int
) -> None:
    model, settings = KnownLogits(torch.randn(4, 4, frames, 20)), SamplerSettings(iterations=1)
    steps: list[DecodingStep] = []
    labels = torch.arange(samples) % 3
    generate_codes(
        model, labels, [frames] * samples, settings, list(range(samples)), on_step=steps.append if watched else None
    )
    assert {len(codes_BQT) for codes_BQT, *_ in model.calls} == {group}
    assert [len(step.after_BQT) for step in steps] == [samples] * (4 if watched else 0)


def test_a_sample_with_a_known_level_does_not_depend_on_a_mate_without_one() -> None:
    model, settings = trained_like(), SamplerSettings(iterations=(4, 4, 1, 1))
    known_BQT, known_mask_BQT = torch.randint(20, (2, 4, 25)), torch.zeros(2, 4, 25, dtype=torch.bool)
    known_mask_BQT[0, 0] = True
    together = generate_codes(
        model, torch.tensor([0, 1]), [25, 25], settings, [1, 2], known=Known(known_BQT, known_mask_BQT)
    )[0]
    alone = generate_codes(
        model, torch.tensor([0]), [25], settings, [1], known=Known(known_BQT[:1], known_mask_BQT[:1])
    )[0]
    assert torch.equal(together, alone)
    assert torch.equal(together[0], known_BQT[0, 0])


def test_the_seed_and_nothing_else_decides_the_draws() -> None:
    model, settings = trained_like(), SamplerSettings(iterations=PASSES)
    first = generate_codes(model, torch.tensor([1]), [40], settings, [5])[0]
    torch.manual_seed(99)
    assert torch.equal(first, generate_codes(model, torch.tensor([1]), [40], settings, [5])[0])
    assert not torch.equal(first, generate_codes(model, torch.tensor([1]), [40], settings, [6])[0])


def test_a_prompt_stays_and_is_seen_at_every_level_from_the_first_pass() -> None:
    model = trained_like()
    prompts = [torch.randint(20, (4, 15)), torch.randint(20, (4, 4))]
    known = continuation(prompts, [30, 12])
    codes, steps = watched(model, SamplerSettings(iterations=PASSES), [30, 12], known=known)
    for row, (prompt_QT, num_frames) in enumerate(zip(prompts, (30, 12), strict=True)):
        length = prompt_QT.shape[1]
        assert torch.equal(codes[row][:, :length], prompt_QT)
        assert all(torch.equal(step.before_BQT[row, :, :length], prompt_QT) for step in steps)
        assert steps[0].masked_before_BT[row].sum() == num_frames - length
        assert bool((steps[0].before_BQT[row, :, length:num_frames] == 20).all())


def test_a_gap_is_filled_by_an_oracle_and_the_rest_is_left_alone() -> None:
    model, answer_CQT = oracle()
    known_BQT = torch.randint(20, (1, 4, 50))
    known_mask_BQT = torch.ones(1, 4, 50, dtype=torch.bool)
    known_mask_BQT[0, :, 20:35] = False
    known_mask_BQT[0, 2:, 5] = False
    (codes,) = generate_codes(
        model, torch.tensor([1]), [50], SamplerSettings(), [0], known=Known(known_BQT, known_mask_BQT)
    )
    assert torch.equal(codes, torch.where(known_mask_BQT[0], known_BQT[0], answer_CQT[1]))


def test_a_clip_known_in_full_needs_no_network() -> None:
    model, _ = oracle()
    known_BQT = torch.randint(20, (1, 4, 9))
    codes = generate_codes(
        model, torch.tensor([0]), [9], SamplerSettings(), [0], known=Known(known_BQT, known_BQT >= 0)
    )
    assert torch.equal(codes[0], known_BQT[0])
    assert model.calls == []


def test_decoding_leaves_the_network_in_the_mode_it_was_in() -> None:
    model = trained_like().train()
    generate_codes(
        model,
        torch.tensor([0]),
        [5],
        SamplerSettings(),
        [0],
        on_step=lambda _: (_ for _ in ()).throw(AssertionError) if model.training else None,
    )
    assert model.training


def test_bfloat16_recovers_the_same_greedy_codes_of_a_decided_network() -> None:
    model = SoundStorm(CONFIG).eval()
    with torch.no_grad():
        model.head_bias[:, 7] = 10.0
    (codes,) = generate_codes(model, torch.tensor([0]), [12], SamplerSettings(iterations=1), [0], bf16=True)
    assert bool((codes == 7).all())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"label_B": torch.tensor([4])}, ["4", "classes 0 to 2"]),
        ({"label_B": torch.tensor([-1])}, ["-1", "classes 0 to 2"]),
        ({"num_frames_B": [0]}, ["0 frames"]),
        ({"seeds": [1, 2]}, ["2 seeds"]),
        ({"settings": SamplerSettings(iterations=(2, 2))}, ["iterations", "(2, 2)", "4"]),
        (
            {"known": Known(torch.zeros(1, 4, 4, dtype=torch.int64), torch.ones(1, 4, 4, dtype=torch.bool))},
            ["(1, 4, 4)", "(1, 4, 5)"],
        ),
        (
            {"known": Known(torch.full((1, 4, 5), 20), torch.ones(1, 4, 5, dtype=torch.bool))},
            ["20", "0 to 19"],
        ),
    ],
)
def test_what_does_not_fit_the_network_is_refused_by_name(arguments: dict[str, object], words: list[str]) -> None:
    good: dict[str, object] = {
        "label_B": torch.tensor([0]),
        "num_frames_B": [5],
        "settings": SamplerSettings(),
        "seeds": [0],
    }
    with pytest.raises(SoundStormError) as error:
        generate_codes(trained_like(), **(good | arguments))  # type: ignore[arg-type]
    for word in words:
        assert word in str(error.value)


def test_a_prompt_longer_than_its_clip_is_refused() -> None:
    with pytest.raises(SoundStormError, match="6 frames is longer than its clip of 5"):
        continuation([torch.zeros(4, 6, dtype=torch.int64)], [5])
