from pathlib import Path

import numpy as np
import pytest
import torch

from splatmend.core import InputError
from splatmend.training import draw_batch, load_portraits
from splatmend.training.data.portraits import Portrait, draw_window


def test_people_are_split_by_the_manifest_and_composites_left_out(portraits_folder: Path) -> None:
    names = {
        split: [p.name for p in load_portraits(portraits_folder, split)]
        for split in ("train", "val", "test")
    }
    assert names == {"train": ["p0.png", "p1.png", "p2.png"], "val": ["p3.png"], "test": ["p5.png"]}


def test_a_folder_without_a_manifest_is_training_data(portraits_folder: Path) -> None:
    (portraits_folder / "manifest.json").unlink()
    assert len(load_portraits(portraits_folder, "train")) == 6
    with pytest.raises(InputError, match="no portraits in the split 'test'"):
        load_portraits(portraits_folder, "test")


def test_missing_folders_and_broken_files_are_named(portraits_folder: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        load_portraits(portraits_folder / "nowhere", "train")
    (portraits_folder / "p1.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"p1\.png is not a picture"):
        load_portraits(portraits_folder, "train")


def test_heads_are_cut_out_once_and_remembered(portraits_folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = load_portraits(portraits_folder, "train", cache=cache, foreground=True)
    assert len(list(cache.iterdir())) == 3
    again = load_portraits(portraits_folder, "train", cache=cache, foreground=True)
    for a, b in zip(first, again, strict=True):
        assert a.foreground is not None
        assert 0.2 < a.foreground.mean() / 255 < 0.95
        np.testing.assert_array_equal(a.foreground, b.foreground)


def test_batches_are_named_by_seed_and_step(portraits_folder: Path) -> None:
    portraits = load_portraits(portraits_folder, "train", foreground=True)
    draw = {
        name: draw_batch(portraits, seed=name[0], step=name[1], batch=3, crop=96)
        for name in ((0, 5), (0, 6), (1, 5))
    }
    degraded, clean = draw_batch(portraits, seed=0, step=5, batch=3, crop=96)
    assert degraded.shape == clean.shape == (3, 3, 96, 96)
    assert torch.equal(degraded, draw[0, 5][0])
    assert torch.equal(clean, draw[0, 5][1])
    for other in ((0, 6), (1, 5)):
        assert not torch.equal(clean, draw[other][1])
    both = torch.cat((degraded, clean))
    assert both.amin() >= 0
    assert both.amax() <= 1


def test_the_degraded_crop_shows_the_clean_one(portraits_folder: Path) -> None:
    portraits = load_portraits(portraits_folder, "train", foreground=True)
    for step in range(6):
        degraded, clean = draw_batch(portraits, seed=3, step=step, batch=2, crop=96)
        assert (degraded - clean).abs().mean() < 0.12


def test_windows_show_anything_from_full_size_to_the_whole_portrait() -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    portrait = Portrait("ramp", np.ascontiguousarray(ramp), 1.0, None)
    shown = []
    for seed in range(60):
        pixels, _ = draw_window(portrait, np.random.default_rng(seed), 64, small=False)
        assert pixels.shape == (64, 64, 3)
        shown.append(int(pixels.max()) - int(pixels.min()))
    assert min(shown) < 80  # 64 pixels as they are
    assert max(shown) > 230  # all of it at a quarter
