"""`Codec`: waveform to codes and back, whichever network stands behind it.

Three kinds of weights are understood: safetensors files of this project's block codec and of its compact codec, and the official EnCodec
24 kHz `.th` file (verified by SHA-256 before it is opened, then read with `weights_only=True`). Everything after the codec sees only codes and a
fingerprint: level count and frame rate are the codec's own, and a rate need not be a whole number.

Legend: B batch, N samples, T frames, Q levels.
"""

import hashlib
import io
import json
import logging
import pickle
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encodec import EncodecModel
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from soundstorm.batching import in_equal_batches
from soundstorm.block_codec import files as block_files
from soundstorm.block_codec.codec import BlockCodec
from soundstorm.compact_codec import CompactCodec, CompactCodecConfig
from soundstorm.errors import SoundStormError
from soundstorm.fitting import require_fit
from soundstorm.packaged import packaged
from soundstorm.packing import pack, unpack
from soundstorm.provenance import KEY, Provenance, TrainedOn, provenance_of_weights
from soundstorm.safetensors_header import read_metadata, with_sorted_notes
from soundstorm.schemas import CodecFingerprint

logger = logging.getLogger(__name__)

OFFICIAL_FILE = "encodec_24khz-d7cc33bc.th"
OFFICIAL_SHA256 = "d7cc33bcf1aad7f2dad9836f36431530744abeace3ca033005e3290ed4fa47bf"
OFFICIAL_SIZE = 93_171_529
OFFICIAL_URL = f"https://dl.fbaipublicfiles.com/encodec/v0/{OFFICIAL_FILE}"
BANDWIDTH_KBPS = 6.0
"""At which EnCodec 24 kHz uses 8 levels of 1024 codes."""
MAX_BATCH_S = 30.0
"""Seconds of audio in one batch at most, for EnCodec's memory; a clip that is longer is a batch of its own."""
COMPACT_FORMAT = "soundstorm-compact-codec-1"
PACKAGED_WEIGHTS = "compact_codec.safetensors"
STATISTICS = ("cluster_size", "embed_avg", "inited")
"""Ends of the names of what only training needs of the codebooks."""


class Codec:
    """Encodes waveforms to codes and decodes codes to waveforms; frozen.

    Args:
        network: in evaluation mode, on the device to use.
        encode: (B, 1, N) float32 waveform to (B, Q, T) int64 codes.
        decode: the inverse, with a seed for each clip, to (B, 1, T * hop).
        fingerprint: what its codes are comparable with.
        hop: samples per frame.
    """

    def __init__(
        self,
        network: nn.Module,
        encode: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor, Sequence[int]], Tensor],
        fingerprint: CodecFingerprint,
        hop: int,
    ) -> None:
        self.network, self.fingerprint, self.hop = network, fingerprint, hop
        self.sample_rate, self.frame_rate = fingerprint.sample_rate, fingerprint.frame_rate
        self._encode, self._decode = encode, decode

    @property
    def device(self) -> torch.device:
        return next(chain(self.network.parameters(), self.network.buffers())).device

    @torch.inference_mode()
    def encode(self, waveform_B1N: Tensor) -> Tensor:
        """Waveforms (B, 1, N), float32 in [-1, 1] at `sample_rate`, to codes (B, Q, T) with T = ceil(N / hop)."""
        if waveform_B1N.ndim != 3 or waveform_B1N.shape[1] != 1 or waveform_B1N.shape[2] == 0:
            raise ValueError(f"waveform has shape {tuple(waveform_B1N.shape)}, expected (batch, 1, samples) with at least one sample")
        return self._encode(waveform_B1N.to(self.device))

    @torch.inference_mode()
    def decode(self, codes_BQT: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Codes (B, Q, T) to waveforms (B, 1, T * hop), float32; loud passages may exceed 1 a little, and the caller scales or clips.

        Q may be less than the codec's number of levels: they are the first ones, and what the others would add is left to the codec. `seeds`,
        one a clip and 0 by default, decide the noise of a codec that decodes with noise: equal codes and seed give equal samples.
        """
        levels, size = self.fingerprint.num_levels, self.fingerprint.codebook_size
        if codes_BQT.ndim != 3 or not 1 <= codes_BQT.shape[1] <= levels or codes_BQT.shape[2] == 0:
            raise ValueError(f"codes have shape {tuple(codes_BQT.shape)}, expected (batch, 1 to {levels}, frames) with at least one frame")
        if int(codes_BQT.min()) < 0 or int(codes_BQT.max()) >= size:
            raise ValueError(f"codes lie in {int(codes_BQT.min())}..{int(codes_BQT.max())}, expected 0..{size - 1}")
        return self._decode(codes_BQT.to(self.device), _seeds(seeds, len(codes_BQT)))

    def encode_clips(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Waveforms (N,) of any lengths to codes (Q, ceil(N / hop)), uint16, in order.

        Clips of equal length share a batch; nothing is padded, so a clip's codes do not depend on the clips beside it.
        """
        return in_equal_batches(waveforms, [len(clip) for clip in waveforms], MAX_BATCH_S * self.sample_rate, self._encode_batch)

    def decode_clips(self, codes: Sequence[np.ndarray], seeds: Sequence[int] | None = None) -> list[np.ndarray]:
        """Codes (Q, T) of any lengths to waveforms (T * hop,), float32, in order; `seeds` as `decode` takes them."""
        clips = list(zip(codes, _seeds(seeds, len(codes)), strict=True))
        return in_equal_batches(clips, [clip.shape[1] for clip in codes], MAX_BATCH_S * self.frame_rate, self._decode_batch)

    def _encode_batch(self, waveforms: list[np.ndarray]) -> list[np.ndarray]:
        batch_B1N = torch.from_numpy(np.stack(waveforms).astype(np.float32))[:, None]
        return list(self.encode(batch_B1N).cpu().numpy().astype(np.uint16))

    def _decode_batch(self, clips: list[tuple[np.ndarray, int]]) -> list[np.ndarray]:
        batch_BQT = torch.from_numpy(np.stack([codes_QT for codes_QT, _ in clips]).astype(np.int64))
        return list(self.decode(batch_BQT, [seed for _, seed in clips])[:, 0].cpu().numpy())


def _seeds(seeds: Sequence[int] | None, count: int) -> Sequence[int]:
    if seeds is not None and len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} clips: give one a clip")
    return [0] * count if seeds is None else seeds


def packaged_codec_bytes() -> bytes:
    """The compact codec's weights that ship in the package."""
    return packaged(PACKAGED_WEIGHTS).read_bytes()


def load_codec(source: bytes | Path | str | None = None, device: str = "cpu", official_sha256: str = OFFICIAL_SHA256) -> Codec:
    """A codec from its weights.

    Args:
        source: the content or the path of a weights file; None means the compact codec in the package.
        device: where to run it.
        official_sha256: what a `.th` file must hash to.

    Raises:
        SoundStormError: the file is missing, damaged, of another kind, or not the official one.
    """
    if source is None:
        data, where = packaged_codec_bytes(), PACKAGED_WEIGHTS
    elif isinstance(source, bytes):
        data, where = source, "codec weights"
    else:
        where = str(source)
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise SoundStormError(f"{where}: cannot read codec weights ({error.strerror}): give --codec a .safetensors or .th file") from error
    if data[:2] == b"PK" or where.endswith(".th"):
        return _official_codec(data, where, device, official_sha256)
    return _own_codec(data, where, device)


def provenance_of_codec(data: bytes) -> Provenance:
    """What the codec whose weights file has this content was trained on."""
    if hashlib.sha256(data).hexdigest() == OFFICIAL_SHA256:
        return TrainedOn(outside=("encodec",))
    return provenance_of_weights(data)


def save_compact_codec(path: Path, network: CompactCodec, name: str, description: str, trained_on: TrainedOn | None = None) -> None:
    """Write a compact codec as safetensors, packed to 8 bits, with its architecture in the header.

    Args:
        path: file to write.
        network: what to write; the running statistics of its codebooks stay behind.
        name: the codec's name in fingerprints.
        description: what it was trained on and how, for people.
        trained_on: the same as data; None: not known, and every test of what hears by it is refused.
    """
    kept = {key: value for key, value in network.state_dict().items() if not key.endswith(STATISTICS)}
    tensors = pack(kept, keep=("embed",))
    header = {"format": COMPACT_FORMAT, "name": name, "description": description, "config": json.dumps(network.config.to_dict())}
    path.write_bytes(with_sorted_notes(save_safetensors(tensors, metadata=header | ({KEY: trained_on.to_json()} if trained_on else {}))))


def _own_codec(data: bytes, where: str, device: str) -> Codec:
    remedy = "give --codec a file that `soundstorm train-codec` wrote"
    try:
        header = read_metadata(data)
        make = {COMPACT_FORMAT: _compact_codec, block_files.FORMAT: _block_codec}.get(header["format"])
        if make is None:
            raise ValueError(f"its format is '{header['format']}', expected '{block_files.FORMAT}' or '{COMPACT_FORMAT}'")
        return make(data, header, device)
    except (SoundStormError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, SafetensorError) as error:
        raise SoundStormError(f"{where}: not a codec of this project ({' '.join(str(error).split())[:200]}): {remedy}") from error


def _block_codec(data: bytes, header: dict[str, Any], device: str) -> Codec:
    network = block_files.from_bytes(data, header)
    config = network.config
    fingerprint = CodecFingerprint(
        name=header["name"],
        sha256=hashlib.sha256(data).hexdigest(),
        sample_rate=config.sample_rate,
        frame_rate=config.column_rate,
        num_levels=config.num_levels,
        codebook_size=config.codebook_size,
    )
    return from_block_codec(network.eval().to(device), fingerprint)


def from_block_codec(network: BlockCodec, fingerprint: CodecFingerprint) -> Codec:
    """A block codec behind the interface of all codecs."""

    def encode(waveform_B1N: Tensor) -> Tensor:
        codes = [network.encode(waveform_N) for waveform_N in waveform_B1N[:, 0].cpu().numpy()]
        return torch.from_numpy(np.stack(codes).astype(np.int64)).to(waveform_B1N.device)

    def decode(codes_BQT: Tensor, seeds: Sequence[int]) -> Tensor:
        waves = [network.decode(codes_QT, seed) for codes_QT, seed in zip(codes_BQT.cpu().numpy(), seeds, strict=True)]
        return torch.from_numpy(np.stack(waves))[:, None].to(codes_BQT.device)

    return Codec(network, encode, decode, fingerprint, network.config.block_hop)


def _compact_codec(data: bytes, header: dict[str, Any], device: str) -> Codec:
    config = CompactCodecConfig(**json.loads(header["config"]))
    tensors = unpack(load_safetensors(data))
    require_fit(lambda: CompactCodec(config), tensors, may_lack=STATISTICS)
    network = CompactCodec(config)
    network.load_state_dict(tensors, strict=False)
    network = network.eval().requires_grad_(False).to(device)
    fingerprint = CodecFingerprint(
        name=header["name"],
        sha256=hashlib.sha256(data).hexdigest(),
        sample_rate=config.sample_rate,
        frame_rate=config.sample_rate // config.hop,
        num_levels=config.num_levels,
        codebook_size=config.codebook_size,
    )
    return Codec(network, network.encode, lambda codes_BQT, _: network.decode(codes_BQT), fingerprint, config.hop)


def _official_codec(data: bytes, where: str, device: str, sha256: str) -> Codec:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise SoundStormError(f"{where}: SHA-256 is {found}, but the official {OFFICIAL_FILE} has {sha256}: download it again from {OFFICIAL_URL}")
    network = EncodecModel.encodec_model_24khz(pretrained=False)
    try:
        network.load_state_dict(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise SoundStormError(f"{where}: not EnCodec 24 kHz weights ({' '.join(str(error).split())[:200]})") from error
    network.set_target_bandwidth(BANDWIDTH_KBPS)
    network = network.eval().requires_grad_(False).to(device)

    def encode(waveform_B1N: Tensor) -> Tensor:
        with torch.autocast(waveform_B1N.device.type, enabled=False):  # which code is nearest must not be rounded
            [(codes_BQT, _)] = network.encode(waveform_B1N)
        return codes_BQT

    def decode(codes_BQT: Tensor, _: Sequence[int]) -> Tensor:
        return network.decode([(codes_BQT, None)])

    fingerprint = CodecFingerprint(name="encodec-24khz", sha256=found, sample_rate=24_000, frame_rate=75, num_levels=8, codebook_size=1024)
    return Codec(network, encode, decode, fingerprint, 320)
