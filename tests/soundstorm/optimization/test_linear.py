"""Linear layers in bfloat16 training against torch's own."""

import pytest
import torch
from torch import Tensor, nn

from soundstorm.optimization.linear import Bfloat16Product, Linear


def outputs_and_gradients(layer: nn.Linear, x: Tensor, weight: Tensor) -> list[Tensor]:
    """Output, and gradients of input and parameters, of a layer under autocast."""
    layer.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    (y.float() * weight).sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad, *(each.grad for each in layer.parameters() if each.grad is not None)]


@pytest.mark.parametrize(("inputs", "outputs"), [(24, 40), (40, 24), (32, 32)])
@pytest.mark.parametrize("bias", [True, False])
def test_training_in_bfloat16_gives_the_output_and_the_gradients_of_torch(
    inputs: int, outputs: int, bias: bool
) -> None:
    torch.manual_seed(0)
    ours = Linear(inputs, outputs, bias=bias)
    theirs = nn.Linear(inputs, outputs, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    x, weight = torch.randn(3, 50, inputs), torch.randn(3, 50, outputs)
    found, expected = outputs_and_gradients(ours, x, weight), outputs_and_gradients(theirs, x, weight)
    assert torch.equal(found[0], expected[0])
    assert len(found) == len(expected) == (4 if bias else 3)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, atol=0.02, rtol=0.02)


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    x, layer = torch.randn(2, 8, requires_grad=True), Linear(8, 6)
    y = Bfloat16Product.apply(x.detach(), layer.weight, layer.bias)
    function = y.grad_fn
    assert function is not None
    found = function.apply(torch.ones_like(y))
    assert found[0] is None
    assert found[1].is_contiguous()
    assert found[1].shape == (6, 8)
    assert found[1].dtype == torch.float32


@pytest.mark.parametrize("setting", ["float32", "no gradients", "frozen"])
def test_without_bfloat16_or_gradients_it_is_torchs_layer(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> Tensor:
        raise AssertionError("the product for training in bfloat16")

    layer, x = Linear(6, 5), torch.randn(2, 6)
    monkeypatch.setattr(Bfloat16Product, "apply", never)
    with torch.autocast("cpu", torch.bfloat16, enabled=setting != "float32"):
        with torch.set_grad_enabled(setting != "no gradients"):
            found = layer.requires_grad_(setting != "frozen")(x)
        expected = nn.functional.linear(x, layer.weight, layer.bias)
        assert torch.equal(found, expected)
        if setting != "float32":
            with pytest.raises(AssertionError, match="training in bfloat16"):
                layer.requires_grad_()(x)
