"""Train the compact codec: decode the recordings of the training folds with Ray Data, train with Ray Train, measure on the test fold.

Every worker holds all training recordings (16-bit, 48 kB a second) and draws its own crops by (seed, worker, step), so a run that
was cut short goes on as if it had not been.
"""

import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import ray
import ray.train
import torch
import tyro
from ray.train import Checkpoint
from ray.train.torch import get_device, prepare_model
from torch import Tensor

from cluster import records, storage
from cluster.connect import connect
from cluster.sole import sole_process
from jobs.clips_per_step import batch_of_worker
from jobs.datasets import DatasetOptions, folds_record, open_and_tell, rows_of_folds
from jobs.entry import console, leave, start
from jobs.finished import told_again
from jobs.leaks import refuse_leaks
from jobs.progress import duration
from jobs.provenance import combined, decoded_recordings, test_of
from jobs.recordings import decode_clips, usable_recordings, warn_of_rejected
from jobs.trainer import RUN_FOLDER, plan_workers, run_trainer, use_threads
from jobs.training_log import TrainingLog
from soundstorm.audio import SAMPLE_RATE, from_pcm16
from soundstorm.audio_classifier import TrainedClassifier, load_classifier
from soundstorm.codec import load_codec, save_compact_codec
from soundstorm.codec_quality import measure_codec
from soundstorm.codec_training import CodecTrainer, CodecTrainingConfig, require_not_lost
from soundstorm.compact_codec import CompactCodec, CompactCodecConfig
from soundstorm.crops import CropSampler, synthetic_recordings
from soundstorm.datasets import Index
from soundstorm.errors import SoundStormError
from soundstorm.leakage import Learned
from soundstorm.provenance import Role, TrainedOn, as_parent

STAGE = "train_codec"
CODEC_FILE = "codec.safetensors"
STATE_FILE = "trainer.pt"
MIN_CROP_SAMPLES = 4097
"""The longest window of the losses, 8192 samples, is mirrored at both ends of a crop."""


@dataclass(kw_only=True)
class Options(DatasetOptions):
    """Train the compact codec on recordings, with Ray Train."""

    output_dir: str
    """Folder for the codec and its log, a path or s3:// URI."""
    test_fold: int | None = None
    """Fold that is not trained on but measured; default: the dataset's last."""
    training: Annotated[CodecTrainingConfig, tyro.conf.arg(name="")] = CodecTrainingConfig()
    network: Annotated[CompactCodecConfig, tyro.conf.arg(name="")] = CompactCodecConfig()
    name: str = "compact"
    """The codec's name in fingerprints."""
    listener: str | None = None
    """Classifier of `train-classifier`, path or URI: the decoder, when it goes on alone, learns to make it hear what it hears in the recordings."""
    max_duration: float = 30.0
    """Seconds of a recording that are used."""
    synthetic_clips: int = 12
    """Clips of each synthetic class to train on beside the recordings, as three more classes; 0: none."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    log_every: int = 20
    """Steps between rows of the log."""
    num_workers: int | None = None
    """Training processes; default: one per GPU, or one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    max_failures: int = 3
    """Restarts from the latest checkpoint before the run is given up."""
    allow_leak: bool = False
    """Go on although --listener has seen the test fold, or may have; the figures are then not to be trusted, and the record says so."""
    overwrite: bool = False
    """Start afresh, whatever the output folder holds."""
    address: str | None = None
    """Ray cluster to join, as for `ray.init`; default: start one here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        config, shape = self.training, self.network
        for option, value in (
            ("steps", config.steps),
            ("batch-size", config.batch_size),
            ("checkpoint-every", self.checkpoint_every),
            ("log-every", self.log_every),
            ("num-workers", 1 if self.num_workers is None else self.num_workers),
            ("revive-every", config.revive_every),
            ("warmup-steps", config.warmup_steps),
            ("codebook-crops", config.codebook_crops),
        ):
            if value < 1:
                raise SoundStormError(f"--{option} is {value}: give at least 1")
        if self.synthetic_clips < 0:
            raise SoundStormError(f"--synthetic-clips is {self.synthetic_clips}: give 0 or more")
        if self.max_failures < 0:
            raise SoundStormError(f"--max-failures is {self.max_failures}: give 0 or more")
        if not config.lr > 0:
            raise SoundStormError(f"--lr is {config.lr}: give a number above 0")
        if config.polish_steps < 0:
            raise SoundStormError(f"--polish-steps is {config.polish_steps}: give 0 or more")
        if not config.polish_lr > 0:
            raise SoundStormError(f"--polish-lr is {config.polish_lr}: give a number above 0")
        if not self.max_duration > 0:
            raise SoundStormError(f"--max-duration is {self.max_duration}: give a number of seconds above 0")
        if shape.sample_rate != SAMPLE_RATE:
            raise SoundStormError(f"--sample-rate is {shape.sample_rate}: everything here is compared at {SAMPLE_RATE} Hz, give that")
        if not 0 <= config.quantizer_start < config.steps:
            raise SoundStormError(f"--quantizer-start is {config.quantizer_start}: give 0 to {config.steps - 1}, before the last of --steps")
        shortest = -(-MIN_CROP_SAMPLES // shape.hop)
        if config.crop_frames < shortest:
            raise SoundStormError(f"--crop-frames is {config.crop_frames}: the losses need at least {shortest} ({MIN_CROP_SAMPLES} samples)")
        if config.codebook_crops * config.crop_frames < shape.codebook_size:
            raise SoundStormError(
                f"--codebook-size is {shape.codebook_size}: {config.codebook_crops} crops of {config.crop_frames} frames cannot start so many codes; "
                "give fewer, or more --codebook-crops"
            )


def run(options: Options) -> dict[str, Any]:
    """Train the codec that `options` describes; returns the final losses and the figures on the test fold."""
    index = open_and_tell(options)
    fold = index.num_folds if options.test_fold is None else options.test_fold
    if not 1 <= fold <= index.num_folds:
        raise SoundStormError(f"--test-fold is {fold}: the dataset has folds 1 to {index.num_folds}")
    content = None if options.listener is None else storage.read_bytes(options.listener)
    listener, leaks = (None, []) if content is None else _checked(options, content, index, fold)
    settings = {
        "dataset": options.dataset,
        "data_dir": storage.absolute(options.location),
        "test_fold": fold,
        "training": asdict(options.training),
        "network": options.network.to_dict(),
        "name": options.name,
        "listener_sha256": None if listener is None else listener.sha256,
        **({"leaks": leaks} if leaks else {}),
        "max_duration_s": options.max_duration,
        "synthetic_clips": options.synthetic_clips,
        "num_workers": options.num_workers,
    }
    if options.strict_folds:
        settings["strict_folds"] = True
    storage.check_writable(options.output_dir)
    with sole_process(options.output_dir, STAGE):
        return _train(options, index, fold, settings, content, listener)


def _train(
    options: Options, index: Index, fold: int, settings: dict[str, Any], content: bytes | None, listener: TrainedClassifier | None
) -> dict[str, Any]:
    """Train, measure and write the codec, unless it is there; `content` is that of the listener's file."""
    outputs = (CODEC_FILE, "log.csv", "tensorboard", RUN_FOLDER)
    record = records.begin(options.output_dir, STAGE, settings, overwrite=options.overwrite, outputs=outputs, free=("num_workers",))
    if record is not None:
        return told_again(options.output_dir, STAGE, lambda: _summary(options.output_dir, record.counts, "already trained, nothing to do"))
    with connect(options.address, await_gpu=options.device != "cpu") as info:
        plan = plan_workers(options.num_workers, options.device, info)
        folds = set(range(1, index.num_folds + 1))
        training = decode_clips(rows_of_folds(index.clips, folds - {fold}), options.network.sample_rate, options.max_duration)
        usable = warn_of_rejected(training)
        if not usable:
            raise SoundStormError(f"{options.location}: no usable recording outside fold {fold}; see the warnings above")
        console.print(f"train-codec: {usable} recordings, {plan}", highlight=False)
        config = replace(options.training, batch_size=batch_of_worker(options.output_dir, options.training.batch_size, plan.num_workers))
        with TrainingLog(options.output_dir, "step", STAGE) as log, tempfile.TemporaryDirectory(prefix="soundstorm-codec-") as scratch:
            progress = _Progress(log, options.training)
            result = run_trainer(
                train_on_worker,
                {
                    "training": asdict(config),
                    "network": options.network.to_dict(),
                    "synthetic_clips": options.synthetic_clips,
                    "listener": content,
                    "checkpoint_every": options.checkpoint_every,
                    "log_every": options.log_every,
                    "cpus": plan.cpus_per_worker,
                },
                {"recordings": training},
                plan=plan,
                output_uri=options.output_dir,
                max_failures=options.max_failures,
                on_report=progress.show,
            )
            assert result.checkpoint is not None
            state = _load_state(Path(result.checkpoint.to_directory(scratch)))
            log.update(state["rows"])
            path = Path(scratch) / CODEC_FILE
            _save(path, options, state["trainer"]["codec"], fold, _trained_on(options, index, training, listener))
            counts: dict[str, Any] = {
                "steps": state["trainer"]["step_count"],
                "recordings": usable,
                "leaks": settings.get("leaks", []),
                "losses": {name: value for name, value in state["rows"][-1].items() if name not in ("step", "seconds")},
                "test": _measure(path, decode_clips(rows_of_folds(index.clips, {fold}), options.network.sample_rate, options.max_duration)),
            } | folds_record(index, options)
            storage.write_file(storage.join(options.output_dir, CODEC_FILE), path)
    records.finish(options.output_dir, STAGE, settings, counts)
    storage.delete(storage.join(options.output_dir, RUN_FOLDER))
    return _summary(options.output_dir, counts, f"trained on {usable} recordings")


def _checked(options: Options, listener: bytes, index: Index, fold: int) -> tuple[TrainedClassifier, list[str]]:
    """The listener, and why the test is not to be trusted; raises SoundStormError if it is none, or knows the fold that is to be measured."""
    try:
        trained = load_classifier(listener)
    except SoundStormError as error:
        raise SoundStormError(f"--listener {options.listener}: {error}") from error
    leaks = refuse_leaks(
        [Learned(name=f"--listener {options.listener}", provenance=trained.provenance, sha256=trained.sha256)],
        [test_of(index.clips, fold)],
        remedy=f"train one with `soundstorm train-classifier --fold {fold}`",
        allowed=options.allow_leak,
    )
    return trained, leaks


def _summary(output_dir: str, counts: dict[str, Any], what: str) -> dict[str, Any]:
    where = storage.join(output_dir, CODEC_FILE)
    test = counts["test"]
    figures = ""
    if test is not None:
        si_sdr = "" if test["si_sdr_db"] is None else f", SI-SDR {test['si_sdr_db']:.1f} dB"
        in_use = min(test["codes_in_use"])
        figures = f"; test fold: log-mel distance {test['log_mel_distance']:.3f} nats{si_sdr}, at least {in_use:.0%} of a level's codes in use"
    return {"message": f"{where}: {what}, {counts['steps']} steps{figures}", "output_dir": output_dir, "codec": where, **counts}


# ---- measuring


def _measure(path: Path, decoded: "ray.data.Dataset") -> dict[str, Any] | None:
    """Figures of the codec at `path` on the recordings, none where there are none."""
    waveforms = [from_pcm16(samples) for samples, _ in usable_recordings(decoded)]
    if not waveforms:
        return None
    console.print(f"train-codec: measuring on {len(waveforms)} recordings of the test fold", highlight=False)
    return asdict(measure_codec(load_codec(path), waveforms))


# ---- training


class _Progress:
    """Shows each report, and keeps the log up to date."""

    def __init__(self, log: TrainingLog, training: CodecTrainingConfig) -> None:
        self.log, self.training = log, training
        self.first: tuple[int, float] | None = None

    def show(self, metrics: dict[str, Any]) -> None:
        self.log.update(metrics["rows"])
        row, now = metrics["rows"][-1], time.monotonic()
        self.first = self.first or (row["step"], now)
        steps = self.training.total_steps
        done, elapsed = row["step"] - self.first[0], now - self.first[1]
        eta = f"  ETA {duration(elapsed / done * (steps - row['step']))}" if done > 0 else ""
        phase = "  decoder alone" if row["step"] > self.training.steps else ""
        losses = "  ".join(f"{name} {value:.3f}" for name, value in row.items() if name not in ("step", "seconds", "lr", "gradient_norm"))
        console.print(f"step {row['step']:>{len(str(steps))}}/{steps}{phase}  {losses}{eta}", highlight=False)


def train_on_worker(settings: dict[str, Any]) -> None:
    """Ray Train's loop: one `CodecTrainer` a worker, gradients and codebooks shared."""
    use_threads(settings["cpus"])
    context = ray.train.get_context()
    config = CodecTrainingConfig(**settings["training"])
    network = CompactCodecConfig(**settings["network"])
    recordings = list(usable_recordings(ray.train.get_dataset_shard("recordings")))
    recordings += synthetic_recordings(settings["synthetic_clips"], network.sample_rate)
    sampler = CropSampler(*zip(*recordings, strict=True))
    torch.manual_seed(config.seed)
    trainer = CodecTrainer(
        CompactCodec(network).to(get_device()),
        config,
        sampler,
        rank=context.get_world_rank(),
        # Buffers are the quantizer's, which the trainer keeps equal itself, and constants.
        wrap=lambda module: prepare_model(module, parallel_strategy_kwargs={"broadcast_buffers": False}),
        listener=None if settings["listener"] is None else load_classifier(settings["listener"]).model,
    )
    rows: list[dict[str, Any]] = []
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = _load_state(Path(folder))
        trainer.load_state_dict(state["trainer"])
        rows = state["rows"]
    recent: list[dict[str, float]] = []
    began = time.monotonic()
    while trainer.step_count < config.total_steps:
        recent.append(trainer.step())
        step, is_last = trainer.step_count, trainer.step_count == config.total_steps
        if step % settings["log_every"] and step % settings["checkpoint_every"] and not is_last:
            continue
        rows.append({"step": step, **_mean_over_workers(recent), "seconds": time.monotonic() - began})
        require_not_lost(rows, config)
        recent, began = [], time.monotonic()
        with tempfile.TemporaryDirectory(prefix="soundstorm-codec-") as folder:
            saved = None
            if context.get_world_rank() == 0 and (step % settings["checkpoint_every"] == 0 or is_last):
                torch.save({"trainer": trainer.state_dict(), "rows": rows}, Path(folder) / STATE_FILE)
                saved = Checkpoint.from_directory(folder)
            ray.train.report({"rows": list(rows)}, checkpoint=saved)


def _mean_over_workers(recent: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each loss term over the steps that have it, and over workers."""
    names = list(dict.fromkeys(name for losses in recent for name in losses))
    means = Tensor([float(np.mean([losses[name] for losses in recent if name in losses])) for name in names])
    if torch.distributed.is_initialized():
        means = means.to(get_device())
        torch.distributed.all_reduce(means)
        means /= torch.distributed.get_world_size()
    return dict(zip(names, means.tolist(), strict=True))


def _load_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    return state


def _trained_on(options: Options, index: Index, training: "ray.data.Dataset", listener: TrainedClassifier | None) -> TrainedOn:
    parent = None if listener is None else as_parent(Role.LISTENER, "heard by", listener.sha256, listener.provenance)
    outside = ("synthetic sounds",) if options.synthetic_clips else ()
    return combined(decoded_recordings(index.clips, training), parent, outside=outside)


def _save(path: Path, options: Options, weights: dict[str, Tensor], fold: int, trained_on: TrainedOn) -> None:
    codec = CompactCodec(options.network)
    codec.load_state_dict(weights)
    data = f"{options.dataset} without fold {fold}, and {options.synthetic_clips} clips of each synthetic class"
    polish = f", and its decoder alone for {options.training.polish_steps} more" if options.training.polish_steps else ""
    description = f"trained for {options.training.steps} steps{polish}, on {data}"
    save_compact_codec(path, codec, options.name, description, trained_on)


if __name__ == "__main__":
    leave(start(Options, run))
