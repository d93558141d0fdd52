"""Conversion between arrays (h, w, c) and tensors (n, c, h, w); no other file does it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from splatmend.core.errors import InputError

__all__ = ["crop_to", "from_tensor", "pad_to_multiple", "to_tensor"]


def to_tensor(
    arrays: Sequence[NDArray[Any]], device: torch.device | str = "cpu"
) -> Tensor:  # (n, c, h, w) float32
    """Stack equally sized (h, w, c) or (h, w) arrays; integers are scaled to [0, 1].

    >>> import numpy as np
    >>> white = np.full((64, 64, 3), 255, np.uint8)
    >>> tensor = to_tensor([white, white])
    >>> tuple(tensor.shape), tensor.max().item()
    ((2, 3, 64, 64), 1.0)

    Raises:
        InputError: no array, an array instead of a list, unequal sizes, or a dtype other than
            uint8, uint16, float32.
    """
    if isinstance(arrays, np.ndarray):
        raise InputError(
            f"to_tensor needs a list of arrays, got one array of {arrays.shape}: put it in a list"
        )
    if not arrays:
        raise InputError("to_tensor needs at least one array, got none")
    first = arrays[0]
    if any(a.shape != first.shape or a.dtype != first.dtype for a in arrays):
        kinds = sorted({f"{a.shape} {a.dtype}" for a in arrays})
        raise InputError(f"to_tensor needs arrays of one shape and dtype, got {', '.join(kinds)}")
    stacked = np.stack(arrays)
    if stacked.ndim == 3:
        stacked = stacked[..., None]
    # torch has few uint16 operations, so 16-bit goes through numpy's own conversion
    source = stacked if stacked.dtype == np.uint8 else stacked.astype(np.float32)
    tensor = torch.from_numpy(source).to(device).permute(0, 3, 1, 2).float()
    return tensor if stacked.dtype == np.float32 else tensor.div_(_scale(stacked.dtype))


def from_tensor(tensor: Tensor, dtype: DTypeLike) -> list[NDArray[Any]]:
    """Split (n, c, h, w) into n arrays (h, w, c); (h, w) where c is 1.

    For integer dtypes values are clamped to [0, 1], scaled and rounded to nearest, so that
    `from_tensor(to_tensor([a]), a.dtype)` returns `a` exactly.

    >>> import numpy as np
    >>> picture = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    >>> (back,) = from_tensor(to_tensor([picture]), np.uint8)
    >>> np.array_equal(back, picture)
    True

    Raises:
        InputError: a dtype other than uint8, uint16, float32.
    """
    wanted = np.dtype(dtype)
    pixels = tensor.detach().float()
    if wanted != np.float32:
        pixels = pixels.clamp(0, 1).mul_(_scale(wanted)).round_()
    if wanted == np.uint8:
        pixels = pixels.to(torch.uint8)  # before the transposition: a quarter of the bytes
    array = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy().astype(wanted, copy=False)
    return list(array[..., 0] if array.shape[3] == 1 else array)


def _scale(dtype: np.dtype[Any]) -> float:
    if dtype not in (np.uint8, np.uint16, np.float32):
        raise InputError(f"pixels must be uint8, uint16 or float32, got {dtype}")
    return 1.0 if dtype == np.float32 else float(np.iinfo(dtype).max)


def pad_to_multiple(tensor: Tensor, multiple: int) -> Tensor:
    """Pad (n, c, h, w) on the right and bottom until `multiple` divides both sides.

    Borders are mirrored where the picture is large enough, else repeated. Zeros
    would make a network darken the last rows.
    """
    height, width = tensor.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return tensor
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(tensor, (0, right, 0, bottom), mode=mode)


def crop_to(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    """Undo `pad_to_multiple`: return the top left (height, width) of (n, c, h, w)."""
    return tensor[..., : size[0], : size[1]]
