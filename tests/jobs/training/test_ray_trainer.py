"""Ray Train as the jobs use it: how many workers, and which failures a restart would not mend."""

import errno
from pathlib import Path

import pyarrow.fs
import pytest
import ray
import torch

from cluster.errors import StorageUnavailableError
from cluster.runtime.connect import ClusterInfo
from jobs.training.ray_trainer import ReportForwarder, _as_sentence, scaling_for
from soundstorm.errors import SoundStormError


def test_more_workers_than_the_cluster_holds_are_refused_at_once_or_after_a_wait(ray_session: None) -> None:
    here = ClusterInfo(num_cpus=4, num_gpus=0, nodes=1, started_here=True)
    with pytest.raises(SoundStormError, match=r"--num-workers is 9.*give at most 4"):
        scaling_for(9, "auto", here)
    with pytest.raises(SoundStormError, match="could not schedule them within 1 s"):
        scaling_for(9, "auto", ClusterInfo(num_cpus=4, num_gpus=0, nodes=1, started_here=False), wait_s=1)
    with pytest.raises(SoundStormError, match="Ray sees no GPU"):
        scaling_for(1, "cuda", here)


def test_workers_share_the_cpus_of_the_cluster(ray_session: None) -> None:
    here = ClusterInfo(num_cpus=4, num_gpus=0, nodes=1, started_here=True)
    assert [scaling_for(count, "cpu", here).cpus_per_worker for count in (1, 2, 3, 4)] == [4, 2, 1, 1]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "the disk is full or read-only .*No space left on device.*free space for out",
        ),
        (SoundStormError("the state is not of this network"), "not of this network"),
        (StorageUnavailableError("s3://bucket: gone"), "s3://bucket: gone"),
    ],
)
def test_a_failure_that_would_come_again_ends_the_run_at_once(error: Exception, told: str) -> None:
    with pytest.raises((SoundStormError, StorageUnavailableError), match=told):
        ReportForwarder(None, "out").after_exception(None, {1: error})


@pytest.mark.parametrize("error", [RuntimeError("connection closed by peer"), OSError(errno.ECONNRESET, "reset")])
def test_a_failure_that_may_pass_is_left_to_a_restart(error: Exception) -> None:
    ReportForwarder(None, "out").after_exception(None, {0: error})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file that is always full is had on Linux")
def test_a_full_disk_ends_the_run_whoever_finds_it() -> None:
    for write in (
        lambda: torch.save({"weights": torch.zeros(10_000)}, "/dev/full"),
        lambda: pyarrow_write("/dev/full"),
    ):
        with pytest.raises((OSError, RuntimeError)) as full:
            write()
        with pytest.raises(SoundStormError, match="the disk is full or read-only"):
            ReportForwarder(None, "out").after_exception(None, {0: full.value})


def test_a_machine_without_memory_is_told_in_our_words() -> None:
    said = (
        "2 worker(s) were killed due to the node running low on memory.\\nRefer to the documentation on how to "
        "address the out of memory issue: ..."
    )
    told = str(_as_sentence(ray.exceptions.OutOfMemoryError(said), 3))
    assert (
        told.startswith("training stopped: the machine ran out of memory")
        and "fewer --num-workers or a smaller --batch-size" in told
    )


def pyarrow_write(path: str) -> None:
    with pyarrow.fs.LocalFileSystem().open_output_stream(path) as stream:
        stream.write(bytes(10_000_000))
