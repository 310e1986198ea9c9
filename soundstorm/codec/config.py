"""Settings of a block codec: the shape of its codes, and how they are turned into sound."""

from dataclasses import asdict, dataclass, fields

from soundstorm.errors import SoundStormError

STEPS_PER_NAT = 256
"""Log-mel values are rounded to multiples of 1/256 nat, so that everything computed from them is the same on every
machine."""
BLOCK_LENGTHS = (1, 2, 4)
LIMITS = {
    "sample_rate": (8_000, 192_000),
    "hop": (16, 4_096),
    "bands": (8, 512),
    "num_levels": (1, 64),
    "codebook_size": (2, 32_768),
    "dims": (1, 2_048),
    "beam": (1, 64),
    "deconvolution_rounds": (0, 100),
    "phase_rounds": (0, 16),
    "lowest_hz": (0, 96_000),
    "highest_hz": (1, 96_000),
    "floor": (1e-7, 1e-2),
    "texture": (0, 4),
    "momentum": (0, 2),
}
"""Minimum and maximum of each setting."""


@dataclass(kw_only=True, frozen=True)
class BlockCodecConfig:
    """Settings of a `BlockCodec`; `for_block` returns good ones for each block length."""

    frames_per_block: int = 1
    """Log-mel frames per block, and so per column of codes: 1, 2 or 4."""
    num_levels: int = 8
    """Levels of residual vector quantization: codes per column."""
    codebook_size: int = 1024
    """Codes per level."""
    dims: int = 80
    """Principal axes of a block that are quantized, at most frames_per_block * bands."""
    beam: int = 8
    """Beam width of the encoder; 1: take the nearest code at each level."""
    sample_rate: int = 24_000
    """Samples per second."""
    hop: int = 320
    """Samples between log-mel frames; the analysis window is twice as long."""
    bands: int = 80
    """Mel bands."""
    lowest_hz: int = 20
    """Lower edge of the lowest band."""
    highest_hz: int = 12_000
    """Upper edge of the highest band."""
    floor: float = 3e-5
    """Amplitude that is added before the logarithm, about one quantization step of a 16-bit file: no bits are spent on
    detail that such a file cannot hold."""
    texture: float = 0.8
    """Strength of the noise that replaces the detail lost in quantization, as a fraction of the error's standard
    deviation."""
    deconvolution_rounds: int = 10
    """Richardson-Lucy iterations from mel bands to frequency bins."""
    phase_rounds: int = 3
    """Griffin-Lim iterations."""
    momentum: float = 0.9
    """Momentum of the Griffin-Lim iterations."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kind = (int, float) if field.type in (float, "float") else (int,)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise SoundStormError(f"codec setting {field.name} is {value!r}: give a number")
            lowest, highest = LIMITS.get(field.name, (1, 65_536))
            if not lowest <= value <= highest:
                raise SoundStormError(f"codec setting {field.name} is {value!r}: give {lowest} to {highest}")
        if self.frames_per_block not in BLOCK_LENGTHS:
            raise SoundStormError(f"codec setting frames_per_block is {self.frames_per_block}: give 1, 2 or 4")
        if self.dims > self.block_size:
            raise SoundStormError(
                f"codec setting dims is {self.dims}: a block has only {self.block_size} values, give at most that"
            )
        if not self.lowest_hz < self.highest_hz <= self.sample_rate / 2:
            raise SoundStormError(
                f"codec setting highest_hz is {self.highest_hz}: give more than lowest_hz {self.lowest_hz}, at most "
                f"{self.sample_rate // 2}"
            )
        for name in ("hop", "bands"):
            if getattr(self, name) % 4:
                raise SoundStormError(f"codec setting {name} is {getattr(self, name)}: give a multiple of 4")

    @property
    def window(self) -> int:
        """Samples in the analysis window of a frame."""
        return 2 * self.hop

    @property
    def num_bins(self) -> int:
        """Frequency bins in the spectrum of a frame."""
        return self.hop + 1

    @property
    def block_size(self) -> int:
        """Log-mel values per block."""
        return self.frames_per_block * self.bands

    @property
    def block_hop(self) -> int:
        """Samples per block, and so per column of codes."""
        return self.frames_per_block * self.hop

    @property
    def column_rate(self) -> float:
        """Columns of codes per second."""
        return self.sample_rate / self.block_hop

    def to_dict(self) -> dict[str, int | float]:
        return asdict(self)


def for_block(frames_per_block: int) -> BlockCodecConfig:
    """Settings with 80 bits per log-mel frame: 8 levels at 75 columns per second, 16 at 37.5, or 32 at 18.75."""
    dims, beam = {1: (80, 6), 2: (150, 4), 4: (240, 2)}.get(frames_per_block, (80, 6))
    return BlockCodecConfig(frames_per_block=frames_per_block, num_levels=8 * frames_per_block, dims=dims, beam=beam)
