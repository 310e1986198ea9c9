"""Freed memory that stays with a process, seen from its page faults."""

import os
import subprocess
import sys

import pytest

from soundstorm.optimization.freed_memory import OWN_SETTINGS

FAULTS = """
import resource, torch
from soundstorm.optimization.freed_memory import keep_freed_memory
torch.set_num_threads(1)
print(keep_freed_memory())
def work():
    arrays = [torch.ones(3_000_000) for _ in range(6)]
for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 5 * 6 * 3_000_000 * 4 // 4096
"""Pages that the work above writes."""


def measured(**variables: str) -> tuple[bool, int]:
    """Whether memory is kept, and the page faults of the work, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in OWN_SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env=environment | variables, capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_the_same_work_again_needs_no_new_pages() -> None:
    kept, faults = measured()
    assert kept
    assert faults < PAGES / 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_a_user_who_chose_otherwise_is_left_alone() -> None:
    kept, faults = measured(MALLOC_TRIM_THRESHOLD_="1000000", MALLOC_MMAP_THRESHOLD_="1000000")
    assert not kept
    assert faults > PAGES / 2
