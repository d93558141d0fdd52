"""Estimators find motion that is known, with the documented direction and units."""

import importlib.util
import math

import cv2
import numpy as np
import pytest
import torch

from splatmend.core import CheckpointError, InputError, from_tensor, to_tensor
from splatmend.temporal import DisFlow, FlowEstimator, RaftFlow, load_flow

needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="needs torchvision"
)


def texture(size=192, seed=0):
    """Detail at several scales, (size, size, 3)."""
    rng = np.random.default_rng(seed)
    total = np.zeros((size, size, 3), np.float32)
    for sigma in (1.5, 4, 12):
        noise = rng.normal(size=(size, size, 3)).astype(np.float32)
        total += cv2.GaussianBlur(noise, (0, 0), sigma) * sigma
    return np.clip(128 + 40 * total / total.std(), 0, 255).astype(np.uint8)


def transformed(picture, matrix):
    """The picture moved by a matrix (2, 3), and the backward flow of that motion."""
    size = picture.shape[0]
    moved = cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_CUBIC)
    inverse = cv2.invertAffineTransform(matrix)
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    source = np.stack([x, y, np.ones_like(x)], -1) @ inverse.T
    return moved, source - np.stack([x, y], -1)


def similarity(size, dx, dy, degrees, zoom):
    """Moved right and down, turned clockwise on the screen and grown, about the middle."""
    turn, middle = math.radians(degrees), (size - 1) / 2
    cos, sin = zoom * math.cos(turn), zoom * math.sin(turn)
    linear = np.array([[cos, -sin], [sin, cos]])
    shift = np.array([dx, dy]) + middle - linear @ [middle, middle]
    return np.hstack([linear, shift[:, None]])


@pytest.mark.parametrize("name", ["dis", "dis-fast"])
@pytest.mark.parametrize(
    ("dx", "dy", "degrees", "zoom"),
    [(5, -3, 0, 1), (0, 0, 3, 1), (0, 0, 0, 1.05), (-2.5, 1.5, -2, 0.97)],
    ids=["shift", "turn", "zoom", "all"],
)
def test_dis_recovers_known_motion(dx, dy, degrees, zoom, name):
    last = texture()
    now, exact = transformed(last, similarity(192, dx, dy, degrees, zoom))
    found = load_flow(name).between(last, now)
    assert found.shape == (192, 192, 2)
    assert found.dtype == np.float32
    error = np.linalg.norm(found - exact, axis=-1)[20:-20, 20:-20]
    assert np.median(error) < 0.2
    assert error.mean() < 0.4


def test_a_shift_to_the_right_is_negative_x():
    last = texture()
    flow = DisFlow()(to_tensor([last]), to_tensor([np.roll(last, 4, 1)]))
    assert flow.shape == (1, 2, 192, 192)
    assert flow[0, 0, 30:-30, 30:-30].median().item() == pytest.approx(-4, abs=0.1)
    assert flow[0, 1, 30:-30, 30:-30].median().item() == pytest.approx(0, abs=0.1)


def test_dis_is_deterministic_and_keeps_nothing():
    a, b, c = texture(seed=1), np.roll(texture(seed=1), 3, 0), texture(128, seed=2)
    estimator = DisFlow()
    first = estimator.between(a, b)
    estimator.between(c, c)
    assert np.array_equal(first, estimator.between(a, b))
    assert not estimator.between(a, a).any()
    threads = cv2.getNumThreads()
    try:
        for count in (1, 3):
            cv2.setNumThreads(count)
            assert np.array_equal(first, DisFlow().between(a, b))
    finally:
        cv2.setNumThreads(threads)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (20, 300), (300, 20), (95, 97), (101, 131)])
def test_dis_takes_any_size(size):
    rng = np.random.default_rng(3)
    pair = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for _ in range(2)]
    flow = DisFlow().between(*pair)
    assert flow.shape == (*size, 2)
    assert np.isfinite(flow).all()


@pytest.fixture(scope="module")
def raft_weights(tmp_path_factory):
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "small.pth"
    torch.save(raft_small(weights=None).state_dict(), path)
    return path


@needs_torchvision
@pytest.mark.parametrize("size", [(128, 136), (61, 90)])
def test_raft_runs_with_weights_from_a_file(size, raft_weights):
    estimator = load_flow(f"raft:{raft_weights}")
    assert isinstance(estimator, RaftFlow)
    assert isinstance(estimator, FlowEstimator)
    pair = [texture(192, seed)[: size[0], : size[1]] for seed in (0, 1)]
    flow = estimator.between(*pair)
    assert flow.shape == (*size, 2)
    assert np.isfinite(flow).all()
    assert np.array_equal(flow, estimator.between(*pair))
    batch = estimator(*(to_tensor([p]) for p in pair))
    assert np.array_equal(from_tensor(batch, np.float32)[0], flow)


@needs_torchvision
def test_other_weights_are_refused(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="neither raft_small nor raft_large"):
        load_flow(f"raft:{tmp_path}/other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_flow(f"raft:{tmp_path}/text.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_flow(f"raft:{tmp_path}/missing.pth")


@pytest.mark.parametrize("spec", ["", "raft", "dis:x", "farneback"])
def test_unknown_estimators_are_named_with_what_there_is(spec):
    with pytest.raises(InputError, match=r"use dis, dis-fast, or raft:FILE"):
        load_flow(spec)


def test_pictures_of_two_sizes_are_refused():
    with pytest.raises(InputError, match="of one size"):
        DisFlow()(torch.rand(1, 3, 96, 96), torch.rand(1, 3, 96, 100))


@pytest.mark.parametrize("name", ["dis", "dis-fast"])
def test_dis_is_a_flow_estimator(name):
    assert isinstance(load_flow(name), FlowEstimator)
    assert load_flow(name).name == name
