"""A generator that decides all levels of a place at once: a bidirectional Conformer sees all levels of the known
places, and a small head samples the levels of the others.

SoundStorm goes through a clip level by level, and a training step trains one level. Here, all levels of a place are
either known or masked; the network sees the full sound of the known places, and every training step trains all levels
of the masked ones.

Legend: B batch, Q levels, T places (frames of codes), N places whose logits are computed, D width, K codebook size, L
size of a centroid.
"""

import math

import torch
from torch import Tensor, nn

from soundstorm.errors import SoundStormError
from soundstorm.model.centroids import Centroids
from soundstorm.model.config import ModelConfig
from soundstorm.model.conformer import Conformer
from soundstorm.model.place_head import LevelByLevel, PlaceHead
from soundstorm.model.starting_weights import start_layers, start_projection
from soundstorm.model.timbre import Timbre
from soundstorm.optimization.linear import Linear


class PlaceNetwork(nn.Module):
    """Projected sum of the centroids of a place's codes, or a MASK vector; class embedding; timbre; Conformer; head
    over the levels.

    Codes run from 0 to K - 1; `mask_id` (K) stands for an unknown code. Labels run from 0 to num_classes - 1;
    `no_class` (num_classes) stands for none.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.order != "places":
            raise SoundStormError(f"order is {config.order}: a PlaceNetwork needs order places")
        self.config = config
        self.centroids = Centroids(config.num_levels, config.codebook_size, config.centroid_dim)
        self.take_in = Linear(config.centroid_dim, config.width)
        self.mask_vector = nn.Parameter(torch.zeros(config.width))
        self.class_embedding = nn.Embedding(config.num_classes + 1, config.width)
        self.timbre = Timbre(config) if config.timbre_dim else None
        self.conformer = Conformer.of(config)
        self.head = PlaceHead(config)
        self._initialize()

    def _initialize(self) -> None:
        """Normal weights of variance 1 / fan-in, residual branches scaled down with depth, logits near their biases."""
        start_layers(self, self.conformer)
        start_projection(self.take_in.weight, self.take_in.in_features, math.sqrt(0.5))
        nn.init.normal_(self.mask_vector, std=math.sqrt(0.5))
        nn.init.normal_(self.class_embedding.weight, std=math.sqrt(0.5))
        self.head.initialize()
        if self.timbre is not None:
            self.timbre.initialize()

    @property
    def mask_id(self) -> int:
        return self.config.codebook_size

    @property
    def no_class(self) -> int:
        return self.config.num_classes

    @property
    def device(self) -> torch.device:
        return self.mask_vector.device

    def timbre_of(self, codes_BQT: Tensor, valid_BT: Tensor) -> Tensor | None:
        """Timbres (B, S) of clips whose codes are all known; None if the network is not conditioned on timbre."""
        if self.timbre is None:
            return None
        B, Q, T = codes_BQT.shape
        with torch.no_grad():
            sums_NL = self.centroids.sums(
                codes_BQT.masked_fill(~valid_BT[:, None, :], 0).transpose(1, 2).reshape(B * T, Q)
            )
            return self.timbre.of(sums_NL.view(B, T, -1), valid_BT)

    def embed(self, codes_BQT: Tensor, known_BT: Tensor, label_B: Tensor, timbre_BS: Tensor | None = None) -> Tensor:
        """Input of the Conformer, (B, T, D).

        Args:
            codes_BQT: int64 codes; any value at masked places.
            known_BT: True at places whose codes the network sees.
            label_B: int64 class, or `no_class`.
            timbre_BS: timbre of each clip; None or a row of NaN: unknown.
        """
        B, Q, T = codes_BQT.shape
        codes_NQ = codes_BQT.masked_fill(~known_BT[:, None, :], 0).transpose(1, 2).reshape(B * T, Q)
        x_BTD = self.take_in(self.centroids.sums(codes_NQ)).view(B, T, -1)
        x_BTD = torch.where(known_BT[..., None], x_BTD, self.mask_vector.to(x_BTD.dtype))
        x_BTD = x_BTD + self.class_embedding(label_B)[:, None, :]
        return x_BTD if self.timbre is None else x_BTD + self.timbre(timbre_BS).unsqueeze(-2)

    def hidden(
        self,
        codes_BQT: Tensor,
        known_BT: Tensor,
        label_B: Tensor,
        valid_BT: Tensor | None,
        timbre_BS: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) of the places.

        Args:
            codes_BQT, known_BT, label_B, timbre_BS: as in `embed`.
            valid_BT: True at real places, of which every clip has at least one; padding is masked in attention. None:
                all are real.
        """
        if valid_BT is not None:
            known_BT = known_BT & valid_BT
        return self.conformer(self.embed(codes_BQT, known_BT, label_B, timbre_BS), valid_BT)

    def forward(
        self,
        codes_BQT: Tensor,
        known_BT: Tensor,
        label_B: Tensor,
        valid_BT: Tensor,
        asked_BT: Tensor,
        timbre_BS: Tensor | None = None,
    ) -> Tensor:
        """Logits (Q, N, K) of all levels of the places where `asked_BT` is True, each level given the codes below it.

        Args:
            codes_BQT, known_BT, label_B, valid_BT, timbre_BS: as in `hidden`; `codes_BQT` must have the true codes at
                `asked_BT` too.
            asked_BT: masked real places whose logits are computed.
        """
        x_BTD = self.hidden(codes_BQT, known_BT, label_B, valid_BT, timbre_BS)
        return self.head(x_BTD[asked_BT], codes_BQT.transpose(1, 2)[asked_BT], self.centroids)

    def level_by_level(self, x_ND: Tensor) -> LevelByLevel:
        """Decoder of places level by level, from their features (N, D)."""
        return LevelByLevel(self.head, self.centroids, x_ND)

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
