"""Memory does not grow with the length of a clip."""

import subprocess
import sys

import pytest

MEASURE = """
import resource, sys
from splatmend.core import load_restorer
from splatmend.plugin import VideoOptions, restore_video
restore_video(sys.argv[1], sys.argv[2], load_restorer("copy", device="cpu"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_eight_times_the_length_takes_the_same_memory(make_clip, tmp_path):
    peaks = []
    for frames in (60, 480):
        source = make_clip(
            f"in{frames}.mp4", frames=frames, size=(240, 320), pix_fmt="yuv420p", audio=True
        )
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(source), str(tmp_path / f"out{frames}.mp4")],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
    # 480 frames of RGB alone would be 110 MB
    assert peaks[1] <= 1.1 * peaks[0]
