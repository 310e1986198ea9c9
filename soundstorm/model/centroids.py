"""Input and output of codes through the codec's centroids: similar codes have similar inputs and similar logits.

A residual vector quantizer represents a place by the sum of one centroid per level. The network's input at a place is a
learned projection of that sum, or of its known part; the logits of a level are the products of a projection of the
network's output with the level's centroids, plus a bias. A few hundred thousand parameters thus replace millions (Q K D
for an embedding, and as many for the heads), and what is learned about one code also applies to similar codes.

Legend: B batch, Q levels, T places, N places of any clips, K codebook size, L size of a centroid.
"""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstorm.errors import SoundStormError

MIN_VARIANCE = 1e-12
PSEUDO_COUNT = 1.0
"""Added to the count of each code, so that a code that never occurred can still be sampled."""


class Centroids(nn.Module):
    """The centroids of all levels, frozen and stored with the network, which therefore needs no codec.

    They are scaled as a whole to a mean square of 1 over the dimensions: the sum over the levels, and each level's
    centroids for the logits. The dimensions keep their relative scale, since those in which sounds differ most are the
    ones to be predicted.
    """

    vectors_QKL: Tensor
    sum_scale: Tensor
    level_scale_Q: Tensor
    rounded_QKL: Tensor | None
    """The centroids in bfloat16 for `logits`, set by `soundstorm.generation.bfloat16`."""

    def __init__(self, num_levels: int, codebook_size: int, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise SoundStormError("centroid_dim is 0: a network with centroids needs the size of the codec's vectors")
        self.register_buffer("vectors_QKL", torch.zeros(num_levels, codebook_size, dim))
        self.register_buffer("sum_scale", torch.ones(()))
        self.register_buffer("level_scale_Q", torch.ones(num_levels))
        self.rounded_QKL = None

    @torch.no_grad()
    def take(self, vectors_QKL: Tensor) -> None:
        """Set the centroids to the first levels of a codec's; raises SoundStormError if they have another shape."""
        num_levels, size, dim = self.vectors_QKL.shape
        if vectors_QKL.shape[0] < num_levels or vectors_QKL.shape[1:] != (size, dim):
            raise SoundStormError(
                f"centroids of shape {tuple(vectors_QKL.shape)}: this network needs those of {num_levels} levels, "
                f"({size}, {dim}) each"
            )
        vectors_QKL = vectors_QKL[:num_levels].float()
        variance_QL = vectors_QKL.var(1, correction=0)
        self.vectors_QKL.copy_(vectors_QKL)
        self.sum_scale.copy_(variance_QL.sum(0).mean().clamp(min=MIN_VARIANCE).rsqrt())
        self.level_scale_Q.copy_(variance_QL.mean(1).clamp(min=MIN_VARIANCE).rsqrt())

    def sums(self, codes_NQ: Tensor) -> Tensor:
        """Sum over all levels (N, L)."""
        return F.embedding_bag(self._rows(codes_NQ), self.vectors_QKL.flatten(0, 1), mode="sum") * self.sum_scale

    def visible_sums(self, codes_NQ: Tensor, visible_NQ: Tensor) -> Tensor:
        """Sum over the visible levels (N, L)."""
        rows = self._rows(codes_NQ.where(visible_NQ, 0))
        weights = visible_NQ.to(self.vectors_QKL.dtype)
        return (
            F.embedding_bag(rows, self.vectors_QKL.flatten(0, 1), mode="sum", per_sample_weights=weights)
            * self.sum_scale
        )

    def below(self, codes_NQ: Tensor) -> Tensor:
        """Sum over the levels below each level (N, Q, L); zeros for level 0."""
        vectors_NQL = F.embedding(self._rows(codes_NQ[:, :-1]), self.vectors_QKL.flatten(0, 1)) * self.sum_scale
        return F.pad(vectors_NQL.cumsum(1), (0, 0, 1, 0))

    def of_level(self, codes_N: Tensor, level: int) -> Tensor:
        """The centroids (N, L) of codes of a level."""
        return F.embedding(codes_N, self.vectors_QKL[level]) * self.sum_scale

    def logits(self, x_QNL: Tensor, bias_QK: Tensor, levels: slice | Tensor) -> Tensor:
        """Products (q, N, K) of features with the centroids of `levels`, plus their biases; float32."""
        dim = self.vectors_QKL.shape[2]
        scaled_QNL = x_QNL * (self.level_scale_Q[levels] * dim**-0.5)[:, None, None]
        vectors_QKL = self.vectors_QKL if self.rounded_QKL is None else self.rounded_QKL
        return torch.bmm(scaled_QNL, vectors_QKL[levels].transpose(1, 2)).float() + bias_QK[levels][:, None, :]

    def _rows(self, codes_NQ: Tensor) -> Tensor:
        return codes_NQ + torch.arange(codes_NQ.shape[1], device=codes_NQ.device) * self.vectors_QKL.shape[1]


def log_counts(codes: Iterable[np.ndarray], num_levels: int, codebook_size: int) -> Tensor:
    """Logarithm of the frequency of each code of each level (Q, K) in `codes`, arrays (num_levels or more, T): initial
    biases of a network."""
    count_QK = np.full((num_levels, codebook_size), PSEUDO_COUNT)
    for codes_QT in codes:
        for count_K, codes_T in zip(count_QK, codes_QT[:num_levels], strict=True):
            count_K += np.bincount(codes_T, minlength=codebook_size)
    return torch.from_numpy(np.log(count_QK / count_QK.sum(1, keepdims=True))).float()


def entropy_of_counts(log_share_QK: Tensor) -> list[float]:
    """Entropy of each level in nats: the loss of a network that predicts only the frequencies of the codes."""
    return (-(log_share_QK.exp() * log_share_QK).sum(1)).tolist()
