"""Settings of the model, its training and its sampler.

Every field is checked when the object is made, and when it is read back from a checkpoint, so that a wrong value is met
with its name, its value and what is allowed, and not later as a shape error."""

from dataclasses import dataclass, replace
from typing import Literal

from soundstorm.settings import Settings, require

PRESET_FRAME_RATE = 75
"""Frames per second that the presets' numbers of frames are meant for."""

HEAD_CHANNELS = 16
"""Least channels of an attention head over the levels of a place."""


@dataclass(kw_only=True, frozen=True)
class ModelConfig(Settings):
    """Architecture of a `SoundStorm` network."""

    width: int
    """Channels of the residual stream."""
    depth: int
    """Conformer blocks."""
    heads: int
    """Attention heads; width / heads must be even, for rotary attention."""
    kernel: int = 31
    """Frames that the depthwise convolution sees, odd."""
    ff_mult: int = 4
    """Hidden width of a feed-forward module, in units of width."""
    conv_mult: int = 1
    """Channels of the depthwise convolution, in units of width."""
    dropout: float = 0.0
    """Share of each module's output that training drops."""
    num_levels: int = 8
    """Levels that it generates: those of the codec, or the first of them."""
    codebook_size: int = 1024
    """Codes per level; the id after the last one is MASK."""
    num_classes: int = 50
    """Categories; the id after the last one means 'no class'."""
    order: Literal["levels", "places"] = "levels"
    """Order of generation: `levels` is SoundStorm's, level after level of the whole clip; `places` decides all levels
    of a place at once."""
    generated_levels: int | None = None
    """Generate only so many of the codec's levels, the first; the codec puts the rest back as variance. None: all."""
    centroids: bool = False
    """Codes go in and out through the codec's own vectors, in place of embeddings and heads that are learned from
    nothing; `places` needs it."""
    centroid_dim: int = 0
    """Size of these vectors, which training takes from the codec; 0 where there are none, or none yet."""
    head_width: int = 256
    """Channels of the network over the levels of a place, with `places`."""
    head_depth: int = 2
    """Blocks of that network."""
    timbre_dim: int = 0
    """Numbers that say how a clip sounds as a whole, told beside its class, with `places`; 0: none. See
    `soundstorm.model.timbre`."""
    timbre_entries: int = 0
    """Training clips whose timbre is stored to draw from; training takes it from the clips."""

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
        """The settings of a preset for a codec of so many levels: no more are generated than it has."""
        most = self.generated_levels
        return self if most is None else replace(self, generated_levels=min(most, num_levels))

    @property
    def iterated_levels(self) -> int:
        """Levels that have decoding passes of their own: 1 where a place is decided as a whole."""
        return 1 if self.order == "places" else self.num_levels


@dataclass(kw_only=True, frozen=True)
class TrainingConfig(Settings):
    """How a `SoundStorm` network is trained."""

    batch_size: int
    """Clips per step and worker."""
    epochs: int
    """Passes over the clips."""
    lr: float
    """Highest learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of Adam's two averages."""
    weight_decay: float = 0.0
    """Decoupled weight decay on matrices; 0 makes AdamW the plain Adam."""
    schedule: Literal["onecycle", "cosine", "trapezoid"] = "onecycle"
    """`onecycle` rises and falls along a cosine; `cosine` rises linearly and falls along a cosine; `trapezoid` rises
    and falls linearly."""
    warmup_share: float = 0.3
    """Share of all steps in which the learning rate rises."""
    cooldown_share: float = 0.3
    """Share of all steps in which the learning rate of `trapezoid` falls; the other schedules fall from the end of the
    rise."""
    recorded_share: float = 0.3
    """Share of examples that are the clip as recorded, where there are other views of it; the rest is drawn evenly from
    all its views. This, `crop_frames` and `filled_frames` are for whoever makes the batches, see
    `soundstorm.training.batches`; a step takes these as they are."""
    class_dropout: float = 0.1
    """Share of examples trained without their class, for guidance."""
    first_level_share: float = 0.125
    """Share of examples that train level 0; the other levels share the rest equally. With `places` each level's weight
    in the loss."""
    head_share: float = 1.0
    """Share of the masked places that a step asks for, with `places`: the network over the levels costs as much as all
    the rest."""
    prompt_share: float = 0.5
    """Share of examples with a visible prefix of all levels, outside the loss."""
    span_share: float = 0.0
    """Share of examples in which spans of frames are masked, in place of single frames."""
    span_frames: int = 10
    """Length of such a span in frames."""
    noise_share: float = 0.0
    """Share of the visible codes of the trained level that are drawn from other clips, so that decoding is not led
    astray by one bad draw."""
    timbre_dropout: float = 0.15
    """Share of examples trained without their timbre, for continuations, where a network has timbres."""
    timbre_noise: float = 0.3
    """Deviation of the noise on timbres in training, as a share of that within a class."""
    label_smoothing: float = 0.0
    """Share of the target spread over all codes; reported losses are without it."""
    ema_decay: float = 0.999
    """Decay of the averaged weights, reached after a warm-up."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    crop_frames: int | None = None
    """Random crop of longer clips in frames; none keeps whole clips."""
    filled_frames: int | None = None
    """Fill clips up to this many frames with code 0 and train on that as on sound: a fault of the reference work, to
    measure what it costs."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` computes linear layers in bfloat16 where the device has instructions for it."""
    seed: int = 0
    """Seed of order, crops, masks and initial weights."""

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
        """The settings of a preset, whose frames are those of PRESET_FRAME_RATE, for codes of another rate: the same in
        seconds."""
        frames = {name: getattr(self, name) for name in ("span_frames", "crop_frames", "filled_frames")}
        scale = frame_rate / PRESET_FRAME_RATE
        return replace(
            self, **{name: max(1, round(count * scale)) for name, count in frames.items() if count is not None}
        )


@dataclass(kw_only=True, frozen=True)
class SamplerSettings(Settings):
    """How codes are drawn from a network; `soundstorm.generation.decoding` gives the procedure."""

    iterations: int | tuple[int, ...] = 12
    """Passes per level; one number is that many at level 0 and one pass at each level after. A network of order
    `places` takes one number."""
    order: Literal["confidence", "even"] = "confidence"
    """Which frames a pass keeps: `confidence` the surest of the codes drawn; `even` frames spread evenly over the clip,
    whatever was drawn."""
    temperature: float = 1.0
    """Sampling temperature in the first pass of a level."""
    final_temperature: float = 0.0
    """Sampling temperature in the last pass of a level, and in an only one; 0 takes the likeliest codes."""
    choice_temperature: float = 1.0
    """Gumbel noise on the log-confidence that ranks the frames in the first pass of a level, annealed to 0 in its
    last."""
    top_p: float = 1.0
    """Sample only from the likeliest codes that hold this probability; 1 keeps all."""
    typical_mass: float = 1.0
    """Sample only from the most typical codes that hold this probability (Meister et al., arXiv 2202.00666); 1 keeps
    all."""
    guidance: float = 1.0
    """Classifier-free guidance weight while a level is all masked, falling to 1 with the masked share; 1 is
    unguided."""
    upper_temperature: float | None = None
    """Sampling temperature at all levels above 0, in every pass; none: that of level 0, on its way to
    `final_temperature`."""
    upper_guidance: float | None = None
    """Guidance weight at all levels above 0; none: that of level 0."""
    timbre_spread: float = 0.5
    """How far the timbre of a sample may lie from those of the training clips, where a network has timbres: 0 draws
    theirs, 1 from a normal distribution of the class."""
    candidates: int = 1
    """Draws of each sample, of which the one is kept that a classifier takes most surely for its class; see
    `soundstorm.generation.reranking`. What decodes makes
    one draw: whoever wants more calls it so often."""

    def __post_init__(self) -> None:
        passes = (self.iterations,) if isinstance(self.iterations, int) else self.iterations
        require(
            len(passes) > 0 and all(1 <= count <= 10_000 for count in passes),
            "iterations",
            self.iterations,
            "1 to 10000 passes a level",
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

    def iterations_per_level(self, num_levels: int) -> tuple[int, ...]:
        """Number of passes at each of `num_levels` levels; raises SoundStormError when `iterations` lists another
        number of levels."""
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
        """Number of passes at each level of a network, or the one over its places; raises SoundStormError when
        `iterations` lists others."""
        if model.order == "places" and not isinstance(self.iterations, int):
            allowed = "one number: this network decides all levels of a place at once"
            require(len(self.iterations) == 1, "iterations", self.iterations, allowed)
        return self.iterations_per_level(model.iterated_levels)
