import math
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from splatmend.core import InputError
from splatmend.temporal.loss import temporal_difference, temporal_loss
from splatmend.training.data.recordings import Recording, load_recording, render_recording
from splatmend.training.data.sequences import draw_sequence_batch
from splatmend.training.gaussians.ply import Splats
from splatmend.training.gaussians.rasterizer import Camera

FRAMES = 6


class Pan:
    """An estimator that knows: all goes two pixels to the right; asked there and back in turns."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, previous: Tensor, current: Tensor) -> Tensor:
        assert previous.shape == current.shape
        flow = torch.zeros(len(current), 2, *current.shape[2:])
        flow[:, 0] = 2 if self.calls % 2 else -2
        self.calls += 1
        return flow


@pytest.fixture
def clip(face: np.ndarray) -> np.ndarray:
    """A face panned by two pixels a frame, (6, 96, 128, 3)."""
    return np.stack([face[60:156, 100 - 2 * t : 228 - 2 * t] for t in range(FRAMES)])


def draw(recording: Recording, step: int = 0, crop: int = 64) -> tuple[Tensor, ...]:
    return draw_sequence_batch(
        [], seed=0, step=step, batch=2, frames=3, crop=crop, sources=[recording]
    )


def test_a_real_clip_is_splatted_and_its_motion_estimated(clip: np.ndarray) -> None:
    recording = Recording("pan", clip, flow=Pan())
    degraded, clean, flow, valid = draw(recording)
    assert degraded.shape == clean.shape == (2, 3, 3, 64, 64)
    assert flow[0, 0, :, 5, 5].tolist() == [-2, 0]
    assert valid.float().mean() > 0.9
    error = temporal_difference(clean, flow).abs()
    assert error[valid.expand_as(error)].max() < 1e-4
    assert not valid[..., :2].any()  # what came in from the left was nowhere before
    assert 0.001 < (degraded - clean).abs().mean() < 0.25
    assert torch.equal(degraded, draw(recording)[0])
    assert not torch.equal(clean, draw(recording, step=1)[1])


def test_real_damage_and_exact_motion_are_taken_as_they_are(clip: np.ndarray) -> None:
    motion = np.zeros((FRAMES - 1, 2, 96, 128), np.float16)
    motion[:, 0] = -2
    damaged = np.minimum(clip, 100)
    degraded, clean, flow, valid = draw(Recording("pair", clip, damaged, motion))
    assert torch.equal(degraded, clean.clamp(max=100 / 255))
    assert (flow[:, :, 0] == -2).all()
    assert temporal_loss(clean, clean, flow, valid).amax() == 0


def test_what_changes_by_itself_is_not_valid(clip: np.ndarray) -> None:
    blink = clip.copy()
    blink[3:, 40:60, 40:60] = 255 - blink[3:, 40:60, 40:60]
    _, clean, _, valid = draw_sequence_batch(
        [], seed=0, step=0, batch=1, frames=6, crop=96, sources=[Recording("b", blink, flow=Pan())]
    )
    hidden = (~valid[0]).float().mean((1, 2, 3))
    assert hidden[2] > hidden[[0, 1, 3, 4]].max() + 0.01
    assert clean.shape[1] == 6


def test_pictures_with_damage_and_planes_beside_them(clip: np.ndarray, tmp_path: Path) -> None:
    whole, thin = tmp_path / "whole", tmp_path / "thin"
    for folder, pictures in ((whole, clip), (thin, clip // 2)):
        folder.mkdir()
        for index, picture in enumerate(pictures):
            cv2.imwrite(str(folder / f"{index:04d}.png"), picture[..., ::-1])
            planes = {"depth": np.ones((96, 128), np.float16)}
            if index:
                planes["motion"] = np.full((2, 96, 128), -2, np.float16)
            np.savez(folder / f"{index:04d}.npz", **planes)
    recording = load_recording(whole, degraded=thin)
    np.testing.assert_array_equal(recording.clean, clip)
    np.testing.assert_array_equal(recording.degraded, clip // 2)
    assert recording.motion is not None
    assert recording.motion.shape == (FRAMES - 1, 2, 96, 128)
    assert len(load_recording(whole, limit=4).clean) == 4
    (whole / "0002.npz").unlink()
    with pytest.raises(InputError, match="whole has no motion: give it, or an estimator"):
        load_recording(whole)
    assert load_recording(whole, flow=Pan()).motion is None


def test_videos(clip: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "talk.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "bgr0"
        for picture in clip:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            container.mux(stream.encode(frame.reformat(format="bgr0")))
        container.mux(stream.encode(None))
    recording = load_recording(path, flow=Pan(), limit=5)
    np.testing.assert_array_equal(recording.clean, clip[:5])
    (tmp_path / "text.mp4").write_text("no video")
    for bad, kind in (("text.mp4", "neither a folder nor a video"), ("gone.mp4", "No such file")):
        with pytest.raises(InputError, match=kind):
            load_recording(tmp_path / bad, flow=Pan())
    with pytest.raises(InputError, match="damaged frames go with a folder"):
        load_recording(path, degraded=tmp_path, flow=Pan())


def test_frames_of_several_sizes_or_none(clip: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="frames of one size"):
        load_recording(tmp_path, flow=Pan())
    cv2.imwrite(str(tmp_path / "a.png"), clip[0])
    cv2.imwrite(str(tmp_path / "b.png"), clip[0, :50])
    with pytest.raises(InputError, match="frames of one size"):
        load_recording(tmp_path, flow=Pan())


def test_planes_that_do_not_fit_and_clips_too_short(clip: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"6 clean frames of 128x96 do not fit: motion \(5, 2, 9"):
        Recording("bad", clip, None, np.zeros((5, 2, 9, 9), np.float16))
    with pytest.raises(InputError, match=r"do not fit: motion None, degraded \(5, 96, 128, 3\)"):
        Recording("bad", clip, clip[:5], flow=Pan())
    with pytest.raises(InputError, match="too few for 3 frames of 100x100"):
        draw(Recording("small", clip, flow=Pan()), crop=100)


def test_an_avatar_on_a_path_of_cameras() -> None:
    generator = torch.Generator().manual_seed(0)
    count = 400
    angle = torch.rand(count, generator=generator) * 2 * math.pi
    height = torch.rand(count, generator=generator) - 0.5
    whole = Splats(
        center=torch.stack((0.25 * angle.cos(), 0.5 * height, 0.25 * angle.sin()), 1),
        log_scale=torch.full((count, 3), math.log(0.02)),
        rotation=torch.tensor([1.0, 0, 0, 0]).expand(count, 4),
        opacity=torch.full((count,), 3.0),
        harmonics=torch.randn(count, 1, 3, generator=generator),
    )
    damaged = whole[torch.arange(0, count, 2)]
    cameras = [
        Camera.look_at((0.02 * t, 0, 1), fov_y=45, size=(64, 64), target=(0, 0, 0))
        for t in range(4)
    ]
    recording = render_recording(whole, damaged, cameras)
    assert recording.clean.shape == recording.degraded.shape == (4, 64, 64, 3)
    assert recording.motion.shape == (3, 2, 64, 64)
    assert (recording.clean[:, 0, 0] == 255).all()  # the ground
    degraded, clean, flow, valid = draw_sequence_batch(
        [], seed=0, step=0, batch=1, frames=4, crop=64, sources=[recording]
    )
    assert flow.abs().amax() > 0.5
    error = temporal_difference(clean, flow).abs()
    still = (clean[:, 1:] - clean[:, :-1]).abs()
    head = valid & (flow != 0).any(2, keepdim=True)
    at = head.expand_as(error)
    assert at.float().mean() > 0.1
    assert error[at].mean() < 0.7 * still[at].mean()
    assert temporal_loss(degraded, clean, flow, valid).item() > 0.001
