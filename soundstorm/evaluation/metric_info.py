"""What is asked of generated clips beyond the six metrics: each measure with the value of real clips that it is read
beside, and its bar."""

from dataclasses import dataclass
from functools import partial


@dataclass(kw_only=True, frozen=True, slots=True)
class MeasureInfo:
    """What a reader needs to know of one measure."""

    name: str
    """Key in `summary.json`."""
    title: str
    """Name in a heading."""
    unit: str
    """Unit, empty for a pure number."""
    meaning: str
    """What it says, for someone who meets it for the first time."""
    floor: str
    """What the value beside it is of."""
    decimals: int
    """Digits after the point that are worth showing."""
    lowest: float | None = None
    """Generated over real: less than this is beyond the bar."""
    highest: float | None = None
    """Generated over real: more than this is beyond the bar."""

    @property
    def bar(self) -> str:
        """The bar in words."""
        if self.lowest is None:
            return f"at most {self.highest:g}×"
        return f"at least {self.lowest:g}×" if self.highest is None else f"{self.lowest:g}× to {self.highest:g}×"

    def met(self, ratio: float) -> bool:
        """Whether generated over real is within the bar."""
        return (self.lowest is None or ratio >= self.lowest) and (self.highest is None or ratio <= self.highest)


_HALVES = "two halves of the real clips, cut between recordings"
_DISTANCE_BAR = 2.0
_lively = partial(MeasureInfo, lowest=0.8, highest=1.2)
"""A measure that says how varied or lively clips are: neither much less nor much more than real ones."""

MEASURES = (
    MeasureInfo(
        name="frechet_codec",
        title="Fréchet distance, codec",
        unit="",
        meaning="How far the generated clips lie from real ones, second by second, in what the codec quantizes.",
        floor=_HALVES,
        decimals=3,
        highest=_DISTANCE_BAR,
    ),
    MeasureInfo(
        name="kernel_codec",
        title="Kernel distance, codec",
        unit="",
        meaning="The same without the assumption that the values are normally distributed; unbiased, so that it may "
        "fall below 0 by chance.",
        floor=_HALVES,
        decimals=4,
        highest=_DISTANCE_BAR,
    ),
    MeasureInfo(
        name="frechet_classifier",
        title="Fréchet distance, classifier",
        unit="",
        meaning="How far the generated clips lie from real ones in what a classifier of environmental sound hears.",
        floor=_HALVES,
        decimals=3,
        highest=_DISTANCE_BAR,
    ),
    MeasureInfo(
        name="kernel_classifier",
        title="Kernel distance, classifier",
        unit="",
        meaning="The same without the assumption that the values are normally distributed; unbiased, so that it may "
        "fall below 0 by chance.",
        floor=_HALVES,
        decimals=4,
        highest=_DISTANCE_BAR,
    ),
    MeasureInfo(
        name="class_agreement",
        title="Class agreement",
        unit="share of clips",
        meaning="How often the classifier names the class that the clip was made for; classes count alike.",
        floor="real clips of the held-out fold",
        decimals=3,
        lowest=0.9,
    ),
    _lively(
        name="diversity_codec",
        title="Diversity, codec",
        unit="",
        meaning="How far apart two clips of one class are, on average: low where the model makes the same sound again "
        "and again.",
        floor="two real clips of one class",
        decimals=3,
    ),
    _lively(
        name="diversity_classifier",
        title="Diversity, classifier",
        unit="",
        meaning="The same in what a classifier of environmental sound hears.",
        floor="two real clips of one class",
        decimals=3,
    ),
    _lively(
        name="flux",
        title="Spectral flux",
        unit="dB per 10 ms",
        meaning="How much the spectrum changes from moment to moment: low for sound that is frozen, high for sound "
        "that flickers.",
        floor="the mean of the real clips",
        decimals=2,
    ),
    _lively(
        name="modulation",
        title="Modulation energy",
        unit="dB²",
        meaning="How strongly the level of each frequency band rises and falls, 0.5 to 20 times a second: the pace of "
        "barks, ticks and gusts.",
        floor="the mean of the real clips",
        decimals=1,
    ),
    _lively(
        name="onset_rate",
        title="Onsets",
        unit="per s",
        meaning="How often a sound sets in: barks, ticks, clicks. Low where transients are missing.",
        floor="the mean of the real clips",
        decimals=2,
    ),
    _lively(
        name="onset_rise",
        title="Sharpness of onsets",
        unit="dB per 10 ms",
        meaning="By how much an onset makes the frequency bands rise, mean over a clip's onsets: low where they are "
        "smoothed.",
        floor="the mean of the real clips",
        decimals=1,
    ),
    MeasureInfo(
        name="copying",
        title="Copying",
        unit="share of frames",
        meaning="Frames with the same codes, in their order, as in the nearest training clip of the class; the median "
        "clip. A copy has 1.",
        floor="real clips of the held-out fold, which are no copies",
        decimals=3,
        highest=1.5,
    ),
)
"""In the order in which they are shown."""
MODEL_MEASURES = (
    MeasureInfo(
        name="frechet_model",
        title="Fréchet distance",
        unit="",
        meaning="How far the generated clips lie from real ones in what the given model hears.",
        floor=_HALVES,
        decimals=3,
        highest=_DISTANCE_BAR,
    ),
    MeasureInfo(
        name="kernel_model",
        title="Kernel distance",
        unit="",
        meaning="The same without the assumption that the values are normally distributed; unbiased, so that it may "
        "fall below 0 by chance.",
        floor=_HALVES,
        decimals=4,
        highest=_DISTANCE_BAR,
    ),
    _lively(
        name="diversity_model",
        title="Diversity",
        unit="",
        meaning="How far apart two clips of one class are, on average, in what the given model hears.",
        floor="two real clips of one class",
        decimals=3,
    ),
)
"""In a model that was given, such as PANNs or CLAP, whose name is put after each title."""
MEASURE_NAMES = tuple(measure.name for measure in MEASURES)
