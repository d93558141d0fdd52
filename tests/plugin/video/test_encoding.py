"""The basis of a resumed video: the same pictures encode to the same packets, every time."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from splatmend.plugin.video.encoding import EncodingOptions, plan_encoding
from splatmend.plugin.video.source import open_clip

SIDE, FRAMES, TIMES = 352, 12, 24


def drifting_texture(pix_fmt):
    rng = np.random.default_rng(0)
    fine, coarse = (
        cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE, 3)), (0, 0), sigma) for sigma in (1, 12)
    )
    texture = np.clip(128 + 60 * fine + 500 * coarse, 0, 255).astype(np.uint8)
    for index in range(FRAMES):
        shown = np.ascontiguousarray(np.roll(texture, 2 * index, 1))
        frame = av.VideoFrame.from_ndarray(shown, "rgb24").reformat(format=pix_fmt)
        frame.pts, frame.time_base = index, Fraction(1, 25)
        yield frame


@pytest.mark.slow
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_x264_repeats_itself(pix_fmt, make_clip, tmp_path):
    clip = open_clip(make_clip("in.mp4", frames=2))
    encoding = plan_encoding(
        clip,
        tmp_path / "out.mp4",
        EncodingOptions(codec="libx264", pix_fmt=pix_fmt),
        size=(SIDE, SIDE),
        keyframe_distance=FRAMES,
    )
    frames = list(drifting_texture(pix_fmt))
    made = set()
    for _ in range(TIMES):
        encoder = encoding.open()
        packets = [packet for frame in frames for packet in encoder.encode(frame)]
        made.add(b"".join(map(bytes, [*packets, *encoder.encode()])))
    assert len(made) == 1
