"""EnCodec 24 kHz behind the interface of all codecs: the only file that imports the `encodec` package, imported only
where its weights are used.

Source: Défossez et al., "High fidelity neural audio compression", arXiv 2210.13438.

Legend: B batch, N samples, T frames, Q levels, K codebook size, L size of a code's vector, D dimensions.
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

BANDWIDTH_KBPS = 6.0
"""At which EnCodec 24 kHz uses 8 levels of 1024 codes."""
NUM_LEVELS, CODEBOOK_SIZE, FRAME_RATE, HOP = 8, 1024, 75, 320
DAMAGED = (
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, EOFError, OSError, UnpicklingError),
)
"""What the reading of a damaged file may raise."""


class EncodecNetwork(nn.Module):
    """A `soundstorm.codec.codec.CodecNetwork`."""

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
        """The centroids (Q, K, L), float32."""
        layers = list(self.model.quantizer.vq.layers)[:NUM_LEVELS]
        return torch.stack([layer.codebook for layer in layers]).detach().float()

    def encode_batch(self, waveform_B1N: Tensor) -> Tensor:
        """Waveforms (B, 1, N) to codes (B, Q, T)."""
        with torch.autocast(waveform_B1N.device.type, enabled=False):  # which code is nearest must not be rounded
            [(codes_BQT, _)] = self.model.encode(waveform_B1N)
        return codes_BQT

    def decode_batch(self, codes_BQT: Tensor, seeds: Sequence[int]) -> Tensor:
        """Codes (B, Q, T) to waveforms (B, 1, T * hop), without noise, so that the seeds change nothing."""
        return self.model.decode([(codes_BQT, None)])

    def latents(self, waveform_BN: Tensor) -> Tensor:
        """The encoder's output (B, D, T)."""
        return self.model.encoder(waveform_BN[:, None])


def official_codec(data: bytes, where: str, device: str, sha256: str) -> Codec:
    """EnCodec with the official weights.

    Args:
        data: the content of their file.
        where: its place, for errors.
        device: where to run it.
        sha256: what it must hash to.

    Raises:
        SoundStormError: it hashes to another, or is damaged.
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
        raise SoundStormError(f"{where}: not EnCodec 24 kHz weights ({' '.join(str(error).split())[:200]})") from error
    fingerprint = CodecFingerprint(
        name="encodec-24khz",
        sha256=found,
        sample_rate=24_000,
        frame_rate=FRAME_RATE,
        num_levels=NUM_LEVELS,
        codebook_size=CODEBOOK_SIZE,
    )
    return Codec(EncodecNetwork(model).eval().requires_grad_(False).to(device), fingerprint)
