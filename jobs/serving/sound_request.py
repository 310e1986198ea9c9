"""A request for one sound, checked, with its recording decoded, as it is sent from the service to a replica.

Errors use the names of the endpoint's fields; `jobs.generation.edit_rules` has the rules that `generate` shares.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from jobs.actors.generator import sample_seed
from jobs.generation.edit_rules import FIELDS
from jobs.generation.options import MIN_DURATION_S, STRENGTH, Options
from jobs.generation.recipes import UPLOADED, SourceFile
from jobs.serving.limits import MAX_REGIONS, MAX_SEED, Limits
from jobs.serving.sound import UploadTooLargeError
from jobs.serving.uploads import beginning_of, whole_of
from soundstorm.audio.files import Recording, to_pcm16
from soundstorm.data.categories import find_category
from soundstorm.editing.editor import KEPT_LEVELS
from soundstorm.editing.regions import parse_region, sample_spans
from soundstorm.errors import SoundStormError

AudioFormat = Literal["flac", "wav"]
FORMATS = ("flac", "wav")


@dataclass(kw_only=True, frozen=True)
class ModelInfo:
    """Properties of the model of the replicas."""

    categories: tuple[str, ...]
    sample_rate: int
    hop: int
    """Samples per frame."""
    num_levels: int
    checkpoint_sha256: str


@dataclass(kw_only=True, frozen=True)
class SoundRequest:
    """A checked request for one sound."""

    options: Options
    """Options of `generate` that would give the same sound."""
    label: int
    take_seed: int
    num_samples: int
    recording_N: np.ndarray | None = None
    """The recording to edit, int16, or to continue, float32; at the codec's rate."""
    spans: tuple[tuple[int, int], ...] = ()
    """Sample ranges of the recording that are replaced."""
    is_alone: bool = False
    """Whether it is a batch of its own, because its number of generated frames, and thus of iterations, differs from
    that of others."""
    parents: tuple[SourceFile, ...] = ()

    @property
    def kind(self) -> str:
        """`new`, `prompt`, `inpaint` or `vary`."""
        kinds = [name for name in ("prompt", "inpaint", "vary") if getattr(self.options, name) is not None]
        return kinds[0] if kinds else "new"

    @property
    def group(self) -> str:
        """Requests with the same group can share a batch: same kind, length and, if any, recording and edit. Classes,
        seeds and formats may differ."""
        own = self.take_seed if self.is_alone else None
        way = (self.options.loop, self.options.strength, self.options.kept_levels, self.spans, own)
        recording = None if self.recording_N is None else hashlib.sha256(self.recording_N.tobytes()).hexdigest()
        return f"{self.kind} {self.num_samples} {way} {recording}"


@dataclass(kw_only=True, frozen=True)
class RequestParser:
    """Checks requests against the properties of the model and the limits."""

    model_info: ModelInfo
    limits: Limits
    options: Options
    """Options of `generate` with the files of the model and the sampler settings."""

    def new(self, category: str, *, duration_s: float, seed: int, loop: bool, audio_format: str) -> SoundRequest:
        """A request for new sound.

        Raises:
            SoundStormError: a value or the recording is invalid.
        """
        duration_s = self._duration(duration_s)
        if loop:
            FIELDS.check_loop("duration_s", duration_s)
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
            SoundStormError: a value or the recording is invalid.
        """
        duration_s, prompt_s = self._duration(duration_s), _number("prompt_duration_s", prompt_duration_s)
        FIELDS.check_prompt(prompt_s, duration_s)
        recording, source = self._read(upload, beginning_of, prompt_s)
        hop = self.model_info.hop
        num_prompt_frames = math.ceil(len(recording.waveform) / hop)
        FIELDS.check_prompt_frames(prompt_s, duration_s, num_prompt_frames, hop, self.model_info.sample_rate)
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
        """A request for a recording with new sound in `regions`, each start and end in seconds.

        Raises:
            SoundStormError: a value or the recording is invalid.
        """
        if not regions and not loop:
            raise SoundStormError(
                "regions is empty: give the stretches to replace in seconds, such as 1.2-2.0, or set loop"
            )
        if len(regions) > MAX_REGIONS:
            raise SoundStormError(f"regions has {len(regions)}: give at most {MAX_REGIONS}")
        texts = tuple(_region(start, end) for start, end in regions)
        parsed = [parse_region(text) for text in texts]
        recording_N, source = self._edited(upload, loop)
        rate = self.model_info.sample_rate
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
        """A request for a variation of a recording; None: the default of `generate`.

        Raises:
            SoundStormError: a value or the recording is invalid.
        """
        share = _number("strength", STRENGTH if strength is None else strength)
        levels = _whole("kept_levels", KEPT_LEVELS if kept_levels is None else kept_levels)
        FIELDS.check_variation(share, levels, self.model_info.num_levels)
        recording_N, source = self._edited(upload, loop)
        duration_s = len(recording_N) / self.model_info.sample_rate
        request = self._request(
            category, seed, audio_format, duration_s, source, recording_N, vary=UPLOADED, strength=share,
            kept_levels=levels, loop=bool(loop),
        )  # fmt: skip
        return replace(request, is_alone=levels == self.model_info.num_levels)

    def _request(
        self,
        category: str,
        seed: int,
        audio_format: str,
        duration_s: float,
        source: SourceFile | None = None,
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
        label = find_category(category, self.model_info.categories, "category", "the model")
        return SoundRequest(
            options=replace(
                self.options,
                class_name=self.model_info.categories[label],
                seed=seed,
                num_samples=1,
                format=audio_format,  # type: ignore[arg-type]
                **options,
            ),
            label=label,
            take_seed=sample_seed(seed, label, 0),
            num_samples=round(duration_s * self.model_info.sample_rate),
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

    def _edited(self, upload: bytes, loop: bool) -> tuple[np.ndarray, SourceFile]:
        """A complete recording, int16 (N,), and its source."""
        recording, source = self._read(upload, whole_of, self.limits.longest_s)
        recording_N = to_pcm16(recording.waveform)
        if loop:
            FIELDS.check_loop("the recording", len(recording_N) / self.model_info.sample_rate)
        return recording_N, source

    def _read(
        self, upload: bytes, read: Callable[[bytes, str, int, float], Recording], longest_s: float
    ) -> tuple[Recording, SourceFile]:
        """The part of a recording that is used, and its source."""
        if len(upload) > self.limits.upload_bytes:
            raise UploadTooLargeError(f"the recording has {len(upload)} bytes: give at most {self.limits.upload_bytes}")
        recording = read(upload, "the recording", self.model_info.sample_rate, longest_s)
        return recording, SourceFile(uri=UPLOADED, sha256=hashlib.sha256(upload).hexdigest())


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
    """A region as the text of the option `--region`, from which it is parsed again, so that the recipe is exact."""
    shown = []
    for value in (start_s, end_s):
        number = _number("regions", value)
        if not 0 <= number < 1e9:
            raise SoundStormError(f"regions has {number:g}: give seconds of 0 or more, such as 1.2-2.0")
        shown.append(f"{number:.6f}".rstrip("0").rstrip("."))
    return "-".join(shown)
