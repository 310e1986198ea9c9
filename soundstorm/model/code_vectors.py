"""The vectors that a codec has for its codes: codes that sound alike have vectors that are alike.

A network whose embeddings of codes start from them, or whose codes go in and out through them
(`soundstorm.model.centroids`), need not learn from few recordings which codes resemble each other.

Legend: Q levels, K codebook size, L size of a code's vector, D width.
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
    """The vector of each code of each level, MASK's (zeros) after them: (Q (K + 1), L), so scaled that their sum over
    the levels has variance 1.

    Codes of all levels are taken for equally frequent and independent.
    """
    vectors_QKL = codec.network.codebooks
    scale = vectors_QKL.var(1).sum(0).mean().sqrt().clamp(min=1e-9)
    return F.pad(vectors_QKL / scale, (0, 0, 0, 1)).flatten(0, 1)


def latent_dim(codec: Codec) -> int:
    """Size of the codec's vectors."""
    return codec.network.codebooks.shape[2]


def start_embeddings(model: SoundStorm, codec: Codec) -> None:
    """Set the code embeddings of `model` to the vectors of `codec` in random directions of its width; MASK keeps its
    random ones.

    The directions are drawn from torch's generator; a frame's sum over the levels has variance 1 in the mean over
    the channels, about as much as the random start has.
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
    """What a network with `centroids` starts from, by name of its tensors: the centroids, and how often each code
    occurs as output biases.

    Args:
        config: of the network.
        codec: of its codes.
        log_share_QK: logarithm of the share of each code of each level, see `soundstorm.model.centroids.log_counts`.

    Raises:
        SoundStormError: the network has no centroids, or those of another codec.
    """
    if not config.centroids:
        raise SoundStormError("this network has no centroids: set centroids to true")
    centroids = centroids_of(config, codec)
    biases = "head.head_bias" if config.order == "places" else "head_bias"
    return {f"centroids.{name}": value for name, value in centroids.state_dict().items()} | {biases: log_share_QK}
