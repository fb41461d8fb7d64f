"""Memory that is kept between steps."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from recipes.tsmr.training.memory import kept_memory

def faults():
    "Of one step that takes 32 blocks of 8 MB and frees them."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2_000_000) for _ in range(32)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

faults(), faults()
given_back, small = faults(), held()
with kept_memory():
    faults()
    kept, large = faults(), held()
print(given_back, kept, small, large, held())
"""


def measured(**environment: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(number) for number in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is said of memory is said to glibc")
def test_what_a_step_frees_is_there_for_the_next_one_and_is_handed_back_in_the_end() -> None:
    given_back, kept, small, large, after = measured()
    assert given_back > 10 * max(kept, 1000)
    assert large > small + 200_000_000 > after + 100_000_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is said of memory is said to glibc")
def test_what_a_user_says_of_memory_counts() -> None:
    given_back, kept, *_ = measured(MALLOC_TRIM_THRESHOLD_="131072")
    assert kept > given_back / 2
