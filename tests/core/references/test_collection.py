import numpy as np
import pytest
from numpy.typing import NDArray

from splatmend.core import InputError, Reference, References
from splatmend.core.references import collection

Picture = NDArray[np.uint8]


def test_the_fingerprint_names_pictures_and_their_order(scene: Picture, blurred: Picture) -> None:
    first, second = Reference(picture=scene), Reference(picture=blurred)
    digest = References([first, second]).fingerprint
    assert References([Reference(picture=scene.copy()), second]).fingerprint == digest
    assert References([second, first]).fingerprint != digest
    assert References([first]).fingerprint != digest
    alpha = np.full(scene.shape[:2], 255, np.uint8)
    assert References([Reference(picture=scene, alpha=alpha), second]).fingerprint != digest


def test_renders_make_pairs(scene: Picture, blurred: Picture) -> None:
    assert References([Reference(picture=scene)]).kind == "pictures"
    pair = Reference(picture=scene, render=blurred)
    assert References([pair]).kind == "pairs"
    with pytest.raises(InputError, match="cannot be mixed"):
        References([pair, Reference(picture=scene)])


def test_beyond_the_budget_pictures_are_packed_without_loss(
    scene: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "_BUDGET", 2 * scene.nbytes)
    alpha = np.full(scene.shape[:2], 255, np.uint8)
    alpha[:20] = 7
    shown = [np.roll(scene, i, 0) for i in range(5)]
    references = References(
        Reference(picture=p, alpha=alpha, name=str(i)) for i, p in enumerate(shown)
    )
    assert references.nbytes < 5 * (scene.nbytes + alpha.nbytes) - scene.nbytes
    for index, reference in enumerate(references):
        assert np.array_equal(reference.picture, shown[index])
        assert reference.alpha is not None
        assert np.array_equal(reference.alpha, alpha)
        assert reference.name == str(index)


def test_large_ones_are_shrunk(scene: Picture) -> None:
    large = np.tile(scene, (20, 1, 1))
    (kept,) = References([Reference(picture=large)])
    assert kept.picture.shape[:2] == (2048, 123)


@pytest.mark.parametrize(
    ("planes", "message"),
    [
        ({"picture": np.zeros((1, 1, 3), np.uint8)}, "at least 32 a side"),
        ({"picture": np.full((64, 64, 3), 9, np.uint8)}, "shows nothing"),
        ({"picture": np.zeros((64, 64), np.uint8)}, r"uint8 RGB \(h, w, 3\)"),
        ({"picture": np.zeros((64, 64, 3), np.float32)}, "float32"),
    ],
)
def test_bad_pictures_are_refused(planes: dict[str, Picture], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Reference(**planes)


def test_sets_are_neither_empty_nor_endless(
    scene: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="no reference was given"):
        References([])
    monkeypatch.setattr(collection, "MOST_IN_MEMORY", 3)
    with pytest.raises(InputError, match="at most 3"):
        References(Reference(picture=scene) for _ in range(4))


def test_both_pictures_of_a_pair_have_one_size(scene: Picture, blurred: Picture) -> None:
    with pytest.raises(InputError, match="must have one size"):
        Reference(picture=scene, render=np.ascontiguousarray(blurred[:-8]))
