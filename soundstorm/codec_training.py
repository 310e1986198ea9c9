"""Training of the compact codec: crops in, a better codec out, one step at a time.

Phases of one run: encoder and decoder alone, codebooks started by k-means, all together, if wanted against a multi-scale STFT
discriminator, and at last the decoder alone, which leaves all codes as they are. `CodecTrainer` knows nothing of Ray;
`jobs/train_codec.py` distributes it.

Legend: B batch, N samples of a crop, D latent width, T frames.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from encodec.msstftd import MultiScaleSTFTDiscriminator
from torch import Tensor, nn

from soundstorm.audio_classifier import AudioClassifier
from soundstorm.codebooks import initialise_codebooks, revive_dead_codes
from soundstorm.codec_losses import (
    adversarial_losses,
    coherence_loss,
    discriminator_loss,
    flatness_loss,
    level_loss,
    loudness_loss,
    mel_loss,
    silence_loss,
)
from soundstorm.compact_codec import CompactCodec
from soundstorm.crops import CropSampler
from soundstorm.errors import SoundStormError
from soundstorm.perceptual import perceptual_losses

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, frozen=True)
class CodecTrainingConfig:
    """Length, rates and loss weights of a codec run; the defaults made the weights in the package."""

    steps: int = 2900
    """Optimizer steps of the codec as a whole."""
    polish_steps: int = 1200
    """Steps after these for the decoder alone: encoder and codebooks, and with them all codes, stay as they are."""
    quantizer_start: int = 300
    """Step at which the codebooks are started by k-means and switched on."""
    codebook_crops: int = 400
    """Crops that k-means sees."""
    adversarial_start: int = 1_000_000
    """Step, of all, at which the discriminator joins; beyond the last it never does. On two CPU cores it costs four times the rest of a step."""
    batch_size: int = 16
    """Crops a step on each worker."""
    crop_frames: int = 75
    """Frames of a crop (75 = 1 s)."""
    lr: float = 6e-4
    """Peak learning rate of AdamW, after the warm-up; then a cosine to 1% of it."""
    warmup_steps: int = 200
    """Steps in which that learning rate rises."""
    polish_lr: float = 3e-4
    """Peak learning rate for the decoder alone; 20 steps of warm-up, then a cosine to 1% of it."""
    mel_weight: float = 3.0
    flatness_weight: float = 1.0
    coherence_weight: float = 1.5
    level_weight: float = 4.0
    polish_level_weight: float = 12.0
    """Weight of the level loss when the decoder goes on alone."""
    loudness_weight: float = 3.0
    """Weight of the loudness loss, which joins when the decoder goes on alone."""
    perceptual_weight: float = 4.0
    """Weight of the distance in the layers of a classifier, where one is given, when the decoder goes on alone."""
    texture_weight: float = 8.0
    """Weight of the distance of their statistics over time."""
    silence_weight: float = 0.3
    commitment_weight: float = 1.0
    adversarial_weight: float = 0.3
    feature_weight: float = 1.0
    discriminator_filters: int = 8
    """Width of the discriminator's convolutions; the published 32 costs sixteen times as much."""
    discriminator_crops: int = 8
    """Crops of each batch that the discriminator sees; on a CPU it costs more than the codec."""
    revive_every: int = 20
    """Steps between revivals of dead codes, until four fifths of `steps`."""
    seed: int = 0

    @property
    def total_steps(self) -> int:
        """Steps of all phases."""
        return self.steps + self.polish_steps

    def loss_weights(self, polishing: bool, with_listener: bool) -> dict[str, float]:
        """Weight of each loss term that is always there."""
        weights = {
            "mel": self.mel_weight,
            "flatness": self.flatness_weight,
            "coherence": self.coherence_weight,
            "silence": self.silence_weight,
        }
        if polishing:
            weights |= {"level": self.polish_level_weight, "loudness": self.loudness_weight}
            return weights | ({"perceptual": self.perceptual_weight, "texture": self.texture_weight} if with_listener else {})
        return weights | {"level": self.level_weight, "commitment": self.commitment_weight}


LOST_MEL_NATS, LOST_ROWS = 50.0, 3
"""Silence is 3 to 8 nats from a recording; at a learning rate of 10 the codec was 150 to 4,600 away, and stayed there."""


def require_not_lost(rows: Sequence[Mapping[str, float]], config: CodecTrainingConfig) -> None:
    """Raise SoundStormError if the log-mel distance of the last rows of a log is far above that of silence: no later step mends that."""
    recent = [row["mel"] for row in rows[-LOST_ROWS:]]
    if len(recent) == LOST_ROWS and min(recent) > LOST_MEL_NATS:
        raise SoundStormError(
            f"training stopped: the log-mel distance stays at {recent[-1]:,.4g} nats, far above that of silence: start again with --overwrite and a "
            f"lower --lr (it is {config.lr:g})"
        )


class DecoderPass(nn.Module):
    """A codec whose decoder alone is trained, as a module to distribute.

    Args:
        codec: its encoder is frozen from here on.
    """

    def __init__(self, codec: CompactCodec) -> None:
        super().__init__()
        self.codec = codec
        codec.encoder.requires_grad_(False)

    def forward(self, waveform_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Crops (B, N) to what is decoded of their codes (B, N), and the mean squared error of quantization (scalar).

        Codes are made in full precision, so that they are those the codec gives when it is used.
        """
        with torch.no_grad(), torch.autocast(waveform_BN.device.type, enabled=False):
            latent_BDT = self.codec.encode_latent(waveform_BN)
            quantized_BDT = self.codec.quantizer.vq.decode(self.codec.quantizer.vq.encode(latent_BDT))
            error = nn.functional.mse_loss(quantized_BDT, latent_BDT)
        return self.codec.decode_latent(quantized_BDT), error


class CodecTrainer:
    """Holds the networks and optimizers of one run and makes steps.

    Args:
        codec: the network to train, on its device.
        config: lengths, rates and weights.
        sampler: where crops come from.
        rank: index of this worker; each draws its own crops.
        wrap: applied to the networks, e.g. Ray Train's `prepare_model`; once more when the decoder goes on alone.
        listener: a classifier in evaluation mode to which the decoder, when it goes on alone, is to make everything sound as recorded.
    """

    def __init__(
        self,
        codec: CompactCodec,
        config: CodecTrainingConfig,
        sampler: CropSampler,
        rank: int = 0,
        wrap: Any = None,
        listener: AudioClassifier | None = None,
    ) -> None:
        self.codec, self.config, self.sampler, self.rank = codec, config, sampler, rank
        self.device = codec.window.device
        self.listener = None if listener is None else listener.to(self.device)
        self.discriminator = MultiScaleSTFTDiscriminator(
            filters=config.discriminator_filters, n_ffts=[2048, 1024, 512], hop_lengths=[512, 256, 128], win_lengths=[2048, 1024, 512]
        ).to(self.device)
        self.wrap = wrap or (lambda module: module)
        self.network: nn.Module = self.wrap(codec)
        self.critic: nn.Module = self.wrap(self.discriminator)
        self._polisher: nn.Module | None = None
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
        """Make one optimizer step on a fresh batch; returns the loss terms (nats or decades, unweighted).

        Raises:
            SoundStormError: the gradient, or what codebooks would be started from, is not finite; no weight was updated.
        """
        config, step = self.config, self.step_count
        rng = np.random.default_rng([config.seed, self.rank, step])
        hop = self.codec.config.hop
        real_BN = self.sampler.draw(config.batch_size, config.crop_frames * hop, rng).to(self.device)
        if step == config.quantizer_start:
            self._start_codebooks()
        polishing = step >= config.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.codec.train()
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            if polishing:
                decoded_BN, commitment = self._decoder_alone()(real_BN)
            else:
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
        if polishing:
            losses["loudness"] = loudness_loss(real_BN, decoded_BN)
            if self.listener is not None:
                heard = perceptual_losses(self.listener, real_BN, decoded_BN)
                losses["perceptual"], losses["texture"] = heard.matching, heard.texture
        weights = config.loss_weights(polishing, self.listener is not None)
        total = torch.stack([weight * losses[name] for name, weight in weights.items()]).sum()
        if step >= config.adversarial_start:
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
        if not math.isfinite(losses["gradient_norm"]):
            raise self._diverged(f"the gradient is {float(losses['gradient_norm'])}")
        self.optimizer.step()
        if not polishing:
            self._maintain_codebooks(latent_BDT)
        self.step_count += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def _diverged(self, sign: str) -> SoundStormError:
        config = self.config
        option, peak = ("--lr", config.lr) if self.step_count < config.steps else ("--polish-lr", config.polish_lr)
        return SoundStormError(f"training diverged: {sign} in step {self.step_count + 1}; lower {option} (it is {peak})")

    def _learning_rate(self) -> float:
        config, done = self.config, self.step_count - self.config.steps
        if done < 0:
            return _warmed_cosine(config.lr, self.step_count, config.steps, config.warmup_steps)
        return _warmed_cosine(config.polish_lr, done, config.polish_steps, 20)

    def _decoder_alone(self) -> nn.Module:
        """The network of the last phase. It is made, and on several workers joined, at the first step of it that this trainer makes."""
        if self._polisher is None:
            self._polisher = self.wrap(DecoderPass(self.codec))
        return self._polisher

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
        crops = self.sampler.draw(config.codebook_crops, config.crop_frames * self.codec.config.hop, rng)
        latents = [self.codec.encode_latent(part.to(self.device)).transpose(1, 2).flatten(0, 1) for part in crops.split(16)]
        latent_SD = torch.cat(latents)
        if not bool(latent_SD.isfinite().all()):
            raise self._diverged("the encoder gives values that are not finite")
        initialise_codebooks(self.codec.quantizer, latent_SD, config.batch_size * config.crop_frames, config.seed)
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


def _warmed_cosine(peak: float, step: int, steps: int, warm_up: int) -> float:
    """Learning rate at `step` of `steps`: linear warm-up, and a cosine to 1% of `peak`."""
    warm = min(1.0, (step + 1) / warm_up)
    return peak * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def _has_company() -> bool:
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
