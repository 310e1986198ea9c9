"""A trained token classifier: its file, and the classification of recordings through the codec of its codes.

Legend: N samples, Q levels, T codec frames, C categories.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack, get_args

import numpy as np
import torch
from safetensors.torch import load as load_safetensors

from soundstorm.audio.files import SAMPLE_RATE, from_pcm16
from soundstorm.classification.files import (
    REMEDY,
    ClassifierInfo,
    SavedInfo,
    info_fields,
    read_classifier_metadata,
    require_samples,
    write_classifier,
)
from soundstorm.classification.token_network import ReadoutConfig, TokenClassifier, TokenMode
from soundstorm.classification.windows import predict_in_windows
from soundstorm.codec.codec import Codec
from soundstorm.data.equal_lengths import in_equal_batches
from soundstorm.errors import SoundStormError
from soundstorm.model.code_vectors import latent_dim
from soundstorm.model.config import ModelConfig
from soundstorm.optimization.precision import autocast
from soundstorm.schemas import CodecFingerprint
from soundstorm.serialization.damaged import refusing_damaged
from soundstorm.serialization.int8 import dequantize
from soundstorm.serialization.state_dicts import check_state_dict

FORMAT = "soundstorm-token-classifier-1"
SHORTEST_S = 1.0
"""A shorter clip is repeated up to this length."""
LONGEST_S = 10.0
"""A longer clip is classified in windows."""
MAX_BATCH_S = 60.0
"""Maximum duration in seconds of a batch."""


@dataclass(kw_only=True, frozen=True)
class Origin:
    """Codec and initial weights of a token classifier."""

    codec: CodecFingerprint
    """Codec of its codes."""
    mode: TokenMode
    """How it was trained."""
    generator_sha256: str | None
    """SHA-256 of the weights of the generator that it was initialized from; None: random weights."""
    teacher_sha256: str | None = None
    """SHA-256 of the file of the teacher, a network on spectrograms; None: it was trained on labels alone."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Origin":
        """The inverse of `to_dict`; raises SoundStormError, LookupError, ValueError or TypeError for anything else."""
        codec = {f"codec_{name}": str(value) for name, value in values["codec"].items()}
        sha256, teacher_sha256 = (
            values["generator_sha256"],
            values.get("teacher_sha256"),
        )  # earlier files had no teacher
        if (
            values["mode"] not in get_args(TokenMode)
            or not isinstance(sha256, str | None)
            or not isinstance(teacher_sha256, str | None)
        ):
            raise ValueError(f"its mode is {values['mode']!r}, or its generator_sha256 or teacher_sha256 is not text")
        fingerprint = CodecFingerprint.from_metadata(codec, "codec", "train-classifier")
        return cls(codec=fingerprint, mode=values["mode"], generator_sha256=sha256, teacher_sha256=teacher_sha256)


@dataclass(kw_only=True, frozen=True)
class TrainedTokenClassifier(ClassifierInfo):
    """A trained token classifier with its codec; made by `load_token_classifier`."""

    model: TokenClassifier
    """In evaluation mode."""
    codec: Codec
    origin: Origin

    @property
    def kind(self) -> str:
        """Its name in `--model`."""
        return "soundstorm"

    def predict(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Probability of each category, float32 (clips, C), for clips int16 (N,) at 24 kHz of any lengths.

        Raises:
            SoundStormError: a clip has no samples.
        """
        require_samples(clips)
        shortest = round(SHORTEST_S * SAMPLE_RATE)
        long_enough = [np.tile(clip, -(-shortest // len(clip))) for clip in clips]
        return predict_in_windows(self._predict, long_enough, round(LONGEST_S * SAMPLE_RATE))

    def _predict(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        codes = self.codec.encode_clips([from_pcm16(clip) for clip in clips])
        return np.array(self.predict_codes(codes), np.float32).reshape(len(clips), len(self.categories))

    def predict_codes(self, codes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Probabilities (C,) of each clip from codes (Q, T) of any lengths; clips of equal length share a batch."""
        return in_equal_batches(
            codes, [clip.shape[1] for clip in codes], MAX_BATCH_S * self.codec.frame_rate, self._predict_batch
        )

    @torch.inference_mode()
    def _predict_batch(self, codes: list[np.ndarray]) -> list[np.ndarray]:
        device = self.model.device
        codes_BQT = torch.from_numpy(np.stack(codes).astype(np.int64)).to(device)
        with autocast(device, "auto"):
            score_BC = self.model(codes_BQT, torch.ones_like(codes_BQT[:, 0], dtype=torch.bool))
        return list(score_BC.float().softmax(1).cpu().numpy())


def save_token_classifier(path: Path, model: TokenClassifier, *, origin: Origin, **info: Unpack[SavedInfo]) -> None:
    """Write a classifier as safetensors, quantized to int8, with its architecture, origin and `info` in the header. The
    codebook embeddings are not stored: they are the codec's.

    Raises:
        SoundStormError: the numbers of categories and outputs differ.
    """
    architecture = {"network": model.network.to_dict(), "readout": model.readout.to_dict()}
    write_classifier(path, model.state_dict(), FORMAT, architecture, model.num_categories, origin.to_dict(), **info)


def load_token_classifier(
    data: bytes, where: str, device: str = "cpu", *, find_codec: Callable[[CodecFingerprint], Codec]
) -> TrainedTokenClassifier:
    """A classifier from the content of a file that `save_token_classifier` wrote.

    Args:
        data: the content.
        where: name of the file in errors.
        device: device to run on.
        find_codec: returns the codec with a given fingerprint, on the device.

    Raises:
        SoundStormError: the file is damaged or of another kind, or the codec is not the one that it needs.
    """
    with refusing_damaged(where, "a classifier", REMEDY):
        about = read_classifier_metadata(data, FORMAT)
        num_categories, origin = len(about["categories"]), Origin.from_dict(about)
        network = ModelConfig.from_dict(about["architecture"]["network"], "network")
        readout = ReadoutConfig.from_dict(about["architecture"]["readout"], "readout")
        if (network.num_levels, network.codebook_size) != (origin.codec.num_levels, origin.codec.codebook_size):
            raise ValueError(
                f"its network has {network.num_levels}x{network.codebook_size} codes, but its codec has others"
            )
        tensors = dequantize(load_safetensors(data))
        check_state_dict(
            lambda: TokenClassifier(num_categories, network, readout), tensors, optional=("num_batches_tracked",)
        )
        model = TokenClassifier(num_categories, network, readout)
        model.load_state_dict(tensors, strict=False)
    codec = find_codec(origin.codec)
    origin.codec.require_equal(codec.fingerprint, where)
    if readout.latent_dim not in (0, latent_dim(codec)):
        raise SoundStormError(
            f"{where}: not a classifier (the codebook vectors of its codec have another size): {REMEDY}"
        )
    model.set_codebook_embeddings(codec)
    model.eval().requires_grad_(False).to(device)
    parents = {"codec": origin.codec.sha256, "generator": origin.generator_sha256, "teacher": origin.teacher_sha256}
    return TrainedTokenClassifier(model=model, codec=codec, origin=origin, **info_fields(data, about, **parents))
