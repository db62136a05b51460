"""Freed memory is kept: the next large array costs no page faults."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from storage.freed_memory import return_freed_memory, reuse_freed_memory

assert (reuse_freed_memory if sys.argv[1] == "reuse" else return_freed_memory)()
np.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(1 << 23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is set")
def test_a_second_array_takes_the_place_of_the_first() -> None:
    faults = {
        choice: int(subprocess.run([sys.executable, "-c", PROGRAM, choice], capture_output=True, check=True).stdout)
        for choice in ("reuse", "return")
    }
    assert faults["reuse"] < 100
    assert faults["return"] > 10 * max(1, faults["reuse"])  # 64 MB: 16384 pages, or 32 huge ones
