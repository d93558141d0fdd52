"""What references training meets, and that compact learns to listen to them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from splatmend.core import Guidance, InputError, load_checkpoint, load_restorer
from splatmend.training import load_portraits
from splatmend.training.config import TrainConfig
from splatmend.training.data.batches import make_batch, open_data
from splatmend.training.data.frame_pool import FramePool
from splatmend.training.data.guided_frames import draw_guided, draw_moved, other_pictures
from splatmend.training.data.pair_crops import draw_pair_frame, folder_poses
from splatmend.training.models.compact import CompactModel

from blobs import blobs

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def clean() -> Picture:
    """(192, 192, 3)."""
    return blobs((192, 192), seed=2)


@pytest.mark.slow
def test_references_are_near_missing_or_wrong(clean: Picture) -> None:
    degraded = np.asarray(cv2.GaussianBlur(clean, (0, 0), 1.5), np.uint8)
    stranger = np.ascontiguousarray(clean[::-1, ::-1])
    trust, better = [], 0
    for seed in range(24):
        rng = np.random.default_rng(seed)
        same, target, proposed, sure = draw_guided(degraded, clean, rng, stranger=stranger)
        assert np.array_equal(same, degraded)
        assert np.array_equal(target, clean)
        trust.append(sure.mean() / 255)
        weight = sure[..., None] / 255
        blended = degraded + weight * (proposed.astype(float) - degraded)
        before, after = (((p - clean.astype(float)) ** 2).mean() for p in (degraded, blended))
        better += after < 0.8 * before
        if not sure.any():
            assert np.array_equal(proposed, degraded)
    assert 1 <= sum(t < 0.05 for t in trust) <= 8  # missing, a stranger's or lost
    assert better >= 8


def test_moving_keeps_the_size_and_follows_the_seed(clean: Picture) -> None:
    first, again, other = (draw_moved(clean, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first.shape == clean.shape
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, clean)


@pytest.mark.slow
def test_a_pool_gives_the_proposal_beside_the_pair(portraits_folder: Path) -> None:
    portraits = load_portraits(portraits_folder, "train", foreground=True)

    def draw() -> tuple[torch.Tensor, ...]:
        pool = FramePool(portraits, size=6, renew=4, references=True, steps_share=0.5)
        return pool(seed=1, step=0, batch=8, crop=64)

    degraded, clean, planes = draw()
    assert degraded.shape == clean.shape == (8, 3, 64, 64)
    assert planes.shape == (8, 4, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip((degraded, clean, planes), draw(), strict=True))
    batch = make_batch((degraded, clean, planes), torch.zeros(8, 8))
    assert batch.guidance is not None
    torch.testing.assert_close(degraded + batch.guidance.change, planes[:, :3])
    assert torch.equal(batch.guidance.confidence, planes[:, 3:])
    moved = batch.to("cpu").guidance
    assert moved is not None
    assert torch.equal(moved.change, batch.guidance.change)


def test_another_photograph_of_the_person_is_found(portraits_folder: Path) -> None:
    known = load_portraits(portraits_folder, "train")
    people = {p.name: p.identity for p in known}
    for name, picture in other_pictures(known).items():
        (other,) = (p.name for p in known if p.pixels is picture)
        assert other != name
        assert people[other] == people[name]


def test_a_third_folder_holds_other_pictures(tmp_path: Path, clean: Picture) -> None:
    for folder, shift in (("thin", 0), ("whole", 0), ("other", 9)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "0.png"), np.roll(clean, shift, 1))
    folders = ":".join(str(tmp_path / name) for name in ("thin", "whole", "other"))
    (pair,) = folder_poses(folders, "train", holdout=0)
    degraded, truth, other = draw_pair_frame(pair, np.random.default_rng(1), 32)
    assert degraded.shape == truth.shape == other.shape
    (tmp_path / "other" / "0.png").unlink()
    with pytest.raises(InputError, match=r"no picture .*other.0\.png"):
        folder_poses(folders, "train", holdout=0)


def test_training_leaves_compact_alone_as_it_was(tmp_path: Path) -> None:
    shared = {"faces": (tmp_path,), "max_steps": 200, "out": tmp_path}
    plain = CompactModel(TrainConfig(**shared))
    plain.network.head.bias.data.fill_(0.01)  # type: ignore[union-attr]
    before, after = tmp_path / "before.safetensors", tmp_path / "after.safetensors"
    plain.save(before, dict(plain.named_parameters()), {})
    model = CompactModel(TrainConfig(**shared, pool=4, references=True, init=before))
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("network.listener.") for name in trained)
    rgb, chance = torch.rand(1, 3, 32, 32), torch.zeros(1, 8)
    hint = Guidance(torch.rand(1, 3, 32, 32) - 0.5, torch.rand(1, 1, 32, 32))
    alone = model(rgb, chance)
    assert torch.equal(model(rgb, chance, hint), alone)  # it hears nothing before its first update
    for value in trained.values():
        value.data.add_(0.05)
    assert torch.equal(model(rgb, chance), alone)
    assert (model(rgb, chance, hint) - alone).abs().mean() > 0.01
    deaf = Guidance(hint.change, torch.zeros(1, 1, 32, 32))
    torch.testing.assert_close(model(rgb, chance, deaf), alone)
    model.save(after, trained, {})
    old, new = (load_checkpoint(path) for path in (before, after))
    assert new[0].config["references"]
    assert all(torch.equal(new[1][name], value) for name, value in old[1].items())
    assert load_restorer(after, device="cpu").traits.takes_guidance


@pytest.mark.parametrize(
    "wrong",
    [{"pool": 0}, {"rank": 4}, {"base": "turbo"}, {"temporal": True, "frames": 2}],
)
def test_references_need_single_frames_from_a_pool(
    wrong: dict[str, object], tmp_path: Path
) -> None:
    given = {"faces": (tmp_path,), "pool": 4, "references": True, **wrong}
    with pytest.raises(InputError, match="--references trains compact itself"):
        TrainConfig(**given)  # type: ignore[arg-type]


def test_a_run_opens_a_guided_pool(portraits_folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        faces=(portraits_folder,), pool=3, references=True, out=tmp_path / "run", crop=64
    )
    train, _ = open_data(config)
    assert len(train(seed=0, step=0, batch=2, crop=64)) == 3
