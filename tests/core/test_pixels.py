import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splatmend.core import InputError, crop_to, from_tensor, pad_to_multiple, to_tensor


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_integer_survives_the_round_trip(dtype: type) -> None:
    values = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    array = np.stack([values.reshape(16, -1)] * 3, axis=2)
    (back,) = from_tensor(to_tensor([array]), dtype)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, array)


def test_floats_pass_unscaled_and_may_exceed_one() -> None:
    array = np.array([[[0.0, 0.5, 1.5]]], np.float32)
    tensor = to_tensor([array])
    assert tensor.shape == (1, 3, 1, 1)
    np.testing.assert_array_equal(from_tensor(tensor, np.float32)[0], array)


def test_integers_are_rounded_to_nearest_and_clamped() -> None:
    tensor = torch.tensor([-0.2, 0.49 / 255, 0.51 / 255, 1.2]).view(1, 1, 1, 4)
    assert from_tensor(tensor, np.uint8)[0].tolist() == [[0, 0, 1, 255]]


def test_planes_without_channels_come_back_without() -> None:
    alpha = np.arange(6, dtype=np.uint8).reshape(2, 3)
    tensor = to_tensor([alpha, alpha])
    assert tensor.shape == (2, 1, 2, 3)
    assert from_tensor(tensor, np.uint8)[1].shape == (2, 3)


def test_mixed_batches_and_foreign_types_are_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        to_tensor([])
    with pytest.raises(InputError, match="put it in a list"):
        to_tensor(np.zeros((4, 4, 3), np.uint8))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one shape and dtype"):
        to_tensor([np.zeros((2, 2, 3), np.uint8), np.zeros((2, 3, 3), np.uint8)])
    with pytest.raises(InputError, match="got int64"):
        to_tensor([np.zeros((2, 2, 3), np.int64)])


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 40), width=st.integers(1, 40), multiple=st.sampled_from([1, 8, 32]))
def test_padding_is_undone_by_cropping(height: int, width: int, multiple: int) -> None:
    picture = torch.rand(1, 3, height, width)
    padded = pad_to_multiple(picture, multiple)
    assert padded.shape[2] % multiple == padded.shape[3] % multiple == 0
    assert padded.shape[2] - height < multiple
    assert torch.equal(crop_to(padded, (height, width)), picture)
    assert padded.amin() >= picture.amin()  # mirrored or repeated, never zeros
