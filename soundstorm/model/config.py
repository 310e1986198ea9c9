"""Settings of the model, its training and its sampler.

Every field is checked when the object is created and when it is read from a checkpoint. A wrong value raises an error
that names the field, the value and what is allowed, instead of a shape error later."""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval, Len, MultipleOf
from pydantic.dataclasses import dataclass

from soundstorm.settings import Allowed, Amount, Betas, Count, Positive, Seed, Settings, Share, ShareAbove0, ShareBelow1

PRESET_FRAME_RATE = 75
"""Frame rate, in Hz, that the numbers of frames in the presets assume."""

HEAD_CHANNELS = 16
"""Channels of an attention head over the levels of a place."""

Levels = Annotated[int, Interval(ge=1, le=64)]
Depth = Annotated[int, Interval(ge=1, le=256)]
Frames = Annotated[int, Interval(ge=1, le=100_000)]
Weight = Annotated[float, Interval(ge=0, le=1e9), Allowed("0 to 1e9")]
Passes = Annotated[int, Interval(ge=1, le=10_000)]


@dataclass(kw_only=True, frozen=True)
class ModelConfig(Settings):
    """Architecture of a `SoundStorm` network."""

    width: Annotated[int, Interval(ge=1, le=16_384)]
    """Width of the residual stream."""
    depth: Depth
    """Number of Conformer blocks."""
    heads: int
    """Number of attention heads; width / heads must be even, for rotary embeddings."""
    kernel: Annotated[int, Interval(ge=1, le=1_023)] = 31
    """Kernel size of the depthwise convolution in frames, odd."""
    ff_mult: Annotated[int, Interval(ge=1, le=64)] = 4
    """Hidden width of a feed-forward module, as a multiple of width."""
    conv_mult: Annotated[int, Interval(ge=1, le=64)] = 1
    """Channels of the depthwise convolution, as a multiple of width."""
    dropout: ShareBelow1 = 0.0
    """Dropout probability at the output of each module."""
    num_levels: Levels = 8
    """Levels that the network generates: all levels of the codec, or the first ones."""
    codebook_size: Annotated[int, Interval(ge=2, le=65_535)] = 1024
    """Codes per level; the next id is MASK."""
    num_classes: Annotated[int, Interval(ge=1, le=1_000_000)] = 50
    """Number of classes; the next label means 'no class'."""
    order: Literal["levels", "places"] = "levels"
    """Order of generation: `levels` (as in SoundStorm) decodes level after level of the whole clip; `places` decodes
    all levels of a place (a position in time) at once."""
    generated_levels: Levels | None = None
    """Number of the codec's levels, from the first, that are generated; the codec replaces the others by noise of their
    variance. None: all."""
    centroids: bool = False
    """Embed and predict codes by the codec's centroids (codebook embeddings) instead of learned embeddings and heads;
    `places` needs it."""
    centroid_dim: Annotated[int, Interval(ge=0, le=65_536)] = 0
    """Dimension of the centroids, which training takes from the codec; 0 without centroids, or before training."""
    head_width: Annotated[int, Interval(ge=1, le=16_384), MultipleOf(HEAD_CHANNELS)] = 256
    """Width of the network over the levels of a place, with `places`."""
    head_depth: Depth = 2
    """Number of blocks of that network."""
    timbre_dim: Annotated[int, Interval(ge=0, le=4_096)] = 0
    """Dimension of the timbre embedding of a clip, a condition beside the class, with `places`; 0: none. See
    `soundstorm.model.timbre`."""
    timbre_entries: Annotated[int, Interval(ge=0, le=16_777_216)] = 0
    """Number of training clips whose timbre is stored for sampling; training sets it."""

    def __post_init__(self) -> None:
        divides = self.heads >= 1 and self.width % (2 * self.heads) == 0
        self.check(divides, "heads", f"a positive divisor of width {self.width} with an even quotient")
        self.check(self.kernel % 2 == 1, "kernel", "an odd number of frames up to 1023")
        self.check(self.centroids or self.order == "levels", "centroids", "true where order is places")
        self.check(self.centroids or self.centroid_dim == 0, "centroid_dim", "0 where centroids is false")
        self.check(self.order == "places" or self.timbre_dim == 0, "timbre_dim", "0 where order is levels")

    def at_most(self, num_levels: int) -> "ModelConfig":
        """These settings for a codec of `num_levels` levels: `generated_levels` is at most that number."""
        most = self.generated_levels
        return self if most is None else replace(self, generated_levels=min(most, num_levels))

    @property
    def iterated_levels(self) -> int:
        """Number of levels that have their own decoding iterations; 1 with order `places`."""
        return 1 if self.order == "places" else self.num_levels


@dataclass(kw_only=True, frozen=True)
class TrainingConfig(Settings):
    """Training settings of a generator."""

    batch_size: Count
    """Clips per step and worker."""
    epochs: Count
    """Number of passes over the clips."""
    lr: Positive
    """Peak learning rate."""
    betas: Betas = (0.9, 0.999)
    """Decay rates of Adam's two moment estimates."""
    weight_decay: Amount = 0.0
    """Decoupled weight decay of matrices; with 0, AdamW is Adam."""
    schedule: Literal["onecycle", "cosine", "trapezoid"] = "onecycle"
    """`onecycle` rises and falls along a cosine; `cosine` rises linearly and falls along a cosine; `trapezoid` rises
    and falls linearly."""
    warmup_share: Share = 0.3
    """Fraction of all steps in which the learning rate rises."""
    cooldown_share: Share = 0.3
    """Fraction of all steps in which the learning rate of `trapezoid` falls; the other schedules fall after the
    rise."""
    recorded_share: Share = 0.3
    """Probability that an example is the original clip if it has augmented views; else one of all views is chosen
    uniformly. This field, `crop_frames` and `filled_frames` concern the batches, see `soundstorm.training.batches`; a
    training step ignores them."""
    class_dropout: Share = 0.1
    """Probability that an example is trained without its class, for classifier-free guidance."""
    first_level_share: Share = 0.125
    """Probability that an example trains level 0; the other levels are equally likely. With `places`: weight of level 0
    in the loss."""
    head_share: ShareAbove0 = 1.0
    """Fraction of the masked places whose loss a step computes, with `places`: the network over the levels costs as
    much as the rest."""
    prompt_share: Share = 0.5
    """Probability that an example has a visible prefix of all levels (a prompt), which is outside the loss."""
    span_share: Share = 0.0
    """Probability that spans of frames are masked instead of single frames."""
    span_frames: Count = 10
    """Length of a masked span in frames."""
    noise_share: Share = 0.0
    """Corruption: fraction of the visible codes of the trained level that are replaced by codes of other clips, which
    makes decoding robust to a wrong sample."""
    timbre_dropout: Share = 0.15
    """Probability that an example is trained without its timbre, for continuations, if the network has timbres."""
    timbre_noise: Annotated[float, Interval(ge=0, le=1_000)] = 0.3
    """Standard deviation of the noise on timbres in training, relative to that within a class."""
    label_smoothing: ShareBelow1 = 0.0
    """Label smoothing: probability mass of the target that is spread over all codes; reported losses exclude it."""
    ema_decay: ShareBelow1 = 0.999
    """Decay of the exponential moving average of the weights, reached after a warm-up."""
    grad_clip: Positive = 1.0
    """Maximum norm of the gradient, to which it is clipped."""
    crop_frames: Frames | None = None
    """Length in frames of random crops of longer clips; none: whole clips."""
    filled_frames: Frames | None = None
    """Pad clips to this many frames with code 0 and train on the padding like on sound: reproduces a flaw of the
    published system, for ablation."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: linear layers in bfloat16 if the device supports it in hardware."""
    seed: Seed = 0
    """Random seed of the order of clips, crops, masks and initial weights."""

    def __post_init__(self) -> None:
        is_disjoint = self.schedule != "trapezoid" or self.warmup_share + self.cooldown_share <= 1
        self.check(is_disjoint, "cooldown_share", f"at most 1 less warmup_share, which is {self.warmup_share}")

    def at_frame_rate(self, frame_rate: float) -> "TrainingConfig":
        """These settings for codes of another frame rate: numbers of frames, which assume PRESET_FRAME_RATE, are scaled
        to the same duration."""
        frames = {name: getattr(self, name) for name in ("span_frames", "crop_frames", "filled_frames")}
        scale = frame_rate / PRESET_FRAME_RATE
        return replace(
            self, **{name: max(1, round(count * scale)) for name, count in frames.items() if count is not None}
        )


@dataclass(kw_only=True, frozen=True)
class SamplerSettings(Settings):
    """Settings of decoding; `soundstorm.generation.decoding` describes the procedure."""

    ADDED_LATER: ClassVar[tuple[str, ...]] = ("accept_probability",)

    iterations: Annotated[
        Passes | Annotated[tuple[Passes, ...], Len(1)], Allowed("1 to 10000 iterations per level")
    ] = 12
    """Iterations per level; a single number applies to level 0, and each further level has one iteration. A network of
    order `places` takes a single number."""
    order: Literal["confidence", "even"] = "confidence"
    """Which frames an iteration keeps: `confidence`: those with the most confident codes; `even`: evenly spaced frames
    (a low-discrepancy order), whatever their confidence."""
    temperature: Weight = 1.0
    """Sampling temperature in the first iteration of a level."""
    final_temperature: Weight = 0.0
    """Sampling temperature in the last iteration of a level, or in a single one; 0 takes the likeliest codes."""
    choice_temperature: Weight = 1.0
    """Scale of the Gumbel noise on the log-confidence by which frames are ranked, in the first iteration of a level; it
    is annealed to 0 in the last."""
    top_p: ShareAbove0 = 1.0
    """Nucleus sampling: sample from the likeliest codes that together have this probability; 1: from all."""
    typical_mass: ShareAbove0 = 1.0
    """Typical sampling: sample from the most typical codes that together have this probability (Meister et al., arXiv
    2202.00666); 1: from all."""
    guidance: Weight = 1.0
    """Classifier-free guidance weight while a level is fully masked; it falls to 1 with the fraction of masked frames.
    1: no guidance."""
    upper_temperature: Weight | None = None
    """Sampling temperature at all levels above 0, in every iteration; none: as at level 0, falling to
    `final_temperature`."""
    upper_top_p: ShareAbove0 | None = None
    """`top_p` at all levels above 0; none: as at level 0."""
    upper_guidance: Weight | None = None
    """Guidance weight at all levels above 0; none: as at level 0."""
    timbre_spread: Share = 0.5
    """How far the timbre of a sample may lie from those of the training clips, if the network has timbres: 0: sampled
    from theirs; 1: from a normal distribution of the class."""
    candidates: Annotated[int, Interval(ge=1, le=1_000)] = 1
    """Maximum number of candidates per sample, of which reranking keeps one, see `soundstorm.generation.reranking`.
    Decoding itself makes one candidate per call."""
    accept_probability: ShareAbove0 = 1.0
    """A candidate to whose class the reranker gives at least this probability is kept, without generating more; if none
    is, the one with the highest probability. 1: all are generated."""

    def iterations_per_level(self, num_levels: int) -> tuple[int, ...]:
        """Iterations of each of `num_levels` levels; raises SoundStormError if `iterations` lists another number of
        levels."""
        if isinstance(self.iterations, int):
            return (self.iterations,) + (1,) * (num_levels - 1)
        fits = len(self.iterations) == num_levels
        self.check(fits, "iterations", f"one number, or {num_levels} of them, one per level")
        return self.iterations

    def iterations_for(self, model: ModelConfig) -> tuple[int, ...]:
        """Iterations of each level of a network, or the single number of order `places`; raises SoundStormError if
        `iterations` lists another number of levels."""
        if model.order == "places" and not isinstance(self.iterations, int):
            is_one = len(self.iterations) == 1
            self.check(is_one, "iterations", "one number: this network decides all levels of a place at once")
        return self.iterations_per_level(model.iterated_levels)
