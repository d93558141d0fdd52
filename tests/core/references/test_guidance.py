"""Guidance as a value: what fits, maps and batches; the view that a guide lays on a frame."""

from dataclasses import replace
from operator import itemgetter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatmend.core import Guidance, Guide, InputError, Reference, References, to_tensor

Picture = NDArray[np.uint8]


def some(*, view: bool = True, exact: bool = False, count: int = 1) -> Guidance:
    picture = torch.rand(count, 3, 8, 12)
    return Guidance(picture - 0.5, picture[:, :1], exact, picture if view else None)


def test_a_view_has_the_shape_of_the_change() -> None:
    with pytest.raises(InputError, match=r"view.*\(1, 3, 8, 12\), got \(1, 3, 8, 8\)"):
        replace(some(), view=torch.zeros(1, 3, 8, 8))


def test_all_planes_are_mapped() -> None:
    whole = some(exact=True)
    cropped = whole.map(itemgetter((..., slice(2, 6), slice(3))))
    assert cropped.exact
    for plane, part in zip(planes(whole), planes(cropped), strict=True):
        assert torch.equal(part, plane[..., 2:6, :3])
    assert some(view=False).map(torch.clone).view is None


def planes(guidance: Guidance) -> list[Tensor]:
    assert guidance.view is not None
    return [guidance.change, guidance.confidence, guidance.view]


def test_guidance_for_one_kind_of_pictures_is_joined() -> None:
    first, second = some(), some(count=2)
    joined = Guidance.joined([first, second])
    for plane, one, two in zip(*map(planes, (joined, first, second)), strict=True):
        assert torch.equal(plane, torch.cat((one, two)))
    assert Guidance.joined([some(view=False)] * 2).view is None
    assert Guidance.joined([some(exact=True)]).exact
    for parts in ([], [some(), some(view=False)], [some(), some(exact=True)]):
        with pytest.raises(InputError, match=r"got [02] kinds"):
            Guidance.joined(parts)


def test_the_view_is_the_reference_as_it_lies_on_the_frame(
    scene: Picture, blurred: Picture
) -> None:
    far = np.full_like(scene, 90)
    far[40:90, 60:70] = 200
    view = Guide(References([Reference(picture=far), Reference(picture=scene)])).guide(blurred)
    assert view.guidance.view is not None
    assert torch.equal(view.guidance.view, to_tensor([scene]))  # the nearest one, unchanged
    large = np.repeat(np.repeat(scene, 2, 0), 2, 1)
    laid = Guide(References([Reference(picture=large)])).guide(blurred).guidance.view
    assert laid is not None
    assert (laid - to_tensor([scene])).abs().mean() < 0.02


def test_the_view_of_a_key_pair_is_its_truth(scene: Picture, blurred: Picture) -> None:
    pair = References([Reference(picture=scene, render=blurred)])
    guidance = Guide(pair).guide(blurred).guidance
    assert guidance.exact
    assert guidance.view is not None
    assert torch.equal(guidance.view, to_tensor([scene]))


def test_no_view_where_nothing_of_a_reference_is_found(scene: Picture) -> None:
    dice = np.random.default_rng(3)
    noise = dice.integers(0, 255, scene.shape).astype(np.uint8)
    guidance = Guide(References([Reference(picture=noise)])).guide(scene).guidance
    assert guidance.view is None
    assert not guidance.confidence.any()
