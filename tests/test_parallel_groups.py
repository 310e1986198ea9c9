"""The tests of a file, or of a group of files, run on one worker of pytest-xdist, the long groups first."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support.parallel_groups import GROUPS, LONG_FIRST

TESTS = Path(__file__).parent
FILES = ("soundstorm/generation/test_regions.py", "soundstorm/data/test_notes.py", "soundstorm/audio/test_joining.py")


def test_the_tests_of_a_file_stay_on_one_worker() -> None:
    options = ["-n", "2", "--dist", "loadscope", "--no-loadscope-reorder", "-v", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(str(TESTS / file) for file in FILES)],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    ran = re.findall(r"^\[(gw\d)\].* PASSED tests/(\S+?)::", ended.stdout, re.MULTILINE)
    assert ended.returncode == 0 and len(ran) > 2 * len(FILES), ended.stdout[-3000:]
    assert {len({worker for worker, file in ran if file == each}) for each in FILES} == {1}
    assert len({worker for worker, _ in ran}) == 2


def test_groups_name_files_and_folders_that_exist() -> None:
    assert all((TESTS / name).exists() for name in (*GROUPS, *LONG_FIRST) if name not in GROUPS.values())
