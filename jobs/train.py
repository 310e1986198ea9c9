"""Train SoundStorm on tokens, with Ray Train: distributed data parallel, a checkpoint each epoch, resumed by the same
command.

All tokens lie once in the object store of each node, 6 kB per view of 5 s, and its workers read them there.
A permutation determined by (seed, epoch) assigns clips to workers and steps, see `jobs.training.batches.epoch_batches`:
all workers make the same number of steps, no clip is dropped, and an interrupted run resumes exactly. An epoch passes
over the clips once, each in one of its views, see `soundstorm.training.batches.sample_view`.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import ray
import ray.train
import torch

from cluster import storage
from cluster.runtime.connect import connect
from cluster.scheduling.sole_process import sole_process
from jobs.actors.job_precision import JobPrecision, job_precision
from jobs.console.command import console, exit_process, run_command
from jobs.console.options import Count, OneOf, RestartOptions, TrainingOptions
from jobs.console.progress import duration
from jobs.console.resume import Stage, run_once
from jobs.inputs.checkpoints import CHECKPOINT_FOLDER, checkpoint_files, open_checkpoint
from jobs.inputs.codecs import choose_codec
from jobs.inputs.tokens import Tokens, open_tokens
from jobs.training.clips_per_step import batch_of_worker
from jobs.training.fit import fit, train_on_worker
from jobs.training.generator_recipe import GeneratorRun, GeneratorSettings, first_weights, network_for
from jobs.training.ray_trainer import RUN_FOLDER, STOPPED, TrainingStoppedError, scaling_for
from jobs.training.training_log import TrainingLog
from soundstorm.errors import SoundStormError
from soundstorm.model.checkpoints import CONFIG_FILE, WEIGHTS_FILE, Checkpoint, load_checkpoint
from soundstorm.model.config import ModelConfig, TrainingConfig
from soundstorm.model.generators import make_generator
from soundstorm.model.presets import PRESETS, preset
from soundstorm.model.settings_file import SettingsOverrides, parse_settings
from soundstorm.optimization.precision import LONG_NAMES, SHORT_NAMES, Precision
from soundstorm.serialization.without_memory import without_memory

STAGE = "train"
OUTPUTS = (CHECKPOINT_FOLDER, "log.csv", "tensorboard", RUN_FOLDER)


@dataclass(kw_only=True)
class Options(TrainingOptions, RestartOptions):
    """Train SoundStorm on the tokens of a dataset."""

    tokens: str = "runs/tokens"
    """Output folder of `tokenize`, a path or s3:// URI."""
    output_dir: str = "runs/train"
    """Folder or s3:// prefix for checkpoint/, log.csv, tensorboard/ and train.json."""
    preset: Annotated[str, OneOf(PRESETS)] = "places"
    """Network and training settings: places (generates all levels of a place at once; an hour on one core for ten
    classes), draft (the same, small), reference (the published set-up), small (SoundStorm's order, two hours on two
    cores), hearing (for classifiers), tiny (for tests), faults (reproduces flaws of the published system, for
    ablation)."""
    config: str | None = None
    """JSON or TOML file, path or URI, whose tables "training", "model" and "sampler" override settings of the preset,
    such as best.json of `tune`; it may name the preset."""
    fold: int | None = None
    """Test fold: held out of training and used for validation; default: the dataset's last."""
    checkpoint: str | None = None
    """Checkpoint to start from: an output folder of `train` or a checkpoint folder, path or URI. Its architecture is
    used; classes are matched by name."""
    codec: str | None = None
    """Codec of the tokens, path or URI: code embeddings are initialized with its codebook embeddings; default: random
    initialization. A network that embeds codes by the codec's centroids (preset places) needs the codec; its default is
    the one in the package or the cache."""
    checkpoint_every: Count = 1
    """Epochs between checkpoints; the last epoch always has one."""
    precision: Precision = "auto"
    """In which numbers linear layers compute: bfloat16, float32, or auto: as the run began, or else the preset's, or by
    the slowest kind of node of the cluster."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codec is not None and self.checkpoint is not None:
            raise SoundStormError("--codec and --checkpoint both initialize the code embeddings: give one of the two")


def run(options: Options) -> dict[str, Any]:
    """Train, or resume an interrupted run; returns the final losses."""
    storage.check_writable(options.output_dir)
    overrides = _overrides(options)
    options = replace(options, preset=overrides.preset or options.preset)
    by_file = options.fold is None and overrides.fold is not None
    tokens = open_tokens(
        options.tokens, *((overrides.fold, f"{overrides.where}: fold") if by_file else (options.fold,))
    )
    config, init_checkpoint = (
        _training_config(options, overrides, tokens),
        _open_init_checkpoint(options.checkpoint, tokens),
    )
    base = (
        init_checkpoint.model.config
        if init_checkpoint
        else preset(options.preset).model.at_most(tokens.fingerprint.num_levels)
    )
    requested_model = overrides.model_over(base, is_trained=init_checkpoint is not None)
    needs_codec = options.codec is not None or (requested_model.centroids and init_checkpoint is None)
    codec = choose_codec(options.codec, tokens.fingerprint, tokens.uri)[1] if needs_codec else None
    architecture = network_for(requested_model, tokens, codec)
    settings = {
        "tokens": storage.absolute(options.tokens),
        "tokens_made": tokens.made,
        "codec_sha256": tokens.fingerprint.sha256,
        "fold": tokens.fold,
        "preset": options.preset,
        "architecture": architecture.to_dict(),
        "num_workers": options.num_workers,
        "checkpoint_sha256": init_checkpoint.sha256 if init_checkpoint else None,
        **({"start": "codec"} if options.codec else {}),
        **({"sampler": overrides.sampler} if overrides.sampler else {}),
        **({"threads": overrides.threads} if overrides.threads else {}),
    }
    requested = options.precision if options.precision != "auto" else LONG_NAMES[config.precision]

    def work(config: TrainingConfig, precision: JobPrecision) -> dict[str, Any]:
        weights = first_weights(architecture, config.seed, tokens, init_checkpoint, codec)
        return _train(options, tokens, architecture, config, init_checkpoint, overrides, weights, precision)

    with (
        sole_process(options.output_dir, STAGE),
        job_precision(requested, options, STAGE, recorded=_recorded_precision, device=options.device) as precision,
    ):
        config = replace(config, precision=SHORT_NAMES[precision.name or "auto"])
        stage = Stage(
            STAGE,
            options,
            settings | {"training": config.to_dict()},
            OUTPUTS,
            free=("num_workers",),
            required=[f"{CHECKPOINT_FOLDER}/{name}" for name in (WEIGHTS_FILE, CONFIG_FILE)],
            temporary=(RUN_FOLDER,),
        )
        return run_once(
            stage,
            partial(work, config, precision),
            partial(_summary, options),
            done="already trained, nothing to do: ",
        )


def _train(
    options: Options,
    tokens: Tokens,
    architecture: ModelConfig,
    config: TrainingConfig,
    init_checkpoint: Checkpoint | None,
    overrides: SettingsOverrides,
    weights: dict[str, torch.Tensor] | None,
    precision: JobPrecision,
) -> dict[str, Any]:
    training, validation = tokens.split()
    with connect(options.address, await_gpu=options.device != "cpu") as info:
        scaling = scaling_for(options.num_workers, options.device, info)
        views = "" if training.num_views == len(training) else f" in {training.num_views} views"
        clips = f"{len(training)} clips{views} to train on, {len(validation)} to validate with (fold {tokens.fold})"
        console.print(
            f"train: {clips}; {options.preset} network of {_num_parameters(architecture) / 1e6:.1f} M parameters; "
            f"{scaling}"
        )
        config = replace(config, precision=SHORT_NAMES[precision.of_actors(info)])
        sampler = init_checkpoint.sampler if init_checkpoint else preset(options.preset).sampler
        begin = partial(
            GeneratorRun,
            GeneratorSettings.of(tokens, architecture, config, overrides.sampler_over(sampler), init_checkpoint),
            batch_of_worker(options.output_dir, config.batch_size, scaling.num_workers),
            ray.put((training, validation)),
            ray.put(weights),
        )
        try:
            rows, checkpoint = fit(
                partial(
                    train_on_worker,
                    begin,
                    cpus=scaling.cpus_per_worker,
                    checkpoint_every=options.checkpoint_every,
                    threads=overrides.threads,  # the order of sums depends on the number of threads
                ),
                {},
                TrainingLog(options.output_dir, "epoch", STAGE, len(training)),
                scaling=scaling,
                max_failures=options.max_failures,
                epochs=config.epochs,
                figures="step {step}  train {train_loss:.3f}  val {val_loss:.3f}",
            )
        except TrainingStoppedError as stopped:
            kept = _kept(stopped.checkpoint, options.output_dir)
            raise SoundStormError(f"{STOPPED}{stopped}. {kept}") from stopped
        finished = _publish(checkpoint, options.output_dir)
    return _losses(rows, architecture.num_levels) | {
        "clips": len(training),
        "views": training.num_views,
        "validation_clips": len(validation),
        "num_workers": scaling.num_workers,
        "checkpoint_sha256": finished.sha256,
    }


def _losses(rows: list[dict[str, Any]], num_levels: int) -> dict[str, Any]:
    """The final losses, from the last row of the log."""
    last = rows[-1]
    return {
        "epochs": last["epoch"],
        "steps": last["step"],
        "train_loss": last["train_loss"],
        "val_loss": last["val_loss"],
        "val_losses": [last[f"val_level_{level}"] for level in range(num_levels)],
        "seconds": sum(row["seconds"] for row in rows),
    }


def _publish(checkpoint: ray.train.Checkpoint, output_dir: str) -> Checkpoint:
    """Copy a checkpoint of Ray Train into the output folder."""
    with checkpoint.as_directory() as folder:
        published = load_checkpoint(Path(folder))
        storage.copy_from_local(Path(folder), storage.join(output_dir, CHECKPOINT_FOLDER))
    return published


def _kept(checkpoint: ray.train.Checkpoint | None, output_dir: str) -> str:
    """Publish the last good checkpoint of a run that stopped; returns a sentence that names it and the remedy."""
    if checkpoint is None:
        return "No epoch succeeded; start again with --overwrite"
    return (
        f"The last good epoch was {_publish(checkpoint, output_dir).extra['epoch']}, saved in "
        f"{storage.join(output_dir, CHECKPOINT_FOLDER)}: start again with --overwrite, or from that checkpoint "
        "with --checkpoint and another --output-dir"
    )


def _summary(options: Options, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    where = storage.join(options.output_dir, CHECKPOINT_FOLDER)
    losses = f"loss {counts['train_loss']:.3f} in training, {counts['val_loss']:.3f} on the test fold (nats per code)"
    message = f"{prefix}{where}: {counts['epochs']} epochs, {losses}, in {duration(counts['seconds'])}"
    return {"message": message, "output_dir": options.output_dir, "checkpoint": where, **counts}


# ---- settings


def _overrides(options: Options) -> SettingsOverrides:
    """The settings in the file --config; no settings without it."""
    if options.config is None:
        return SettingsOverrides(where="")
    overrides = parse_settings(storage.read_bytes(options.config), f"--config {options.config}")
    overrides.require("training", "model", "sampler")
    return overrides


def _training_config(options: Options, overrides: SettingsOverrides, tokens: Tokens) -> TrainingConfig:
    """The training settings of the preset at the frame rate of the tokens, overridden by --config and then by
    options."""
    base = preset(options.preset).training.at_frame_rate(tokens.fingerprint.frame_rate)
    return replace(overrides.training_over(base), **options.given)


def _recorded_precision(settings: dict[str, Any]) -> str | None:
    """The precision of a run with these settings; an earlier version recorded `auto`, which says none."""
    return LONG_NAMES.get(settings.get("training", {}).get("precision", ""))


def _open_init_checkpoint(uri: str | None, tokens: Tokens) -> Checkpoint | None:
    """The checkpoint to start from, None without --checkpoint."""
    if uri is None:
        return None
    checkpoint = open_checkpoint(checkpoint_files(uri), uri=uri)
    tokens.fingerprint.require_equal(checkpoint.fingerprint, tokens.uri)
    return checkpoint


def _num_parameters(architecture: ModelConfig) -> int:
    with without_memory():
        return make_generator(architecture).num_parameters()


if __name__ == "__main__":
    exit_process(run_command(Options, run))
