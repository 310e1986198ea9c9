"""What a decoding study measures against: changed recordings are others, a damaged classifier is named, no wait is for
ever."""

import shutil
import time
from pathlib import Path

import pytest
import ray

from cluster.errors import ClusterError
from cluster.scheduling.limits import Limits
from jobs.inputs.classifiers import open_reranker
from jobs.inputs.clips import fingerprint_of_clips
from soundstorm.audio.synthesis import CLASSES
from soundstorm.errors import SoundStormError
from tune.decoding.reference import ReferenceOptions, _await_all, choose_real


def test_a_changed_recording_makes_another_study(synthetic_dataset: Path, tmp_path: Path) -> None:
    sounds = shutil.copytree(synthetic_dataset, tmp_path / "sounds")
    options = ReferenceOptions(dataset="synthetic", data_dir=str(sounds))
    before = choose_real(options, CLASSES)
    assert fingerprint_of_clips(choose_real(options, CLASSES).clips) == fingerprint_of_clips(before.clips)
    changed = Path(before.clips[0].uri)
    changed.write_bytes(changed.read_bytes() + b"\0\0")
    assert fingerprint_of_clips(choose_real(options, CLASSES).clips) != fingerprint_of_clips(before.clips)


def test_a_damaged_classifier_is_named(tmp_path: Path) -> None:
    path = tmp_path / "classifier.safetensors"
    path.write_bytes(b"damaged")
    with pytest.raises(SoundStormError, match=f"^--listener {path}: not a classifier "):
        open_reranker(str(path), CLASSES)


def test_tasks_are_awaited_while_some_end_and_given_up_when_none_does(ray_session: None) -> None:
    @ray.remote(num_cpus=0)
    def work(seconds: float) -> None:
        time.sleep(seconds)

    _await_all([work.remote(0.0), work.remote(0.0)], Limits())
    stuck = work.remote(300.0)
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"of 2 tasks that measure them 1 are left, and none has ended for \d+ s"):
        _await_all([work.remote(0.0), stuck], Limits(shard_timeout_s=20.0))
    with pytest.raises(ray.exceptions.RayError):
        ray.get(stuck, timeout=60)  # it was ended
    assert time.monotonic() - began < 120
