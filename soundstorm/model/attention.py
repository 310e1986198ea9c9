"""Scaled dot-product attention by the fastest kernel for the device."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """Softmax of the scaled products of queries and keys, times the values:
    `torch.nn.functional.scaled_dot_product_attention`.

    On CPUs, the backward pass of torch's fused kernel in bfloat16 is up to eight times slower than plain matrix
    products, so training on CPUs uses those.

    Args:
        query: (..., S, E).
        key, value: (..., T, E), of the query's type.
        attn_mask: True where a query may attend, broadcast to (..., S, T).
        is_causal: a query attends to keys at its own position and before; cannot be combined with a mask.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and torch.is_grad_enabled():
        return _by_products(query, key, value, attn_mask, is_causal)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, is_causal=is_causal)


def _by_products(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
    with torch.autocast(query.device.type, enabled=False):  # it would write the probabilities in float32
        scores = (query * (1 / math.sqrt(query.shape[-1]))) @ key.transpose(-1, -2)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        return torch.softmax(scores, -1) @ value
