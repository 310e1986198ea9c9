"""Our generator and codec beside soundstorm-pytorch and encodec, in turns, on one machine in one run.

    pip install soundstorm-pytorch --no-deps && pip install beartype einops hyper-connections tqdm
    python tests/benchmarks/bench_peers.py [clips] [threads]

The networks have the same width, depth, heads and convolutions (preset `reference`), random weights, and codes of
EnCodec's shape: 8 levels of 1,024 codes, 75 frames a second, clips of 5 s; 12 passes at the lowest level and one at
each other. A peer that is not installed is left out. What soundstorm-pytorch imports for text and speech is not used
here, and its modules are empty.
"""

import contextlib
import importlib.util
import io
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch

from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.codec.files import load_codec
from soundstorm.generation.decoding import generate_codes
from soundstorm.model.presets import preset
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.optimization.ema import EMA
from soundstorm.optimization.precision import uses_bf16
from soundstorm.training.batches import collate, seeded_generator
from soundstorm.training.step import apply_gradients, build_optimizer, build_schedule, training_step

LEVELS, CODES, FRAMES, RATE, CLIP_S, ROUNDS = 8, 1024, 375, 24_000, 5.0, 3
LOWEST_PASSES = 12
SPEECH = {
    "audiolm_pytorch": ("SoundStream", "HubertWithKmeans", "FairseqVQWav2Vec"),
    "spear_tts_pytorch": ("TextToSemantic",),
}
"""What soundstorm-pytorch imports for text and speech."""
Work = Callable[[], object]


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def peer_network() -> Any:
    """soundstorm-pytorch's generator of the same size."""
    for name, classes in SPEECH.items():
        module = ModuleType(name)
        for each in classes:
            setattr(module, each, type(each, (torch.nn.Module,), {}))
        sys.modules[name] = module
    package = ModuleType("soundstorm_pytorch")  # without its trainer, which needs the speech packages
    package.__path__ = list(importlib.util.find_spec("soundstorm_pytorch").submodule_search_locations)
    sys.modules["soundstorm_pytorch"] = package
    from soundstorm_pytorch.soundstorm import ConformerWrapper  # type: ignore[import-not-found]
    from soundstorm_pytorch.soundstorm import SoundStorm as Peer

    config = preset("reference").model
    conformer = {
        "dim": config.width,
        "depth": config.depth,
        "heads": config.heads,
        "dim_head": config.width // config.heads,
        "ff_mult": config.ff_mult,
        "conv_expansion_factor": config.conv_mult,
        "conv_kernel_size": config.kernel,
    }
    network = ConformerWrapper(codebook_size=CODES, num_quantizers=LEVELS, conformer=conformer)
    return Peer(network, steps=LOWEST_PASSES, schedule="cosine")


def quietly(work: Work) -> Work:
    """Without the progress bars of others."""

    def run() -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            work()

    return run


def compare(name: str, ours: Work, peers: dict[str, Work]) -> None:
    """Run both in turns after one run each; print medians and their ratio."""
    works = {"ours": ours} | peers
    times: dict[str, list[float]] = {each: [] for each in works}
    for work in works.values():
        work()
    for _ in range(ROUNDS):
        for each, work in works.items():
            begun = time.perf_counter()
            work()
            times[each].append(time.perf_counter() - begun)
    medians = {each: statistics.median(found) for each, found in times.items()}
    told = ", ".join(
        f"{each} {seconds:.3f} s ({seconds / medians['ours']:.1f} times ours)"
        for each, seconds in medians.items()
        if each != "ours"
    )
    sys.stdout.write(f"{name}: ours {medians['ours']:.3f} s{', ' if told else ''}{told}\n")
    sys.stdout.flush()


def networks(clips: int) -> None:
    """Generation and training of both generators."""
    chosen = preset("reference")
    torch.manual_seed(0)
    model = SoundStorm(replace(chosen.model, num_levels=LEVELS, codebook_size=CODES, num_classes=10))
    other = peer_network() if installed("soundstorm_pytorch") else None
    for each, network in (("ours", model), ("soundstorm-pytorch", other)):
        if network is not None:
            count = sum(parameter.numel() for parameter in network.parameters()) / 1e6
            sys.stdout.write(f"{each}: {count:.1f} M parameters\n")
    settings = replace(chosen.sampler, iterations=LOWEST_PASSES)
    for size in dict.fromkeys((1, clips)):
        label_B, lengths, seeds = torch.arange(size) % 10, [FRAMES] * size, list(range(size))
        for bf16 in sorted({False, uses_bf16(torch.device("cpu"), "auto")}):

            def generate(bf16: bool = bf16, label_B: Any = label_B, lengths: Any = lengths, seeds: Any = seeds) -> None:
                generate_codes(model.eval(), label_B, lengths, settings, seeds, bf16=bf16)

            def generate_peer(size: int = size) -> None:
                other.generate(num_latents=FRAMES, batch_size=size)

            peers = {} if other is None else {"soundstorm-pytorch": quietly(generate_peer)}
            compare(f"generate, {size} x {CLIP_S:g} s, {'bfloat16' if bf16 else 'float32'}", generate, peers)
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, CODES, (LEVELS, FRAMES)) for _ in range(clips)]
    batch, drawn, config = collate(codes, [index % 10 for index in range(clips)]), seeded_generator(0), chosen.training
    optimizer, ema = build_optimizer(model, config), EMA(model, config.ema_decay)
    schedule = build_schedule(optimizer, config, 100_000)

    def train() -> None:
        loss = training_step(model.train(), batch, drawn, config).loss
        apply_gradients(model, loss, optimizer, schedule, config, ema)

    peers = {}
    if other is not None:
        peer_optimizer = torch.optim.AdamW(other.parameters(), lr=config.lr)
        codes_BTQ = torch.from_numpy(np.stack(codes)).transpose(1, 2).contiguous()

        def train_peer() -> None:
            loss, _ = other.train()(codes_BTQ)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(other.parameters(), config.grad_clip)
            peer_optimizer.step()
            peer_optimizer.zero_grad()

        peers["soundstorm-pytorch"] = train_peer
    compare(f"training step, {clips} x {FRAMES} frames", train, peers)


def codecs(clips: int) -> None:
    """Both codecs; encodec at 6 kbit/s, with random weights."""
    codec = load_codec()
    sounds = [
        synthesize(CLASSES[index % len(CLASSES)], index, CLIP_S, RATE).astype(np.float32) for index in range(clips)
    ]
    codes = codec.encode_clips(sounds)
    peers: dict[str, dict[str, Work]] = {"encode": {}, "decode": {}}
    if installed("encodec"):
        from encodec import EncodecModel

        encodec = EncodecModel.encodec_model_24khz(pretrained=False).eval()
        encodec.set_target_bandwidth(6.0)
        audio_B1N = torch.from_numpy(np.stack(sounds))[:, None]
        with torch.inference_mode():
            frames = encodec.encode(audio_B1N)
        peers["encode"]["encodec"] = torch.inference_mode()(lambda: encodec.encode(audio_B1N))
        peers["decode"]["encodec"] = torch.inference_mode()(lambda: encodec.decode(frames))
    compare(f"codec, encode {clips} x {CLIP_S:g} s", lambda: codec.encode_clips(sounds), peers["encode"])
    compare(f"codec, decode {clips} x {CLIP_S:g} s", lambda: codec.decode_clips(codes), peers["decode"])


def main(clips: int = 8, threads: int = 2) -> None:
    torch.set_num_threads(threads)
    networks(clips)
    codecs(clips)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
