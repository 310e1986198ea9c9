"""Runs Ray Train loops from a job: number of workers, forwarding of reports, readable errors."""

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
    RunConfig,
    ScalingConfig,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.queue import Queue

from cluster import storage
from cluster.errors import ClusterError
from cluster.runtime.connect import ClusterInfo
from cluster.runtime.resources import alive_nodes, on_this_node
from cluster.scheduling.attempt_tracker import Heartbeat, tracking
from cluster.scheduling.watchdog import Watchdog, limits_here, run_with_watchdog
from jobs.actors.job_precision import require_gpu
from soundstorm.errors import SoundStormError

RUN_FOLDER = "run"
"""Folder of Ray Train's checkpoints in the output folder, during training."""
CHECKPOINTS_KEPT = 2
"""The newest checkpoint, and the one before in case the newest is damaged."""
FULL_OR_READ_ONLY = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
FULL_FOR_TORCH = ("PytorchStreamWriter failed", "inline_container.cc")
"""Texts of PyTorch's error when the disk is full."""
LOW_ON_MEMORY = "the out of memory issue"
"""Text of Ray's error when it killed a process because memory ran out."""
STOPPED = "training stopped: "
KEPT = "Saved checkpoints are kept: run the same command again to resume (SOUNDSTORM_DEBUG=1 shows the traceback)"
WORKER_WAIT_S = 120.0
"""Longest wait for a busy cluster to free resources, or to scale up."""


@dataclass(kw_only=True, frozen=True)
class WorkerScaling:
    """Number and resources of the workers of a training run."""

    num_workers: int
    cpus_per_worker: int
    use_gpu: bool

    @property
    def resources(self) -> dict[str, float]:
        """Ray resources that one worker reserves."""
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
    """Choose the number and resources of workers, and check that the cluster can hold them.

    Args:
        num_workers: requested number; None: one per GPU, or one if there is no GPU.
        device: `auto` (GPUs if there are any), `cpu` or `cuda`.
        info: the cluster.
        wait_s: longest wait for a joined cluster to free resources, extended if it needs longer to scale up; there is
            no wait if Ray was started here.

    Raises:
        SoundStormError: the cluster cannot hold them.
    """
    gpus = int(info.num_gpus)
    if device == "cuda":
        require_gpu(info)
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
                f"{too_many}, and could not schedule them within {wait_s:.0f} s: give fewer, or wait until other jobs "
                "end"
            )
    finally:
        remove_placement_group(group)
    return scaling


def _cpus_per_worker(num_workers: int, num_cpus: int) -> int:
    """The largest number of CPUs per worker such that `num_workers` fit on the nodes, each on one node; at least 1."""
    nodes = [int(node["Resources"].get("CPU", 0)) for node in alive_nodes()]
    for cpus in range(max(1, min(sum(nodes), num_cpus) // num_workers), 1, -1):
        if sum(node // cpus for node in nodes) >= num_workers:
            return cpus
    return 1


def use_threads(cpus: int, requested: int | None = None) -> None:
    """Set the number of PyTorch's threads: `requested`, else OMP_NUM_THREADS, else the CPUs of this worker."""
    variable = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(requested or (int(variable) if variable.isdecimal() and int(variable) > 0 else cpus))


class ReportForwarder(UserCallback):
    """Callback in Ray Train's controller: forwards the metrics of rank 0's reports to the driver, and ends a run after
    an error that a restart cannot fix."""

    def __init__(self, queue: Queue, output_uri: str) -> None:
        self.queue, self.output_uri = queue, output_uri

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        self.queue.put_nowait(metrics[0])

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise an error that a restart cannot fix; Ray Train then ends the run."""
        for _, error in sorted(worker_exceptions.items()):
            if isinstance(error, SoundStormError | ClusterError):
                raise error
            if _is_disk_full(error):
                raise SoundStormError(
                    f"{STOPPED}the disk is full or read-only ({_lines(error)[0]}): free space for {self.output_uri} "
                    "and for temporary files"
                )


Outcome = tuple[list[dict[str, Any]], str | None]
"""The log of a training, and why it stopped early; None: it did not."""


class TrainingStoppedError(SoundStormError):
    """The loop stopped early; the text says why."""

    def __init__(self, reason: str, checkpoint: ray.train.Checkpoint | None) -> None:
        super().__init__(reason)
        self.checkpoint = checkpoint


def run_trainer(
    loop: Callable[[], Outcome],
    datasets: dict[str, "ray.data.Dataset"],
    *,
    scaling: WorkerScaling,
    output_uri: str,
    max_failures: int,
    on_report: Callable[[dict[str, Any]], None],
) -> tuple[list[dict[str, Any]], ray.train.Checkpoint]:
    """Run `loop` on the workers until it returns; returns the log and the last checkpoint. If a worker is lost, all
    restart from the latest checkpoint.

    An interrupted run resumes with the same call, because Ray Train finds its checkpoints below `output_uri`. Every
    worker gets each whole dataset through `ray.train.get_dataset_shard`.

    Args:
        loop: runs on each worker.
        datasets: materialized datasets, so that reading them needs no further CPU.
        scaling: the workers.
        output_uri: the job's output folder.
        max_failures: maximum number of restarts.
        on_report: called in the driver with the metrics of each `ray.train.report`.

    Raises:
        TrainingStoppedError: the loop stopped early.
        SoundStormError: more failures than allowed, or an error that a restart cannot fix.
        ClusterError: no node can hold the workers any more, or the storage cannot be reached.
    """
    # reports are collected at each check; the default of 2 s is long for short epochs
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    filesystem, path = storage.filesystem(storage.join(output_uri, RUN_FOLDER))
    # on the driver's node: the loss of another node does not lose reports
    reports = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": on_this_node()})
    with tracking() as tracker:

        def loop_with_heartbeat() -> Any:
            with Heartbeat(tracker):
                return loop()

        trainer = TorchTrainer(
            loop_with_heartbeat,
            datasets={**datasets},
            dataset_config=DataConfig(datasets_to_split=[]),
            scaling_config=ScalingConfig(
                num_workers=scaling.num_workers, use_gpu=scaling.use_gpu, resources_per_worker=scaling.resources
            ),
            run_config=RunConfig(  # type: ignore[call-arg]  # the types are those of Ray Train's first version
                name="train",
                storage_path=path,
                storage_filesystem=filesystem,
                checkpoint_config=CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
                failure_config=FailureConfig(max_failures=max_failures),
                logging_config=LoggingConfig(log_level="ERROR"),
                callbacks=[ReportForwarder(reports, output_uri)],  # type: ignore[list-item]
            ),
        )

        def show() -> None:
            for metrics in reports.get_nowait_batch(reports.qsize()):
                on_report(metrics)

        resources, count = scaling.resources, scaling.num_workers
        watchdog = Watchdog(
            tracker=tracker, worker=resources, num_workers=count, storage_uri=output_uri, limits=limits_here()
        )
        try:  # not in the main thread: Ray Train then does not change the handling of Ctrl-C
            result: Any = run_with_watchdog(trainer.fit, watchdog, show)
        except Exception as error:
            sentence = _as_sentence(error, max_failures)
            if sentence is error:
                raise  # an error that is its own cause makes Ray Tune loop endlessly
            raise sentence from error
        finally:
            reports.shutdown(force=True)
    rows, problem = result.return_value
    if problem:
        raise TrainingStoppedError(problem, result.checkpoint)
    return rows, result.checkpoint


def _as_sentence(error: Exception, max_failures: int) -> Exception:
    """The SoundStormError for an error of Ray Train; other errors are returned unchanged."""
    cause = getattr(error, "cause", None)  # of an error within Ray Train's controller
    if isinstance(cause, SoundStormError | ClusterError):
        return cause
    if not isinstance(error, ray.train.TrainingFailedError | ray.exceptions.RayError):
        return error
    if LOW_ON_MEMORY in str(error):
        remedy = "add memory, end other programs, or give fewer --num-workers or a smaller --batch-size"
        return SoundStormError(f"{STOPPED}the machine ran out of memory, and Ray killed a process: {remedy}. {KEPT}")
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        rank, cause = sorted(error.worker_failures.items())[0]
        restarts = f"{max_failures} restart{'s' if max_failures != 1 else ''}"
        return SoundStormError(
            f"training stopped after {restarts}: worker {rank} failed with {type(cause).__name__}: "
            f"{_lines(cause)[0]}. {KEPT}"
        )
    return SoundStormError(f"{STOPPED}{_lines(error)[-1].rpartition(STOPPED)[2]}. {KEPT}")


def _is_disk_full(error: Exception) -> bool:
    """Whether the error means that the disk is full or read-only."""
    if isinstance(error, OSError):
        return error.errno in FULL_OR_READ_ONLY
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in FULL_FOR_TORCH)


def _lines(error: BaseException) -> list[str]:
    """The lines of an error's text; the last line of a Ray error states what happened."""
    return [line.strip()[:300].rstrip(".") for line in str(error).splitlines() if line.strip()] or ["no reason given"]
