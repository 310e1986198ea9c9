"""Settings of a block codec: the shape of its codes, and how they are turned into sound."""

from typing import Annotated, ClassVar

from annotated_types import Interval, MultipleOf
from pydantic.dataclasses import dataclass

from soundstorm.settings import Settings

STEPS_PER_NAT = 256
"""Log-mel values are rounded to multiples of 1/256 nat, so that everything computed from them is the same on every
machine."""


@dataclass(kw_only=True, frozen=True)
class BlockCodecConfig(Settings):
    """Settings of a `BlockCodec`; `for_block` returns good ones for each block length."""

    NAMED: ClassVar[str] = "codec setting {name}"
    REMEDY: ClassVar[str] = "give"

    frames_per_block: int = 1
    """Log-mel frames per block, and so per column of codes: 1, 2 or 4."""
    num_levels: Annotated[int, Interval(ge=1, le=64)] = 8
    """Levels of residual vector quantization: codes per column."""
    codebook_size: Annotated[int, Interval(ge=2, le=32_768)] = 1024
    """Codes per level."""
    dims: Annotated[int, Interval(ge=1, le=2_048)] = 80
    """Principal axes of a block that are quantized, at most frames_per_block * bands."""
    beam: Annotated[int, Interval(ge=1, le=64)] = 8
    """Beam width of the encoder; 1: take the nearest code at each level."""
    sample_rate: Annotated[int, Interval(ge=8_000, le=192_000)] = 24_000
    """Samples per second."""
    hop: Annotated[int, Interval(ge=16, le=4_096), MultipleOf(4)] = 320
    """Samples between log-mel frames; the analysis window is twice as long."""
    bands: Annotated[int, Interval(ge=8, le=512), MultipleOf(4)] = 80
    """Mel bands."""
    lowest_hz: Annotated[int, Interval(ge=0, le=96_000)] = 20
    """Lower edge of the lowest band."""
    highest_hz: Annotated[int, Interval(ge=1, le=96_000)] = 12_000
    """Upper edge of the highest band."""
    floor: Annotated[float, Interval(ge=1e-7, le=1e-2)] = 3e-5
    """Amplitude that is added before the logarithm, about one quantization step of a 16-bit file: no bits are spent on
    detail that such a file cannot hold."""
    texture: Annotated[float, Interval(ge=0, le=4)] = 0.8
    """Strength of the noise that replaces the detail lost in quantization, as a fraction of the error's standard
    deviation."""
    deconvolution_rounds: Annotated[int, Interval(ge=0, le=100)] = 10
    """Richardson-Lucy iterations from mel bands to frequency bins."""
    phase_rounds: Annotated[int, Interval(ge=0, le=16)] = 3
    """Griffin-Lim iterations."""
    momentum: Annotated[float, Interval(ge=0, le=2)] = 0.9
    """Momentum of the Griffin-Lim iterations."""

    def __post_init__(self) -> None:
        self.check(self.frames_per_block in (1, 2, 4), "frames_per_block", "1, 2 or 4")
        self.check(self.dims <= self.block_size, "dims", f"at most {self.block_size}, the values of a block")
        is_between = self.lowest_hz < self.highest_hz <= self.sample_rate / 2
        most = self.sample_rate // 2
        self.check(is_between, "highest_hz", f"more than lowest_hz {self.lowest_hz}, at most {most}")

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


def for_block(frames_per_block: int) -> BlockCodecConfig:
    """Settings with 80 bits per log-mel frame: 8 levels at 75 columns per second, 16 at 37.5, or 32 at 18.75."""
    dims, beam = {1: (80, 6), 2: (150, 4), 4: (240, 2)}.get(frames_per_block, (80, 6))
    return BlockCodecConfig(frames_per_block=frames_per_block, num_levels=8 * frames_per_block, dims=dims, beam=beam)
