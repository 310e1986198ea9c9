"""What a GPU gains over all cores of its machine: tokenizing, a training step, generation and classification, each on
both in the same run.

`python tests/benchmarks/bench_device.py`; it needs a GPU, and neither Ray nor recordings. The argument is the number of
clips of 5 s. Each is run once to warm up, and then as often as fits into two seconds, at least once.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from soundstorm.audio.files import to_pcm16
from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.classification.classifier import open_classifier
from soundstorm.codec.files import load_codec
from soundstorm.generation.decoding import generate_codes
from soundstorm.model.checkpoints import load_checkpoint
from soundstorm.optimization.ema import EMA
from soundstorm.optimization.precision import uses_bf16
from soundstorm.serialization.bundled import bundled_file
from soundstorm.training.batches import collate, seeded_generator
from soundstorm.training.step import apply_gradients, build_optimizer, build_schedule, training_step


def seconds_each(work: Callable[[], object], device: str) -> float:
    """Mean time of a run."""
    runs = 0
    for timed in (False, True):
        begun = time.perf_counter()
        while runs == 0 or (timed and time.perf_counter() - begun < 2):
            work()
            runs += 1
        if device == "cuda":
            torch.cuda.synchronize()
        taken_s = time.perf_counter() - begun
        runs, counted = 0, runs
    return taken_s / counted


def works(device: str, sounds: list[np.ndarray]) -> dict[str, tuple[int, Callable[[], object]]]:
    """Name, number of clips and function of each kind of work."""
    codec, found = load_codec(device=device), load_checkpoint(Path(str(bundled_file("esc50"))))
    model, bf16 = found.model.to(device), uses_bf16(torch.device(device), "auto")
    codes = [codes_QT[: model.config.num_levels].astype(np.int64) for codes_QT in codec.encode_clips(sounds)]
    lengths = [codes_QT.shape[1] for codes_QT in codes]
    batch = collate(codes[: found.training.batch_size], [0] * min(len(codes), found.training.batch_size)).to(device)
    labels, seeds = torch.arange(len(sounds)) % len(found.categories), list(range(len(sounds)))
    optimizer, drawn = build_optimizer(model, found.training), seeded_generator(0)
    schedule, ema = build_schedule(optimizer, found.training, 100_000), EMA(model, found.training.ema_decay)
    classifier = open_classifier(
        bundled_file("audio_classifier.safetensors").read_bytes(), "the package", device=device
    )
    recordings = [to_pcm16(sound_N) for sound_N in sounds]

    def train() -> None:
        apply_gradients(
            model.train(),
            training_step(model, batch, drawn, found.training).loss,
            optimizer,
            schedule,
            found.training,
            ema,
        )

    def generate() -> None:
        codec.decode_clips(
            [made.numpy() for made in generate_codes(model.eval(), labels, lengths, found.sampler, seeds, bf16=bf16)]
        )

    return {
        "tokenize": (len(sounds), lambda: codec.encode_clips(sounds)),
        "generate": (len(sounds), generate),
        "training step": (len(batch.label_B), train),
        "classify": (len(sounds), lambda: classifier.predict(recordings)),
    }


def main(clips: int = 32) -> None:
    if not torch.cuda.is_available():
        sys.exit("there is no GPU here to compare with")
    sounds = [
        synthesize(CLASSES[index % len(CLASSES)], index, 5.0, 24_000).astype(np.float32) for index in range(clips)
    ]
    sys.stdout.write(f"{torch.cuda.get_device_name()} and {torch.get_num_threads()} threads of a CPU\n")
    on_cpu, on_gpu = works("cpu", sounds), works("cuda", sounds)
    for name, (count, work) in on_cpu.items():
        cpu_s, gpu_s = seconds_each(work, "cpu"), seconds_each(on_gpu[name][1], "cuda")
        sys.stdout.write(
            f"{name}: {count / gpu_s:.0f} clips/s on the GPU, {count / cpu_s:.1f} on the CPU: {cpu_s / gpu_s:.1f} "
            "times as fast\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
