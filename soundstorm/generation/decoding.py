"""Iterative decoding of codes, in the network's order: level by level (`soundstorm.generation.level_decoding`) or place
by place (`soundstorm.generation.place_decoding`).

Each sample has its own random generator, seeded with its seed, and draws as many random numbers as its length requires.
Its codes therefore do not depend on the other samples of the batch (in bfloat16: on other samples of the same length).

Legend: B batch, Q levels, T codec frames.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from soundstorm.errors import SoundStormError
from soundstorm.generation.bfloat16 import rounded_to_bfloat16
from soundstorm.generation.decoding_task import DecodingStep, DecodingTask
from soundstorm.generation.level_decoding import LevelNetwork, decode_levels
from soundstorm.generation.place_decoding import decode_places
from soundstorm.model.config import ModelConfig, SamplerSettings
from soundstorm.model.place_network import PlaceNetwork
from soundstorm.optimization.freed_memory import keep_freed_memory
from soundstorm.optimization.threads import on_threads

GROUP_FRAMES = 700, 1504
"""Fewest and most frames that are decoded together of a larger batch on a CPU: two to four clips of 5 s at 75 frames/s,
eight to sixteen of the packaged network. Two threads with such a group each need a sixth less time than both for the
whole batch."""


class Network(Protocol):
    """What decoding needs of a network of either order."""

    config: ModelConfig
    training: bool

    @property
    def mask_id(self) -> int: ...

    @property
    def no_class(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def train(self, mode: bool = True) -> object: ...


@dataclass(frozen=True)
class Known:
    """What is known of samples before they are generated: a prompt (`continuation`) or the context of a gap."""

    codes_BQT: Tensor
    """Codes (B, Q, longest length), int64; any value where none is known."""
    mask_BQT: Tensor
    """True where a code is known."""
    timbre_BS: Tensor | None = None
    """Timbre of each sample, from `PlaceNetwork.timbre_of`, for a network with timbre conditioning; None: sampled for
    the class if no code is known, else unknown."""


def continuation(prompts: Sequence[Tensor], num_frames_B: Sequence[int]) -> Known:
    """What is known of clips that begin with prompts.

    Args:
        prompts: codes (Q, frames) of the beginning of each clip.
        num_frames_B: length of each whole clip in frames.

    Raises:
        SoundStormError: a prompt is longer than its clip.
    """
    known_BQT = torch.zeros(len(prompts), prompts[0].shape[0], max(num_frames_B), dtype=torch.int64)
    known_mask_BQT = torch.zeros_like(known_BQT, dtype=torch.bool)
    for index, (prompt_QT, num_frames) in enumerate(zip(prompts, num_frames_B, strict=True)):
        if prompt_QT.shape[1] > num_frames:
            raise SoundStormError(
                f"a prompt of {prompt_QT.shape[1]} frames is longer than its clip of {num_frames} frames: give a "
                "longer duration"
            )
        known_BQT[index, :, : prompt_QT.shape[1]] = prompt_QT
        known_mask_BQT[index, :, : prompt_QT.shape[1]] = True
    return Known(known_BQT, known_mask_BQT)


def _check(
    model: Network, label_B: Tensor, num_frames_B: Sequence[int], seeds: Sequence[int], known: Known | None
) -> None:
    config, size = model.config, len(num_frames_B)
    if size == 0 or label_B.shape != (size,) or len(seeds) != size:
        raise SoundStormError(
            f"{tuple(label_B.shape)} labels, {size} lengths and {len(seeds)} seeds: give one of each per sample, and "
            "at least one sample"
        )
    if min(num_frames_B) < 1:
        raise SoundStormError(f"a sample of {min(num_frames_B)} frames: give at least 1 frame")
    if int(label_B.min()) < 0 or int(label_B.max()) > model.no_class:
        raise SoundStormError(
            f"labels {sorted(set(label_B.tolist()))}: this model has classes 0 to {config.num_classes - 1}"
        )
    if known is not None:
        shape = (size, config.num_levels, max(num_frames_B))
        if known.codes_BQT.shape != shape or known.mask_BQT.shape != shape:
            raise SoundStormError(
                f"known codes of shape {tuple(known.codes_BQT.shape)} with a mask of shape "
                f"{tuple(known.mask_BQT.shape)}: expected {shape}"
            )
        given = known.codes_BQT[known.mask_BQT]
        if given.numel() and (int(given.min()) < 0 or int(given.max()) >= config.codebook_size):
            raise SoundStormError(
                f"known codes from {int(given.min())} to {int(given.max())}: this model has codes 0 to "
                f"{config.codebook_size - 1}"
            )


def _parts(task: DecodingTask) -> list[DecodingTask]:
    """The samples of a large batch on a CPU in equal groups of `GROUP_FRAMES`, or all of them where their number has no
    such divisor. The groups do not depend on the number of threads, since in bfloat16 the codes can depend on the size
    of a group."""
    B, _, T = task.codes_BQT.shape
    fewest, most = GROUP_FRAMES
    if task.codes_BQT.device.type != "cpu" or task.on_step is not None or most >= B * T:
        return [task]
    sizes = [size for size in range(1, B) if B % size == 0 and fewest <= size * T <= most]
    size = max(sizes, default=B)
    return [task.part(first, first + size) for first in range(0, B, size)]


@torch.inference_mode()
def _decode(network: Network, task: DecodingTask) -> None:
    if isinstance(network, PlaceNetwork):
        decode_places(network, task)
    else:
        decode_levels(cast(LevelNetwork, network), task)


@torch.inference_mode()
def generate_codes(
    model: Network,
    label_B: Tensor,
    num_frames_B: Sequence[int],
    settings: SamplerSettings,
    seeds: Sequence[int],
    *,
    known: Known | None = None,
    bf16: bool = False,
    on_step: Callable[[DecodingStep], None] | None = None,
) -> list[Tensor]:
    """Generate the codes (Q, T), int64 on the CPU, of one sample per label.

    On a CPU, up to 256 MB of the memory that it frees stay with the process from the first call on
    (`soundstorm.optimization.freed_memory`).

    Args:
        model: the network; its mode (training or evaluation) is restored.
        label_B: int64 class of each sample, or `no_class`.
        num_frames_B: length of each sample in frames.
        settings: how codes are sampled.
        seeds: random seed of each sample.
        known: codes and timbre that are given; None: nothing is.
        bf16: compute linear layers in bfloat16.
        on_step: called after each iteration, for all samples at once: large batches are not divided into groups.

    Raises:
        SoundStormError: the counts or shapes of the arguments differ, or the model does not have a label or code.
    """
    _check(model, label_B, num_frames_B, seeds, known)
    if model.device.type == "cpu":
        keep_freed_memory()
    config, device, longest = model.config, model.device, max(num_frames_B)
    settings.iterations_for(config)
    valid_BT = torch.arange(longest, device=device) < torch.tensor(num_frames_B, device=device)[:, None]
    codes_BQT = torch.full((len(seeds), config.num_levels, longest), model.mask_id, dtype=torch.int64, device=device)
    if known is not None:
        is_known_BQT = known.mask_BQT.to(device) & valid_BT[:, None, :]
        codes_BQT = torch.where(is_known_BQT, known.codes_BQT.to(device), codes_BQT)
    task = DecodingTask(
        codes_BQT=codes_BQT,
        valid_BT=valid_BT,
        label_B=label_B.to(device),
        num_frames_B=num_frames_B,
        settings=settings,
        generators=[torch.Generator().manual_seed(seed) for seed in seeds],
        bf16=bf16,
        on_step=on_step,
    )
    if known is not None and known.timbre_BS is not None:
        task.timbre_BS = known.timbre_BS.to(device)
    elif isinstance(model, PlaceNetwork) and model.timbre is not None:
        drawn_BS = model.timbre.draw(label_B, task.generators, settings.timbre_spread)
        given_B1 = (codes_BQT != model.mask_id).flatten(1).any(1, keepdim=True)
        # samples with given codes are generated without a timbre
        task.timbre_BS = torch.where(given_B1, math.nan, drawn_BS)
    was_training = model.training
    model.train(False)
    network = cast(Network, rounded_to_bfloat16(cast(nn.Module, model)) if bf16 else model)
    parts, threads = _parts(task), torch.get_num_threads()
    try:  # with fewer parts than threads, all threads compute one part after the other
        on_threads(partial(_decode, network), parts, threads if len(parts) >= threads else 1)
    finally:
        model.train(was_training)
    return [
        codes_QT[:, :num_frames].cpu().clone()
        for codes_QT, num_frames in zip(task.codes_BQT, num_frames_B, strict=True)
    ]
