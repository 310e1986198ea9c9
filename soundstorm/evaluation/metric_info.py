"""The table of all metrics: name, title, unit, meaning and digits of each, and for closeness the target of the ratio of
generated to real clips."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(kw_only=True, frozen=True, slots=True)
class MetricInfo:
    """Description of a metric for readers."""

    name: str
    """Column in tables, key in `summary.json`."""
    title: str
    """Name in a heading."""
    unit: str
    """Unit, empty for a pure number."""
    meaning: str
    """Explanation in a sentence or two, for someone who sees the metric for the first time."""
    decimals: int
    """Digits after the decimal point worth showing."""

    @property
    def label(self) -> str:
        """Title with unit, as an axis label."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(kw_only=True, frozen=True, slots=True)
class MeasureInfo(MetricInfo):
    """A closeness metric: its value for generated clips is divided by a baseline, its value for real clips."""

    floor: str
    """Which real clips the baseline is computed on."""
    lowest: float | None = None
    """Smallest ratio of generated to real within the target; None: no lower limit."""
    highest: float | None = None
    """Largest ratio of generated to real within the target; None: no upper limit."""

    @property
    def bar(self) -> str:
        """The target of the ratio as a phrase."""
        if self.lowest is None:
            return f"at most {self.highest:g}×"
        return f"at least {self.lowest:g}×" if self.highest is None else f"{self.lowest:g}× to {self.highest:g}×"

    def met(self, ratio: float) -> bool:
        """Whether a ratio of generated to real is within the target."""
        return (self.lowest is None or ratio >= self.lowest) and (self.highest is None or ratio <= self.highest)


CLIP_METRICS = (
    MetricInfo(
        name="snr_db",
        title="SNR",
        unit="dB",
        meaning="Power of the clip over the power of its sample-to-sample change: high for smooth, low-pitched sound, "
        "low for hiss.",
        decimals=2,
    ),
    MetricInfo(
        name="zero_crossing_rate",
        title="Zero-crossing rate",
        unit="per sample",
        meaning="How often the waveform changes sign: high for noisy or high-pitched sound, 0 in digital silence.",
        decimals=4,
    ),
    MetricInfo(
        name="rms", title="RMS level", unit="full scale = 1", meaning="How strong the clip is on average.", decimals=4
    ),
    MetricInfo(
        name="spectral_entropy",
        title="Spectral entropy",
        unit="nats",
        meaning="How evenly the energy is spread over frequency: low for a pure tone, high for noise.",
        decimals=3,
    ),
    MetricInfo(
        name="spectral_centroid_hz",
        title="Spectral centroid",
        unit="Hz",
        meaning="The centre of gravity of the spectrum: how bright the clip sounds.",
        decimals=0,
    ),
    MetricInfo(
        name="spectral_rolloff_hz",
        title="Spectral roll-off",
        unit="Hz",
        meaning="The frequency below which 85% of the spectrum lies: where the treble ends.",
        decimals=0,
    ),
)
"""Metrics of single clips."""
PAIR_METRICS = (
    MetricInfo(
        name="spectral_convergence",
        title="Spectral convergence",
        unit="",
        meaning="Size of the difference of two spectrograms over the size of the real one: 0 for equal, about 1 or "
        "more for unrelated clips.",
        decimals=3,
    ),
    MetricInfo(
        name="log_spectral_distance",
        title="Log-spectral distance",
        unit="nats",
        meaning="Typical distance of two spectrograms in log magnitude (1 nat is 8.7 dB): 0 for equal; weak and "
        "strong parts count alike.",
        decimals=3,
    ),
)
"""Metrics of pairs of a real and a generated clip."""
METRIC_NAMES = tuple(metric.name for metric in CLIP_METRICS)
PAIR_METRIC_NAMES = tuple(metric.name for metric in PAIR_METRICS)


def _distances(name: str, network: str, meaning: str) -> Iterator[MeasureInfo]:
    """Both distances between embeddings of generated and real clips; `network` follows their titles."""
    for kind, title, decimals in (("frechet", "Fréchet distance", 3), ("kernel", "Kernel distance", 4)):
        yield MeasureInfo(
            name=f"{kind}_{name}",
            title=f"{title}{network}",
            unit="",
            meaning=meaning
            if kind == "frechet"
            else "The same without the assumption that the values are normally distributed; unbiased, so that it may "
            "fall below 0 by chance.",
            floor="two halves of the real clips, with no recording in both",
            decimals=decimals,
            highest=2.0,
        )


def _variation(name: str, title: str, unit: str, meaning: str, floor: str, decimals: int) -> MeasureInfo:
    """A metric of how much clips vary: generated clips should vary neither much less nor much more than real ones."""
    return MeasureInfo(
        name=name, title=title, unit=unit, meaning=meaning, floor=floor, decimals=decimals, lowest=0.8, highest=1.2
    )


_WITHIN_CLASS = "two real clips of one class"
_REAL_MEAN = "the mean of the real clips"

MEASURES = (
    *_distances(
        "codec",
        ", codec",
        "How far the generated clips lie from real ones, second by second, in what the codec quantizes.",
    ),
    *_distances(
        "classifier",
        ", classifier",
        "How far the generated clips lie from real ones in the embedding of a classifier of environmental sound.",
    ),
    MeasureInfo(
        name="class_agreement",
        title="Class agreement",
        unit="share of clips",
        meaning="How often the classifier predicts the class that the clip was generated for; mean over classes.",
        floor="real clips of the held-out fold",
        decimals=3,
        lowest=0.9,
    ),
    _variation(
        "diversity_codec",
        "Diversity, codec",
        "",
        "Mean distance between two clips of one class: low if the model generates the same sound again and again.",
        _WITHIN_CLASS,
        3,
    ),
    _variation(
        "diversity_classifier",
        "Diversity, classifier",
        "",
        "The same in the embedding of a classifier of environmental sound.",
        _WITHIN_CLASS,
        3,
    ),
    _variation(
        "flux",
        "Spectral flux",
        "dB per 10 ms",
        "How much the spectrum changes from moment to moment: low for sound that is frozen, high for sound that "
        "flickers.",
        _REAL_MEAN,
        2,
    ),
    _variation(
        "modulation",
        "Modulation energy",
        "dB²",
        "How strongly the level of each frequency band rises and falls, 0.5 to 20 times a second: the rhythm of barks, "
        "ticks and gusts.",
        _REAL_MEAN,
        1,
    ),
    _variation(
        "onset_rate",
        "Onsets",
        "per s",
        "How often a sound starts: barks, ticks, clicks. Low if transients are missing.",
        _REAL_MEAN,
        2,
    ),
    _variation(
        "onset_rise",
        "Sharpness of onsets",
        "dB per 10 ms",
        "How fast the level of the frequency bands rises at an onset; mean over the onsets of a clip. Low if "
        "transients are smoothed.",
        _REAL_MEAN,
        1,
    ),
    MeasureInfo(
        name="copying",
        title="Copying",
        unit="share of frames",
        meaning="Fraction of frames with the same codes, in the same order, as in the nearest training clip of the "
        "class; median over clips. A copy has 1.",
        floor="real clips of the held-out fold, which are not copies",
        decimals=3,
        highest=1.5,
    ),
)
"""Closeness metrics, in the order in which they are shown."""
MODEL_MEASURES = (
    *_distances("model", "", "How far the generated clips lie from real ones in the embedding of the given model."),
    _variation(
        "diversity_model",
        "Diversity",
        "",
        "Mean distance between two clips of one class in the embedding of the given model.",
        _WITHIN_CLASS,
        3,
    ),
)
"""Closeness metrics in the embedding of a given model, such as PANNs or CLAP; its name is appended to each title."""
