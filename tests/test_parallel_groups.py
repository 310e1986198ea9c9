"""The tests of a file, or of a group of files, run on one worker of pytest-xdist, the long groups first, and the third
worker has no Ray."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support.parallel_groups import GROUPS, LONG_FIRST, WITHOUT_RAY

TESTS = Path(__file__).parent
FILES = ("soundstorm/editing/test_regions.py", "soundstorm/data/test_notes.py", "soundstorm/audio/test_joining.py")
WITH_RAY = ("jobs/training/test_ray_trainer.py", "jobs/diagnostics/test_nodes.py")
"""Files of which some tests use Ray; others, which are quick, are chosen here."""
CHOSEN = "test_regions or test_notes or test_joining or would_come_again or nodes_that_are_alike"


def test_the_tests_of_a_file_stay_on_one_worker_and_those_with_ray_on_the_first_two() -> None:
    options = ["-n", "3", "-k", CHOSEN, "--dist", "loadscope", "--no-loadscope-reorder", "-v", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(str(TESTS / file) for file in FILES + WITH_RAY)],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    ran = re.findall(r"^\[(gw\d)\].* PASSED tests/(\S+?)::", ended.stdout, re.MULTILINE)
    assert ended.returncode == 0 and len(ran) > 2 * len(FILES), ended.stdout[-3000:]
    workers = {file: {worker for worker, of in ran if of == file} for file in FILES + WITH_RAY}
    assert all(len(of_file) == 1 for of_file in workers.values())
    assert all(WITHOUT_RAY not in workers[file] for file in WITH_RAY)
    assert any(WITHOUT_RAY in workers[file] for file in FILES)


def test_groups_name_files_and_folders_that_exist() -> None:
    assert all((TESTS / name).exists() for name in (*GROUPS, *LONG_FIRST) if name not in GROUPS.values())
