"""The terms of the loss: which there are, what they cost, and that optional ones resume."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from splatmend.core import InputError, load_checkpoint
from splatmend.core.errors import ModelError
from splatmend.training import LossWeights, TrainConfig
from splatmend.training.data import batches as batches_module
from splatmend.training.data.batches import Batch, load_batches, open_data
from splatmend.training.losses.objective import Objective
from splatmend.training.train.loop import train

NONE = LossWeights(l1=0, log_mse=0, lpips_vgg=0, lpips_alex=0, gram=0, temporal=0)


def config(folder: Path, out: Path, loss: dict, **changes: object) -> TrainConfig:
    values: dict = {
        "faces": (folder,), "out": out, "max_steps": 6, "warmup_steps": 2, "batch": 2, "crop": 64,
        "vgg_side": 32, "save_every": 2, "workers": 0, "validate_every": 100, "device": "cpu",
        "loss": replace(NONE, **loss),
    }  # fmt: skip
    return TrainConfig(**(values | changes))


def rows(run: Path, name: str = "log") -> list[dict]:
    return [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]


def scripted_embedder(folder: Path) -> Path:
    """Mean colour of the four quarters, as TorchScript."""
    path = folder / "embedder.pt"
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    torch.jit.script(network).save(str(path))
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_every_term_is_named_weighted_and_zero_at_the_target(
    backbones: Path, tmp_path: Path
) -> None:
    names = ("l1", "log_mse", "lpips_vgg", "lpips_alex", "gram", "dists", "identity", "adversarial")
    settings = config(
        tmp_path,
        tmp_path,
        dict.fromkeys(names, 1.0),
        lpips_weights=backbones,
        identity_model=scripted_embedder(tmp_path),
    )
    clean = torch.rand(2, 3, 64, 64)
    batch = Batch(clean, clean, torch.ones(2, 8))
    objective = Objective(settings)
    wrong = objective((clean + 0.2 * torch.randn_like(clean)).clamp(0, 1), batch, 0)
    right = objective(clean, batch, 0)
    assert set(wrong) == set(names)
    zero = {name: value.item() for name, value in right.items() if name not in
            ("log_mse", "adversarial")}  # fmt: skip
    assert zero == pytest.approx(dict.fromkeys(zero, 0.0), abs=1e-3)
    assert all(wrong[name] > right[name] for name in zero)
    doubled = Objective(replace(settings, loss=replace(settings.loss, l1=2.0)))
    assert doubled(clean * 0.5, batch, 0)["l1"] == pytest.approx(
        2 * objective(clean * 0.5, batch, 0)["l1"].item()
    )


@pytest.mark.slow
def test_beyond_the_knee_lpips_counts_by_its_logarithm(backbones: Path, tmp_path: Path) -> None:
    clean = torch.rand(1, 3, 64, 64)
    noise = torch.randn_like(clean)
    batch = Batch(clean, clean, torch.ones(1, 8))

    def term(amount: float, knee: float) -> float:
        loss = {"lpips_alex": 1.0, "lpips_knee": knee}
        objective = Objective(config(tmp_path, tmp_path, loss, lpips_weights=backbones))
        return objective((clean + amount * noise).clamp(0, 1), batch, 0)["lpips_alex"].item()

    light, heavy = term(0.02, 0.0), term(0.5, 0.0)
    assert term(0.02, 1e3 * light) == pytest.approx(light, rel=2e-3)  # far below: as it is
    knee = light / 10
    bent = term(0.5, knee) - term(0.02, knee)
    assert bent == pytest.approx(knee * math.log((heavy + knee) / (light + knee)), rel=1e-4)


def test_alexnet_looks_from_other_pixels_at_every_update(backbones: Path, tmp_path: Path) -> None:
    """The same lattice costs something else from elsewhere: none pleases everywhere."""
    objective = Objective(config(tmp_path, tmp_path, {"lpips_alex": 1.0}, lpips_weights=backbones))
    clean = torch.rand(1, 3, 64, 64)
    lattice = clean.clone()
    lattice[..., ::4, ::4] += 0.2
    batch = Batch(clean, clean, torch.ones(1, 8))

    def seen(step: int) -> float:
        return objective(lattice, batch, step)["lpips_alex"].item()

    assert len({seen(step) for step in range(8)}) == 8
    assert seen(3) == seen(3)


def test_terms_without_weight_load_nothing(tmp_path: Path) -> None:
    objective = Objective(config(tmp_path, tmp_path, {"l1": 1.0}))
    assert not list(objective.parameters())
    with pytest.raises(InputError, match=r"loss\.identity needs --identity-model"):
        config(tmp_path, tmp_path, {"identity": 1.0})


@pytest.mark.slow
def test_dists_without_its_weights_says_what_to_do(backbones: Path, tmp_path: Path) -> None:
    for file in backbones.glob("lpips_*"):
        (tmp_path / file.name).symlink_to(file)
    with pytest.raises(ModelError, match="pip install dists-pytorch"):
        Objective(config(tmp_path, tmp_path, {"dists": 1.0}, lpips_weights=tmp_path))


@pytest.mark.slow
def test_the_opponent_learns_beside_the_model_and_resumes(
    portraits_folder: Path, tmp_path: Path, backbones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settings(name: str) -> TrainConfig:
        loss = {"l1": 1.0, "adversarial": 0.1}
        return config(portraits_folder, tmp_path / name, loss, lpips_weights=backbones)

    whole = train(settings("whole"))
    draw = batches_module.draw_batch

    def interrupted(*args: object, step: int, **options: object) -> tuple[Tensor, Tensor]:
        if step == 5:
            raise KeyboardInterrupt
        return draw(*args, step=step, **options)

    monkeypatch.setattr(batches_module, "draw_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(settings("cut"))
    monkeypatch.setattr(batches_module, "draw_batch", draw)
    resumed = train(settings("cut"))
    ours, theirs = (load_checkpoint(path)[1] for path in (whole, resumed))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    logged = rows(tmp_path / "whole")
    assert rows(tmp_path / "cut") == logged
    assert len({row["opponent"] for row in logged}) == 6
    for row in logged:  # what the heads pay is no part of what the model pays
        assert row["loss"] == pytest.approx(row["l1"] + row["adversarial"])


@pytest.mark.slow
def test_sequences_bring_motion_and_the_temporal_term(
    portraits_folder: Path, tmp_path: Path, backbones: Path
) -> None:
    loss = {"l1": 1.0, "lpips_alex": 0.1, "temporal": 1.0}
    settings = config(
        portraits_folder, tmp_path / "run", loss, temporal=True, frames=3, max_steps=3,
        validate_every=3, lpips_weights=backbones,
    )  # fmt: skip
    draw, _ = open_data(settings)
    first = next(iter(load_batches(draw, settings, start=0)))
    assert first.degraded.shape == (6, 3, 64, 64)
    assert first.flow is not None
    assert first.flow.shape == (2, 2, 2, 64, 64)
    assert torch.equal(first.chance[0], first.chance[2])  # one clip, one draw
    assert not torch.equal(first.chance[0], first.chance[3])
    train(settings)
    assert all(row["temporal"] > 0 for row in rows(tmp_path / "run"))
    (judged,) = rows(tmp_path / "run", "validation")
    assert judged["temporal_input"] > 0
    assert judged["temporal_ours"] > 0


@pytest.mark.slow
def test_the_past_reaches_the_network_only_where_it_should(
    portraits_folder: Path, tmp_path: Path
) -> None:
    losses = []
    for share in (0.0, 1.0):
        out = tmp_path / str(share)
        loss = {"l1": 1.0, "temporal": 1.0}
        train(
            config(
                portraits_folder, out, loss, temporal=True, max_steps=3, self_conditioning=share
            )
        )  # fmt: skip
        losses.append([row["loss"] for row in rows(out)])
    assert losses[0] != losses[1]


def test_impossible_sequences_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 2 --frames"):
        config(tmp_path, tmp_path, {}, temporal=True, frames=1)
