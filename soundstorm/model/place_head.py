"""Predicts the codes of a place level by level, from the network's output at the place and the levels below.

A small causal transformer over the levels, as in the RQ-Transformer (Lee et al., arXiv 2203.01941, section 3.2) and in
Moshi's depth transformer (Défossez et al., arXiv 2410.00037, section 3.4.2): the input of a level is the sum of the
centroids of the levels below it. In training, all levels of a place are computed at once (teacher forcing); in
decoding, they are sampled one after the other.

Legend: N places of any clips, Q levels, K codebook size, D width of the main network, H width of this one, L size of a
centroid.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstorm.model.attention import attend
from soundstorm.model.centroids import Centroids
from soundstorm.model.config import HEAD_CHANNELS, ModelConfig
from soundstorm.model.conformer import FeedForward, add
from soundstorm.model.starting_weights import start_projection
from soundstorm.optimization.linear import Linear

MAX_HEADS = 4
PADDED_TO = 128
"""The number of places is padded to a multiple of this: oneDNN prepares and caches its products for each size."""
FIRST_LOGITS = 0.2
"""Standard deviation of the logits at initialization, without the biases."""
Past = tuple[Tensor, Tensor]
"""Keys and values of the levels so far, (N, heads, levels, H / heads) each."""


class LevelAttention(nn.Module):
    """Layer norm, and attention of each level to itself and the levels below."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = math.gcd(MAX_HEADS, width // HEAD_CHANNELS)
        self.norm = nn.LayerNorm(width)
        self.query_key_value = Linear(width, 3 * width, bias=False)
        self.project = Linear(width, width)

    def forward(self, x_NQH: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        N, Q, H = x_NQH.shape
        query, key, value = (
            self.query_key_value(self.norm(x_NQH)).view(N, Q, 3, self.heads, H // self.heads).permute(2, 0, 3, 1, 4)
        )
        if past is not None:
            key, value = torch.cat((past[0], key), 2), torch.cat((past[1], value), 2)
        y = attend(query, key, value, is_causal=past is None)
        return self.project(y.transpose(1, 2).reshape(N, Q, H)), (key, value)


class LevelBlock(nn.Module):
    """Attention over the levels and a feed-forward module, each added to its input."""

    def __init__(self, width: int, ff_mult: int) -> None:
        super().__init__()
        self.attention = LevelAttention(width)
        self.feed_forward = FeedForward(width, ff_mult * width, 0.0)

    def forward(self, x_NQH: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        y_NQH, past = self.attention(x_NQH, past)
        x_NQH = x_NQH + y_NQH
        return add(x_NQH, self.feed_forward(x_NQH)), past


class PlaceHead(nn.Module):
    """Logits of each level of a place, given the network's output there and the codes of the levels below.

    Args:
        config: of the whole network.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.head_width
        self.take_in = Linear(config.width, width)
        self.take_below = Linear(config.centroid_dim, width, bias=False)
        self.level_embedding = nn.Embedding(config.num_levels, width)
        self.blocks = nn.ModuleList(LevelBlock(width, config.ff_mult) for _ in range(config.head_depth))
        self.norm = nn.LayerNorm(width)
        self.project_QHL = nn.Parameter(torch.empty(config.num_levels, width, config.centroid_dim))
        self.head_bias = nn.Parameter(torch.zeros(config.num_levels, config.codebook_size))

    def initialize(self) -> None:
        """Normal weights; the logits are initially close to their biases."""
        config_width, width = self.take_in.in_features, self.take_in.out_features
        start_projection(self.take_in.weight, config_width, 1.0)
        start_projection(self.take_below.weight, self.take_below.in_features, 1.0)
        nn.init.normal_(self.level_embedding.weight, std=0.5)
        start_projection(self.project_QHL, width, FIRST_LOGITS)
        for module in self.blocks.modules():
            if isinstance(module, LevelAttention | FeedForward):
                last = module.project if isinstance(module, LevelAttention) else module.contract
                with torch.no_grad():
                    last.weight.mul_(1 / math.sqrt(2 * len(self.blocks)))

    def forward(self, x_ND: Tensor, codes_NQ: Tensor, centroids: Centroids) -> Tensor:
        """Logits (Q, N, K) of all levels of places whose codes are given (teacher forcing), each level given those
        below it."""
        num_places = len(x_ND)
        if num_places > PADDED_TO:
            padding = (0, 0, 0, -num_places % PADDED_TO)
            x_ND, codes_NQ = F.pad(x_ND, padding), F.pad(codes_NQ, padding)
        x_NQH = (
            self.take_in(x_ND)[:, None, :] + self.take_below(centroids.below(codes_NQ)) + self.level_embedding.weight
        )
        for block in self.blocks:
            x_NQH, _ = block(x_NQH, None)
        projected_QNL = torch.bmm(self.norm(x_NQH).transpose(0, 1), self.project_QHL)
        return centroids.logits(projected_QNL, self.head_bias, slice(None))[:, :num_places]


class LevelByLevel:
    """Decodes places level by level: get the `logits` of the next level, then `take` the chosen codes.

    Args:
        head: the network over the levels.
        centroids: of the codec.
        x_ND: output of the main network at the places.
    """

    def __init__(self, head: PlaceHead, centroids: Centroids, x_ND: Tensor) -> None:
        self.head, self.centroids = head, centroids
        self.level = 0
        self._from_network_NH = head.take_in(x_ND)
        self._below_NL = x_ND.new_zeros(len(x_ND), head.take_below.in_features, dtype=torch.float32)
        self._past: list[Past | None] = [None] * len(head.blocks)

    def logits(self) -> Tensor:
        """Logits (N, K) of the next level, float32."""
        head = self.head
        x_N1H = (self._from_network_NH + head.take_below(self._below_NL) + head.level_embedding.weight[self.level])[
            :, None, :
        ]
        for index, block in enumerate(head.blocks):
            x_N1H, self._past[index] = block(x_N1H, self._past[index])
        projected_1NL = torch.matmul(head.norm(x_N1H)[:, 0], head.project_QHL[self.level])[None]
        return self.centroids.logits(projected_1NL, head.head_bias, slice(self.level, self.level + 1))[0].float()

    def take(self, codes_N: Tensor) -> None:
        """Set the codes of the level whose logits were computed last, and move on to the next level."""
        self._below_NL = self._below_NL + self.centroids.of_level(codes_N, self.level)
        self.level += 1
