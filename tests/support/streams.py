"""Clips that move, and a restorer that flickers on them."""

from itertools import pairwise

import cv2
import numpy as np
import torch

from splatmend.core import Frame, RestorerTraits, from_tensor
from splatmend.temporal import Stream, TemporalOptions

SIZE = (96, 128)


class Flickering:
    """A restorer whose detail depends on every bit of a frame, as that of a network may."""

    traits = RestorerTraits("flickering", keeps_colors=True)
    device = torch.device("cpu")

    def __init__(self, strength=0.04):
        self.strength = strength
        self.calls = 0

    def __call__(self, rgb):
        self.calls += 1
        noisy = []
        for color in from_tensor(rgb, np.uint8):
            rng = np.random.default_rng(np.frombuffer(color.tobytes(), np.uint8).astype(int).sum())
            grain = rng.normal(size=color.shape).astype(np.float32)
            noisy.append(torch.from_numpy(cv2.GaussianBlur(grain, (0, 0), 1)).permute(2, 0, 1))
        return (rgb + self.strength * torch.stack(noisy)).clamp(0, 1)


class Sharpening(Flickering):
    """A restorer that makes detail twice as strong, whatever it shows."""

    name = "sharpening"

    def __call__(self, rgb):
        self.calls += 1
        sharp = []
        for color in from_tensor(rgb, np.float32):
            detail = color - cv2.GaussianBlur(color, (0, 0), 2)
            sharp.append(torch.from_numpy(color + detail).permute(2, 0, 1))
        return torch.stack(sharp).clamp(0, 1)


def texture(seed=0, size=(160, 192)):
    rng = np.random.default_rng(seed)
    field = cv2.GaussianBlur(rng.normal(size=(*size, 3)).astype(np.float32), (0, 0), 3)
    return np.clip(128 + 45 * field / field.std(), 0, 255).astype(np.uint8)


def clip(count=8, *, motion=True, **planes):
    """A texture that moves 2 pixels to the left and 1 up each frame."""
    picture = texture()
    flow = np.zeros((*SIZE, 2), np.float32)
    flow[..., 0], flow[..., 1] = 2, 1
    return [
        Frame(
            color=picture[i : i + SIZE[0], 2 * i : 2 * i + SIZE[1]],
            motion=flow if motion else None,
            pts=i,
            **planes,
        )
        for i in range(count)
    ]


def alpha_clip(count=6, kind="straight"):
    """The texture on an ellipse that moves across several alpha boxes."""
    y, x = np.mgrid[:256, :320]
    picture = texture(2, (256, 320))
    frames = []
    for i in range(count):
        inside = np.hypot((x - 90 - 12 * i) / 40, (y - 120) / 60)
        alpha = np.clip((1.1 - inside) * 1000, 0, 255).astype(np.uint8)
        color = np.roll(picture, 12 * i, 1)
        if kind == "premultiplied":
            color = (color * (alpha[..., None] / 255)).astype(np.uint8)
        frames.append(Frame(color=color, alpha=alpha, alpha_kind=kind, pts=i))
    return frames


def colors(frames):
    return [f.color.tobytes() for f in frames]


def stream(restorer=None, **options):
    return Stream(restorer or Flickering(), None, TemporalOptions(**options))


def flicker(frames):
    """Mean change along the motion of `clip`, beyond the border."""
    moved = [
        np.abs(b.color[:-1, :-2].astype(float) - a.color[1:, 2:]).mean()
        for a, b in pairwise(frames)
    ]
    return np.mean(moved)
