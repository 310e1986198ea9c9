"""Depthwise convolution over frames on one core: Conv1d, channels-last Conv2d, and the latter with the weight gradient
of `DepthwiseConvolution`.

`python tests/benchmarks/bench_depthwise.py`; the arguments are the numbers of clips, frames, channels, and the kernel.
Ratios are to Conv1d in the same run.
"""

import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from soundstorm.model.conformer import DepthwiseConvolution, depthwise_conv2d


def best_time_s(step: Callable[[], object], repeats: int = 10) -> float:
    """Shortest of some runs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


def depthwise_conv1d(x_BTC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv1d(
        x_BTC.transpose(1, 2), weight.squeeze(2), bias, padding=weight.shape[-1] // 2, groups=weight.shape[0]
    ).transpose(1, 2)


def main(clips: int = 8, frames: int = 300, channels: int = 256, kernel: int = 31) -> None:
    torch.set_num_threads(1)
    x_BTC = torch.randn(clips, frames, channels, requires_grad=True)
    weight = torch.randn(channels, 1, 1, kernel, requires_grad=True)
    bias = torch.randn(channels, requires_grad=True)
    grad_BTC = torch.randn(clips, frames, channels)
    ways: dict[str, Callable[..., Tensor]] = {
        "Conv1d": depthwise_conv1d,
        "Conv2d": depthwise_conv2d,
        "ours": DepthwiseConvolution.apply,
    }
    sys.stdout.write(f"{clips} clips x {frames} frames x {channels} channels, kernel {kernel}\n")
    first: tuple[float, float] | None = None
    for name, convolve in ways.items():
        with torch.no_grad():
            forward_s = best_time_s(lambda convolve=convolve: convolve(x_BTC, weight, bias))  # type: ignore[misc]
        both_s = best_time_s(lambda convolve=convolve: convolve(x_BTC, weight, bias).backward(grad_BTC))  # type: ignore[misc]
        first = first or (forward_s, both_s)
        ratios = f"{first[0] / forward_s:.1f} and {first[1] / both_s:.1f} times as fast as Conv1d"
        sys.stdout.write(f"{name}: forward {1e3 * forward_s:.1f} ms, with backward {1e3 * both_s:.1f} ms, {ratios}\n")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
