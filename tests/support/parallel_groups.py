"""Which tests run on one worker of pytest-xdist (`-n 3`), and which begin first.

A file stays together, since its fixtures are made once; files that look at the same runs of the jobs stay together too.
A worker takes the next group when it has ended one, so the long ones begin first and the short ones fill the gaps.
The third worker takes only groups that do without the fixture `ray_session`: a third Ray would cost more than it gives,
and while the others wait for their Rays, a core is free.
"""

import os
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

SHARED_RUNS = "shared-runs"
GROUPS = {
    "jobs/test_tokenize_job.py": SHARED_RUNS,
    "jobs/actors/test_tokenize_views.py": SHARED_RUNS,
    "jobs/test_generate_job.py": SHARED_RUNS,
    "jobs/actors/test_generate_webdataset.py": SHARED_RUNS,
    "jobs/actors/test_generate_faults.py": SHARED_RUNS,
    "jobs/test_evaluate_job.py": SHARED_RUNS,
    "jobs/evaluation/test_evaluate_model.py": SHARED_RUNS,
    "jobs/inputs/test_malformed_results.py": SHARED_RUNS,
}
"""Groups of more than one file: `tokenized`, `generated` and `evaluated` of tests/jobs/conftest.py are made once."""
LONG_FIRST = (
    SHARED_RUNS,
    "jobs/serving/test_endpoint.py",
    "jobs/serving/test_page_browser.py",
    "jobs/test_cross_validate.py",
    "jobs/test_train_job.py",
    "cluster/runtime/test_connect.py",
    "tune/test_submitted_jobs.py",
    "jobs/actors/test_tokenize_faults.py",
    "cluster/scheduling/test_actor_pool.py",
    "cluster/storage/test_storage_faults.py",
    "jobs/test_train_classifier_job.py",
    "jobs/test_train_codec_job.py",
    "jobs/classification/test_code_classifier.py",
    "jobs/test_pipeline_job.py",
    "jobs/test_packaged_model.py",
    "tune/test_training_study.py",
    "tune/test_joint_study.py",
    "tune/test_decoding_study.py",
    "jobs/training/test_places_job.py",
    "jobs/test_classify_job.py",
    "jobs/test_command_line.py",
    "jobs/classification/test_ast_model.py",
    "cluster/storage/test_storage.py",
    "cluster/scheduling/test_watchdog.py",
    "test_packaging.py",
    "test_docs.py",
    "jobs/console",
    "jobs",
    "tune",
    "cluster",
    "golden",
)
"""Groups, files and folders; what is not named comes last."""
TESTS = Path(__file__).resolve().parents[1]
WITHOUT_RAY = "gw2"
"""Name of the third worker."""


class GroupScheduling(LoadScopeScheduling):
    """Gives each worker whole groups. (`--dist loadgroup` of pytest-xdist 3.8 marks the names of tests, which pytest
    9.2 does not pass on: each test was a group of its own.)

    Args:
        config: of the controller.
        log: of pytest-xdist.
        with_ray: file in which the workers name the groups that use `ray_session`; `arrange` writes it.
    """

    def __init__(self, config: pytest.Config, log: Any, with_ray: Path) -> None:
        super().__init__(config, log)
        self.with_ray = with_ray

    def _assign_work_unit(self, node: WorkerController) -> None:
        """The first group in the queue that uses Ray, or else the first; for the third worker, the first that does not.
        A worker for which there is none ends."""
        uses_ray = set(self.with_ray.read_text().splitlines())
        without = [group for group in self.workqueue if group not in uses_ray]
        if node.gateway.id == WITHOUT_RAY:
            if not without:
                node.shutdown()
                return
            chosen = without[0]
        else:
            chosen = next((group for group in self.workqueue if group in uses_ray), next(iter(self.workqueue)))
        self.workqueue.move_to_end(chosen, last=False)
        super()._assign_work_unit(node)

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0].removeprefix("tests/"))


def group_of(file: str) -> str:
    """The group of a file below tests/: one that it shares, or else the file."""
    return GROUPS.get(file, file)


def rank(group: str) -> int:
    """The place of a group among those that begin first."""
    return next((place for place, name in enumerate(LONG_FIRST) if group == name or group.startswith(f"{name}/")), 99)


def arrange(items: list[pytest.Item], with_ray: Path) -> None:
    """Put the long groups first, and the tests of a group together; name in `with_ray` those that use `ray_session`."""
    groups = {item: group_of(item.path.relative_to(TESTS).as_posix()) for item in items}
    first_seen = {group: place for place, group in enumerate(dict.fromkeys(groups.values()))}
    items.sort(key=lambda item: (rank(groups[item]), first_seen[groups[item]]))
    uses_ray = {groups[item] for item in items if "ray_session" in getattr(item, "fixturenames", ())}
    own = with_ray.with_name(f"{with_ray.name}-{os.getpid()}")
    own.write_text("\n".join(sorted(uses_ray)))
    own.replace(with_ray)  # all workers collect the same tests
