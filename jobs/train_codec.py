"""Fit the codec to the recordings of a dataset: Ray Data computes blocks of log-mel frames, and an actor fits codebooks
to them, level by level.

There is no gradient descent. The pool of blocks is bounded, however many recordings there are. The state is saved after
each level, and the same command resumes from it.
"""

import hashlib
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import ray
import tyro
from rich.table import Table

from cluster import storage
from cluster.errors import ClusterError
from cluster.runtime.connect import ClusterInfo, connect
from cluster.scheduling.attempt_tracker import DIED, tracking
from cluster.scheduling.sole_process import sole_process
from cluster.scheduling.watchdog import Watchdog, limits_here, run_with_watchdog
from jobs.console.command import console, exit_process, run_command
from jobs.console.options import Device, NotNegative, RestartOptions
from jobs.console.progress import duration
from jobs.console.resume import Stage, run_once
from jobs.inputs.datasets import (
    DatasetOptions,
    folds_record,
    index_digest,
    is_listed,
    last_fold,
    open_and_report,
    rows_of_folds,
)
from jobs.inputs.provenance import combined, decoded_recordings
from jobs.inputs.recordings import RecordingSeconds, decode_clips, usable_recordings, warn_of_rejected
from jobs.training.codec_fitter import CodecFitter
from jobs.training.ray_trainer import WorkerScaling, scaling_for
from jobs.training.training_log import TrainingLog
from soundstorm.audio.files import SAMPLE_RATE, from_pcm16
from soundstorm.codec import files
from soundstorm.codec.config import BlockCodecConfig, for_block
from soundstorm.codec.files import load_codec
from soundstorm.codec.fitting import FittingConfig, FittingState, blocks_per_copy, finish, pool_of_recording
from soundstorm.codec.log_mel import LogMel, mel_bank
from soundstorm.codec.quality import measure_codec
from soundstorm.data.datasets import Index
from soundstorm.errors import SoundStormError
from soundstorm.schemas import EARLIER_CODECS

STAGE = "train_codec"
CODEC_FILE = "codec.safetensors"
STATE_FILE = "fitting.safetensors"
HELD_OUT = 20
"""One in this many recordings is held out of fitting: the loss of the codes is measured on it."""
MAX_HELD_OUT, MAX_MEASURED = 200, 400
"""Maximum number of held-out recordings, and of recordings of the test fold that are measured."""


@dataclass(kw_only=True)
class Options(DatasetOptions, RestartOptions):
    """Fit the codec to recordings."""

    output_dir: str
    """Folder for the codec and its log, path or s3:// URI."""
    folds: tuple[int, ...] = ()
    """Folds to fit to; default: all except the test fold."""
    test_fold: int | None = None
    """Test fold: held out of fitting and measured; default: the dataset's last."""
    clips: str | None = None
    """Text file, path or URI, with one clip id or file name per line: only these are fitted to. Default: all."""
    frames_per_block: Literal["1", "2", "4"] = "1"
    """Log-mel frames (75 per second) per block; a block has 8 codes of 1024 for each of its frames."""
    name: str = "block"
    """Name of the codec in fingerprints."""
    fitting: Annotated[FittingConfig, tyro.conf.arg(name="")] = FittingConfig()
    codebook_size: int = 1024
    """Number of codes per level."""
    num_levels: int | None = None
    """Number of levels; default: 8 for each frame of a block."""
    max_duration: RecordingSeconds = 30.0
    """Seconds of a recording that are used."""
    device: Device = "auto"
    """Where k-means runs; auto: on a GPU if there is one."""
    max_failures: NotNegative = 3
    """Restarts of the fitting after its process died."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name in EARLIER_CODECS:
            raise SoundStormError(f"--name is '{self.name}': codecs of earlier versions have this name; give another")
        self.config()

    def config(self) -> BlockCodecConfig:
        """The settings of the codec."""
        default = for_block(int(self.frames_per_block))
        return replace(default, codebook_size=self.codebook_size, num_levels=self.num_levels or default.num_levels)


def run(options: Options) -> dict[str, Any]:
    """Fit the codec; returns the figures of its levels and of the test fold."""
    index = open_and_report(options)
    fold = last_fold(index.clips) if options.test_fold is None else options.test_fold
    every = set(range(1, index.num_folds + 1))
    folds = set(options.folds) or every - {fold}
    for option, given in (("test-fold", {fold}), ("folds", folds)):
        if not given <= every:
            raise SoundStormError(
                f"--{option} is {' '.join(map(str, sorted(given)))}: the dataset has folds 1 to {index.num_folds}"
            )
    if fold in folds:
        raise SoundStormError(f"--folds has {fold}, which is the test fold: leave it out, or give another --test-fold")
    clips = rows_of_folds(index.clips, folds)
    if options.clips is not None:
        clips = clips.filter(is_listed(clips, options.clips))
    settings = {
        "dataset": options.dataset,
        "data_dir": storage.absolute(options.location),
        "clips": index_digest(clips),
        "test_fold": fold,
        "codec": options.config().to_dict(),
        "fitting": asdict(options.fitting),
        "name": options.name,
        "max_duration_s": options.max_duration,
    }
    if options.strict_folds:
        settings["strict_folds"] = True
    storage.check_writable(options.output_dir)
    stage = Stage(
        STAGE,
        options,
        settings,
        (CODEC_FILE, STATE_FILE, "log.csv", "tensorboard"),
        required=(CODEC_FILE,),
        temporary=(STATE_FILE,),
    )
    with sole_process(options.output_dir, STAGE):
        return run_once(
            stage,
            lambda: _train(options, index, clips, fold, folds),
            partial(_summary, options),
            done="already fitted, nothing to do",
        )


def _train(options: Options, index: Index, clips: pa.Table, fold: int, folds: set[int]) -> dict[str, Any]:
    """Fit to `clips`, measure on `fold` and write the codec; returns the counts."""
    config = options.config()
    held_out, fitted = _held_out(clips)
    with connect(options.address, await_gpu=options.device != "cpu") as info:
        blocks = blocks_per_copy(fitted.num_rows, options.fitting)
        pool, usable = _pool(fitted, blocks, options, config)
        state = _fit(pool, blocks, options, config, info)
        console.print("train-codec: measuring the loss of the codes")
        measured = decode_clips(held_out, SAMPLE_RATE, options.max_duration)
        codec = finish(state, _waveforms(measured), config)
        outside = ("synthetic sounds",) if options.fitting.simple_sounds else ()
        trained_on = combined(decoded_recordings(index.clips, pool.union(measured)), outside=outside)
        description = f"fitted to {usable} recordings of {options.dataset}, folds {' '.join(map(str, sorted(folds)))}"
        content = files.to_bytes(codec, options.name, description, trained_on)
        test = rows_of_folds(index.clips, {fold})
        counts: dict[str, Any] = {
            "recordings": usable,
            "levels": [asdict(report) for report in state.reports],
            "test": _measure(content, test.slice(0, MAX_MEASURED), options),
        } | folds_record(index, options)
        storage.write_bytes(storage.join(options.output_dir, CODEC_FILE), content)
    _show_levels(state)
    return counts


def _summary(options: Options, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    where = storage.join(options.output_dir, CODEC_FILE)
    last, test = counts["levels"][-1], counts["test"]
    figures = "" if test is None else f"; test fold: log-mel distance {test['log_mel_distance']:.3f} nats"
    what = prefix or f"fitted to {counts['recordings']} recordings"
    message = f"{where}: {what}, {len(counts['levels'])} levels, error {last['error_nats']:.3f} nats{figures}"
    return {"message": message, "output_dir": options.output_dir, "codec": where, **counts}


# ---- recordings


def _held_out(clips: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Held-out recordings, and those to fit to; a hash of the clip id decides."""
    clips = clips.take(np.argsort([_key(clip_id) for clip_id in clips["clip_id"].to_pylist()]))
    count = min(MAX_HELD_OUT, max(1, clips.num_rows // HELD_OUT))
    return clips.slice(0, count), clips.slice(count)


def _key(clip_id: str) -> int:
    """A hash of the clip id, 63 bits."""
    return int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:8], "big") >> 1


def _pool(clips: pa.Table, blocks: int, options: Options, config: BlockCodecConfig) -> tuple["ray.data.Dataset", int]:
    """The blocks of the recordings, as the `samples` of a dataset of schema DECODED, and the number of usable
    recordings."""
    bank_FM, fitting = mel_bank(config), options.fitting

    def keep(waveform_N: np.ndarray, clip_id: str) -> bytes:
        return pool_of_recording(waveform_N, _key(clip_id), blocks, LogMel(config, bank_FM), config, fitting).tobytes()

    console.print(
        f"train-codec: up to {blocks} blocks of each of {fitting.copies} copies of {clips.num_rows} recordings"
    )
    pool = decode_clips(clips, SAMPLE_RATE, options.max_duration, keep)
    usable = warn_of_rejected(pool)
    if not usable:
        raise SoundStormError(f"{options.location}: no usable recording to fit to; see the warnings above")
    return pool, usable


def _waveforms(decoded: "ray.data.Dataset") -> list[np.ndarray]:
    return [from_pcm16(samples) for samples, _ in usable_recordings(decoded)]


def _measure(content: bytes, clips: pa.Table, options: Options) -> dict[str, Any] | None:
    """Figures of the codec on the recordings of the test fold; None if there are none."""
    waveforms = _waveforms(decode_clips(clips, SAMPLE_RATE, options.max_duration))
    if not waveforms:
        return None
    console.print(f"train-codec: measuring on {len(waveforms)} recordings of the test fold")
    return asdict(measure_codec(load_codec(content), waveforms))


# ---- fitting


def _fit(
    pool: "ray.data.Dataset", blocks: int, options: Options, config: BlockCodecConfig, info: ClusterInfo
) -> FittingState:
    """Fit level after level and save the state after each; a fitter that dies is replaced."""
    scaling, state_uri = scaling_for(1, options.device, info), storage.join(options.output_dir, STATE_FILE)
    stored = storage.read_bytes(state_uri) if storage.exists(state_uri) else None
    state = _stored_state(stored, state_uri)
    parts, failures, began = pool.to_arrow_refs(), 0, time.monotonic()
    first = len(state.reports)
    fitter = None
    with TrainingLog(options.output_dir, "level", STAGE) as log, tracking() as tracker:
        log.update(_rows(state))
        while len(state.packed) < config.num_levels:
            watchdog = Watchdog(
                tracker=tracker, worker=scaling.resources, storage_uri=options.output_dir, limits=limits_here()
            )
            fitter = fitter or _fitter(scaling, parts, blocks, config, options.fitting, stored, tracker)
            step = fitter.step.remote()
            try:
                stored = run_with_watchdog(partial(_result, step), watchdog)
            except DIED as error:
                failures, fitter = failures + 1, None
                if failures > options.max_failures:
                    raise SoundStormError(
                        f"{options.output_dir}: fitting failed, {failures} processes died at level "
                        f"{len(state.packed)}; finished levels are kept, "
                        "run the same command again; more memory may help, or a smaller --pool-blocks"
                    ) from error
                continue
            state = files.state_from_bytes(stored)
            storage.write_bytes(state_uri, stored)
            log.update(_rows(state))
            report, found = state.reports[-1], len(state.reports) - first
            left = (config.num_levels - len(state.reports)) * (time.monotonic() - began) / found
            console.print(
                f"level {report.level + 1}/{config.num_levels}  error {report.error_nats:.4f} nats  codes in use "
                f"{report.codes_in_use:.0%}"
                f"  entropy {report.entropy_bits:.2f} bits  ETA {duration(left)}"
            )
    if fitter is not None:
        ray.kill(fitter)  # to free its CPUs at once
    return state


def _fitter(
    scaling: WorkerScaling,
    parts: list[ray.ObjectRef],
    blocks: int,
    config: BlockCodecConfig,
    fitting: FittingConfig,
    stored: bytes | None,
    tracker: Any,
) -> Any:
    actor = ray.remote(CodecFitter).options(
        num_cpus=scaling.cpus_per_worker, num_gpus=int(scaling.use_gpu), max_restarts=0
    )
    return actor.remote(parts, blocks, config, fitting, stored, scaling.cpus_per_worker, tracker)


def _result(task: "ray.ObjectRef[bytes]") -> bytes:
    return ray.get(task)


def _stored_state(stored: bytes | None, where: str) -> FittingState:
    if stored is None:
        return FittingState()
    try:
        return files.state_from_bytes(stored)
    except ValueError as error:
        raise ClusterError(f"{where} is damaged ({error}): use --overwrite") from error


def _rows(state: FittingState) -> list[dict[str, Any]]:
    return [asdict(report) for report in state.reports]


def _show_levels(state: FittingState) -> None:
    table = Table("level", "error, nats", "codes in use", "entropy, bits")
    for report in state.reports:
        table.add_row(
            str(report.level), f"{report.error_nats:.4f}", f"{report.codes_in_use:.0%}", f"{report.entropy_bits:.2f}"
        )
    console.print(table)


if __name__ == "__main__":
    exit_process(run_command(Options, run))
