"""Turns a generated waveform into an audio file, its row of the manifest, and a JSON file."""

import hashlib
import json
import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from soundstorm.audio.files import encode_audio
from soundstorm.audio.limiter import within_full_scale
from soundstorm.errors import SoundStormError


def file_stem(category: str) -> str:
    """The class name as a file name: letters, digits, `_` and `-` stay; a symbol such as an emoji becomes its code
    point; everything else becomes `_`."""
    spelt = "".join(
        f"u{ord(character):x}_" if unicodedata.category(character) == "So" else character for character in category
    )
    return re.sub(r"[^\w-]+", "_", spelt).removesuffix("_" if spelt != category else "") or "_"


def finite(waveform: np.ndarray, index: int) -> np.ndarray:
    """The waveform of sample `index`; raises SoundStormError if it holds NaN or infinity."""
    if not np.isfinite(waveform).all():
        raise SoundStormError(f"sample {index} has NaN or infinite values: the checkpoint or the codec is damaged")
    return waveform


def playable(waveform: np.ndarray, num_samples: int, index: int) -> np.ndarray:
    """The first `num_samples` of `waveform`, limited to full scale. Raises SoundStormError, which names sample
    `index`, if a value is not finite."""
    return within_full_scale(finite(waveform[:num_samples], index))


@dataclass(kw_only=True, frozen=True)
class Finishing:
    """Settings of the output clips of a run."""

    sample_rate: int
    hop: int
    """Samples per frame."""
    num_samples: int
    """Length of each clip."""
    format: Literal["flac", "wav"]
    keeps_recording: bool
    """Whether clips contain samples of a recording, which are not limited to full scale."""
    recipe: dict[str, Any] | None
    """Recipe, which is written beside each clip."""
    precision: str | None = None
    """Precision in which the codes were sampled."""

    def sound(self, index: int, waveform: np.ndarray) -> np.ndarray:
        """The waveform of a clip, limited to full scale unless it contains a recording. Raises SoundStormError, which
        names sample `index`, if a value is not finite."""
        if self.keeps_recording:
            return finite(waveform[: self.num_samples], index)
        return playable(waveform, self.num_samples, index)

    def clip(self, index: int, label: int, category: str, seed: int, waveform: np.ndarray) -> tuple[dict, bytes]:
        """A sample's row, without its URI, and the content of its audio file."""
        waveform = self.sound(index, waveform)
        audio = encode_audio(waveform, self.sample_rate, self.format)
        row = {
            "sample_id": f"{file_stem(category)}-{index:07d}",
            "label": label,
            "category": category,
            "seed": seed,
            "num_frames": math.ceil(self.num_samples / self.hop),
            "duration_s": len(waveform) / self.sample_rate,
            "sha256": hashlib.sha256(audio).hexdigest(),
            "precision": self.precision,
        }
        return row, audio

    def about(self, row: dict[str, Any]) -> dict[str, Any]:
        """Content of the JSON file of a clip."""
        return row | {"sample_rate": self.sample_rate} | ({} if self.recipe is None else {"recipe": self.recipe})


def as_json(about: dict[str, Any]) -> bytes:
    """The JSON file of a clip."""
    return json.dumps(about, sort_keys=True, ensure_ascii=False).encode()
