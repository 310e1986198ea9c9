"""Loss, optimizer, schedule, averaged weights, validation, and a network that learns."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from soundstorm.errors import SoundStormError
from soundstorm.generation.decoding import continuation, generate_codes
from soundstorm.model.config import ModelConfig, SamplerSettings, TrainingConfig
from soundstorm.model.presets import preset
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.optimization.ema import EMA
from soundstorm.optimization.precision import autocast, uses_bf16
from soundstorm.training.batches import Batch, collate, seeded_generator
from soundstorm.training.masking import MaskedBatch
from soundstorm.training.step import (
    LevelLosses,
    apply_gradients,
    build_optimizer,
    build_schedule,
    evaluate_loss,
    lr_factor,
    masked_nats,
    mixed_loss,
    training_step,
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


MODEL = ModelConfig(width=32, depth=1, heads=2, ff_mult=2, num_levels=4, codebook_size=64, num_classes=4)
TRAINING = replace(preset("tiny").training, precision="fp32")


def patterned_clips(num_levels: int, num_frames: int = 48) -> tuple[list[np.ndarray], list[int]]:
    """Eight clips of four classes: a class is a repeated pattern of codes, a clip has a tenth of them replaced at
    random."""
    rng = np.random.default_rng(0)
    clips, labels = [], []
    for index in range(8):
        label = index % 4
        pattern = np.random.default_rng([1, label]).integers(64, size=(num_levels, 3 + 2 * label))
        codes_QT = np.tile(pattern, (1, num_frames))[:, :num_frames]
        noise_QT = rng.random(codes_QT.shape) < 0.1
        codes_QT[noise_QT] = rng.integers(64, size=int(noise_QT.sum()))
        clips.append(codes_QT)
        labels.append(label)
    return clips, labels


def random_batch(num_frames_B: tuple[int, ...] = (30, 12, 1)) -> Batch:
    rng = np.random.default_rng(0)
    return collate(
        [rng.integers(64, size=(4, num_frames)) for num_frames in num_frames_B], list(range(len(num_frames_B)))
    )


def test_tiny_overfits_eight_clips_and_prompted_decoding_gives_them_back() -> None:
    num_frames, num_known, steps = 24, 12, 300
    clips, labels = patterned_clips(num_levels=3, num_frames=num_frames)
    entry = preset("tiny")
    config = replace(entry.training, crop_frames=None, first_level_share=0.6)
    model = SoundStorm(replace(entry.model, num_levels=3, codebook_size=64, num_classes=4)).train()
    batch = collate(clips, labels)
    optimizer, ema, generator = build_optimizer(model, config), EMA(model, config.ema_decay), seeded_generator(0)
    schedule = build_schedule(optimizer, config, steps)
    for _ in range(steps):
        apply_gradients(model, training_step(model, batch, generator, config).loss, optimizer, schedule, config, ema)
    averaged = ema.averaged(model)
    level_0_nats = evaluate_loss(averaged, [batch], config).per_level()[0]
    assert level_0_nats is not None
    assert level_0_nats < 0.5
    known = continuation([torch.from_numpy(clip[:, :num_known]) for clip in clips], [num_frames] * 8)
    settings = SamplerSettings(iterations=12, guidance=1.5)
    right = {}
    for prompt in (known, None):
        codes = generate_codes(averaged, torch.tensor(labels), [num_frames] * 8, settings, list(range(8)), known=prompt)
        same = [(found[0].numpy() == clip[0])[num_known:] for found, clip in zip(codes, clips, strict=True)]
        right[prompt is not None] = float(np.mean(same))
    assert right[True] > 0.95 and right[True] > right[False]


def test_the_loss_of_a_clip_in_a_padded_batch_equals_that_alone() -> None:
    model = SoundStorm(MODEL).eval()
    clips = [
        np.random.default_rng(index).integers(64, size=(4, num_frames)) for index, num_frames in enumerate((30, 12, 1))
    ]
    together = evaluate_loss(model, [collate(clips, [0, 1, 2])], TRAINING)
    alone = evaluate_loss(model, [collate([clip], [label]) for label, clip in enumerate(clips)], TRAINING)
    assert torch.equal(together.frames_Q, alone.frames_Q)
    torch.testing.assert_close(
        together.nats_Q / together.frames_Q.clamp(min=1), alone.nats_Q / alone.frames_Q.clamp(min=1), atol=1e-4, rtol=0
    )


def test_the_gradient_of_a_padded_batch_equals_the_sum_over_its_clips() -> None:
    model = SoundStorm(MODEL)
    clips = [
        np.random.default_rng(index).integers(64, size=(4, num_frames)) for index, num_frames in enumerate((30, 12))
    ]

    def gradient(group: list[np.ndarray], levels: list[int]) -> torch.Tensor:
        batch = collate(group, [0] * len(group))
        level_B = torch.tensor(levels)
        target_BT = batch.codes_BQT.gather(1, level_B[:, None, None].expand(-1, 1, batch.codes_BQT.shape[2])).squeeze(1)
        masked = MaskedBatch(
            input_codes_BQT=batch.codes_BQT, target_BT=target_BT, loss_mask_BT=batch.valid_BT, level_B=level_B
        )
        logits_BTK = model(masked.input_codes_BQT, batch.label_B, batch.valid_BT, level_B)
        loss = masked_nats(logits_BTK, masked, 0.1)[0].sum()
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])

    together = gradient(clips, [2, 0])
    apart = gradient(clips[:1], [2]) + gradient(clips[1:], [0])
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-3)


def test_masked_nats_are_minus_log_probabilities_of_the_hidden_codes_only() -> None:
    logits_BTK = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]).log()[None]
    masked = MaskedBatch(
        input_codes_BQT=torch.zeros(1, 1, 2, dtype=torch.int64),
        target_BT=torch.tensor([[1, -1]]),
        loss_mask_BT=torch.tensor([[True, False]]),
        level_B=torch.tensor([0]),
    )
    smoothed_BT, nats_BT = masked_nats(logits_BTK, masked, 0.3)
    torch.testing.assert_close(nats_BT, torch.tensor([[-math.log(0.2), 0.0]]))
    uniform_part = -(math.log(0.7) + math.log(0.2) + math.log(0.1)) / 3
    torch.testing.assert_close(smoothed_BT, torch.tensor([[-0.7 * math.log(0.2) + 0.3 * uniform_part, 0.0]]))


def test_a_step_is_the_same_for_the_same_generator_and_reports_its_levels() -> None:
    model, batch = SoundStorm(MODEL), random_batch()
    first, again = (training_step(model, batch, seeded_generator(7), TRAINING) for _ in range(2))
    assert first.loss.item() == again.loss.item()
    assert first.loss.item() != training_step(model, batch, seeded_generator(8), TRAINING).loss.item()
    assert first.levels.mean() == pytest.approx(first.loss.item(), abs=1e-5)
    per_level = first.levels.per_level()
    assert [value is None for value in per_level] == [frames == 0 for frames in first.levels.frames_Q.tolist()]
    assert sum(value is not None for value in per_level) <= 3


def test_the_class_is_dropped_in_the_configured_share_of_examples() -> None:
    labels: list[int] = []

    class Noting(SoundStorm):
        def forward(self, codes_BQT, label_B, valid_BT, level):  # type: ignore[no-untyped-def]
            labels.extend(label_B.tolist())
            return super().forward(codes_BQT, label_B, valid_BT, level)

    model = Noting(replace(MODEL, width=8))
    batch = collate([np.zeros((4, 2), dtype=np.int64)] * 500, [1] * 500)
    training_step(model, batch, seeded_generator(0), replace(TRAINING, class_dropout=0.1))
    assert set(labels) == {1, 4}
    assert 30 < labels.count(4) < 75


def test_level_losses_add_up_over_batches_as_over_one() -> None:
    one = LevelLosses(nats_Q=torch.tensor([4.0, 0.0]), frames_Q=torch.tensor([2.0, 0.0]))
    other = LevelLosses(nats_Q=torch.tensor([1.0, 9.0]), frames_Q=torch.tensor([3.0, 3.0]))
    assert one.per_level() == [2.0, None]
    assert (one + other).per_level() == [1.0, 3.0]
    assert (one + other).mean() == 14 / 8
    assert mixed_loss(one + other, replace(TRAINING, first_level_share=0.75)) == 0.75 * 1 + 0.25 * 3
    assert mixed_loss(one, TRAINING) == pytest.approx(2.0)


def test_validation_is_repeatable_independent_of_batching_and_covers_every_level() -> None:
    model = SoundStorm(replace(MODEL, dropout=0.5)).train()
    clips, labels = patterned_clips(num_levels=4)
    whole = evaluate_loss(model, [collate(clips, labels)], TRAINING)
    pairs = evaluate_loss(model, [collate(clips[i : i + 2], labels[i : i + 2]) for i in range(0, 8, 2)], TRAINING)
    torch.testing.assert_close(whole.nats_Q, pairs.nats_Q, atol=1e-3, rtol=1e-5)
    assert torch.equal(whole.frames_Q, pairs.frames_Q)
    assert bool((whole.frames_Q > 0).all())
    assert model.training


def test_bfloat16_loss_is_near_that_of_float32() -> None:
    model, batch = SoundStorm(MODEL), random_batch()
    exact, rounded = (
        training_step(model, batch, seeded_generator(1), replace(TRAINING, precision=name)).loss.item()
        for name in ("fp32", "bf16")
    )
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.02)
    assert not uses_bf16(torch.device("cpu"), "fp32")
    with autocast(torch.device("cpu"), "bf16"):
        assert nn.Linear(4, 4)(torch.ones(1, 4)).dtype == torch.bfloat16


def test_onecycle_is_that_of_pytorch() -> None:
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1e-4)
    published = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-4, total_steps=200, pct_start=0.3, cycle_momentum=False
    )
    config = preset("reference").training
    for step in range(200):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 * lr_factor(step, 200, config), rel=1e-6)
        optimizer.step()
        if step < 199:
            published.step()


@pytest.mark.parametrize("name", ["onecycle", "cosine"])
@pytest.mark.parametrize("total_steps", [1, 2, 3, 100])
def test_schedules_rise_to_one_fall_towards_zero_and_stay_there(name: str, total_steps: int) -> None:
    config = replace(TRAINING, schedule=name, warmup_share=0.3)  # type: ignore[arg-type]
    factors = [lr_factor(step, total_steps, config) for step in range(total_steps + 5)]
    assert all(0 <= factor <= 1 for factor in factors)
    if total_steps == 100:
        peak = factors.index(max(factors))
        assert max(factors) == pytest.approx(1.0)
        assert peak in (29, 30)
        assert factors[: peak + 1] == sorted(factors[: peak + 1])
        assert factors[peak:] == sorted(factors[peak:], reverse=True)
        assert factors[99] < 1e-3
        assert factors[100:] == pytest.approx([factors[100]] * 5)


def test_a_trapezoid_rises_stays_and_falls_in_straight_lines() -> None:
    config = replace(TRAINING, schedule="trapezoid", warmup_share=0.1, cooldown_share=0.4)
    factors = [lr_factor(step, 100, config) for step in range(102)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factors[10:61] == [1.0] * 51
    assert factors[61:101] == pytest.approx([1 - step / 40 for step in range(1, 41)])
    assert factors[99] == pytest.approx(1 / 40) and factors[100:] == [0.0, 0.0]
    assert {lr_factor(step, 100, replace(config, warmup_share=0.0, cooldown_share=0.0)) for step in range(110)} == {1.0}
    assert [
        lr_factor(step, 3, replace(config, warmup_share=0.3, cooldown_share=0.7)) for step in range(3)
    ] == pytest.approx([1.0, 2 / 2.1, 1 / 2.1])


def test_weight_decay_acts_on_matrices_only_and_none_makes_it_adam() -> None:
    model = SoundStorm(MODEL)
    decayed, other = build_optimizer(model, replace(TRAINING, weight_decay=0.1)).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], other["weight_decay"]) == (0.1, 0.0)
    decayed_names = {names[id(parameter)] for parameter in decayed["params"]}
    assert "head_weight" in decayed_names
    assert "conformer.blocks.0.attention.project.weight" in decayed_names
    assert not any(
        "norm" in name or "bias" in name or "embedding" in name or "depthwise" in name for name in decayed_names
    )
    assert len(decayed["params"]) + len(other["params"]) == len(names)

    twin = SoundStorm(MODEL)
    twin.load_state_dict(model.state_dict())
    config = replace(TRAINING, weight_decay=0.0)
    ours, adam = build_optimizer(model, config), torch.optim.Adam(twin.parameters(), lr=config.lr, betas=config.betas)
    for network, optimizer in ((model, ours), (twin, adam)):
        for _ in range(3):
            optimizer.zero_grad()
            training_step(network, random_batch(), seeded_generator(3), config).loss.backward()
            optimizer.step()
    for ours_value, adam_value in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours_value, adam_value, atol=1e-6, rtol=1e-5)


def test_gradients_are_clipped_to_the_norm_and_none_is_applied_when_not_finite() -> None:
    model, config = SoundStorm(MODEL), replace(TRAINING, grad_clip=0.01)
    optimizer = build_optimizer(model, config)
    schedule = build_schedule(optimizer, config, 10)
    norm = apply_gradients(
        model, training_step(model, random_batch(), seeded_generator(0), config).loss, optimizer, schedule, config
    )
    assert norm > 0.01
    assert schedule.get_last_lr()[0] == pytest.approx(config.lr * lr_factor(1, 10, config))
    clipped = torch.cat(
        [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    ).norm()
    assert float(clipped) == pytest.approx(0.01, rel=1e-3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    loss = training_step(model, random_batch(), seeded_generator(0), config).loss * float("nan")
    with pytest.raises(SoundStormError, match="lower --lr"):
        apply_gradients(model, loss, optimizer, schedule, config)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_the_average_follows_its_formula_and_forgets_the_start_soon() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    ema = EMA(model, decay=0.9)
    expected = 0.0
    for update in range(1, 200):
        nn.init.constant_(model.weight, float(update))
        ema.update(model)
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
        if update == 5:
            assert float(ema.averaged(model).weight) == pytest.approx(expected, rel=1e-5)
    assert float(ema.averaged(model).weight) == pytest.approx(expected, rel=1e-5)
    assert float(model.weight) == 199.0
    ema.copy_to(model)
    assert float(model.weight) == pytest.approx(expected, rel=1e-5)


def test_the_average_round_trips_and_refuses_that_of_another_network() -> None:
    model = nn.Linear(3, 2)
    ema = EMA(model, decay=0.5)
    nn.init.ones_(model.weight)
    ema.update(model)
    other = EMA(nn.Linear(3, 2), decay=0.9)
    other.load_state_dict(ema.state_dict())
    assert (other.decay, other.updates) == (0.5, 1)
    assert torch.equal(other.average["weight"], ema.average["weight"])
    with pytest.raises(SoundStormError, match="another network"):
        EMA(nn.Linear(2, 2), decay=0.5).load_state_dict(ema.state_dict())


def test_the_schedule_resumes_where_it_was() -> None:
    config: TrainingConfig = preset("reference").training
    parameter = nn.Parameter(torch.zeros(1))

    def fresh() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        optimizer = torch.optim.AdamW([parameter], lr=config.lr)
        return optimizer, build_schedule(optimizer, config, 50)

    optimizer, schedule = fresh()
    for _ in range(20):
        optimizer.step()
        schedule.step()
    resumed_optimizer, resumed = fresh()
    resumed_optimizer.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    for _ in range(20):
        for one_optimizer, one_schedule in ((optimizer, schedule), (resumed_optimizer, resumed)):
            one_optimizer.step()
            one_schedule.step()
        assert resumed.get_last_lr() == schedule.get_last_lr()
        assert resumed_optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_validation_losses_add_up_however_the_clips_are_dealt_over_workers() -> None:
    model, batch = SoundStorm(MODEL).eval(), random_batch([20, 20, 20, 20])
    parts = [
        collate([batch.codes_BQT[i].numpy() for i in members], [int(batch.label_B[i]) for i in members])
        for members in ((0, 2), (1, 3))
    ]
    alone = evaluate_loss(model, [batch], TRAINING)
    dealt = evaluate_loss(model, [parts[0]], TRAINING, first=0, stride=2) + evaluate_loss(
        model, [parts[1]], TRAINING, first=1, stride=2
    )
    torch.testing.assert_close(dealt.nats_Q, alone.nats_Q, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dealt.frames_Q, alone.frames_Q)
