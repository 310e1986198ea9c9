"""The bidirectional Conformer (Gulati et al., arXiv 2005.08100), independent of padding.

Every norm acts on single frames (no batch statistics); padding frames are zeroed before the depthwise convolution and
masked in attention. The outputs of a clip therefore do not depend on the other clips of its batch.

Legend: B batch, T frames, D width, H heads, C channels of the convolution, E width / heads.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from soundstorm.model.attention import attend
from soundstorm.model.config import ModelConfig
from soundstorm.optimization.linear import Linear

ROTARY_BASE = 10_000.0


def rotary_angles(num_frames: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine (T, E/2) of the rotary position angles (Su et al., arXiv 2104.09864)."""
    frequency = ROTARY_BASE ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angle = torch.outer(torch.arange(num_frames, device=device, dtype=torch.float32), frequency)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair of features (e, e + E/2) of queries or keys (..., E) by the angle of its frame, in the type of
    `x`; `cos` and `sin` (..., E/2) are broadcast."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return x * torch.cat((cos, cos), -1) + torch.cat((second, first), -1) * torch.cat((-sin, sin), -1)


class Rotation(torch.autograd.Function):
    """`rotate`, whose gradient is rotated back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return rotate(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return rotate(grad, cos, -sin), None, None


def add(x: Tensor, y: Tensor, share: float = 1.0) -> Tensor:
    """`x` + `share` * `y`, in place if gradients are off."""
    return torch.add(x, y, alpha=share) if torch.is_grad_enabled() else x.add_(y, alpha=share)


def silu(x: Tensor) -> Tensor:
    """SiLU, in place if gradients are off."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class DepthwiseConvolution(torch.autograd.Function):
    """Depthwise convolution over frames on a CPU, (B, T, C) with weight (C, 1, 1, kernel) and bias (C), kernel odd.

    A channels-last Conv2d of height 1 needs no copies, and its forward pass is ten times faster than that of Conv1d,
    but the gradient of its weight is slower. That gradient is therefore computed as a grouped correlation of input and
    output gradient, with one group per clip and channel. Timings: tests/benchmarks/bench_depthwise.py.
    """

    @staticmethod
    def forward(ctx: Any, x_BTC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x_BTC, weight)
        return depthwise_conv2d(x_BTC, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_BTC, weight = ctx.saved_tensors
        B, T, C = x_BTC.shape
        grad_BTC = grad_BTC.contiguous()
        padding = weight.shape[-1] // 2
        groups_in = F.pad(x_BTC.transpose(1, 2), (padding, padding)).view(1, B * C, 1, -1)
        groups_out = grad_BTC.transpose(1, 2).reshape(B * C, 1, 1, T)
        grad_weight = F.conv2d(groups_in, groups_out, groups=B * C).view(B, C, 1, 1, -1).sum(0)
        return depthwise_conv2d(grad_BTC, weight.flip(-1), None), grad_weight, grad_BTC.sum((0, 1))


def depthwise_conv2d(x_BTC: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise convolution as a Conv2d over channels-last memory."""
    y_BC1T = F.conv2d(
        x_BTC.unsqueeze(1).permute(0, 3, 1, 2), weight, bias, padding=(0, weight.shape[-1] // 2), groups=weight.shape[0]
    )
    return y_BC1T.permute(0, 2, 3, 1).squeeze(1)


class FeedForward(nn.Module):
    """Norm, linear, SiLU, linear."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = Linear(width, hidden)
        self.contract = Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.dropout(self.contract(silu(self.expand(self.norm(x_BTD)))))


class Attention(nn.Module):
    """Norm, multi-head self-attention over all real frames in both directions, with rotary positions."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query_key_value = Linear(width, 3 * width, bias=False)
        self.project = Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, key_mask_B11T: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        qkv_BT3HE = self.query_key_value(self.norm(x_BTD)).view(B, T, 3, self.heads, D // self.heads)
        query_key_BT2HE, value_BT1HE = qkv_BT3HE.split((2, 1), dim=2)
        query_key_BT2HE = Rotation.apply(query_key_BT2HE, cos[:, None, None], sin[:, None, None])
        query_BHTE, key_BHTE = query_key_BT2HE.permute(2, 0, 3, 1, 4)
        y_BHTE = attend(query_BHTE, key_BHTE, value_BT1HE.squeeze(2).transpose(1, 2), key_mask_B11T)
        return self.dropout(self.project(y_BHTE.transpose(1, 2).reshape(B, T, D)))


class Convolution(nn.Module):
    """Norm, gated linear unit, depthwise convolution over frames, norm, SiLU, linear."""

    def __init__(self, width: int, channels: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = Linear(width, 2 * channels)
        self.depthwise = nn.Conv2d(channels, channels, (1, kernel), padding=(0, kernel // 2), groups=channels)
        self.depthwise_norm = nn.LayerNorm(channels)
        self.contract = Linear(channels, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, frame_mask_BT1: Tensor | None) -> Tensor:
        x_BTC = F.glu(self.expand(self.norm(x_BTD)), dim=-1)
        if frame_mask_BT1 is not None:
            x_BTC = x_BTC * frame_mask_BT1
        with torch.autocast(x_BTC.device.type, enabled=False):  # bfloat16 makes this layer slower
            convolve = DepthwiseConvolution.apply if x_BTC.device.type == "cpu" else depthwise_conv2d
            x_BTC = convolve(x_BTC.float(), self.depthwise.weight, self.depthwise.bias)
        return self.dropout(self.contract(silu(self.depthwise_norm(x_BTC))))


class ConformerBlock(nn.Module):
    """Half a feed-forward module, attention, convolution, half a feed-forward module, each added to its input."""

    def __init__(self, width: int, heads: int, kernel: int, ff_mult: int, conv_mult: int, dropout: float) -> None:
        super().__init__()
        self.feed_forward_in = FeedForward(width, ff_mult * width, dropout)
        self.attention = Attention(width, heads, dropout)
        self.convolution = Convolution(width, conv_mult * width, kernel, dropout)
        self.feed_forward_out = FeedForward(width, ff_mult * width, dropout)

    def forward(self, x_BTD: Tensor, valid_BT: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        x_BTD = torch.add(x_BTD, self.feed_forward_in(x_BTD), alpha=0.5)
        key_mask_B11T = None if valid_BT is None else valid_BT[:, None, None, :]
        x_BTD = add(x_BTD, self.attention(x_BTD, key_mask_B11T, cos, sin))
        x_BTD = add(x_BTD, self.convolution(x_BTD, None if valid_BT is None else valid_BT[:, :, None]))
        return add(x_BTD, self.feed_forward_out(x_BTD), 0.5)


class Conformer(nn.Module):
    """Blocks and a final norm; (B, T, D) to (B, T, D)."""

    def __init__(
        self, *, width: int, depth: int, heads: int, kernel: int, ff_mult: int, conv_mult: int, dropout: float
    ) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.blocks = nn.ModuleList(
            ConformerBlock(width, heads, kernel, ff_mult, conv_mult, dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    @classmethod
    def of(cls, config: ModelConfig) -> "Conformer":
        """The Conformer of a network with these settings."""
        return cls(
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            kernel=config.kernel,
            ff_mult=config.ff_mult,
            conv_mult=config.conv_mult,
            dropout=config.dropout,
        )

    def forward(self, x_BTD: Tensor, valid_BT: Tensor | None) -> Tensor:
        """`valid_BT` is True at real frames, of which every clip needs at least one; outputs at padding have no
        meaning. None: no padding."""
        return self.norm(self.hidden_states(x_BTD, valid_BT)[-1])

    def hidden_states(self, x_BTD: Tensor, valid_BT: Tensor | None) -> list[Tensor]:
        """Hidden states: the input and the output of each block, before the final norm; (B, T, D) each."""
        mask = None if valid_BT is None or bool(valid_BT.all()) else valid_BT
        cos, sin = rotary_angles(x_BTD.shape[1], self.head_dim, x_BTD.device)
        hidden_states = [x_BTD]
        for block in self.blocks:
            hidden_states.append(block(hidden_states[-1], mask, cos, sin))
        return hidden_states
