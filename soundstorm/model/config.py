"""Settings of the model, its training and its sampler.

Every field is checked when the object is created and when it is read from a checkpoint. A wrong value raises an error
that names the field, the value and what is allowed, instead of a shape error later."""

from dataclasses import dataclass, replace
from typing import Literal

from soundstorm.settings import Settings, require

PRESET_FRAME_RATE = 75
"""Frame rate, in Hz, that the numbers of frames in the presets assume."""

HEAD_CHANNELS = 16
"""Channels of an attention head over the levels of a place."""


@dataclass(kw_only=True, frozen=True)
class ModelConfig(Settings):
    """Architecture of a `SoundStorm` network."""

    width: int
    """Width of the residual stream."""
    depth: int
    """Number of Conformer blocks."""
    heads: int
    """Number of attention heads; width / heads must be even, for rotary embeddings."""
    kernel: int = 31
    """Kernel size of the depthwise convolution in frames, odd."""
    ff_mult: int = 4
    """Hidden width of a feed-forward module, as a multiple of width."""
    conv_mult: int = 1
    """Channels of the depthwise convolution, as a multiple of width."""
    dropout: float = 0.0
    """Dropout probability at the output of each module."""
    num_levels: int = 8
    """Levels that the network generates: all levels of the codec, or the first ones."""
    codebook_size: int = 1024
    """Codes per level; the next id is MASK."""
    num_classes: int = 50
    """Number of classes; the next label means 'no class'."""
    order: Literal["levels", "places"] = "levels"
    """Order of generation: `levels` (as in SoundStorm) decodes level after level of the whole clip; `places` decodes
    all levels of a place (a position in time) at once."""
    generated_levels: int | None = None
    """Number of the codec's levels, from the first, that are generated; the codec replaces the others by noise of their
    variance. None: all."""
    centroids: bool = False
    """Embed and predict codes by the codec's centroids (codebook embeddings) instead of learned embeddings and heads;
    `places` needs it."""
    centroid_dim: int = 0
    """Dimension of the centroids, which training takes from the codec; 0 without centroids, or before training."""
    head_width: int = 256
    """Width of the network over the levels of a place, with `places`."""
    head_depth: int = 2
    """Number of blocks of that network."""
    timbre_dim: int = 0
    """Dimension of the timbre embedding of a clip, a condition beside the class, with `places`; 0: none. See
    `soundstorm.model.timbre`."""
    timbre_entries: int = 0
    """Number of training clips whose timbre is stored for sampling; training sets it."""

    def __post_init__(self) -> None:
        require(1 <= self.width <= 16_384, "width", self.width, "1 to 16384")
        require(1 <= self.depth <= 256, "depth", self.depth, "1 to 256")
        allowed = f"a positive divisor of width {self.width} with an even quotient"
        require(self.heads >= 1 and self.width % (2 * self.heads) == 0, "heads", self.heads, allowed)
        require(
            1 <= self.kernel <= 1_023 and self.kernel % 2 == 1,
            "kernel",
            self.kernel,
            "an odd number of frames up to 1023",
        )
        require(1 <= self.ff_mult <= 64, "ff_mult", self.ff_mult, "1 to 64")
        require(1 <= self.conv_mult <= 64, "conv_mult", self.conv_mult, "1 to 64")
        require(0.0 <= self.dropout < 1.0, "dropout", self.dropout, "at least 0 and below 1")
        require(1 <= self.num_levels <= 64, "num_levels", self.num_levels, "1 to 64")
        require(2 <= self.codebook_size <= 65_535, "codebook_size", self.codebook_size, "2 to 65535")
        require(1 <= self.num_classes <= 1_000_000, "num_classes", self.num_classes, "1 to 1000000")
        require(self.order in ("levels", "places"), "order", self.order, "levels or places")
        most = self.generated_levels
        require(most is None or 1 <= most <= 64, "generated_levels", most, "1 to 64, or none")
        require(self.centroids or self.order == "levels", "centroids", self.centroids, "true where order is places")
        require(0 <= self.centroid_dim <= 65_536, "centroid_dim", self.centroid_dim, "0 to 65536")
        require(
            self.centroids or self.centroid_dim == 0, "centroid_dim", self.centroid_dim, "0 where centroids is false"
        )
        allowed = f"a multiple of {HEAD_CHANNELS}, at most 16384"
        require(
            1 <= self.head_width <= 16_384 and self.head_width % HEAD_CHANNELS == 0,
            "head_width",
            self.head_width,
            allowed,
        )
        require(1 <= self.head_depth <= 256, "head_depth", self.head_depth, "1 to 256")
        require(0 <= self.timbre_dim <= 4096, "timbre_dim", self.timbre_dim, "0 to 4096")
        require(
            self.order == "places" or self.timbre_dim == 0, "timbre_dim", self.timbre_dim, "0 where order is levels"
        )
        require(0 <= self.timbre_entries <= 16_777_216, "timbre_entries", self.timbre_entries, "0 to 16777216")

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

    batch_size: int
    """Clips per step and worker."""
    epochs: int
    """Number of passes over the clips."""
    lr: float
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's two moment estimates."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices; with 0, AdamW is Adam."""
    schedule: Literal["onecycle", "cosine", "trapezoid"] = "onecycle"
    """`onecycle` rises and falls along a cosine; `cosine` rises linearly and falls along a cosine; `trapezoid` rises
    and falls linearly."""
    warmup_share: float = 0.3
    """Fraction of all steps in which the learning rate rises."""
    cooldown_share: float = 0.3
    """Fraction of all steps in which the learning rate of `trapezoid` falls; the other schedules fall after the
    rise."""
    recorded_share: float = 0.3
    """Probability that an example is the original clip if it has augmented views; else one of all views is chosen
    uniformly. This field, `crop_frames` and `filled_frames` concern the batches, see `soundstorm.training.batches`; a
    training step ignores them."""
    class_dropout: float = 0.1
    """Probability that an example is trained without its class, for classifier-free guidance."""
    first_level_share: float = 0.125
    """Probability that an example trains level 0; the other levels are equally likely. With `places`: weight of level 0
    in the loss."""
    head_share: float = 1.0
    """Fraction of the masked places whose loss a step computes, with `places`: the network over the levels costs as
    much as the rest."""
    prompt_share: float = 0.5
    """Probability that an example has a visible prefix of all levels (a prompt), which is outside the loss."""
    span_share: float = 0.0
    """Probability that spans of frames are masked instead of single frames."""
    span_frames: int = 10
    """Length of a masked span in frames."""
    noise_share: float = 0.0
    """Corruption: fraction of the visible codes of the trained level that are replaced by codes of other clips, which
    makes decoding robust to a wrong sample."""
    timbre_dropout: float = 0.15
    """Probability that an example is trained without its timbre, for continuations, if the network has timbres."""
    timbre_noise: float = 0.3
    """Standard deviation of the noise on timbres in training, relative to that within a class."""
    label_smoothing: float = 0.0
    """Label smoothing: probability mass of the target that is spread over all codes; reported losses exclude it."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights, reached after a warm-up."""
    grad_clip: float = 1.0
    """Maximum norm of the gradient, to which it is clipped."""
    crop_frames: int | None = None
    """Length in frames of random crops of longer clips; none: whole clips."""
    filled_frames: int | None = None
    """Pad clips to this many frames with code 0 and train on the padding like on sound: reproduces a flaw of the
    published system, for ablation."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: linear layers in bfloat16 if the device supports it in hardware."""
    seed: int = 0
    """Random seed of the order of clips, crops, masks and initial weights."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "span_frames"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(
            all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers, each at least 0 and below 1"
        )
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(
            self.schedule in ("onecycle", "cosine", "trapezoid"),
            "schedule",
            self.schedule,
            "onecycle, cosine or trapezoid",
        )
        require(self.precision in ("auto", "fp32", "bf16"), "precision", self.precision, "auto, fp32 or bf16")
        for name in (
            "warmup_share",
            "cooldown_share",
            "recorded_share",
            "class_dropout",
            "first_level_share",
            "prompt_share",
            "timbre_dropout",
        ):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")
        for name in ("span_share", "noise_share"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")
        require(0 < self.head_share <= 1, "head_share", self.head_share, "above 0 and at most 1")
        is_disjoint = self.schedule != "trapezoid" or self.warmup_share + self.cooldown_share <= 1
        require(
            is_disjoint,
            "cooldown_share",
            self.cooldown_share,
            f"at most 1 less warmup_share, which is {self.warmup_share}",
        )
        for name in ("label_smoothing", "ema_decay"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and below 1")
        require(0 <= self.timbre_noise <= 1000, "timbre_noise", self.timbre_noise, "0 to 1000")
        require(self.grad_clip > 0, "grad_clip", self.grad_clip, "above 0")
        for name in ("crop_frames", "filled_frames"):
            value = getattr(self, name)
            require(value is None or 1 <= value <= 100_000, name, value, "1 to 100000, or none")
        require(0 <= self.seed < 2**63, "seed", self.seed, "0 to 2**63 - 1")

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

    iterations: int | tuple[int, ...] = 12
    """Iterations per level; a single number applies to level 0, and each further level has one iteration. A network of
    order `places` takes a single number."""
    order: Literal["confidence", "even"] = "confidence"
    """Which frames an iteration keeps: `confidence`: those with the most confident codes; `even`: evenly spaced frames
    (a low-discrepancy order), whatever their confidence."""
    temperature: float = 1.0
    """Sampling temperature in the first iteration of a level."""
    final_temperature: float = 0.0
    """Sampling temperature in the last iteration of a level, or in a single one; 0 takes the likeliest codes."""
    choice_temperature: float = 1.0
    """Scale of the Gumbel noise on the log-confidence by which frames are ranked, in the first iteration of a level; it
    is annealed to 0 in the last."""
    top_p: float = 1.0
    """Nucleus sampling: sample from the likeliest codes that together have this probability; 1: from all."""
    typical_mass: float = 1.0
    """Typical sampling: sample from the most typical codes that together have this probability (Meister et al., arXiv
    2202.00666); 1: from all."""
    guidance: float = 1.0
    """Classifier-free guidance weight while a level is fully masked; it falls to 1 with the fraction of masked frames.
    1: no guidance."""
    upper_temperature: float | None = None
    """Sampling temperature at all levels above 0, in every iteration; none: as at level 0, falling to
    `final_temperature`."""
    upper_top_p: float | None = None
    """`top_p` at all levels above 0; none: as at level 0."""
    upper_guidance: float | None = None
    """Guidance weight at all levels above 0; none: as at level 0."""
    timbre_spread: float = 0.5
    """How far the timbre of a sample may lie from those of the training clips, if the network has timbres: 0: sampled
    from theirs; 1: from a normal distribution of the class."""
    candidates: int = 1
    """Number of candidates per sample, of which reranking keeps one, see `soundstorm.generation.reranking`. Decoding
    itself makes one candidate per call."""

    def __post_init__(self) -> None:
        passes = (self.iterations,) if isinstance(self.iterations, int) else self.iterations
        require(
            len(passes) > 0 and all(1 <= count <= 10_000 for count in passes),
            "iterations",
            self.iterations,
            "1 to 10000 iterations per level",
        )
        require(self.order in ("confidence", "even"), "order", self.order, "confidence or even")
        require(1 <= self.candidates <= 1000, "candidates", self.candidates, "1 to 1000")
        for name in ("temperature", "final_temperature", "choice_temperature", "guidance"):
            value = getattr(self, name)
            require(0 <= value <= 1e9, name, value, "0 to 1e9")
        for name in ("upper_temperature", "upper_guidance"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1e9, name, value, "0 to 1e9, or none")
        require(0 <= self.timbre_spread <= 1, "timbre_spread", self.timbre_spread, "0 to 1")
        for name in ("top_p", "typical_mass"):
            require(0 < getattr(self, name) <= 1, name, getattr(self, name), "above 0 and at most 1")
        if self.upper_top_p is not None:
            require(0 < self.upper_top_p <= 1, "upper_top_p", self.upper_top_p, "above 0 and at most 1, or none")

    def iterations_per_level(self, num_levels: int) -> tuple[int, ...]:
        """Iterations of each of `num_levels` levels; raises SoundStormError if `iterations` lists another number of
        levels."""
        if isinstance(self.iterations, int):
            return (self.iterations,) + (1,) * (num_levels - 1)
        require(
            len(self.iterations) == num_levels,
            "iterations",
            self.iterations,
            f"one number, or {num_levels} of them, one per level",
        )
        return self.iterations

    def iterations_for(self, model: ModelConfig) -> tuple[int, ...]:
        """Iterations of each level of a network, or the single number of order `places`; raises SoundStormError if
        `iterations` lists another number of levels."""
        if model.order == "places" and not isinstance(self.iterations, int):
            allowed = "one number: this network decides all levels of a place at once"
            require(len(self.iterations) == 1, "iterations", self.iterations, allowed)
        return self.iterations_per_level(model.iterated_levels)
