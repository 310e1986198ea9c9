"""Clips as points: networks whose inner values stand for what a clip sounds like, so that sets of clips can be
compared.

Three are at hand, all behind `Embedder`: what the codec quantizes (one row a second of sound), a sound classifier (one
row a clip), and any ONNX model that somebody exported, such as PANNs or CLAP (one row a clip).

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

WINDOW_S = 1.0


class Embedder(Protocol):
    """Turns clips into rows of numbers; a clip's rows do not depend on the clips beside it."""

    name: str
    """For headings and file names."""

    def embed(self, clips: Sequence[NDArray[np.int16]]) -> list[NDArray[np.float32]]:
        """Clips int16 (N,) at 24 kHz, of any lengths, to rows float32 (W, D) of each, W at least 1, in order."""
        ...


class ClipEmbedding(Protocol):
    """What `ClassifierEmbedder` needs of a classifier: `soundstorm.classification.cnn.TrainedClassifier` has it."""

    def embed(self, clips: Sequence[NDArray[np.int16]]) -> NDArray[np.float32]:
        """Clips int16 (N,) at 24 kHz to one row each, (len(clips), D)."""
        ...


class CodecEmbedder:
    """What a codec quantizes, as means and standard deviations over windows of 1 s: the log-mel frames of a block
    codec, the latents of EnCodec.

    What is left at the end joins the window before it where it is shorter than half a window; a shorter clip is one
    window.

    Raises:
        SoundStormError: the codec works at another sample rate than 24 kHz.
    """

    name = "codec"

    def __init__(self, codec: Codec) -> None:
        if codec.sample_rate != SAMPLE_RATE:
            raise SoundStormError(
                f"codec '{codec.fingerprint.name}' works at {codec.sample_rate} Hz: clips are embedded at "
                f"{SAMPLE_RATE} Hz, give such a codec"
            )
        self._network, self._window_frames = codec.network, round(WINDOW_S * codec.network.latent_rate)

    @torch.inference_mode()
    def embed(self, clips: Sequence[NDArray[np.int16]]) -> list[NDArray[np.float32]]:
        """Clips int16 (N,) to rows (W, 2 D) for latents of size D; raises SoundStormError for a clip without
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


class ClassifierEmbedder:
    """The layer before the last of a sound classifier, one row a clip."""

    name = "classifier"

    def __init__(self, classifier: ClipEmbedding) -> None:
        self._classifier = classifier

    def embed(self, clips: Sequence[NDArray[np.int16]]) -> list[NDArray[np.float32]]:
        """Clips int16 (N,) to one row each, (1, D)."""
        if not len(clips):
            return []
        return [row_D[None] for row_D in np.asarray(self._classifier.embed(clips), dtype=np.float32)]


class OnnxEmbedder:
    """A model in ONNX format from float32 waveforms (B, N) in [-1, 1] to embeddings (B, D), one row a clip; needs the
    extra `onnx`.

    Args:
        source: path or content of the model.
        sample_rate: what it expects, in samples per second; clips are resampled to it.
        name: for headings; the file's name if not given.

    Raises:
        SoundStormError: onnxruntime is not installed, or the file is missing, no model, or of other inputs and outputs.
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
        except Exception as error:  # onnxruntime's own errors have no other base
            raise SoundStormError(
                f"embedding model '{self.name}' is no ONNX model ({' '.join(str(error).split())[:200]})"
            ) from error
        inputs = [(argument.type, len(argument.shape)) for argument in self._session.get_inputs()]
        if inputs != [("tensor(float)", 2)]:
            raise SoundStormError(
                f"embedding model '{self.name}' takes {inputs} (type, axes): export it with one float32 input (batch, "
                "samples)"
            )
        self._input = self._session.get_inputs()[0].name

    def embed(self, clips: Sequence[NDArray[np.int16]]) -> list[NDArray[np.float32]]:
        """Clips int16 (N,) to one row each, (1, D); raises SoundStormError for a clip without samples, or a model that
        gives other shapes."""
        rows: dict[int, NDArray[np.float32]] = {}
        for positions in _equal_lengths(clips):
            batch_BN = np.stack(
                [resample(from_pcm16(clips[position]), SAMPLE_RATE, self._rate) for position in positions]
            )
            try:
                embedding_BD = np.asarray(self._session.run(None, {self._input: batch_BN})[0], dtype=np.float32)
            except Exception as error:  # onnxruntime's own errors have no other base
                detail = " ".join(str(error).split())[:200]
                raise SoundStormError(
                    f"embedding model '{self.name}' fails on waveforms {batch_BN.shape}: {detail}"
                ) from error
            if embedding_BD.ndim != 2 or len(embedding_BD) != len(positions):
                raise SoundStormError(
                    f"embedding model '{self.name}' gave {embedding_BD.shape} for waveforms {batch_BN.shape}: "
                    "expected (batch, width)"
                )
            rows.update(zip(positions, embedding_BD[:, None], strict=True))
        return [rows[position] for position in range(len(clips))]


def window_statistics(latent_DT: NDArray[np.float32], window_frames: int) -> NDArray[np.float32]:
    """Means, and after them standard deviations (W, 2 D), over windows of `window_frames`.

    A rest of less than half a window joins the window before, so W = max(1, round(T / window)).
    """
    num_frames = latent_DT.shape[1]
    windows = max(1, (2 * num_frames + window_frames) // (2 * window_frames))
    starts = np.arange(windows) * window_frames
    parts = np.split(latent_DT.astype(np.float64), starts[1:], axis=1)
    return np.stack([np.concatenate([part_DT.mean(1), part_DT.std(1)]) for part_DT in parts]).astype(np.float32)


def _equal_lengths(clips: Sequence[NDArray[np.int16]]) -> Iterator[list[int]]:
    """Positions of clips of one and the same length, at most MAX_BATCH_S of sound at once: nothing is padded."""
    for position, clip in enumerate(clips):
        if clip.ndim != 1 or not len(clip) or clip.dtype != np.int16:
            raise SoundStormError(
                f"clip {position} has shape {clip.shape} and type {clip.dtype}: clips are embedded as int16 (N,), N "
                "at least 1"
            )
    return equal_batches([len(clip) for clip in clips], MAX_BATCH_S * SAMPLE_RATE)
