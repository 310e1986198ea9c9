"""EnCodec 24 kHz as a `Codec`. This is the only module that imports the `encodec` package, and it is imported only when
EnCodec's weights are used.

Source: Défossez et al., "High fidelity neural audio compression", arXiv 2210.13438.

Legend: B batch, N samples, T frames, Q levels, K codebook size, L size of a codebook vector, D dimensions.
"""

import hashlib
import io
from collections.abc import Sequence
from pickle import UnpicklingError

import torch
from encodec import EncodecModel
from torch import Tensor, nn

from soundstorm.codec.codec import OFFICIAL_FILE, OFFICIAL_URL, Codec
from soundstorm.errors import SoundStormError
from soundstorm.schemas import CodecFingerprint
from soundstorm.serialization.damaged import one_line

BANDWIDTH_KBPS = 6.0
"""Bit rate at which EnCodec 24 kHz uses 8 levels of 1024 codes."""
NUM_LEVELS, CODEBOOK_SIZE, FRAME_RATE, HOP = 8, 1024, 75, 320
DAMAGED = (
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, EOFError, OSError, UnpicklingError),
)
"""Exceptions that reading a damaged file may raise."""


class EncodecNetwork(nn.Module):
    """EnCodec as a `soundstorm.codec.codec.CodecNetwork`."""

    hop, latent_rate = HOP, float(FRAME_RATE)

    def __init__(self, model: EncodecModel) -> None:
        super().__init__()
        self.model = model
        model.set_target_bandwidth(BANDWIDTH_KBPS)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def codebooks(self) -> Tensor:
        """The codebook vectors (Q, K, L), float32."""
        layers = list(self.model.quantizer.vq.layers)[:NUM_LEVELS]
        return torch.stack([layer.codebook for layer in layers]).detach().float()

    def encode_batch(self, waveform_B1N: Tensor) -> Tensor:
        """Encode waveforms (B, 1, N) to codes (B, Q, T)."""
        with torch.autocast(
            waveform_B1N.device.type, enabled=False
        ):  # lower precision would change which code is nearest
            [(codes_BQT, _)] = self.model.encode(waveform_B1N)
        return codes_BQT

    def decode_batch(self, codes_BQT: Tensor, seeds: Sequence[int]) -> Tensor:
        """Decode codes (B, Q, T) to waveforms (B, 1, T * hop); no noise is used, so the seeds have no effect."""
        return self.model.decode([(codes_BQT, None)])

    def latents(self, waveform_BN: Tensor) -> Tensor:
        """The encoder's output (B, D, T)."""
        return self.model.encoder(waveform_BN[:, None])


def official_codec(data: bytes, where: str, device: str, sha256: str) -> Codec:
    """EnCodec with the official weights.

    Args:
        data: the content of the weights file.
        where: path of the file, for errors.
        device: device to run on.
        sha256: SHA-256 that the file must have.

    Raises:
        SoundStormError: the SHA-256 is another one, or the file is damaged.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise SoundStormError(
            f"{where}: SHA-256 is {found}, but the official {OFFICIAL_FILE} has {sha256}: download it again from "
            f"{OFFICIAL_URL}"
        )
    model = EncodecModel.encodec_model_24khz(pretrained=False)
    try:
        model.load_state_dict(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    except DAMAGED as error:
        raise SoundStormError(f"{where}: not EnCodec 24 kHz weights ({one_line(error)})") from error
    fingerprint = CodecFingerprint(
        name="encodec-24khz",
        sha256=found,
        sample_rate=24_000,
        frame_rate=FRAME_RATE,
        num_levels=NUM_LEVELS,
        codebook_size=CODEBOOK_SIZE,
    )
    return Codec(EncodecNetwork(model).eval().requires_grad_(False).to(device), fingerprint)
