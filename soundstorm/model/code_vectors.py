"""The codebook vectors of a codec: codes that sound alike have similar vectors.

A network whose code embeddings are initialized with them, or whose inputs and outputs are based on them
(`soundstorm.model.centroids`), need not learn from few recordings which codes are similar.

Legend: Q levels, K codebook size, L size of a codebook vector, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from soundstorm.codec.codec import Codec
from soundstorm.errors import SoundStormError
from soundstorm.model.centroids import Centroids
from soundstorm.model.config import ModelConfig
from soundstorm.model.soundstorm import SoundStorm


def code_vectors(codec: Codec) -> Tensor:
    """The vector of each code of each level, followed by that of MASK (zeros): (Q (K + 1), L), scaled so that their sum
    over the levels has variance 1.

    This assumes that the codes of all levels are equally frequent and independent.
    """
    vectors_QKL = codec.network.codebooks
    scale = vectors_QKL.var(1).sum(0).mean().sqrt().clamp(min=1e-9)
    return F.pad(vectors_QKL / scale, (0, 0, 0, 1)).flatten(0, 1)


def latent_dim(codec: Codec) -> int:
    """Size of the codec's codebook vectors."""
    return codec.network.codebooks.shape[2]


def start_embeddings(model: SoundStorm, codec: Codec) -> None:
    """Initialize the code embeddings of `model` with the codebook vectors of `codec`, projected to random directions;
    MASK keeps its random embeddings.

    The directions are sampled with torch's generator; a frame's sum over the levels has variance 1 on average over the
    channels, about the same as the random initialization.
    """
    vectors = code_vectors(codec)
    width, rows = model.config.width, model.config.codebook_size + 1
    embeddings_QKD = (vectors @ (torch.randn(vectors.shape[1], width) * vectors.shape[1] ** -0.5)).view(-1, rows, width)
    with torch.no_grad():
        model.code_embedding.weight.view(-1, rows, width)[:, :-1].copy_(embeddings_QKD[: model.config.num_levels, :-1])


def centroids_of(config: ModelConfig, codec: Codec) -> Centroids:
    """The centroids of the levels that the network generates."""
    centroids = Centroids(config.num_levels, config.codebook_size, config.centroid_dim)
    centroids.take(codec.network.codebooks)
    return centroids


def centroid_weights(config: ModelConfig, codec: Codec, log_share_QK: Tensor) -> dict[str, Tensor]:
    """Initial values of the tensors of a network with `centroids`, by name: the centroids, and the frequencies of codes
    as output biases.

    Args:
        config: of the network.
        codec: of its codes.
        log_share_QK: logarithm of the frequency of each code of each level, see
            `soundstorm.model.centroids.log_counts`.

    Raises:
        SoundStormError: the network has no centroids, or those of another codec.
    """
    if not config.centroids:
        raise SoundStormError("this network has no centroids: set centroids to true")
    centroids = centroids_of(config, codec)
    biases = "head.head_bias" if config.order == "places" else "head_bias"
    return {f"centroids.{name}": value for name, value in centroids.state_dict().items()} | {biases: log_share_QK}
