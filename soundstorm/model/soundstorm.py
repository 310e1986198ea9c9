"""SoundStorm (Borsos et al., arXiv 2305.09636) with class conditioning: codes of all levels in, logits of one level
out.

Legend: B batch, Q levels, T frames, D width, K codebook size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstorm.errors import SoundStormError
from soundstorm.model.centroids import Centroids
from soundstorm.model.config import ModelConfig
from soundstorm.model.conformer import Conformer
from soundstorm.model.starting_weights import start_layers, start_projection
from soundstorm.optimization.linear import Linear

FIRST_LOGITS = 0.2
"""Standard deviation of the logits at initialization."""


class SoundStorm(nn.Module):
    """Sum of per-level code embeddings and a class embedding, a Conformer, and one linear head per level.

    Codes run from 0 to K - 1; `mask_id` (K) stands for a masked code, and has its own embedding at each level. Labels
    run from 0 to num_classes - 1; `no_class` (num_classes) stands for none. The `reference` preset has 22.2 million
    parameters with 50 classes. With `centroids`, codes are embedded and predicted by the codec's codebook vectors.
    """

    centroids: Centroids | None
    head_weight: nn.Parameter

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.order != "levels":
            raise SoundStormError(f"order is {config.order}: a SoundStorm network is of order levels")
        self.config = config
        self.centroids = (
            Centroids(config.num_levels, config.codebook_size, config.centroid_dim) if config.centroids else None
        )
        if self.centroids is None:
            self.code_embedding = nn.Embedding(config.num_levels * (config.codebook_size + 1), config.width)
        else:
            self.take_in = Linear(config.centroid_dim, config.width, bias=False)
            self.mask_embedding = nn.Embedding(config.num_levels, config.width)
        self.class_embedding = nn.Embedding(config.num_classes + 1, config.width)
        self.conformer = Conformer.of(config)
        # All heads in one tensor: a batch may mix levels, and DDP requires a gradient of every parameter at each step.
        rows = config.codebook_size if self.centroids is None else config.centroid_dim
        self.head_weight = nn.Parameter(torch.empty(config.num_levels, rows, config.width))
        self.head_bias = nn.Parameter(torch.empty(config.num_levels, config.codebook_size))
        self._initialize()

    def _initialize(self) -> None:
        """Normal weights of variance 1 / fan-in, residual branches scaled down with depth, small logits: the first loss
        is about ln K."""
        config = self.config
        embedding = self.code_embedding if self.centroids is None else self.mask_embedding
        nn.init.normal_(embedding.weight, std=1 / math.sqrt(config.num_levels + 1))
        nn.init.normal_(self.class_embedding.weight, std=1 / math.sqrt(config.num_levels + 1))
        start_projection(self.head_weight, config.width, FIRST_LOGITS)
        nn.init.zeros_(self.head_bias)
        start_layers(self, self.conformer)

    @property
    def mask_id(self) -> int:
        return self.config.codebook_size

    @property
    def no_class(self) -> int:
        return self.config.num_classes

    @property
    def device(self) -> torch.device:
        return self.class_embedding.weight.device

    def embed(self, codes_BQT: Tensor, label_B: Tensor, valid_BT: Tensor) -> Tensor:
        """Input of the Conformer, (B, T, D): the sum of the embeddings of a frame's codes and of the class.

        Args:
            codes_BQT: int64 codes, `mask_id` where masked; any value at padding frames.
            label_B: int64 class, or `no_class`.
            valid_BT: True at real frames, of which every clip has at least one.
        """
        B, Q, T = codes_BQT.shape
        codes_BQT = codes_BQT.masked_fill(~valid_BT[:, None, :], self.mask_id)
        if self.centroids is not None:
            return (
                self._embed_centroids(self.centroids, codes_BQT.transpose(1, 2).reshape(B * T, Q)).view(B, T, -1)
                + self.class_embedding(label_B)[:, None, :]
            )
        x_BTD = F.embedding_bag(self.code_rows(codes_BQT), self.code_embedding.weight, mode="sum").view(B, T, -1)
        return x_BTD + self.class_embedding(label_B)[:, None, :]

    def code_rows(self, codes_BQT: Tensor) -> Tensor:
        """Rows (B T, Q) of codes in a table of all levels, each level with a row for MASK after those of its codes."""
        first_row_Q1 = torch.arange(codes_BQT.shape[1], device=codes_BQT.device)[:, None] * (
            self.config.codebook_size + 1
        )
        return (codes_BQT + first_row_Q1).transpose(1, 2).flatten(0, 1)

    def _embed_centroids(self, centroids: Centroids, codes_NQ: Tensor) -> Tensor:
        """Frame embeddings (N, D): the projected sum of the visible codes' centroids, plus a mask embedding for each
        masked level."""
        visible_NQ = codes_NQ < self.mask_id
        return (
            self.take_in(centroids.visible_sums(codes_NQ, visible_NQ))
            + (~visible_NQ).to(self.mask_embedding.weight.dtype) @ self.mask_embedding.weight
        )

    def hidden(self, codes_BQT: Tensor, label_B: Tensor, valid_BT: Tensor) -> Tensor:
        """Hidden states (B, T, D) of the frames; arguments as in `embed`."""
        return self.conformer(self.embed(codes_BQT, label_B, valid_BT), valid_BT)

    def head(self, x_BTD: Tensor, level: int | Tensor) -> Tensor:
        """Logits (B, T, K) of one level for the whole batch, or of one level per clip (int64 (B,)); other levels are
        not computed."""
        if self.centroids is not None:
            levels = torch.tensor([level], device=x_BTD.device) if isinstance(level, int) else level
            projected = torch.matmul(x_BTD, self.head_weight[levels].transpose(1, 2))
            if isinstance(level, int):
                return self.centroids.logits(projected.flatten(0, 1)[None], self.head_bias, levels).view(
                    *x_BTD.shape[:2], -1
                )
            return self.centroids.logits(projected, self.head_bias, levels)
        if isinstance(level, int):
            return F.linear(x_BTD, self.head_weight[level], self.head_bias[level])
        return torch.bmm(x_BTD, self.head_weight[level].transpose(1, 2)) + self.head_bias[level][:, None, :]

    def forward(self, codes_BQT: Tensor, label_B: Tensor, valid_BT: Tensor, level: int | Tensor) -> Tensor:
        """Logits (B, T, K) of `level`; arguments as in `hidden` and `head`."""
        return self.head(self.hidden(codes_BQT, label_B, valid_BT), level)

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
