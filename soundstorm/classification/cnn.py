"""A small convolutional classifier of environmental sound, from log-mel spectrograms.

Its penultimate layer also serves as an embedding in which clips are compared. Weights trained without one fold of
ESC-50 are shipped in the package.

Legend: B batch, N samples, M mel bands, T frames, D width, C categories.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Interval, Len
from pydantic.dataclasses import dataclass as checked
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from soundstorm.audio.files import SAMPLE_RATE, from_pcm16
from soundstorm.audio.spectra import mel_bands
from soundstorm.classification.files import (
    REMEDY,
    ClassifierInfo,
    SavedInfo,
    info_fields,
    read_classifier_metadata,
    require_samples,
    write_classifier,
)
from soundstorm.errors import SoundStormError
from soundstorm.serialization.bundled import bundled_file
from soundstorm.serialization.damaged import refusing_damaged
from soundstorm.serialization.int8 import dequantize
from soundstorm.serialization.state_dicts import check_state_dict
from soundstorm.settings import Allowed, Settings, ShareBelow1

FORMAT = "soundstorm-audio-classifier-1"
PACKAGED_WEIGHTS = "audio_classifier.safetensors"
Size = Annotated[int, Interval(ge=1, le=65_536)]
SHORTEST_S = 1.0
"""A shorter clip is repeated up to this length."""
MAX_BATCH_S = 60.0
"""Maximum duration in seconds of a batch; a longer clip is a batch of its own."""


@checked(kw_only=True, frozen=True)
class AudioClassifierConfig(Settings):
    """Architecture of an `AudioClassifier`; the defaults are those of the weights in the package."""

    NAMED: ClassVar[str] = "classifier setting {name}"
    REMEDY: ClassVar[str] = "give"

    mel_bands: Annotated[int, Interval(ge=1, le=1_024)] = 64
    """Mel bands from 0 Hz to half the sample rate."""
    n_fft: Size = 1024
    """Samples in a window of the Fourier transform."""
    hop: Size = 320
    """Samples between frames."""
    floor_db: Annotated[float, Interval(ge=-300, le=0)] = -90.0
    """Power added to every band before the logarithm, in dB of full scale; quieter sound has no effect."""
    widths: Annotated[tuple[Size, ...], Len(2, 16), Allowed("two to 16 numbers from 1 to 65536")] = (32, 64, 128, 192)
    """Channels of the first convolution and of the residual blocks after it; each of them halves the numbers of bands
    and frames."""
    embedding: Size = 128
    """Size of the penultimate layer."""
    dropout: ShareBelow1 = 0.2
    """Dropout probability of the pooled channels."""

    def __post_init__(self) -> None:
        fewest = 2 ** len(self.widths)
        if self.mel_bands < fewest:
            raise SoundStormError(
                f"classifier setting mel_bands is {self.mel_bands}: each of {len(self.widths)} widths halves it, give "
                f"at least {fewest}"
            )
        self.check(self.hop <= self.n_fft, "hop", f"at most n_fft {self.n_fft}")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with normalization and a pooled shortcut; halves bands and frames (He et al., arXiv
    1603.05027)."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.norm_in = nn.BatchNorm2d(in_width)
        self.conv_in = nn.Conv2d(in_width, out_width, 3, stride=2, padding=1, bias=False)
        self.norm_out = nn.BatchNorm2d(out_width)
        self.conv_out = nn.Conv2d(out_width, out_width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(in_width, out_width, 1, bias=False)

    def forward(self, x_BDMT: Tensor) -> Tensor:
        x_BDMT = F.relu(self.norm_in(x_BDMT))
        y_BDMT = self.conv_out(F.relu(self.norm_out(self.conv_in(x_BDMT))))
        return y_BDMT + self.shortcut(F.avg_pool2d(x_BDMT, 2, ceil_mode=True))


class AudioClassifier(nn.Module):
    """Log-mel spectrogram, residual blocks, mean and maximum over time, and a logit for each category.

    `forward` and `features` accept waveforms at 24 kHz; training uses `power` and `features_of_power`.
    """

    window: Tensor
    mel_FM: Tensor

    def __init__(self, num_categories: int, config: AudioClassifierConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AudioClassifierConfig()
        self.num_categories = num_categories
        with torch.device("cpu"):  # also if the other parameters are on the meta device, because the values are needed
            bank_FM = mel_bands(config.n_fft, config.mel_bands, SAMPLE_RATE)
        self.register_buffer("window", torch.hann_window(config.n_fft, device="cpu"), persistent=False)
        self.register_buffer("mel_FM", bank_FM, persistent=False)
        self.norm_bands = nn.BatchNorm1d(config.mel_bands)
        self.stem = nn.Conv2d(1, config.widths[0], 5, stride=2, padding=2, bias=False)
        self.blocks = nn.Sequential(
            *(ResidualBlock(*pair) for pair in zip(config.widths[:-1], config.widths[1:], strict=True))
        )
        self.norm = nn.BatchNorm2d(config.widths[-1])
        self.project = nn.Linear(2 * config.widths[-1], config.embedding)
        self.head = nn.Linear(config.embedding, num_categories)

    @property
    def device(self) -> torch.device:
        return self.window.device

    def power(self, x_BN: Tensor) -> Tensor:
        """Power of waveforms (B, N) in mel bands, (B, M, T) with T = N // hop + 1; a full-scale sine has 1/4."""
        config = self.config
        spectrum_BFT = torch.stft(
            x_BN, config.n_fft, config.hop, window=self.window, center=True, pad_mode="constant", return_complex=True
        )
        power_BFT = spectrum_BFT.real.square() + spectrum_BFT.imag.square()
        return self.mel_FM.T @ power_BFT / self.window.sum().square()

    def features_of_power(self, power_BMT: Tensor) -> Tensor:
        """Penultimate layer (B, D) for mel band powers (B, M, T)."""
        log_BMT = self.norm_bands(torch.log10(power_BMT + 10 ** (self.config.floor_db / 10)))
        x_BDMT = self.blocks(self.stem(log_BMT.unsqueeze(1).to(memory_format=torch.channels_last)))
        x_BDT = F.relu(self.norm(x_BDMT)).mean(2)
        pooled_BD = torch.cat([x_BDT.mean(2), x_BDT.amax(2)], 1)
        return F.relu(self.project(F.dropout(pooled_BD, self.config.dropout, self.training)))

    def features(self, x_BN: Tensor) -> Tensor:
        """Penultimate layer (B, D) for waveforms (B, N), float32 in [-1, 1] at 24 kHz."""
        return self.features_of_power(self.power(x_BN))

    def forward(self, x_BN: Tensor) -> Tensor:
        """Logits (B, C) for waveforms (B, N), float32 in [-1, 1] at 24 kHz."""
        return self.head(self.features(x_BN))


@dataclass(kw_only=True, frozen=True)
class TrainedClassifier(ClassifierInfo):
    """A trained `AudioClassifier`; made by `load_classifier`."""

    model: AudioClassifier
    """In evaluation mode."""

    @property
    def kind(self) -> str:
        """Its name in `--model`."""
        return "cnn"

    def predict(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Probability of each category, float32 (clips, C), for clips int16 (N,) at 24 kHz of any lengths.

        Raises:
            SoundStormError: a clip has no samples.
        """
        return self._in_batches(clips, lambda x_BN: self.model(x_BN).softmax(1), len(self.categories))

    def embed(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """The penultimate layer, float32 (clips, D), for clips int16 (N,) at 24 kHz of any lengths.

        Raises:
            SoundStormError: a clip has no samples.
        """
        return self._in_batches(clips, self.model.features, self.model.config.embedding)

    @torch.inference_mode()
    def _in_batches(self, clips: Sequence[np.ndarray], work: Callable[[Tensor], Tensor], width: int) -> np.ndarray:
        """Apply `work` to clips of equal length together: nothing is padded, so a clip's row does not depend on the
        other clips."""
        by_length: dict[int, list[int]] = {}
        require_samples(clips)
        for position, clip in enumerate(clips):
            by_length.setdefault(len(clip), []).append(position)
        result = np.empty((len(clips), width), np.float32)
        device = self.model.device
        for length, positions in by_length.items():
            repeats = -(-round(SHORTEST_S * SAMPLE_RATE) // length)
            size = max(1, int(MAX_BATCH_S * SAMPLE_RATE / (length * repeats)))
            for start in range(0, len(positions), size):
                part = positions[start : start + size]
                x_BN = torch.from_numpy(
                    np.stack([np.tile(from_pcm16(clips[position]), repeats) for position in part])
                ).to(device)
                result[part] = work(x_BN).float().cpu().numpy()
        return result


def save_classifier(path: Path, model: AudioClassifier, **info: Unpack[SavedInfo]) -> None:
    """Write a classifier as safetensors, quantized to int8, with its architecture and `info` in the header.

    Raises:
        SoundStormError: the numbers of categories and outputs differ.
    """
    write_classifier(path, model.state_dict(), FORMAT, model.config.to_dict(), model.num_categories, **info)


def load_classifier(
    source: Path | bytes | None = None, device: str = "cpu", *, where: str = "classifier weights"
) -> TrainedClassifier:
    """A classifier from the path or content of a file that `save_classifier` wrote; None: the one in the package.

    Args:
        source: the file, or its content.
        device: device to run on.
        where: name of the content in errors.

    Raises:
        SoundStormError: the file is missing, damaged or of another kind.
    """
    if source is None:
        data, where = bundled_file(PACKAGED_WEIGHTS).read_bytes(), PACKAGED_WEIGHTS
    elif isinstance(source, bytes):
        data = source
    else:
        where = str(source)
        try:
            data = source.read_bytes()
        except OSError as error:
            raise SoundStormError(
                f"{where}: cannot read classifier weights ({error.strerror}): give a file of `train-classifier`"
            ) from error
    with refusing_damaged(where, "a classifier", REMEDY):
        about = read_classifier_metadata(data, FORMAT)
        num_categories = len(about["categories"])
        config, tensors = (
            AudioClassifierConfig.from_dict(about["architecture"], "architecture"),
            dequantize(load_safetensors(data)),
        )
        check_state_dict(lambda: AudioClassifier(num_categories, config), tensors, optional=("num_batches_tracked",))
        model = AudioClassifier(num_categories, config)
        model.load_state_dict(tensors, strict=False)
        model.eval().requires_grad_(False).to(device)
        return TrainedClassifier(model=model, **info_fields(data, about))
