"""Training of the compact codec: crops in, a better codec out, one step at a time.

Four phases in one run: encoder and decoder alone, codebooks started by k-means, all together, and finally against a
multi-scale STFT discriminator. `CodecTrainer` knows nothing of Ray; `jobs/train_codec.py` distributes it.

Legend: B batch, N samples of a crop, D latent width, T frames.
"""

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from encodec.msstftd import MultiScaleSTFTDiscriminator
from torch import Tensor, nn

from soundstorm.codebooks import initialise_codebooks, revive_dead_codes
from soundstorm.codec_losses import adversarial_losses, coherence_loss, discriminator_loss, flatness_loss, level_loss, mel_loss, silence_loss
from soundstorm.compact_codec import CompactCodec
from soundstorm.crops import CropSampler

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, frozen=True)
class CodecTrainingConfig:
    """Length, rates and loss weights of a codec run; the defaults made the weights in the package."""

    steps: int = 2900
    """Optimizer steps in all."""
    quantizer_start: int = 300
    """Step at which the codebooks are started by k-means and switched on."""
    adversarial_start: int = 2900
    """Step at which the discriminator joins; not below `steps`: it never does. On two CPU cores it costs four times the rest of a step."""
    batch_size: int = 16
    """Crops a step on each worker."""
    crop_frames: int = 75
    """Frames of a crop (75 = 1 s)."""
    lr: float = 6e-4
    """Peak learning rate of AdamW; 200 steps of warm-up, then a cosine to 1% of it."""
    mel_weight: float = 3.0
    flatness_weight: float = 1.0
    coherence_weight: float = 1.5
    level_weight: float = 4.0
    silence_weight: float = 0.3
    commitment_weight: float = 1.0
    adversarial_weight: float = 0.3
    feature_weight: float = 1.0
    discriminator_filters: int = 8
    """Width of the discriminator's convolutions; the published 32 costs sixteen times as much."""
    discriminator_crops: int = 8
    """Crops of each batch that the discriminator sees; on a CPU it costs more than the codec."""
    revive_every: int = 20
    """Steps between revivals of dead codes, until four fifths of the run."""
    seed: int = 0


class CodecTrainer:
    """Holds the networks and optimizers of one run and makes steps.

    Args:
        codec: the network to train, on its device.
        config: lengths, rates and weights.
        sampler: where crops come from.
        rank: index of this worker; each draws its own crops.
        wrap: applied to both networks, e.g. Ray Train's `prepare_model`.
    """

    def __init__(self, codec: CompactCodec, config: CodecTrainingConfig, sampler: CropSampler, rank: int = 0, wrap: Any = None) -> None:
        self.codec, self.config, self.sampler, self.rank = codec, config, sampler, rank
        self.device = codec.window.device
        self.discriminator = MultiScaleSTFTDiscriminator(
            filters=config.discriminator_filters, n_ffts=[2048, 1024, 512], hop_lengths=[512, 256, 128], win_lengths=[2048, 1024, 512]
        ).to(self.device)
        wrap = wrap or (lambda module: module)
        self.network: nn.Module = wrap(codec)
        self.critic: nn.Module = wrap(self.discriminator)
        self.optimizer = torch.optim.AdamW(codec.parameters(), lr=config.lr, betas=(0.8, 0.99), weight_decay=1e-3)
        self.critic_optimizer = torch.optim.AdamW(self.discriminator.parameters(), lr=3e-4, betas=(0.5, 0.9), weight_decay=1e-3)
        self.step_count = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything a later run needs to go on: networks, optimizers and the number of steps made."""
        return {
            "codec": self.codec.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "step_count": self.step_count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        self.codec.load_state_dict(state["codec"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.step_count = int(state["step_count"])

    def step(self) -> dict[str, float]:
        """Make one optimizer step on a fresh batch; returns the loss terms (nats or decades, unweighted)."""
        config, step = self.config, self.step_count
        rng = np.random.default_rng([config.seed, self.rank, step])
        hop = self.codec.config.hop
        real_BN = self.sampler.draw(config.batch_size, config.crop_frames * hop, rng).to(self.device)
        if step == config.quantizer_start:
            self._start_codebooks()
        adversarial = step >= config.adversarial_start
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.network.train()
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            decoded_BN, commitment, latent_BDT = self.network(real_BN, quantize=step >= config.quantizer_start)
        decoded_BN = decoded_BN.float()
        losses = {
            "mel": mel_loss(real_BN, decoded_BN, self.codec.config.sample_rate),
            "flatness": flatness_loss(real_BN, decoded_BN),
            "coherence": coherence_loss(real_BN, decoded_BN),
            "level": level_loss(real_BN, decoded_BN),
            "silence": silence_loss(real_BN, decoded_BN, hop),
            "commitment": commitment,
        }
        total = (
            config.mel_weight * losses["mel"]
            + config.flatness_weight * losses["flatness"]
            + config.coherence_weight * losses["coherence"]
            + config.level_weight * losses["level"]
            + config.silence_weight * losses["silence"]
            + config.commitment_weight * losses["commitment"]
        )
        if adversarial:
            shown = config.discriminator_crops
            losses["discriminator"] = self._step_critic(real_BN[:shown], decoded_BN[:shown])
            for parameter in self.discriminator.parameters():
                parameter.requires_grad_(False)
            game = adversarial_losses(self.discriminator, real_BN[:shown], decoded_BN[:shown])
            for parameter in self.discriminator.parameters():
                parameter.requires_grad_(True)
            losses["fooling"], losses["features"] = game.fooling, game.feature_matching
            total = total + config.adversarial_weight * game.fooling + config.feature_weight * game.feature_matching
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        losses["gradient_norm"] = nn.utils.clip_grad_norm_(self.codec.parameters(), 5.0)
        self.optimizer.step()
        self._maintain_codebooks(latent_BDT)
        self.step_count += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def _learning_rate(self) -> float:
        progress = min(1.0, self.step_count / self.config.steps)
        warm = min(1.0, (self.step_count + 1) / 200)
        return self.config.lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    def _step_critic(self, real_BN: Tensor, decoded_BN: Tensor) -> Tensor:
        loss = discriminator_loss(self.critic, real_BN, decoded_BN)
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.discriminator.parameters(), 5.0)
        self.critic_optimizer.step()
        return loss

    @torch.no_grad()
    def _start_codebooks(self) -> None:
        config = self.config
        rng = np.random.default_rng([config.seed, 1_000_003])  # the same on all workers
        crops = self.sampler.draw(400, config.crop_frames * self.codec.config.hop, rng)
        latents = [self.codec.encode_latent(part.to(self.device)).transpose(1, 2).flatten(0, 1) for part in crops.split(16)]
        initialise_codebooks(self.codec.quantizer, torch.cat(latents), config.batch_size * config.crop_frames, config.seed)
        self._average_codebooks()

    def _maintain_codebooks(self, latent_BDT: Tensor) -> None:
        """Average the running statistics over workers, and revive dead codes now and then, on frames of the first worker."""
        config, step = self.config, self.step_count
        if step < config.quantizer_start:
            return
        self._average_codebooks()
        if step % config.revive_every == 0 and step < 0.8 * config.steps:
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            latent_SD = latent_BDT.detach().transpose(1, 2).flatten(0, 1)
            revived = revive_dead_codes(self.codec.quantizer, latent_SD, generator, threshold=0.03)
            logger.debug("step %d: revived %s", step, revived)
            if _has_company():
                for buffer in self.codec.quantizer.buffers():
                    torch.distributed.broadcast(buffer, src=0)

    @torch.no_grad()
    def _average_codebooks(self) -> None:
        if not _has_company():
            return
        for layer in self.codec.quantizer.vq.layers:
            codebook = layer._codebook
            for buffer in (codebook.cluster_size, codebook.embed_avg):
                torch.distributed.all_reduce(buffer)
                buffer /= torch.distributed.get_world_size()
            codebook.embed.copy_(codebook.embed_avg / (codebook.cluster_size + 1e-5)[:, None])


def _has_company() -> bool:
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
