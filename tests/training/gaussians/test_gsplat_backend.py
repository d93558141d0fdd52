"""What is handed to gsplat, and what is made of its planes; gsplat itself needs CUDA."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from splatmend.core import InputError
from splatmend.training import Camera, Splats, render
from splatmend.training.gaussians import gsplat_backend as backend
from splatmend.training.gaussians import rasterizer


@pytest.fixture
def splats() -> Splats:
    dice = torch.Generator().manual_seed(3)
    return Splats(
        center=torch.randn(60, 3, generator=dice) * 0.1,
        log_scale=torch.randn(60, 3, generator=dice) * 0.3 - 3.5,
        rotation=torch.randn(60, 4, generator=dice),
        opacity=torch.randn(60, generator=dice) + 1,
        harmonics=torch.randn(60, 4, 3, generator=dice) * 0.3,
    )


def stand_in(low_pass_seen: list[float]) -> ModuleType:
    """A gsplat whose rasterization is ours, fed from the documented arguments alone."""

    def rasterization(  # the names and shapes of gsplat 1.5
        means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor,
        viewmats: Tensor, Ks: Tensor, width: int, height: int, *,  # noqa: N803
        near_plane: float, eps2d: float, packed: bool,
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:  # fmt: skip
        assert (near_plane, packed) == (0.01, False)
        low_pass_seen.append(eps2d)
        assert Ks[0, 0, 2] == width / 2
        assert Ks[0, 1, 2] == height / 2
        camera = Camera(viewmats[0, :3], float(Ks[0, 0, 0]), width, height)
        again = Splats(
            center=means, log_scale=scales.log(), rotation=quats, opacity=opacities.logit(),
            harmonics=torch.zeros(len(means), 1, 3),
        )  # fmt: skip
        projected = rasterizer._project(again, camera, colors, eps2d)
        planes = rasterizer._rasterize(projected, height, width)
        return planes.permute(1, 2, 0)[None], planes[None, 3:4].permute(0, 2, 3, 1), {}

    module = ModuleType("gsplat")
    module.rasterization = rasterization  # type: ignore[attr-defined]
    return module


def test_gsplat_gets_what_gives_our_frame(splats: Splats, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setitem(sys.modules, "gsplat", stand_in(seen))
    here, before = (Camera.look_at((x, 0.1, 1.0), fov_y=30.0, size=(48, 64)) for x in (0.0, 0.1))
    ours = render(splats, here, towards=(splats, before), low_pass=0.1)
    theirs = backend.render_gsplat(
        splats, here, towards=(splats, before), low_pass=0.1, device="cpu"
    )
    assert seen == [0.1]
    assert ours.motion is not None
    assert theirs.motion is not None
    torch.testing.assert_close(theirs.color, ours.color, atol=1e-4, rtol=0)
    torch.testing.assert_close(theirs.alpha, ours.alpha, atol=1e-4, rtol=0)
    torch.testing.assert_close(theirs.motion, ours.motion, atol=1e-2, rtol=1e-3)


def test_what_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(backend, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="gsplat needs the package gsplat and a CUDA device: use"):
        backend.pick_backend("gsplat")
    assert backend.pick_backend("auto") is backend.pick_backend("reference") is render
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backend, "find_spec", lambda _: object())
    assert backend.pick_backend("auto") is backend.render_gsplat
