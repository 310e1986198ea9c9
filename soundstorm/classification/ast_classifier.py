"""The Audio Spectrogram Transformer (AST) as a classifier of environmental sound, from Kaldi's log-mel filter bank
features.

The features are those that `MIT/ast-finetuned-audioset-10-10-0.4593` was trained on. The network is in
`soundstorm.classification.ast_network`.

Legend: B batch, N samples, T frames, M mel bands, C categories.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load as load_safetensors
from torch import Tensor

from soundstorm.audio.files import SAMPLE_RATE, from_pcm16, resample
from soundstorm.classification.ast_network import (
    AST_RATE,
    FRAME,
    POSITIONS,
    AstClassifier,
    AstConfig,
    require_named,
    require_transformers,
)
from soundstorm.classification.files import (
    REMEDY,
    ClassifierInfo,
    SavedInfo,
    info_fields,
    read_classifier_metadata,
    require_samples,
    write_classifier,
)
from soundstorm.classification.windows import predict_in_windows
from soundstorm.serialization.damaged import refusing_damaged
from soundstorm.serialization.int8 import dequantize

FORMAT = "soundstorm-ast-classifier-1"
BATCH_CLIPS = 16
"""Clips per batch."""


@dataclass(kw_only=True, frozen=True)
class TrainedAst(ClassifierInfo):
    """A trained AST; made by `load_ast_classifier`."""

    model: AstClassifier
    """In evaluation mode."""

    @property
    def kind(self) -> str:
        """Its name in `--model`."""
        return "ast"

    def predict(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Probability of each category, float32 (clips, C), for clips int16 (N,) at 24 kHz of any lengths; a clip
        longer than the network's input is divided into windows, and the probabilities are averaged.

        Raises:
            SoundStormError: a clip has no samples.
        """
        require_samples(clips)
        return predict_in_windows(self._predict, clips, self.model.config.longest)

    @torch.inference_mode()
    def _predict(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        result = np.empty((len(clips), len(self.categories)), np.float32)
        for start in range(0, len(clips), BATCH_CLIPS):
            part = clips[start : start + BATCH_CLIPS]
            features_BTM = torch.stack(
                [
                    scaled(filled(filter_bank(clip, self.model.config), self.model.config), self.model.config)
                    for clip in part
                ]
            )
            result[start : start + len(part)] = (
                self.model(features_BTM.to(self.model.device)).float().softmax(1).cpu().numpy()
            )
        return result


# ---- features


def filter_bank(clip: np.ndarray, config: AstConfig) -> Tensor:
    """Kaldi's log-mel filter bank features of a clip int16 (N,) at 24 kHz: (T, M), not normalized, T = 1 + (samples at
    16 kHz - 400) // 160, at least 1."""
    waveform = torch.from_numpy(resample(from_pcm16(clip), SAMPLE_RATE, AST_RATE))
    waveform = F.pad(waveform, (0, max(0, FRAME - len(waveform))))
    from torchaudio.compliance import kaldi

    bank_TM: Tensor = kaldi.fbank(
        waveform[None], sample_frequency=AST_RATE, window_type="hanning", num_mel_bins=config.num_mel_bins
    )
    return bank_TM


def filled(bank_TM: Tensor, config: AstConfig) -> Tensor:
    """The first `max_length` frames, zero-padded if there are fewer, as in the training of the AST."""
    return F.pad(bank_TM[: config.max_length], (0, 0, 0, max(0, config.max_length - len(bank_TM))))


def scaled(bank: Tensor, config: AstConfig) -> Tensor:
    """Normalize a filter bank as the AST expects it."""
    return (bank - config.mean) / (2 * config.std)


# ---- the classifier's file


def save_ast_classifier(path: Path, model: AstClassifier, **info: Unpack[SavedInfo]) -> None:
    """Write a classifier as safetensors, quantized to int8, with its architecture and `info` in the header.

    Raises:
        SoundStormError: the numbers of categories and outputs differ.
    """
    tensors = model.weights()
    tensors[POSITIONS] = tensors[POSITIONS].squeeze(0)  # so that each row has its own scale
    write_classifier(path, tensors, FORMAT, model.config.to_dict(), model.num_categories, **info)


def load_ast_classifier(data: bytes, where: str, device: str = "cpu") -> TrainedAst:
    """A classifier from the content of a file that `save_ast_classifier` wrote.

    Raises:
        SoundStormError: the file is damaged or of another kind, or `transformers` is not installed.
    """
    require_transformers()
    with refusing_damaged(where, "an AST classifier", REMEDY):
        about = read_classifier_metadata(data, FORMAT)
        num_categories, config = len(about["categories"]), AstConfig.from_dict(about["architecture"], "architecture")
        tensors = dequantize(load_safetensors(data))
        tensors[POSITIONS] = tensors[POSITIONS].unsqueeze(0)
        require_named(num_categories, config, tensors)
        model = AstClassifier(num_categories, config)
        model.load_published_weights(tensors)
    return TrainedAst(model=model.eval().requires_grad_(False).to(device), **info_fields(data, about))
