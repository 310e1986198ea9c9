"""Which tests run on one worker of pytest-xdist (`-n 2`), and which begin first.

A file stays together, since its fixtures are made once; files that look at the same runs of the jobs stay together too.
A worker takes the next group when it has ended one, so the long ones begin first and the short ones fill the gaps.
"""

from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

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
    "tune/test_submitted_study.py",
    "jobs/actors/test_tokenize_faults.py",
    "cluster/runtime/test_job_submission.py",
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


class GroupScheduling(LoadScopeScheduling):
    """Gives each worker whole groups. (`--dist loadgroup` of pytest-xdist 3.8 marks the names of tests, which pytest
    9.2 does not pass on: each test was a group of its own.)"""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0].removeprefix("tests/"))


def group_of(file: str) -> str:
    """The group of a file below tests/: one that it shares, or else the file."""
    return GROUPS.get(file, file)


def rank(group: str) -> int:
    """The place of a group among those that begin first."""
    return next((place for place, name in enumerate(LONG_FIRST) if group == name or group.startswith(f"{name}/")), 99)


def arrange(items: list[pytest.Item]) -> None:
    """Put the long groups first, and the tests of a group together."""
    groups = {item: group_of(item.path.relative_to(TESTS).as_posix()) for item in items}
    first_seen = {group: place for place, group in enumerate(dict.fromkeys(groups.values()))}
    items.sort(key=lambda item: (rank(groups[item]), first_seen[groups[item]]))
