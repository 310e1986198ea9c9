"""A classifier on codes: the generator's network processes all levels of a clip's codes, and its outputs are pooled
over time.

The network is conditioned on no class. If `latent_dim` is not 0, it also receives the codebook vectors of the codes, so
that similar codes have similar inputs from the first step. The pooled input is a learned mixture of the outputs of all
blocks, because the last block of a generator predicts the next codes rather than describing the sound; or what further
Conformer blocks make of all of them, which a network needs whose own blocks are not trained. Attentive statistics
pooling (Okabe et al., arXiv 1803.10963) is followed by one linear layer.

Legend: B batch, Q levels, T codec frames, K codebook size, L size of a codebook vector, D width, H heads, F pooled
features, C categories.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Interval
from pydantic.dataclasses import dataclass as checked
from torch import Tensor, nn

from soundstorm.codec.codec import Codec
from soundstorm.errors import SoundStormError
from soundstorm.model.code_vectors import code_vectors
from soundstorm.model.config import ModelConfig
from soundstorm.model.conformer import Conformer
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.settings import Settings, ShareBelow1

TokenMode = Literal["fine-tuned", "frozen", "codec", "scratch"]
"""fine-tuned: from a generator, all weights are trained; frozen: from a generator, whose weights are not trained;
codec: from random weights and codebook vectors; scratch: from random weights alone."""
MIN_VARIANCE = 1e-5
"""Added to variances before their square root."""
BLOCK_DROPOUT = 0.1
"""Dropout probability within further blocks."""
NORM_MOMENTUM = 0.05
"""Momentum of the running statistics of the pooled features."""


@checked(kw_only=True, frozen=True)
class ReadoutConfig(Settings):
    """Architecture of a `TokenClassifier` besides the generator's network."""

    NAMED: ClassVar[str] = "classifier setting {name}"
    REMEDY: ClassVar[str] = "give"
    ADDED_LATER: ClassVar[tuple[str, ...]] = ("blocks",)

    latent_dim: Annotated[int, Interval(ge=0, le=16_384)]
    """Size of the codebook vectors that are added to the generator's embeddings; 0: none."""
    heads: Annotated[int, Interval(ge=1, le=1_024)] = 4
    """Number of parts of the width whose frames have separate attention weights."""
    dropout: ShareBelow1 = 0.3
    """Dropout probability of the pooled features."""
    blocks: Annotated[int, Interval(ge=0, le=16)] = 0
    """Conformer blocks between the network's outputs and the pooling."""


class AttentiveStatistics(nn.Module):
    """Mean and standard deviation over the valid frames, weighted by a small attention network with several heads: (B,
    T, D) to (B, 2 D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.hidden = nn.Linear(width, width)
        self.query = nn.Linear(width, heads, bias=False)

    def forward(self, x_BTD: Tensor, valid_BT: Tensor) -> Tensor:
        B, T, _ = x_BTD.shape
        score_BTH = self.query(torch.tanh(self.hidden(x_BTD))).float()
        weight_BTH = score_BTH.masked_fill(~valid_BT[:, :, None], -torch.inf).softmax(1)
        return mean_and_std(x_BTD.float().view(B, T, self.heads, -1), weight_BTH[..., None])


def mean_and_std(x: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean and standard deviation of x (B, T, ...) over frames: (B, 2 D); the weights of a clip's frames add
    up to 1."""
    mean = (weight * x).sum(1, keepdim=True)
    variance = (weight * (x - mean).square()).sum(1)
    return torch.cat([mean.flatten(1), (variance + MIN_VARIANCE).sqrt().flatten(1)], 1)


@dataclass(kw_only=True, frozen=True)
class TokenEmbeddings:
    """The inputs of the network."""

    x_BTD: Tensor
    """Sums of the generator's embeddings."""
    latent_BTL: Tensor
    """Sums of the codebook vectors."""
    valid_BT: Tensor
    """True at valid frames, False at padding."""


class TokenClassifier(nn.Module):
    """Maps codes to a logit for each category; padding has no effect.

    Args:
        num_categories: number of outputs.
        network: architecture of the generator, whose heads are not used.
        readout: architecture of the rest.
    """

    code_vectors: Tensor
    """The codebook vectors, (Q (K + 1), L), zeros for MASK. They are not stored in the classifier's file:
    `set_codebook_embeddings` sets them."""

    def __init__(self, num_categories: int, network: ModelConfig, readout: ReadoutConfig) -> None:
        super().__init__()
        if network.order != "levels" or network.centroids:
            raise SoundStormError(
                "a classifier on codes starts from a generator of order levels without centroids, this one has order "
                f"{network.order}"
                f"{' and centroids' if network.centroids else ''}: train one with --preset hearing"
            )
        if network.width % readout.heads:
            raise SoundStormError(
                f"classifier setting heads is {readout.heads}: give a divisor of width {network.width}"
            )
        self.num_categories, self.network, self.readout = num_categories, network, readout
        self.backbone = SoundStorm(network)
        self.backbone.register_parameter("head_weight", None)
        self.backbone.register_parameter("head_bias", None)
        self.take_in = nn.Linear(readout.latent_dim, network.width, bias=False) if readout.latent_dim else None
        if self.take_in is not None:  # codes absent from the training data are represented by their vectors alone
            nn.init.normal_(self.take_in.weight, std=readout.latent_dim**-0.5)
            nn.init.zeros_(self.backbone.code_embedding.weight)
        self.register_buffer(
            "code_vectors",
            torch.zeros(network.num_levels * (network.codebook_size + 1), readout.latent_dim),
            persistent=False,
        )
        self.stage_weight = nn.Parameter(torch.zeros(network.depth + 1))
        self.all_stages, self.further = None, None
        if readout.blocks:
            self.stage_weight.requires_grad_(False)
            self.all_stages = nn.Linear((network.depth + 1) * network.width, network.width)
            self.further = Conformer.of(replace(network, depth=readout.blocks, dropout=BLOCK_DROPOUT))
        self.pooling = AttentiveStatistics(network.width, readout.heads)
        num_features = 2 * (network.width + readout.latent_dim)
        self.norm = nn.BatchNorm1d(num_features, affine=False, momentum=NORM_MOMENTUM)
        self.head = nn.Linear(num_features, num_categories)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    @property
    def device(self) -> torch.device:
        return self.code_vectors.device

    def load_generator(self, weights: Mapping[str, Tensor]) -> None:
        """Load the weights of a generator of this architecture, except its heads. `take_in` becomes 0, so the hidden
        states are those of the generator."""
        mine = self.backbone.state_dict()
        self.backbone.load_state_dict({name: value for name, value in weights.items() if name in mine})
        if self.take_in is not None:
            nn.init.zeros_(self.take_in.weight)

    def set_codebook_embeddings(self, codec: Codec) -> None:
        """Set the codebook vectors to those of the codec, normalized by the standard deviation of their sum over the
        levels."""
        if self.readout.latent_dim:
            self.code_vectors.copy_(code_vectors(codec))

    def embed(self, codes_BQT: Tensor, valid_BT: Tensor) -> TokenEmbeddings:
        """Embed codes (B, Q, T); masked codes are `backbone.mask_id`, padding frames, where `valid_BT` is False, may
        have any value."""
        B, _, T = codes_BQT.shape
        no_class_B = torch.full((B,), self.backbone.no_class, device=codes_BQT.device)
        x_BTD = self.backbone.embed(codes_BQT, no_class_B, valid_BT)
        if not self.readout.latent_dim:
            return TokenEmbeddings(x_BTD=x_BTD, latent_BTL=x_BTD[..., :0], valid_BT=valid_BT)
        rows = self.backbone.code_rows(codes_BQT.masked_fill(~valid_BT[:, None, :], self.backbone.mask_id))
        latent_BTL = F.embedding_bag(rows, self.code_vectors, mode="sum").view(B, T, -1)
        return TokenEmbeddings(x_BTD=x_BTD, latent_BTL=latent_BTL, valid_BT=valid_BT)

    def frames(self, embedded: TokenEmbeddings) -> Tensor:
        """Normalized outputs of all blocks, averaged with learned weights, or what further blocks make of them: (B, T,
        D)."""
        x_BTD = embedded.x_BTD if self.take_in is None else embedded.x_BTD + self.take_in(embedded.latent_BTL)
        *inner, last_BTD = self.backbone.conformer.hidden_states(x_BTD, embedded.valid_BT)
        normed = [F.layer_norm(stage_BTD, (self.network.width,)) for stage_BTD in inner] + [
            self.backbone.conformer.norm(last_BTD)
        ]
        if self.all_stages is not None and self.further is not None:
            return self.further(self.all_stages(torch.cat(normed, -1)), embedded.valid_BT)
        return torch.stack(
            [share * stage_BTD for share, stage_BTD in zip(self.stage_weight.softmax(0), normed, strict=True)]
        ).sum(0)

    def score(self, frames_BTD: Tensor, latent_BTL: Tensor, valid_BT: Tensor) -> Tensor:
        """Logits (B, C) from the result of `frames` and the sums of codebook vectors."""
        pooled_BF = self.pooling(frames_BTD, valid_BT)
        if self.readout.latent_dim:
            weight_BT1 = (valid_BT / valid_BT.sum(1, keepdim=True))[..., None]
            pooled_BF = torch.cat([pooled_BF, mean_and_std(latent_BTL.float(), weight_BT1)], 1)
        return self.head(F.dropout(self.norm(pooled_BF), self.readout.dropout, self.training))

    def forward(self, codes_BQT: Tensor, valid_BT: Tensor) -> Tensor:
        """Logits (B, C) for codes (B, Q, T), int64; `valid_BT` is True at valid frames, at least one per clip."""
        embedded = self.embed(codes_BQT, valid_BT)
        return self.score(self.frames(embedded), embedded.latent_BTL, valid_BT)
