from pathlib import Path
from urllib.error import URLError

import lpips
import pytest
import torch
from safetensors.torch import save_file

from splatmend.core import CheckpointError, ModelError
from splatmend.core.perceptual.lpips import load_lpips


def test_it_is_lpips(backbones: Path) -> None:
    ours = load_lpips("alex", backbones)
    a, b = torch.rand(2, 2, 3, 64, 64)
    expected = ours.lpips(a, b, normalize=True).flatten()
    distance = ours.distance(ours.features(a), ours.features(b))
    torch.testing.assert_close(distance, expected)
    torch.testing.assert_close(ours(a, b), expected)
    assert isinstance(ours.lpips, lpips.LPIPS)
    assert ours(a, a).tolist() == [0, 0]
    assert not any(p.requires_grad for p in ours.parameters())


def test_weights_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="--lpips-weights must name a folder"):
        load_lpips("vgg", tmp_path)
    save_file({"0.weight": torch.zeros(1)}, tmp_path / "lpips_alex_features.fp16.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks .* …: it must hold the convolutions"):
        load_lpips("alex", tmp_path)
    (tmp_path / "lpips_alex_features.fp16.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="is not a safetensors backbone"):
        load_lpips("alex", tmp_path)


def test_weights_that_cannot_be_downloaded_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("splatmend.core.perceptual.lpips.Lpips", unreachable)
    with pytest.raises(ModelError, match=r"AlexNet.*no network.*--lpips-weights a folder"):
        load_lpips("alex", None)
