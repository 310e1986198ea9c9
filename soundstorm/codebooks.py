"""Starting and keeping alive the codebooks of a residual vector quantizer.

The quantizer of the `encodec` package learns by exponential moving average. Two things are left to its user here: a start by
k-means from many thousand frames, and the revival of dead codes (its own revival is undone by the next averaging step).

Legend: S latent frames, D width, Q levels, K codebook size.
"""

import logging
from typing import Any

import torch
from encodec.quantization import ResidualVectorQuantizer
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

logger = logging.getLogger(__name__)


@torch.no_grad()
def _set_codes(codebook: Any, codes_K: Tensor, vectors_KD: Tensor, usage_K: Tensor) -> None:
    codebook.embed[codes_K] = vectors_KD
    codebook.embed_avg[codes_K] = vectors_KD * usage_K[:, None]
    codebook.cluster_size[codes_K] = usage_K


@torch.no_grad()
def initialise_codebooks(quantizer: ResidualVectorQuantizer, latent_SD: Tensor, frames_per_step: int, seed: int) -> None:
    """Place every level's codes by k-means on the residual that the levels before it leave.

    Args:
        latent_SD: encoder output of at least K frames, better 10 K or more.
        frames_per_step: latent frames of one training step, the scale of the running usage counts.
        seed: of the k-means start.
    """
    residual_SD = latent_SD.float().cpu()
    for level, layer in enumerate(quantizer.vq.layers):
        codebook = layer._codebook
        size = codebook.codebook_size
        if len(residual_SD) < size:
            raise ValueError(f"{len(residual_SD)} frames cannot start {size} codes: give at least {size}")
        kmeans = MiniBatchKMeans(size, batch_size=8192, max_iter=30, n_init=1, init="random", random_state=seed + level)
        assignment_S = torch.from_numpy(kmeans.fit_predict(residual_SD.numpy())).long()
        centers_KD = torch.from_numpy(kmeans.cluster_centers_).float()
        usage_K = torch.bincount(assignment_S, minlength=size).float() * frames_per_step / len(residual_SD)
        device = codebook.embed.device
        everything = torch.arange(size, device=device)
        _set_codes(codebook, everything, centers_KD.to(device), usage_K.clamp(min=0.05).to(device))
        residual_SD = residual_SD - centers_KD[assignment_S]
        logger.info("level %d: k-means leaves %.4f of variance", level, residual_SD.var().item())


@torch.no_grad()
def revive_dead_codes(quantizer: ResidualVectorQuantizer, latent_SD: Tensor, generator: torch.Generator, threshold: float) -> list[int]:
    """Move codes that are hardly used onto frames that are badly represented; returns how many per level.

    Args:
        latent_SD: encoder output of the current batch.
        generator: CPU generator that chooses the frames; give all workers the same state.
        threshold: a code is dead when its running count of frames per step is below this.
    """
    revived = []
    residual_SD = latent_SD.float()
    for layer in quantizer.vq.layers:
        codebook = layer._codebook
        quantized_SD = codebook.dequantize(codebook.quantize(residual_SD))
        error_S = (residual_SD - quantized_SD).square().sum(1)
        dead_K = (codebook.cluster_size < threshold).nonzero()[:, 0][: len(residual_SD) // 8]
        if len(dead_K):
            chosen = torch.multinomial(error_S.cpu() + 1e-12, len(dead_K), replacement=False, generator=generator)
            vectors = residual_SD[chosen.to(residual_SD.device)]
            _set_codes(codebook, dead_K, vectors, torch.full_like(error_S[: len(dead_K)], 4 * threshold))
        revived.append(len(dead_K))
        residual_SD = residual_SD - quantized_SD
    return revived
