"""Training turbo on a small random base: what is trained, learned, stored and taken up."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from splatmend.core import load_restorer
from splatmend.core.errors import CheckpointError
from splatmend.core.resample import blur
from splatmend.training import LossWeights, TrainConfig
from splatmend.training.config import TurboTraining
from splatmend.training.data import batches
from splatmend.training.models.compact import build_model
from splatmend.training.train.loop import train

L1_ONLY = LossWeights(l1=1.0, log_mse=0, lpips_vgg=0, lpips_alex=0, gram=0)


def config(base: Path, out: Path, turbo: dict | None = None, **changes: object) -> TrainConfig:
    options = {"sd_turbo": str(base), "rank_unet": 4, "rank_vae": 2}
    values: dict = {
        "base": "turbo", "faces": (out,), "out": out, "max_steps": 50, "warmup_steps": 2,
        "batch": 2, "crop": 64, "vgg_side": 32, "workers": 0, "learning_rate": 1e-2, "ema": 0.0,
        "loss": L1_ONLY, "device": "cpu", "turbo": TurboTraining(**(options | (turbo or {}))),
    }  # fmt: skip
    return TrainConfig(**(values | changes))


@pytest.fixture
def one_batch(face: Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """Every step draws the same two crops."""
    picture = torch.from_numpy(face).permute(2, 0, 1)[None].float() / 255
    clean = torch.cat((picture[..., 60:124, 60:124], picture[..., 90:154, 90:154]))
    pair = blur(clean, 1.5), clean
    monkeypatch.setattr(batches, "load_people", lambda *_: [object()])
    monkeypatch.setattr(batches, "draw_batch", lambda *_, **__: pair)
    return pair


@pytest.mark.slow
@pytest.mark.usefixtures("one_batch")
def test_the_loss_falls_by_a_third_and_the_file_gives_what_was_trained(
    base_with_words: Path, tmp_path: Path, one_batch: tuple[Tensor, Tensor]
) -> None:
    settings = config(base_with_words, tmp_path, {"skip_dropout": 0.0, "prompt": "a b"})
    path = train(settings)
    losses = [json.loads(row)["loss"] for row in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0]
    model = build_model(settings)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    model.load_state_dict(state["average"], strict=False)
    degraded, _ = one_batch
    with torch.inference_mode():
        expected = model(degraded, torch.ones(2, 8)).clamp(0, 1)
    restored = load_restorer(path, device="cpu", base=base_with_words)(degraded)
    torch.testing.assert_close(restored, expected, rtol=1e-5, atol=1e-5)
    again = build_model(config(base_with_words, tmp_path / "next", init=path))
    with torch.inference_mode():
        taken_up = again(degraded, torch.ones(2, 8)).clamp(0, 1)
    torch.testing.assert_close(taken_up, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_what_is_trained_is_lora_skips_and_the_first_layer_each_once(
    base_with_words: Path, tmp_path: Path
) -> None:
    model = build_model(config(base_with_words, tmp_path))
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    kinds = ("lora_", "skip_conv_", "unet.conv_in")
    assert all(any(kind in name for kind in kinds) for name, _ in trained)
    assert all(any(kind in name for name, _ in trained) for kind in kinds)
    assert len({id(p) for _, p in trained}) == len(trained)
    decoder_only = build_model(config(base_with_words, tmp_path, {"decoder_only": True}))
    names = [name for name, p in decoder_only.named_parameters() if p.requires_grad]
    assert not any("vae.encoder" in name for name in names)
    assert any("vae.decoder" in name for name in names)


def test_half_precision_is_for_frozen_products_only(base_with_words: Path, tmp_path: Path) -> None:
    model = build_model(config(base_with_words, tmp_path, mixed_precision="bf16"))
    trained = {p.dtype for p in model.parameters() if p.requires_grad}
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert trained == {torch.float32}
    assert frozen == {torch.float32, torch.bfloat16}  # norms stay


def test_skips_are_dropped_by_sample_and_level_and_repeatably(
    base_with_words: Path, tmp_path: Path
) -> None:
    model = build_model(config(base_with_words, tmp_path))
    for name, parameter in model.named_parameters():
        if "skip_conv" in name and "base_layer" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    rgb = torch.rand(1, 3, 64, 64).expand(2, -1, -1, -1)
    chance = torch.ones(2, 8)
    chance[1, 2] = 0.1  # below the share of 0.3
    with torch.inference_mode():
        whole, lacking = model(rgb, chance)
        assert torch.equal(model(rgb, chance)[1], lacking)
    assert (whole - lacking).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("one_batch")
def test_forgetting_activations_changes_no_gradient(base_with_words: Path, tmp_path: Path) -> None:
    gradients = []
    for forget in (False, True):
        options = {"gradient_checkpointing": forget}
        model = build_model(config(base_with_words, tmp_path, options)).train()
        rgb = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        model(rgb, torch.ones(1, 8)).square().mean().backward()
        named = model.named_parameters()
        gradients.append({n: p.grad for n, p in named if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
@pytest.mark.usefixtures("one_batch")
def test_a_start_that_does_not_fit_is_refused(base_with_words: Path, tmp_path: Path) -> None:
    path = train(config(base_with_words, tmp_path / "run", max_steps=3))
    with pytest.raises(CheckpointError, match=r"this run trains .* use its ranks"):
        build_model(config(base_with_words, tmp_path / "next", {"rank_unet": 8}, init=path))
