"""Embeddings of clips by neural networks, in which sets of clips are compared.

There are three, all with the interface `Embedder`: what the codec quantizes (a row per second of sound), a sound
classifier (a row per clip), and any exported ONNX model, such as PANNs or CLAP (a row per clip).

Legend: B batch, N samples, T frames, W windows, D dimensions.
"""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from soundstorm.audio.files import SAMPLE_RATE, from_pcm16, resample
from soundstorm.codec.codec import MAX_BATCH_S, Codec
from soundstorm.data.equal_lengths import equal_batches
from soundstorm.errors import SoundStormError
from soundstorm.serialization.damaged import one_line

WINDOW_S = 1.0


class Embedder(Protocol):
    """Computes embeddings of clips; a clip's rows do not depend on the other clips."""

    name: str
    """For headings and file names."""

    def embed(self, clips: Sequence[NDArray[np.int16]]) -> list[NDArray[np.float32]]:
        """Embed clips, int16 (N,) at 24 kHz, of any lengths: rows float32 (W, D) of each clip, W at least 1, in
        order."""
        ...


class CodecEmbedder:
    """Means and standard deviations, over windows of 1 s, of what a codec quantizes: the log-mel frames of a block
    codec, the latents of EnCodec.

    A remainder of less than half a window is added to the window before it; a clip shorter than that is one window.

    Raises:
        SoundStormError: the codec has another sample rate than 24 kHz.
    """

    name = "codec"

    def __init__(self, codec: Codec) -> None:
        if codec.sample_rate != SAMPLE_RATE:
            raise SoundStormError(
                f"codec '{codec.fingerprint.name}' works at {codec.sample_rate} Hz: give a codec of "
                f"{SAMPLE_RATE} Hz, at which clips are embedded"
            )
        self._network, self._window_frames = codec.network, round(WINDOW_S * codec.network.latent_rate)

    @torch.inference_mode()
    def embed(self, clips: Sequence[NDArray[np.int16]]) -> list[NDArray[np.float32]]:
        """Embed clips int16 (N,) as rows (W, 2 D) for latents of size D; raises SoundStormError for a clip without
        samples."""
        rows: dict[int, NDArray[np.float32]] = {}
        for positions in _equal_lengths(clips):
            batch_BN = torch.from_numpy(np.stack([from_pcm16(clips[position]) for position in positions])).to(
                self._network.device
            )
            for position, latent_DT in zip(
                positions, self._network.latents(batch_BN).float().cpu().numpy(), strict=True
            ):
                rows[position] = window_statistics(latent_DT, self._window_frames)
        return [rows[position] for position in range(len(clips))]


class OnnxEmbedder:
    """An ONNX model that maps float32 waveforms (B, N) in [-1, 1] to embeddings (B, D), a row per clip; needs the extra
    `onnx`.

    Args:
        source: path or content of the model.
        sample_rate: sample rate of the model's input; clips are resampled to it.
        name: for headings; default: the name of the file.

    Raises:
        SoundStormError: onnxruntime is not installed, or the file is missing, is not a model, or has other inputs and
            outputs.
    """

    def __init__(self, source: Path | bytes, sample_rate: int, name: str | None = None) -> None:
        self.name = name or (source.stem if isinstance(source, Path) else "onnx")
        self._rate = sample_rate
        try:
            runtime: Any = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise SoundStormError(
                f"embedding model '{self.name}' needs onnxruntime: pip install 'soundstorm-env[onnx]'"
            ) from error
        try:
            content = source.read_bytes() if isinstance(source, Path) else source
            self._session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
        except OSError as error:
            raise SoundStormError(
                f"embedding model {source!s} cannot be read ({error.strerror}): give the path of an ONNX file"
            ) from error
        except Exception as error:  # onnxruntime's errors have no common base class but this
            raise SoundStormError(f"embedding model '{self.name}' is not an ONNX model ({one_line(error)})") from error
        inputs = [(argument.type, len(argument.shape)) for argument in self._session.get_inputs()]
        if inputs != [("tensor(float)", 2)]:
            raise SoundStormError(
                f"embedding model '{self.name}' has the inputs {inputs} (type, axes): export it with one float32 input "
                "(batch, samples)"
            )
        self._input = self._session.get_inputs()[0].name

    def embed(self, clips: Sequence[NDArray[np.int16]]) -> list[NDArray[np.float32]]:
        """Embed clips int16 (N,) as one row each, (1, D); raises SoundStormError for a clip without samples, or if the
        model returns other shapes."""
        rows: dict[int, NDArray[np.float32]] = {}
        for positions in _equal_lengths(clips):
            batch_BN = np.stack(
                [resample(from_pcm16(clips[position]), SAMPLE_RATE, self._rate) for position in positions]
            )
            try:
                embedding_BD = np.asarray(self._session.run(None, {self._input: batch_BN})[0], dtype=np.float32)
            except Exception as error:  # onnxruntime's errors have no common base class but this
                raise SoundStormError(
                    f"embedding model '{self.name}' fails on waveforms {batch_BN.shape}: {one_line(error)}"
                ) from error
            if embedding_BD.ndim != 2 or len(embedding_BD) != len(positions):
                raise SoundStormError(
                    f"embedding model '{self.name}' returned {embedding_BD.shape} for waveforms {batch_BN.shape}: "
                    "expected (batch, width)"
                )
            rows.update(zip(positions, embedding_BD[:, None], strict=True))
        return [rows[position] for position in range(len(clips))]


def window_statistics(latent_DT: NDArray[np.float32], window_frames: int) -> NDArray[np.float32]:
    """Means followed by standard deviations (W, 2 D) over windows of `window_frames`.

    A remainder of less than half a window is added to the window before it, so W = max(1, round(T / window)).
    """
    num_frames = latent_DT.shape[1]
    windows = max(1, (2 * num_frames + window_frames) // (2 * window_frames))
    starts = np.arange(windows) * window_frames
    parts = np.split(latent_DT.astype(np.float64), starts[1:], axis=1)
    return np.stack([np.concatenate([part_DT.mean(1), part_DT.std(1)]) for part_DT in parts]).astype(np.float32)


def _equal_lengths(clips: Sequence[NDArray[np.int16]]) -> Iterator[list[int]]:
    """Indices of clips of the same length, at most MAX_BATCH_S of sound per batch: nothing is padded."""
    for position, clip in enumerate(clips):
        if clip.ndim != 1 or not len(clip) or clip.dtype != np.int16:
            raise SoundStormError(
                f"clip {position} has shape {clip.shape} and type {clip.dtype}: clips are embedded as int16 (N,), N "
                "at least 1"
            )
    return equal_batches([len(clip) for clip in clips], MAX_BATCH_S * SAMPLE_RATE)
