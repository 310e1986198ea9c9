"""A request: one sound that is asked for, checked, with its recording decoded. It travels from the studio to a replica.

What is checked here has the names of the endpoint's fields; the same rules hold for the options of `generate`.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from jobs.actors.generator import sample_seed
from jobs.generation.options import MIN_DURATION_S, STRENGTH, Options
from jobs.generation.recipes import UPLOADED, Source
from jobs.serving.limits import MAX_REGIONS, MAX_SEED, Limits
from jobs.serving.sound import UploadTooLargeError
from jobs.serving.uploads import beginning_of, whole_of
from soundstorm.audio.files import Recording, to_pcm16
from soundstorm.data.categories import find_category
from soundstorm.errors import SoundStormError
from soundstorm.generation.editing import KEPT_LEVELS, MIN_LOOP_S
from soundstorm.generation.regions import parse_region, sample_spans

AudioFormat = Literal["flac", "wav"]
FORMATS = ("flac", "wav")


@dataclass(kw_only=True, frozen=True)
class ModelInfo:
    """What the studio knows of the model that the replicas have."""

    categories: tuple[str, ...]
    sample_rate: int
    hop: int
    """Samples of a frame."""
    num_levels: int
    checkpoint_sha256: str


@dataclass(kw_only=True, frozen=True)
class SoundRequest:
    """One sound that is asked for."""

    options: Options
    """Those of `generate` that would make it."""
    label: int
    take_seed: int
    num_samples: int
    recording_N: np.ndarray | None = None
    """What is edited, int16, or what a continuation begins with, float32; at the codec's rate."""
    spans: tuple[tuple[int, int], ...] = ()
    """Samples of the recording that are made anew."""
    is_alone: bool = False
    """Whether it is made as a batch of its own: the number of frames that it draws, and with it the number of passes,
    is not that of others."""
    parents: tuple[Source, ...] = ()

    @property
    def kind(self) -> str:
        """`new`, `prompt`, `inpaint` or `vary`."""
        kinds = [name for name in ("prompt", "inpaint", "vary") if getattr(self.options, name) is not None]
        return kinds[0] if kinds else "new"

    @property
    def group(self) -> str:
        """Requests of one group can be made as one batch: of one kind, one length and, if any, one recording that is
        edited in one way. Classes, seeds and formats differ."""
        own = self.take_seed if self.is_alone else None
        way = (self.options.loop, self.options.strength, self.options.kept_levels, self.spans, own)
        recording = None if self.recording_N is None else hashlib.sha256(self.recording_N.tobytes()).hexdigest()
        return f"{self.kind} {self.num_samples} {way} {recording}"


@dataclass(kw_only=True, frozen=True)
class RequestParser:
    """Takes requests: the checks of what is asked for, against what the model can make and what is allowed."""

    about: ModelInfo
    limits: Limits
    options: Options
    """Of `generate`: where the checkpoint, its codec and the listener are, and how codes are drawn."""

    def new(self, category: str, *, duration_s: float, seed: int, loop: bool, audio_format: str) -> SoundRequest:
        """A request for new sound.

        Raises:
            SoundStormError: it cannot be made.
        """
        duration_s = self._duration(duration_s)
        if loop:
            self._check_loop("duration_s", duration_s)
        return self._request(category, seed, audio_format, duration_s, duration=duration_s, loop=bool(loop))

    def continued(
        self,
        upload: bytes,
        category: str,
        *,
        prompt_duration_s: float,
        duration_s: float,
        seed: int,
        audio_format: str,
    ) -> SoundRequest:
        """A request for a sound that begins with the first seconds of a recording.

        Raises:
            SoundStormError: it cannot be made.
        """
        duration_s, prompt_s = self._duration(duration_s), _number("prompt_duration_s", prompt_duration_s)
        if not 0 < prompt_s < duration_s:
            raise SoundStormError(
                f"prompt_duration_s is {prompt_s:g}: give more than 0 and less than {duration_s:g}, which is duration_s"
            )
        recording, source = self._read(upload, beginning_of, prompt_s)
        if math.ceil(len(recording.waveform) / self.about.hop) >= math.ceil(
            round(duration_s * self.about.sample_rate) / self.about.hop
        ):
            raise SoundStormError(
                f"prompt_duration_s {prompt_s:g} leaves nothing of duration_s {duration_s:g} to make: give less"
            )
        return self._request(
            category,
            seed,
            audio_format,
            duration_s,
            source,
            recording.waveform,
            duration=duration_s,
            prompt=UPLOADED,
            prompt_duration=prompt_s,
        )

    def inpainted(
        self,
        upload: bytes,
        category: str,
        *,
        regions: Sequence[tuple[float, float]],
        seed: int,
        loop: bool,
        audio_format: str,
    ) -> SoundRequest:
        """A request for a recording with some stretches made anew, `regions` from and to seconds.

        Raises:
            SoundStormError: it cannot be made.
        """
        if not regions and not loop:
            raise SoundStormError("regions is empty: say what to make anew, in seconds, such as 1.2-2.0, or set loop")
        if len(regions) > MAX_REGIONS:
            raise SoundStormError(f"regions has {len(regions)}: give at most {MAX_REGIONS}")
        texts = tuple(_region(start, end) for start, end in regions)
        parsed = [parse_region(text) for text in texts]
        recording_N, source = self._edited(upload, loop)
        rate = self.about.sample_rate
        spans = tuple(sample_spans(parsed, len(recording_N), rate)) if parsed else ()
        duration_s = len(recording_N) / rate
        request = self._request(
            category, seed, audio_format, duration_s, source, recording_N, inpaint=UPLOADED, region=texts,
            loop=bool(loop),
        )  # fmt: skip
        return replace(request, spans=spans)

    def varied(
        self,
        upload: bytes,
        category: str,
        *,
        strength: float | None,
        kept_levels: int | None,
        seed: int,
        loop: bool,
        audio_format: str,
    ) -> SoundRequest:
        """A request for a variation of a recording; None: what `generate` has where it is not told.

        Raises:
            SoundStormError: it cannot be made.
        """
        share = _number("strength", STRENGTH if strength is None else strength)
        levels = _whole("kept_levels", KEPT_LEVELS if kept_levels is None else kept_levels)
        if not 0 <= share <= 1:
            raise SoundStormError(f"strength is {share:g}: give a share of the frames from 0 to 1")
        if not 0 <= levels <= self.about.num_levels:
            raise SoundStormError(f"kept_levels is {levels}: the model has {self.about.num_levels}, give 0 to that")
        if share == 0 and levels == self.about.num_levels:
            raise SoundStormError(f"strength 0 with kept_levels {levels} leaves nothing to make: give more or less")
        recording_N, source = self._edited(upload, loop)
        duration_s = len(recording_N) / self.about.sample_rate
        request = self._request(
            category, seed, audio_format, duration_s, source, recording_N, vary=UPLOADED, strength=share,
            kept_levels=levels, loop=bool(loop),
        )  # fmt: skip
        return replace(request, is_alone=levels == self.about.num_levels)

    def _request(
        self,
        category: str,
        seed: int,
        audio_format: str,
        duration_s: float,
        source: Source | None = None,
        recording_N: np.ndarray | None = None,
        **options: Any,
    ) -> SoundRequest:
        if audio_format not in FORMATS:
            raise SoundStormError(f"format is '{audio_format}': give one of {', '.join(FORMATS)}")
        seed = _whole("seed", seed)
        if not 0 <= seed <= MAX_SEED:
            raise SoundStormError(f"seed is {seed}: give 0 to {MAX_SEED}")
        if not isinstance(category, str):
            raise SoundStormError(f"category is {category!r}: give the name of a class")
        label = find_category(category, self.about.categories, "category", "the model")
        return SoundRequest(
            options=replace(
                self.options,
                class_name=self.about.categories[label],
                seed=seed,
                num_samples=1,
                format=audio_format,  # type: ignore[arg-type]
                **options,
            ),
            label=label,
            take_seed=sample_seed(seed, label, 0),
            num_samples=round(duration_s * self.about.sample_rate),
            recording_N=recording_N,
            parents=() if source is None else (source,),
        )

    def _duration(self, value: float) -> float:
        duration_s = _number("duration_s", value)
        if not MIN_DURATION_S <= duration_s <= self.limits.longest_s:
            raise SoundStormError(
                f"duration_s is {duration_s:g}: give {MIN_DURATION_S:g} to {self.limits.longest_s:g} seconds"
            )
        return duration_s

    def _edited(self, upload: bytes, loop: bool) -> tuple[np.ndarray, Source]:
        """int16 (N,) of a whole recording, and which file that was."""
        recording, source = self._read(upload, whole_of, self.limits.longest_s)
        recording_N = to_pcm16(recording.waveform)
        if loop:
            self._check_loop("the recording", len(recording_N) / self.about.sample_rate)
        return recording_N, source

    def _read(
        self, upload: bytes, read: Callable[[bytes, str, int, float], Recording], longest_s: float
    ) -> tuple[Recording, Source]:
        """What of a recording is used, and which file that was."""
        if len(upload) > self.limits.upload_bytes:
            raise UploadTooLargeError(f"the recording has {len(upload)} bytes: give at most {self.limits.upload_bytes}")
        recording = read(upload, "the recording", self.about.sample_rate, longest_s)
        return recording, Source(uri=UPLOADED, sha256=hashlib.sha256(upload).hexdigest())

    @staticmethod
    def _check_loop(what: str, duration_s: float) -> None:
        if duration_s < MIN_LOOP_S:
            raise SoundStormError(f"{what} has {duration_s:g} s: a loop needs at least {MIN_LOOP_S:g} s")


def _number(name: str, value: Any) -> float:
    """`value` as a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
        raise SoundStormError(f"{name} is {value!r}: give a number")
    return float(value)


def _whole(name: str, value: Any) -> int:
    number = _number(name, value) if not isinstance(value, int) or isinstance(value, bool) else value
    if number != int(number):
        raise SoundStormError(f"{name} is {value!r}: give a whole number")
    return int(number)


def _region(start_s: Any, end_s: Any) -> str:
    """A region as its option has it. What is made follows from the text, so that the recipe says exactly that."""
    shown = []
    for value in (start_s, end_s):
        number = _number("regions", value)
        if not 0 <= number < 1e9:
            raise SoundStormError(f"regions has {number:g}: give seconds from 0 on, such as 1.2-2.0")
        shown.append(f"{number:.6f}".rstrip("0").rstrip("."))
    return "-".join(shown)
