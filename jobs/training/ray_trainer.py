"""Running a Ray Train loop from a job: how many workers, what they report as they report it, and problems as
sentences."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import torch
from ray.train import (
    CheckpointConfig,
    DataConfig,
    FailureConfig,
    LoggingConfig,
    Result,
    RunConfig,
    ScalingConfig,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import storage
from cluster.errors import ClusterError
from cluster.runtime.connect import ClusterInfo
from cluster.runtime.resources import alive_nodes
from cluster.scheduling.attempt_tracker import Heartbeat, start_tracker
from cluster.scheduling.watchdog import Watchdog, limits_here, run_with_watchdog
from soundstorm.errors import SoundStormError

RUN_FOLDER = "run"
"""Below a job's output while it trains: checkpoints as Ray Train keeps them."""
CHECKPOINTS_KEPT = 2
"""The newest and the one before it, should the newest be damaged."""
FULL_OR_READ_ONLY = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
FULL_FOR_TORCH = ("PytorchStreamWriter failed", "inline_container.cc")
"""What PyTorch says when the disk takes no more of a file that it writes."""
LOW_ON_MEMORY = "the out of memory issue"
"""What Ray says of a process that it ended because the machine had too little memory."""
STOPPED = "training stopped: "
WORKER_WAIT_S = 120.0
"""How long a cluster that can grow, or that is busy, has for making room."""


@dataclass(kw_only=True, frozen=True)
class WorkerScaling:
    """The workers of a training run."""

    num_workers: int
    cpus_per_worker: int
    use_gpu: bool

    @property
    def resources(self) -> dict[str, float]:
        """What one worker reserves."""
        return {"CPU": float(self.cpus_per_worker)} | ({"GPU": 1.0} if self.use_gpu else {})

    def __str__(self) -> str:
        workers = f"{self.num_workers} worker" + ("s" if self.num_workers > 1 else "")
        return (
            f"{workers} with {self.cpus_per_worker} "
            f"CPU{'s' if self.cpus_per_worker > 1 else ''}{' and a GPU' if self.use_gpu else ''} each"
        )


def scaling_for(
    num_workers: int | None, device: str, info: ClusterInfo, wait_s: float = WORKER_WAIT_S
) -> WorkerScaling:
    """Decide on workers, and make sure that the cluster can hold them.

    Args:
        num_workers: None = one for each GPU, or a single one where there is none.
        device: `auto` (GPUs where there are any), `cpu` or `cuda`.
        info: the cluster.
        wait_s: how long a cluster joined may take to make room, longer if it takes longer to grow; one started here is
            given no time.

    Raises:
        SoundStormError: it cannot hold them.
    """
    gpus = int(info.num_gpus)
    if device == "cuda" and not gpus and info.started_here:
        raise SoundStormError("--device is cuda, but Ray sees no GPU: use --device cpu or auto")
    use_gpu = device == "cuda" or (device == "auto" and gpus > 0)
    count = num_workers or (max(1, gpus) if use_gpu else 1)
    scaling = WorkerScaling(
        num_workers=count, cpus_per_worker=_cpus_per_worker(count, int(info.num_cpus)), use_gpu=use_gpu
    )
    too_many = (
        f"--num-workers is {count}, which needs {scaling}; the cluster has {info.num_cpus:g} CPUs and {gpus} GPUs on "
        f"{info.nodes} node" + ("s" if info.nodes > 1 else "")
    )
    fits = count <= info.num_cpus and (not use_gpu or count <= gpus)
    if not fits and info.started_here:
        raise SoundStormError(f"{too_many}: give at most {gpus if use_gpu else int(info.num_cpus)}")
    wait_s = max(wait_s, info.scale_up_s)
    group = placement_group([scaling.resources] * count, strategy="PACK")
    try:
        if not group.wait(wait_s):
            raise SoundStormError(
                f"{too_many}, and had no room for them within {wait_s:.0f} s: give fewer, or wait until other jobs "
                "have ended"
            )
    finally:
        remove_placement_group(group)
    return scaling


def _cpus_per_worker(num_workers: int, num_cpus: int) -> int:
    """The most of `num_cpus` that each of `num_workers` can have when a worker must fit on one node; 1 where they
    cannot have that."""
    nodes = [int(node["Resources"].get("CPU", 0)) for node in alive_nodes()]
    for cpus in range(max(1, min(sum(nodes), num_cpus) // num_workers), 1, -1):
        if sum(node // cpus for node in nodes) >= num_workers:
            return cpus
    return 1


def use_threads(cpus: int, chosen: int | None = None) -> None:
    """Have PyTorch use the `chosen` threads; where none are, as many as OMP_NUM_THREADS says, or as this worker has
    CPUs."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(chosen or (int(wanted) if wanted.isdecimal() and int(wanted) > 0 else cpus))


class ReportForwarder(UserCallback):
    """Sends the metrics of each report, rank 0's, from Ray Train's controller to the driver; ends a run whose trouble
    would come again."""

    def __init__(self, queue: Queue, output_uri: str) -> None:
        self.queue, self.output_uri = queue, output_uri

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        self.queue.put_nowait(metrics[0])

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise what no restart would mend; Ray Train then ends the run."""
        for _, error in sorted(worker_exceptions.items()):
            if isinstance(error, SoundStormError | ClusterError):
                raise error
            if _found_no_room(error):
                raise SoundStormError(
                    f"{STOPPED}the disk is full or read-only ({_lines(error)[0]}); make room in {self.output_uri} and "
                    "for temporary files"
                )


def run_trainer(
    loop: Callable[[dict[str, Any]], Any],
    settings: dict[str, Any],
    datasets: dict[str, "ray.data.Dataset"],
    *,
    scaling: WorkerScaling,
    output_uri: str,
    max_failures: int,
    on_report: Callable[[dict[str, Any]], None],
) -> Result:
    """Run `loop(settings)` on the workers until it returns, restarting all of them from the latest checkpoint when one
    is lost.

    A run that was cut short goes on where the same call left off, since Ray Train finds its checkpoints below
    `output_uri`. Every worker gets each of `datasets` whole, through `ray.train.get_dataset_shard`.

    Args:
        loop: runs on each worker; what it returns on rank 0 is in the result.
        settings: handed to the loop.
        datasets: materialized, so that reading them takes no CPU beside those that the workers hold.
        scaling: the workers.
        output_uri: the job's output folder.
        max_failures: restarts allowed.
        on_report: called here with the metrics of each `ray.train.report`.

    Raises:
        SoundStormError: more workers failed than allowed, or one for a reason that would come again.
        ClusterError: there are no nodes for the workers any more, or the storage is gone.
    """
    # a report waits for the next check: 2 s are long beside a short epoch
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    filesystem, path = storage.filesystem(storage.join(output_uri, RUN_FOLDER))
    here = NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )  # whatever other node goes, the reports do not
    reports = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    tracker = start_tracker()

    def loop_with_beats(given: dict[str, Any]) -> Any:
        with Heartbeat(tracker):
            return loop(given)

    trainer = TorchTrainer(
        loop_with_beats,
        train_loop_config=settings,
        datasets=datasets,
        dataset_config=DataConfig(datasets_to_split=[]),
        scaling_config=ScalingConfig(
            num_workers=scaling.num_workers, use_gpu=scaling.use_gpu, resources_per_worker=scaling.resources
        ),
        run_config=RunConfig(
            name="train",
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
            failure_config=FailureConfig(max_failures=max_failures),
            logging_config=LoggingConfig(log_level="ERROR"),
            callbacks=[ReportForwarder(reports, output_uri)],
        ),
    )

    def show() -> None:
        for metrics in reports.get_nowait_batch(reports.qsize()):
            on_report(metrics)

    watchdog = Watchdog(
        tracker=tracker,
        worker=scaling.resources,
        num_workers=scaling.num_workers,
        storage_uri=output_uri,
        limits=limits_here(),
    )
    try:
        return run_with_watchdog(
            trainer.fit, watchdog, show
        )  # not in the main thread: so Ray Train leaves the handling of Ctrl-C alone
    except Exception as error:
        sentence = _as_sentence(error, max_failures)
        if sentence is error:
            raise  # an error that is its own cause sends Ray Tune round in circles
        raise sentence from error
    finally:
        reports.shutdown(force=True)


def _as_sentence(error: Exception, max_failures: int) -> Exception:
    """A SoundStormError for what Ray Train raised; other errors come back as they are."""
    cause = getattr(error, "cause", None)  # of an error within Ray Train's controller
    if isinstance(cause, SoundStormError | ClusterError):
        return cause
    if not isinstance(error, ray.train.TrainingFailedError | ray.exceptions.RayError):
        return error
    kept = "What is saved is kept: run the same command again to go on (SOUNDSTORM_DEBUG=1 shows the traceback)"
    if LOW_ON_MEMORY in str(error):
        remedy = "give it more, end other programs, or take fewer --num-workers or a smaller --batch-size"
        return SoundStormError(
            f"{STOPPED}the machine ran out of memory, and Ray ended a process for it: {remedy}. {kept}"
        )
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        rank, cause = sorted(error.worker_failures.items())[0]
        restarts = f"{max_failures} restart{'s' if max_failures != 1 else ''}"
        return SoundStormError(
            f"training stopped after {restarts}: worker {rank} failed with {type(cause).__name__}: "
            f"{_lines(cause)[0]}. {kept}"
        )
    return SoundStormError(f"{STOPPED}{_lines(error)[-1].rpartition(STOPPED)[2]}. {kept}")


def _found_no_room(error: Exception) -> bool:
    """Whether something could not be written because the disk is full or read-only."""
    if isinstance(error, OSError):
        return error.errno in FULL_OR_READ_ONLY
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in FULL_FOR_TORCH)


def _lines(error: BaseException) -> list[str]:
    """The lines of an error's text; in those of Ray the last is the one that says what happened."""
    return [line.strip()[:300].rstrip(".") for line in str(error).splitlines() if line.strip()] or ["no reason given"]
