"""From real pairs to a personal adapter, and back into the restorer."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from splatmend.core import InputError, load_restorer
from splatmend.core.checkpoint import load_checkpoint
from splatmend.core.compact.adapter import fingerprint, load_adapter
from splatmend.core.errors import CheckpointError
from splatmend.training import LossWeights, TrainConfig
from splatmend.training.data import batches
from splatmend.training.data.pair_crops import draw_pair_batch, folder_poses
from splatmend.training.models.compact import build_model
from splatmend.training.train.loop import train


@pytest.fixture
def pairs(tmp_path: Path, face: np.ndarray) -> str:
    """Six poses of a face on white, blurred and whole."""
    for index in range(6):
        pose = np.full((96, 128, 3), 255, np.uint8)
        pose[16:80, 20 + 4 * index : 84 + 4 * index] = cv2.resize(face, (64, 64))
        for folder, picture in (("whole", pose), ("thin", cv2.GaussianBlur(pose, (0, 0), 1.5))):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{index}.png"), picture[..., ::-1])
    return f"{tmp_path / 'thin'}:{tmp_path / 'whole'}"


def config(pairs: str, out: Path, init: Path, **changes: object) -> TrainConfig:
    values: dict = {
        "pairs": (pairs,), "out": out, "init": init, "rank": 4, "max_steps": 30, "warmup_steps": 2,
        "batch": 2, "crop": 64, "vgg_side": 32, "workers": 0, "learning_rate": 5e-3, "ema": 0.5,
        "save_every": 10, "device": "cpu", "validate_every": 100,
        "loss": LossWeights(l1=1, log_mse=0, lpips_vgg=0, lpips_alex=0, gram=0),
    }  # fmt: skip
    return TrainConfig(**(values | changes))


@pytest.mark.slow
def test_an_adapter_learns_one_avatar_and_is_switched_at_load(
    pairs: str, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    path = train(config(pairs, tmp_path / "run", tiny_checkpoint, holdout=3))
    assert path.name == "adapter.safetensors"
    held = folder_poses(pairs, "held out", holdout=3)
    assert [pair.clean.name for pair in held] == ["2.png", "5.png"]
    degraded, clean = draw_pair_batch(held, seed=0, step=0, batch=4, crop=64)
    plain = load_restorer(tiny_checkpoint, device="cpu")
    fitted = load_restorer(tiny_checkpoint, device="cpu", adapter=path)
    before, after = ((r(degraded) - clean).abs().mean() for r in (plain, fitted))
    assert after < 0.9 * before
    # what is fitted may wipe off whatever its avatar has too much of, as it did in training
    floors = [r.network.config.detail_floor for r in (plain, fitted)]
    assert floors == [True, False]
    trained = build_model(config(pairs, tmp_path / "run", tiny_checkpoint))
    assert not trained.network.config.detail_floor


def test_the_file_holds_what_was_trained(pairs: str, tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Loaded and merged it gives the picture of the layers that were trained."""
    settings = config(pairs, tmp_path / "run", tiny_checkpoint, max_steps=6)
    path = train(settings)
    trained = build_model(settings)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    trained.load_state_dict(state["average"], strict=False)
    rgb = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = trained(rgb, torch.ones(1, 8)).clamp(0, 1)
    restorer = load_restorer(tiny_checkpoint, device="cpu", adapter=path)
    tolerance = 5e-3 if next(restorer.network.parameters()).dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(restorer(rgb), expected, atol=tolerance, rtol=0)


def test_a_resumed_adapter_is_the_same(pairs: str, tmp_path: Path, tiny_checkpoint: Path) -> None:
    whole = train(config(pairs, tmp_path / "whole", tiny_checkpoint, max_steps=20))
    resumed = config(pairs, tmp_path / "resumed", tiny_checkpoint, max_steps=20)
    # stopped after a save: the schedule is that of the whole run
    (tmp_path / "resumed").mkdir()
    train_until(resumed, stop=10)
    ours, theirs = (load_checkpoint(p)[1] for p in (whole, train(resumed)))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def train_until(settings: TrainConfig, stop: int) -> None:
    draw = batches.draw_pair_batch

    def interrupted(*args: object, step: int, **options: object) -> object:
        if step == stop + 3:
            raise KeyboardInterrupt
        return draw(*args, step=step, **options)

    batches.draw_pair_batch = interrupted
    try:
        with pytest.raises(KeyboardInterrupt):
            train(settings)
    finally:
        batches.draw_pair_batch = draw


def test_an_adapter_belongs_to_its_base(pairs: str, tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = train(config(pairs, tmp_path / "run", tiny_checkpoint, max_steps=3))
    _, weights = load_checkpoint(tiny_checkpoint)
    assert load_adapter(path, weights).rank == 4
    other = {name: value + 1 for name, value in weights.items()}
    assert fingerprint(other) != fingerprint(weights)
    with pytest.raises(CheckpointError, match="was trained on other weights"):
        load_adapter(path, other)
    with pytest.raises(CheckpointError, match="holds a 'compact', not an adapter"):
        load_adapter(tiny_checkpoint, weights)
    with pytest.raises(CheckpointError, match="was trained on other weights"):
        load_restorer("compact", device="cpu", adapter=path)
    with pytest.raises(InputError, match="adapter"):
        load_restorer("unsharp", device="cpu", adapter=path)


def test_windows_follow_the_subject_and_a_seed(pairs: str) -> None:
    poses = folder_poses(pairs, "train", holdout=0)
    assert len(poses) == 6
    first, again, other = (
        draw_pair_batch(poses, seed=seed, step=5, batch=3, crop=64) for seed in (1, 1, 2)
    )
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert (first[1].amin((1, 2, 3)) < 0.5).all()  # each window shows some of the face


def test_with_alpha_both_lie_on_the_same_ground(tmp_path: Path, face: np.ndarray) -> None:
    alpha = np.zeros((96, 96, 1), np.uint8)
    alpha[16:80, 16:80] = 255
    picture = np.concatenate((face[:96, :96, ::-1], alpha), 2)
    for folder in ("thin", "whole"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "0.png"), picture)
    poses = folder_poses(f"{tmp_path / 'thin'}:{tmp_path / 'whole'}", "train", holdout=0)
    degraded, clean = draw_pair_batch(poses, seed=0, step=0, batch=12, crop=96)
    assert torch.equal(degraded, clean)
    corners = clean[:, :, 0, 0]
    assert (corners == 1).all(1).any()  # white most of all
    assert len({tuple(c.tolist()) for c in corners}) > 2


def test_gray_pictures_and_other_sizes(pairs: str) -> None:
    renders = Path(pairs.partition(":")[0])
    gray = cv2.imread(str(renders / "0.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(renders / "0.png"), gray)
    degraded, _ = draw_pair_batch(
        folder_poses(pairs, "train", holdout=0)[:1], seed=0, step=0, batch=1, crop=64
    )
    assert torch.equal(degraded[:, 0], degraded[:, 1])
    cv2.imwrite(str(renders / "1.png"), gray[:90])
    (renders / "2.png").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"1\.png is 128x90, its reference .* 128x96: sizes must"):
        folder_poses(pairs, "train", holdout=0)
    used = folder_poses(pairs, "train", holdout=0, skip_bad=True)
    assert [pair.clean.name for pair in used] == ["0.png", "3.png", "4.png", "5.png"]


def test_impossible_wishes_are_refused(pairs: str) -> None:
    with pytest.raises(InputError, match="leaves none for the part 'held out'"):
        folder_poses(pairs, "held out", holdout=9)
    with pytest.raises(InputError, match="takes RENDERS:REFERENCES"):
        folder_poses("one", "train", holdout=0)
    with pytest.raises(InputError, match=r"less than --crop 128"):
        draw_pair_batch(folder_poses(pairs, "train", holdout=0), seed=0, step=0, batch=1, crop=128)
