"""Named presets: settings of a network, its training and its sampler."""

from dataclasses import dataclass, replace

from soundstorm.errors import SoundStormError
from soundstorm.model.config import ModelConfig, SamplerSettings, TrainingConfig


@dataclass(kw_only=True, frozen=True)
class Preset:
    """A network, its training and its sampler, under one name."""

    model: ModelConfig
    training: TrainingConfig
    sampler: SamplerSettings


SMALL = Preset(
    model=ModelConfig(width=256, depth=6, heads=4, kernel=31, ff_mult=2),
    training=TrainingConfig(
        batch_size=12,
        epochs=270,
        lr=6e-4,
        betas=(0.9, 0.98),
        weight_decay=0.05,
        schedule="trapezoid",
        warmup_share=0.055,
        cooldown_share=0.3,
        first_level_share=0.4,
        prompt_share=0.25,
        span_share=0.15,
        noise_share=0.08,
    ),
    # Much of ESC-10 is digital silence, whose codes have the highest confidence: ranked by confidence, silence would
    # spread over whole clips. A network trained without noise_share needs guidance of 2.5, because one wrong frame of
    # silence in rain leads to more. See docs/sampler_sweep.csv.
    sampler=SamplerSettings(iterations=48, order="even", final_temperature=0.7),
)

PLACES = Preset(
    model=replace(SMALL.model, width=320, heads=5, order="places", centroids=True, generated_levels=9, timbre_dim=24),
    training=replace(SMALL.training, batch_size=16, epochs=200, lr=1e-3, first_level_share=0.2, head_share=0.5),
    # After a short training the distributions of the upper levels are too flat: neighbouring blocks do not fit, and the
    # sound is too loud. A lower temperature and top_p correct this; docs/results.md has the effect of each setting.
    sampler=SamplerSettings(
        iterations=32,
        order="even",
        final_temperature=0.4,
        upper_temperature=0.5,
        top_p=0.8,
    ),
)

PRESETS: dict[str, Preset] = {
    # The published set-up: 22.2 million parameters with 50 classes, where about 23.5 million are published.
    "reference": Preset(
        model=ModelConfig(width=512, depth=2, heads=8, kernel=31, ff_mult=4, conv_mult=2),
        training=TrainingConfig(
            batch_size=8, epochs=100, lr=1e-4, betas=(0.9, 0.999), schedule="onecycle", warmup_share=0.3, grad_clip=1.0
        ),
        sampler=SamplerSettings(iterations=12),
    ),
    # SoundStorm's order: about two hours on two cores for 320 clips of 5 s with 8 views each.
    "small": SMALL,
    # "small" with the flaws of the reference work: no class input, padding (63% of a sequence) trained like sound,
    # level 0 in one iteration.
    "faults": Preset(
        model=SMALL.model,
        training=replace(SMALL.training, class_dropout=1.0, filled_frames=1013),
        sampler=replace(SMALL.sampler, iterations=1),
    ),
    # Pretraining of token classifiers (`cross-validate`): seven minutes on a core.
    "hearing": Preset(
        model=replace(SMALL.model, depth=3),
        training=replace(
            SMALL.training,
            epochs=30,
            schedule="cosine",
            warmup_share=0.1,
            crop_frames=225,
            span_share=0.5,
            ema_decay=0.998,
        ),
        sampler=SMALL.sampler,
    ),
    # The checkpoint in the package: order `places`. Above the ninth level of the packaged codec, the loss is no lower
    # than the entropy of the code frequencies.
    "places": PLACES,
    # A small network of order `places` for the demo: some minutes on two cores.
    "draft": Preset(
        model=replace(PLACES.model, width=128, depth=3, heads=4, generated_levels=6, head_width=128, timbre_dim=12),
        training=replace(
            PLACES.training, batch_size=8, epochs=120, lr=2e-3, schedule="cosine", warmup_share=0.1, ema_decay=0.99
        ),
        sampler=replace(PLACES.sampler, iterations=16),
    ),
    "tiny": Preset(
        model=ModelConfig(width=128, depth=2, heads=4, kernel=31, ff_mult=2),
        training=TrainingConfig(
            batch_size=8,
            epochs=120,
            lr=2e-3,
            betas=(0.9, 0.98),
            schedule="cosine",
            warmup_share=0.1,
            first_level_share=0.3,
            ema_decay=0.99,
            crop_frames=150,
        ),
        sampler=SamplerSettings(iterations=12, choice_temperature=10.0),
    ),
}


def preset(name: str) -> Preset:
    """The preset `name`; raises SoundStormError with the list of names if there is none."""
    if name not in PRESETS:
        raise SoundStormError(f"unknown preset '{name}': choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
