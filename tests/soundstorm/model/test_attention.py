"""`attend` against torch's own attention."""

import pytest
import torch
import torch.nn.functional as F

from soundstorm.model.attention import attend


@pytest.mark.parametrize("kind", ["free", "causal", "masked"])
def test_training_in_bfloat16_gives_the_attention_and_the_gradients_of_float32(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (3, 2, 7, 16)
    inputs = [torch.randn(shape, generator=generator) for _ in range(3)]
    mask = torch.tensor([[7], [4], [1]]) > torch.arange(7) if kind == "masked" else None
    mask = None if mask is None else mask[:, None, None, :]
    exact = [value.clone().requires_grad_() for value in inputs]
    short = [value.bfloat16().requires_grad_() for value in inputs]
    expected = F.scaled_dot_product_attention(*exact, attn_mask=mask, is_causal=kind == "causal")
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(*short, mask, is_causal=kind == "causal")
    weight = torch.randn(shape, generator=generator)
    (expected * weight).sum().backward()
    (found.float() * weight).sum().backward()
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.03)
    for one, other in zip(short, exact, strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(one.grad.float(), other.grad, atol=0.06, rtol=0.06)
