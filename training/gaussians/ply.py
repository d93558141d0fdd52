"""A reader and a writer of standard 3DGS PLY files, which hold the Gaussians of an avatar.

The layout is that of Kerbl et al. 2023 (graphdeco-inria/gaussian-splatting), in binary
little-endian float32. Colour is stored as spherical harmonics, opacity as a logit, scales as
logarithms, and rotation as a quaternion (w, x, y, z).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.lib.recfunctions import structured_to_unstructured
from numpy.typing import NDArray
from plyfile import PlyData, PlyElement, PlyElementParseError, PlyParseError
from torch import Tensor

from splatmend.core.errors import InputError

__all__ = ["Splats", "join", "read_ply", "write_ply"]

_REST_COUNTS = (0, 9, 24, 45)  # properties f_rest_* of degree 0 to 3


@dataclass(frozen=True)
class Splats:
    """n Gaussians in world units, with the file's own parameters in float32.

    Raises:
        InputError: the planes disagree in their number of Gaussians.
    """

    center: Tensor  # (n, 3)
    log_scale: Tensor  # (n, 3)
    rotation: Tensor  # (n, 4) w, x, y, z; any length
    opacity: Tensor  # (n,) logit
    harmonics: Tensor  # (n, 1, 4, 9 or 16, 3)

    def __post_init__(self) -> None:
        n = len(self.center)
        if not all(len(getattr(self, f.name)) == n for f in fields(self)):
            raise InputError(f"Splats must agree in number, got {n} centres and other counts")

    def __len__(self) -> int:
        return len(self.center)

    @property
    def degree(self) -> int:
        """Return the degree of the spherical harmonics, 0 to 3."""
        return int(self.harmonics.shape[1] ** 0.5) - 1

    def __getitem__(self, index: Tensor) -> Self:
        """Select Gaussians by index or mask."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})


def join(parts: Sequence[Splats]) -> Splats:
    """Concatenate the parts; their harmonics must have the same degree."""
    return Splats(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Splats)))


def read_ply(path: Path) -> Splats:
    """Read a 3DGS PLY file.

    Its properties may come in any order and have any number type. Other properties are ignored.

    Raises:
        InputError: the file is not a 3DGS PLY, is truncated, or holds values that are not finite.

    >>> from tempfile import TemporaryDirectory
    >>> one = Splats(
    ...     center=torch.zeros(1, 3),
    ...     log_scale=torch.full((1, 3), -4.0),
    ...     rotation=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
    ...     opacity=torch.tensor([2.0]),
    ...     harmonics=torch.zeros(1, 1, 3),
    ... )
    >>> with TemporaryDirectory() as folder:
    ...     write_ply(Path(folder, "avatar.ply"), one)
    ...     avatar = read_ply(Path(folder, "avatar.ply"))
    >>> len(avatar), avatar.degree, avatar.opacity
    (1, 0, tensor([2.]))
    """
    try:
        elements = PlyData.read(path)  # maps the file, so only the used columns are read
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except PlyElementParseError as error:
        raise InputError(f"{path} is truncated or damaged: {error}") from error
    except (PlyParseError, ValueError) as error:  # ValueError: bytes that are not ASCII
        raise InputError(f"{path} is not a PLY file, or a damaged one: {error}") from error
    if "vertex" not in elements:
        raise InputError(f"{path} has no element called vertex: it is not a 3DGS PLY")
    return _from_table(elements["vertex"].data, path)


def _from_table(table: NDArray[np.void], path: Path) -> Splats:
    names = table.dtype.names or ()
    numbers = {name for name in names if table.dtype[name].kind in "fiu"}

    def stack(*names: str) -> Tensor:
        if missing := [name for name in names if name not in numbers]:
            raise InputError(f"{path} lacks {', '.join(missing)}: it is not a 3DGS PLY")
        values = structured_to_unstructured(table[list(names)], np.float32, copy=True)
        if not np.isfinite(values).all():
            raise InputError(f"{path} holds values of {', '.join(names)} that are not finite")
        return torch.from_numpy(np.asarray(values))

    n, rest = len(table), sum(name.startswith("f_rest_") for name in numbers)
    if rest not in _REST_COUNTS or any(f"f_rest_{i}" not in numbers for i in range(rest)):
        raise InputError(f"{path} has {rest} f_rest properties, expected 0, 9, 24 or 45")
    base = stack("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    higher = stack(*(f"f_rest_{i}" for i in range(rest))) if rest else base.new_zeros((n, 0))
    return Splats(
        center=stack("x", "y", "z"),
        log_scale=stack("scale_0", "scale_1", "scale_2"),
        rotation=stack("rot_0", "rot_1", "rot_2", "rot_3"),
        opacity=stack("opacity")[:, 0],
        # stored channel by channel: all of red, all of green, all of blue
        harmonics=torch.cat((base, higher.view(n, 3, rest // 3).transpose(1, 2)), 1),
    )


def write_ply(path: Path, splats: Splats) -> None:
    """Write a 3DGS PLY file; its final name appears only when the file is complete."""
    n = len(splats)
    higher = splats.harmonics[:, 1:].transpose(1, 2).reshape(n, -1)
    planes = {
        ("x", "y", "z"): splats.center,
        ("nx", "ny", "nz"): torch.zeros(n, 3),
        tuple(f"f_dc_{i}" for i in range(3)): splats.harmonics[:, 0],
        tuple(f"f_rest_{i}" for i in range(higher.shape[1])): higher,
        ("opacity",): splats.opacity[:, None],
        tuple(f"scale_{i}" for i in range(3)): splats.log_scale,
        tuple(f"rot_{i}" for i in range(4)): splats.rotation,
    }
    columns = np.dtype([(name, np.float32) for group in planes for name in group])
    table = torch.cat([plane.detach().cpu().float() for plane in planes.values()], 1)
    vertex = PlyElement.describe(table.numpy().view(columns)[:, 0], "vertex")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    PlyData([vertex], byte_order="<").write(unfinished)
    unfinished.replace(path)
