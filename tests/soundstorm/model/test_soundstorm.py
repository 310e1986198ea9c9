"""The network: which codes it sees, which head it computes, how large the presets are, and what settings it refuses."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from soundstorm.errors import SoundStormError
from soundstorm.model.config import ModelConfig, SamplerSettings, TrainingConfig
from soundstorm.model.generators import make_generator
from soundstorm.model.presets import PRESETS, preset
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.training.batches import PADDING, collate


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


CONFIG = ModelConfig(width=32, depth=2, heads=2, ff_mult=2, num_levels=4, codebook_size=50, num_classes=3)


def example(config: ModelConfig = CONFIG, num_frames: int = 20) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    codes_BQT = torch.randint(config.codebook_size, (2, config.num_levels, num_frames))
    return codes_BQT, torch.tensor([0, 2]), torch.ones(2, num_frames, dtype=torch.bool)


def test_parameter_counts_of_the_presets_are_the_documented_ones() -> None:
    with torch.device("meta"):
        networks = {
            name: make_generator(replace(entry.model, centroid_dim=240 if entry.model.centroids else 0))
            for name, entry in PRESETS.items()
        }
    assert 22.0e6 < networks["reference"].num_parameters() < 24.0e6
    conformer = {
        name: sum(parameter.numel() for parameter in network.conformer.parameters())
        for name, network in networks.items()
    }
    assert 5.5e6 < conformer["small"] < 6.5e6
    assert 10e6 < networks["places"].num_parameters() < 12e6
    assert conformer["tiny"] < 0.6e6


def test_reference_is_the_published_setup() -> None:
    entry = preset("reference")
    assert (entry.model.depth, entry.model.width, entry.model.heads, entry.model.kernel) == (2, 512, 8, 31)
    assert (entry.training.batch_size, entry.training.epochs, entry.training.lr, entry.training.betas) == (
        8,
        100,
        1e-4,
        (0.9, 0.999),
    )
    assert (entry.training.schedule, entry.training.warmup_share, entry.training.grad_clip) == ("onecycle", 0.3, 1.0)
    assert entry.training.weight_decay == 0
    assert entry.sampler.iterations_per_level(8) == (12, 1, 1, 1, 1, 1, 1, 1)


def test_logits_of_mixed_levels_equal_those_of_each_level_alone() -> None:
    model = SoundStorm(CONFIG).eval()
    codes_BQT, label_B, valid_BT = example()
    with torch.no_grad():
        mixed = model(codes_BQT, label_B, valid_BT, torch.tensor([3, 1]))
        for row, level in enumerate((3, 1)):
            torch.testing.assert_close(
                mixed[row], model(codes_BQT, label_B, valid_BT, level)[row], atol=1e-5, rtol=1e-5
            )
    assert mixed.shape == (2, 20, 50)


@pytest.mark.parametrize("level", [2, torch.tensor([2, 0])], ids=["one level", "a level per clip"])
def test_only_one_head_is_computed(level: int | torch.Tensor) -> None:
    model = SoundStorm(CONFIG).eval()
    x_BTD = torch.randn(2, 20, 32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.head(x_BTD, level)
    assert counter.get_total_flops() == 2 * (2 * 20) * 32 * 50


def test_the_gradient_of_a_step_reaches_the_heads_of_its_levels_only() -> None:
    model = SoundStorm(CONFIG)
    codes_BQT, label_B, valid_BT = example()
    model(codes_BQT, label_B, valid_BT, torch.tensor([1, 3])).logsumexp(-1).sum().backward()
    assert model.head_weight.grad is not None
    assert [bool(model.head_weight.grad[level].any()) for level in range(4)] == [False, True, False, True]


def test_each_level_has_its_own_mask_and_its_own_codes() -> None:
    model = SoundStorm(CONFIG).eval()
    codes_BQT, label_B, valid_BT = example()
    with torch.no_grad():
        plain = model.hidden(codes_BQT, label_B, valid_BT)
        masked = []
        for level in range(4):
            changed = codes_BQT.clone()
            changed[:, level, 3] = model.mask_id
            masked.append(model.hidden(changed, label_B, valid_BT))
        swapped = codes_BQT[:, [1, 0, 2, 3]]
        assert (model.hidden(swapped, label_B, valid_BT) - plain).abs().max() > 1e-3
    for index, one in enumerate(masked):
        assert (one - plain).abs().max() > 1e-3
        for other in masked[index + 1 :]:
            assert (one - other).abs().max() > 1e-3


def test_the_class_and_its_absence_change_the_output() -> None:
    model = SoundStorm(CONFIG).eval()
    codes_BQT, _, valid_BT = example()
    with torch.no_grad():
        outputs = [model(codes_BQT, torch.full((2,), label), valid_BT, 0) for label in (0, 1, model.no_class)]
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3
    assert (outputs[0] - outputs[2]).abs().max() > 1e-3


def test_logits_of_a_clip_in_a_padded_batch_equal_those_alone() -> None:
    model = SoundStorm(replace(CONFIG, num_levels=8, codebook_size=1024)).eval()
    clips = [torch.randint(1024, (8, num_frames)).numpy() for num_frames in (75, 33, 1)]
    batch = collate(clips, [0, 1, 2])
    assert bool((batch.codes_BQT[1, :, 33:] == PADDING).all())
    with torch.no_grad():
        together = model(batch.codes_BQT, batch.label_B, batch.valid_BT, torch.tensor([0, 3, 7]))
        for row, level in enumerate((0, 3, 7)):
            single = collate([clips[row]], [row])
            alone = model(single.codes_BQT, single.label_B, single.valid_BT, level)[0]
            torch.testing.assert_close(together[row, : alone.shape[0]], alone, atol=1e-4, rtol=1e-4)


def test_a_new_network_is_undecided() -> None:
    model = SoundStorm(preset("tiny").model).eval()
    codes_BQT, label_B, valid_BT = example(model.config)
    with torch.no_grad():
        log_probability = model(codes_BQT, label_B, valid_BT, 0).log_softmax(-1)
    assert abs(-float(log_probability.mean()) - math.log(1024)) < 0.1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: preset("huge"), ["huge", "reference", "small", "tiny"]),
        (lambda: replace(CONFIG, heads=3), ["heads", "3", "32"]),
        (lambda: replace(CONFIG, kernel=30), ["kernel", "30", "odd"]),
        (lambda: replace(CONFIG, dropout=1.0), ["dropout", "1.0"]),
        (lambda: replace(preset("tiny").training, lr=0.0), ["lr", "0.0"]),
        (
            lambda: replace(preset("tiny").training, schedule="linear"),
            ["schedule", "linear", "onecycle", "cosine", "trapezoid"],
        ),
        (lambda: replace(preset("tiny").training, recorded_share=1.5), ["recorded_share", "1.5", "0 to 1"]),
        (
            lambda: replace(preset("tiny").training, schedule="trapezoid", warmup_share=0.4, cooldown_share=0.7),
            ["cooldown_share", "0.7", "1 less warmup_share", "0.4"],
        ),
        (lambda: replace(preset("tiny").training, class_dropout=1.5), ["class_dropout", "1.5"]),
        (lambda: SamplerSettings(iterations=(12, 0)), ["iterations", "(12, 0)"]),
        (lambda: SamplerSettings(iterations=(12, 4)).iterations_per_level(8), ["iterations", "(12, 4)", "8"]),
        (lambda: SamplerSettings(top_p=0.0), ["top_p", "0.0"]),
        (lambda: SamplerSettings(temperature=-1.0), ["temperature", "-1.0"]),
        (lambda: SamplerSettings(guidance=float("nan")), ["guidance", "nan"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(make, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SoundStormError) as error:
        make()
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "settings", [CONFIG, preset("small").training, preset("small").sampler, SamplerSettings(iterations=(3, 2, 1))]
)
def test_settings_come_back_equal_from_a_dictionary_of_json_values(
    settings: ModelConfig | TrainingConfig | SamplerSettings,
) -> None:
    import json

    assert type(settings).from_dict(json.loads(json.dumps(settings.to_dict())), "file") == settings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": "32"}, ["width", "'32'", "int"]),
        ({"width": True}, ["width", "True"]),
        ({"dropout": float("inf")}, ["dropout", "inf"]),
        ({"colour": 1}, ["colour", "unknown"]),
        ({"heads": 5}, ["heads", "5"]),
    ],
)
def test_settings_from_a_file_are_checked_and_the_file_is_named(change: dict[str, object], words: list[str]) -> None:
    with pytest.raises(SoundStormError) as error:
        ModelConfig.from_dict(CONFIG.to_dict() | change, "config.json: architecture")
    for word in ["config.json: architecture", *words]:
        assert word in str(error.value)


def test_a_missing_setting_is_named() -> None:
    values = CONFIG.to_dict()
    del values["depth"]
    with pytest.raises(SoundStormError, match=r"config.json: setting 'depth' is missing"):
        ModelConfig.from_dict(values, "config.json")


def test_a_setting_that_a_file_is_too_old_to_have_has_its_default() -> None:
    values = SamplerSettings(iterations=3, order="even").to_dict()
    del values["order"], values["final_temperature"]
    assert SamplerSettings.from_dict(values, "config.json") == SamplerSettings(iterations=3)


def test_the_frames_of_a_preset_are_the_same_in_seconds_at_any_frame_rate() -> None:
    config = replace(preset("tiny").training, span_frames=10, crop_frames=150, filled_frames=None)
    assert config.at_frame_rate(75) == config
    slower = config.at_frame_rate(18.75)
    assert (slower.span_frames, slower.crop_frames, slower.filled_frames) == (2, 38, None)
    assert config.at_frame_rate(1.0).span_frames == 1
