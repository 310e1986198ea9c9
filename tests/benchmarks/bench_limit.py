"""How near a clip, a training step and a second of codec come to their matrix products alone.

`python tests/benchmarks/bench_limit.py [clips] [passes] [device]`, on one thread of a CPU or on a GPU; the packaged
model, 8 clips of 5 s and 8 passes unless others are given, one draw. Of each kind of work it tells the seconds, which
part of them went into what, and the seconds of the same matrix products alone: of the same number, shapes and type, one
after another. The last divided by the first is the share that the hardware would need. Both are medians of rounds that
take turns.
"""

import contextlib
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec
from soundstorm.generation import decoding_task
from soundstorm.generation.decoding import generate_codes
from soundstorm.model.checkpoints import Checkpoint, load_checkpoint
from soundstorm.model.place_head import LevelByLevel, PlaceHead
from soundstorm.model.place_network import PlaceNetwork
from soundstorm.optimization.ema import EMA
from soundstorm.optimization.precision import uses_bf16
from soundstorm.serialization.bundled import bundled_file
from soundstorm.training.batches import collate, seeded_generator
from soundstorm.training.step import apply_gradients, build_optimizer, build_schedule, training_step

CLIP_S, ROUNDS = 5.0, 5
Work = Callable[[], object]
Product = tuple[int, int, int, int, torch.dtype]
"""Matrices at once, rows, summands and columns of a product, and its type."""
PARTS = (
    (PlaceNetwork, "hidden", "network"),
    (LevelByLevel, "logits", "head"),
    (PlaceHead, "forward", "head"),
    (decoding_task, "filtered_probability", "drawing"),
    (decoding_task, "sample_codes", "drawing"),
)
"""What is told apart: owner and name of a function, and its part."""


class Products(TorchDispatchMode):
    """Counts the matrix products that are computed, those of attention too."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            self._count(*args[-2:] if name in ("mm", "bmm") else args[1:3])
        elif name == "_linear_pointwise":
            rows = args[0].numel() // args[0].shape[-1]
            self.counts[1, rows, args[0].shape[-1], args[1].shape[0], args[0].dtype] += 1
        elif name.startswith("_scaled_dot_product") and "backward" not in name:
            query, key = args[:2]
            heads, (queries, keys, size) = query.shape[:-2].numel(), (query.shape[-2], key.shape[-2], query.shape[-1])
            self.counts[heads, queries, size, keys, query.dtype] += 1
            self.counts[heads, queries, keys, size, query.dtype] += 1
        return func(*args, **(kwargs or {}))

    def _count(self, left: Tensor, right: Tensor) -> None:
        self.counts[left.shape[:-2].numel(), *left.shape[-2:], right.shape[-1], left.dtype] += 1


def alone(counts: Counter[Product], device: torch.device) -> Work:
    """The same products, and nothing else."""
    cases = []
    for (matrices, rows, summands, columns, dtype), count in counts.items():
        left = torch.randn(matrices, rows, summands, device=device).to(dtype)
        right = torch.randn(matrices, summands, columns, device=device).to(dtype)
        cases.append((left, right, torch.empty(matrices, rows, columns, dtype=dtype, device=device), count))

    @torch.inference_mode()
    def work() -> None:
        for left, right, result, count in cases:
            for _ in range(count):
                torch.bmm(left, right, out=result)

    return work


def seconds(work: Work, device: torch.device) -> float:
    """Of this process on a CPU, so that others do not count; by the clock on a GPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    begun = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - begun


@contextlib.contextmanager
def labelled() -> Iterator[None]:
    """The parts have names in a profile meanwhile."""
    with contextlib.ExitStack() as stack:
        for owner, name, part in PARTS:
            function = getattr(owner, name)

            def named(*args: Any, function: Any = function, part: str = part, **kwargs: Any) -> Any:
                with record_function(part):
                    return function(*args, **kwargs)

            stack.enter_context(mock.patch.object(owner, name, named))
        yield


def parts(work: Work, device: torch.device) -> dict[str, float]:
    """Share of each part, and of copies and casts wherever they are, in one run."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with labelled(), profile(activities=activities) as profiled, record_function("all"):
        work()
    found = {event.key: event for event in profiled.key_averages()}
    total = found["all"].cpu_time_total
    names = [name for name in dict.fromkeys(part for *_, part in PARTS) if name in found]
    shares = {name: found[name].cpu_time_total / total for name in names}
    return shares | {"copies": found["aten::copy_"].self_cpu_time_total / total if "aten::copy_" in found else 0.0}


def report(name: str, work: Work, device: torch.device, unit: str, units: float) -> None:
    """Measure one kind of work, and print a line."""
    work()
    with Products() as products:
        work()
    product_work = alone(products.counts, device)
    product_work()
    rounds = [(seconds(work, device), seconds(product_work, device)) for _ in range(ROUNDS)]
    whole_s, products_s = (statistics.median(each) for each in zip(*rounds, strict=True))
    told = ", ".join(f"{part} {share:.0%}" for part, share in parts(work, device).items() if share)
    sys.stdout.write(
        f"{name}: {1e3 * whole_s / units:.1f} ms {unit}, its matrix products alone {1e3 * products_s / units:.1f} ms: "
        f"{products_s / whole_s:.0%}; {told}\n"
    )
    sys.stdout.flush()


def training(checkpoint: Checkpoint, codes: list[np.ndarray], device: torch.device) -> Work:
    """A training step of these clips."""
    model, config = checkpoint.model, checkpoint.training
    batch = collate(codes, [index % len(checkpoint.categories) for index in range(len(codes))]).to(device)
    optimizer, drawn = build_optimizer(model, config), seeded_generator(0)
    schedule, ema = build_schedule(optimizer, config, 100_000), EMA(model, config.ema_decay)

    def work() -> None:
        loss = training_step(model.train(), batch, drawn, config).loss
        apply_gradients(model, loss, optimizer, schedule, config, ema)

    return work


def main(clips: int = 8, passes: int = 8, device_name: str = "cpu") -> None:
    device = torch.device(device_name)
    if device.type == "cpu":
        torch.set_num_threads(1)
    codec: Codec = load_codec(device=device_name)
    checkpoint = load_checkpoint(Path(str(bundled_file("esc50"))), device)
    sounds = [
        synthesize(CLASSES[index % len(CLASSES)], index, CLIP_S, codec.sample_rate).astype(np.float32)
        for index in range(clips)
    ]
    whole = codec.encode_clips(sounds)
    codes = [codes_QT[: checkpoint.model.config.num_levels].astype(np.int64) for codes_QT in whole]
    settings = replace(checkpoint.sampler, iterations=passes)
    bf16, labels, lengths = uses_bf16(device, "auto"), torch.arange(clips), [codes[0].shape[1]] * clips
    sys.stdout.write(f"{device_name}, {'bfloat16' if bf16 else 'float32'}, {clips} clips of {CLIP_S:g} s\n")

    def generation() -> None:
        generate_codes(checkpoint.model, labels, lengths, settings, list(range(clips)), bf16=bf16)

    report(f"codes, {passes} passes", generation, device, "a clip", clips)
    report("training step", training(checkpoint, codes, device), device, "a clip", clips)
    report("codec, encode", lambda: codec.encode_clips(sounds[:1]), device, "a second", CLIP_S)
    report("codec, decode", lambda: codec.decode_clips(whole[:1]), device, "a second", CLIP_S)


if __name__ == "__main__":
    main(*(int(argument) if argument.isdecimal() else argument for argument in sys.argv[1:]))  # type: ignore[arg-type]
