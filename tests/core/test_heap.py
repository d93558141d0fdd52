import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import numpy as np
from splatmend.core import keep_freed_memory

kept = sys.argv[1] == "keep" and keep_freed_memory()

def cycle():
    # the larger goes last, so that the end of the heap falls free
    pictures = [np.ones(size, np.uint8) for size in (3 << 20, 5 << 20, 7 << 20)]
    del pictures

for _ in range(5):
    cycle()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    cycle()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
def test_kept_memory_is_not_faulted_in_again() -> None:
    def faults(keep: str) -> tuple[int, int]:
        command = [sys.executable, "-c", _FAULTS, keep]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        kept, count = map(int, done.stdout.split())
        return kept, count

    kept, few = faults("keep")
    if not kept:
        pytest.skip("the C library is not glibc")
    _, many = faults("give back")
    assert many > 5_000
    assert few < 500
