"""The settings of a block codec: what decides the shape of its codes, and how they become sound again."""

from dataclasses import asdict, dataclass, fields

from soundstorm.errors import SoundStormError

STEPS_PER_NAT = 256
"""Log-mel values are whole multiples of 1/256 nat: what is computed from them is the same on every machine."""
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
"""The least and the most of a setting."""


@dataclass(kw_only=True, frozen=True)
class BlockCodecConfig:
    """The settings of a `BlockCodec`; `for_block` gives those of each block length."""

    frames_per_block: int = 1
    """Log-mel frames that one column of codes describes: 1, 2 or 4."""
    num_levels: int = 8
    """Stages of residual k-means: codes of a column."""
    codebook_size: int = 1024
    """Codes of a level."""
    dims: int = 80
    """Principal axes of a block that are coded, at most frames_per_block * bands."""
    beam: int = 8
    """Partial code sequences that the encoder follows from level to level; 1: the nearest code each time."""
    sample_rate: int = 24_000
    """Samples per second."""
    hop: int = 320
    """Samples between log-mel frames; the window is twice as long."""
    bands: int = 80
    """Mel bands."""
    lowest_hz: int = 20
    """Lower edge of the lowest band."""
    highest_hz: int = 12_000
    """Upper edge of the highest band."""
    floor: float = 3e-5
    """Amplitude that is added before the logarithm, about one step of a 16-bit file: no bits for what such a file
    cannot hold."""
    texture: float = 0.8
    """Share of the variance which the codes lose that is put back as noise."""
    deconvolution_rounds: int = 10
    """Rounds of Richardson-Lucy from mel bands to frequency bins."""
    phase_rounds: int = 3
    """Rounds of Griffin-Lim."""
    momentum: float = 0.9
    """Acceleration of the rounds of Griffin-Lim."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kind = (int, float) if field.type in (float, "float") else (int,)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise SoundStormError(f"codec setting {field.name} is {value!r}: give a number")
            least, most = LIMITS.get(field.name, (1, 65_536))
            if not least <= value <= most:
                raise SoundStormError(f"codec setting {field.name} is {value!r}: give {least} to {most}")
        if self.frames_per_block not in BLOCK_LENGTHS:
            raise SoundStormError(f"codec setting frames_per_block is {self.frames_per_block}: give 1, 2 or 4")
        if self.dims > self.block_size:
            raise SoundStormError(
                f"codec setting dims is {self.dims}: a block has {self.block_size} values, give at most that"
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
        """Samples of a frame."""
        return 2 * self.hop

    @property
    def num_bins(self) -> int:
        """Frequency bins of a frame."""
        return self.hop + 1

    @property
    def block_size(self) -> int:
        """Log-mel values of a block."""
        return self.frames_per_block * self.bands

    @property
    def block_hop(self) -> int:
        """Samples of a block, and so of a column of codes."""
        return self.frames_per_block * self.hop

    @property
    def column_rate(self) -> float:
        """Columns of codes per second."""
        return self.sample_rate / self.block_hop

    def to_dict(self) -> dict[str, int | float]:
        return asdict(self)


def for_block(frames_per_block: int) -> BlockCodecConfig:
    """The settings that spend 80 bits a frame: 8 levels at 75 columns/s, 16 at 37.5, or 32 at 18.75."""
    dims, beam = {1: (80, 6), 2: (150, 4), 4: (240, 2)}.get(frames_per_block, (80, 6))
    return BlockCodecConfig(frames_per_block=frames_per_block, num_levels=8 * frames_per_block, dims=dims, beam=beam)
