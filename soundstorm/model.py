"""SoundStorm (Borsos et al., arXiv 2305.09636) with class conditioning: codes of all levels in, logits of one level out.

Legend: B batch, Q levels, T frames, D width, K codebook size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstorm.conformer import Attention, Conformer, Convolution, FeedForward
from soundstorm.presets import ModelConfig


class SoundStorm(nn.Module):
    """Sum of per-level code embeddings and a class embedding, a Conformer, and one linear head per level.

    Codes run from 0 to K - 1; `mask_id` (K) stands for a masked code, and has its own embedding at each level. Labels run from
    0 to num_classes - 1; `no_class` (num_classes) stands for none. The `reference` preset has 22.2 million parameters with 50 classes.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.code_embedding = nn.Embedding(config.num_levels * (config.codebook_size + 1), config.width)
        self.class_embedding = nn.Embedding(config.num_classes + 1, config.width)
        self.conformer = Conformer(
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            kernel=config.kernel,
            ff_mult=config.ff_mult,
            conv_mult=config.conv_mult,
            dropout=config.dropout,
        )
        # All heads in one tensor: a batch may mix levels, and every parameter has a gradient at each step, as DDP wants.
        self.head_weight = nn.Parameter(torch.empty(config.num_levels, config.codebook_size, config.width))
        self.head_bias = nn.Parameter(torch.empty(config.num_levels, config.codebook_size))
        self._initialize()

    def _initialize(self) -> None:
        """Normal weights of variance 1 / inputs, residual branches scaled down with depth, logits small: the first loss is ln K."""
        config = self.config
        nn.init.normal_(self.code_embedding.weight, std=1 / math.sqrt(config.num_levels + 1))
        nn.init.normal_(self.class_embedding.weight, std=1 / math.sqrt(config.num_levels + 1))
        nn.init.normal_(self.head_weight, std=0.2 / math.sqrt(config.width))
        nn.init.zeros_(self.head_bias)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, FeedForward | Attention | Convolution):
                last = module.project if isinstance(module, Attention) else module.contract
                with torch.no_grad():
                    last.weight.mul_(1 / math.sqrt(4 * config.depth))

    @property
    def mask_id(self) -> int:
        return self.config.codebook_size

    @property
    def no_class(self) -> int:
        return self.config.num_classes

    @property
    def device(self) -> torch.device:
        return self.head_bias.device

    def embed(self, codes_BQT: Tensor, label_B: Tensor, mask_BT: Tensor) -> Tensor:
        """What the Conformer takes in, (B, T, D): the sum of the embeddings of a frame's codes and of the class.

        Args:
            codes_BQT: int64 codes, `mask_id` where masked; any value at padding frames.
            label_B: int64 class, or `no_class`.
            mask_BT: True at real frames, of which every clip has at least one.
        """
        B, Q, T = codes_BQT.shape
        codes_BQT = codes_BQT.masked_fill(~mask_BT[:, None, :], self.mask_id)
        first_row_Q1 = torch.arange(Q, device=codes_BQT.device)[:, None] * (self.config.codebook_size + 1)
        rows = (codes_BQT + first_row_Q1).transpose(1, 2).reshape(B * T, Q)
        x_BTD = F.embedding_bag(rows, self.code_embedding.weight, mode="sum").view(B, T, -1)
        return x_BTD + self.class_embedding(label_B)[:, None, :]

    def hidden(self, codes_BQT: Tensor, label_B: Tensor, mask_BT: Tensor) -> Tensor:
        """Features (B, T, D) of the frames; the arguments are those of `embed`."""
        return self.conformer(self.embed(codes_BQT, label_B, mask_BT), mask_BT)

    def head(self, x_BTD: Tensor, level: int | Tensor) -> Tensor:
        """Logits (B, T, K) of one level for the whole batch, or of one level per clip (level_B int64); no other level is computed."""
        if isinstance(level, int):
            return F.linear(x_BTD, self.head_weight[level], self.head_bias[level])
        return torch.bmm(x_BTD, self.head_weight[level].transpose(1, 2)) + self.head_bias[level][:, None, :]

    def forward(self, codes_BQT: Tensor, label_B: Tensor, mask_BT: Tensor, level: int | Tensor) -> Tensor:
        """Logits (B, T, K) of `level`; the arguments are those of `hidden` and `head`."""
        return self.head(self.hidden(codes_BQT, label_B, mask_BT), level)

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
