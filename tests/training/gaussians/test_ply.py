from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from splatmend.core import InputError
from splatmend.training.gaussians.ply import Splats, read_ply, write_ply


def splats(n: int = 5, coefficients: int = 16) -> Splats:
    return Splats(
        center=torch.randn(n, 3),
        log_scale=torch.randn(n, 3) - 4,
        rotation=torch.randn(n, 4),
        opacity=torch.randn(n),
        harmonics=torch.randn(n, coefficients, 3),
    )


@pytest.mark.parametrize("coefficients", [1, 4, 9, 16])
def test_what_is_written_is_read(tmp_path: Path, coefficients: int) -> None:
    ours = splats(7, coefficients)
    write_ply(tmp_path / "a.ply", ours)
    theirs = read_ply(tmp_path / "a.ply")
    assert theirs.degree == int(coefficients**0.5) - 1
    for name in ("center", "log_scale", "rotation", "opacity", "harmonics"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_the_layout_is_that_of_the_format(tmp_path: Path) -> None:
    """Higher harmonics lie channel by channel, and readers go by the names."""
    ours = splats(1, 4)
    write_ply(tmp_path / "a.ply", ours)
    data = (tmp_path / "a.ply").read_bytes()
    header, body = data.split(b"end_header\n", 1)
    names = [line.split()[-1].decode() for line in header.splitlines() if b"property" in line]
    values = dict(zip(names, torch.frombuffer(bytearray(body), dtype=torch.float32), strict=True))
    assert names[:6] == ["x", "y", "z", "nx", "ny", "nz"]
    assert values["f_rest_0"] == ours.harmonics[0, 1, 0]  # red of the first
    assert values["f_rest_1"] == ours.harmonics[0, 2, 0]  # red of the second
    assert values["f_rest_3"] == ours.harmonics[0, 1, 1]  # green of the first


def test_properties_may_come_in_another_order(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", splats(1, 1))
    text = (tmp_path / "a.ply").read_bytes()
    swapped = text.replace(b"float x\n", b"float ?\n").replace(b"float z\n", b"float x\n")
    (tmp_path / "b.ply").write_bytes(swapped.replace(b"float ?\n", b"float z\n"))
    a, b = read_ply(tmp_path / "a.ply"), read_ply(tmp_path / "b.ply")
    assert torch.equal(a.center[0, [2, 1, 0]], b.center[0])


def test_properties_may_be_of_any_number_type(tmp_path: Path) -> None:
    """Exporters add colours as bytes, or write doubles; meshes have lists of corners."""
    ours = splats(4, 4)
    write_ply(tmp_path / "a.ply", ours)
    table = PlyData.read(tmp_path / "a.ply")["vertex"].data
    kinds = [("red", "u1"), *((name, "f8" if name == "x" else "f4") for name in table.dtype.names)]
    other = np.zeros(4, kinds)
    for name in table.dtype.names:
        other[name] = table[name]
    faces = np.array([([0, 1, 2],)], [("vertex_indices", "i4", (3,))])
    elements = [PlyElement.describe(other, "vertex"), PlyElement.describe(faces, "face")]
    for form in ({"byte_order": "<"}, {"byte_order": ">"}, {"text": True}):
        PlyData(elements, **form).write(tmp_path / "b.ply")
        theirs = read_ply(tmp_path / "b.ply")
        for name in ("center", "log_scale", "rotation", "opacity", "harmonics"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), (form, name)


def test_what_was_read_does_not_hang_on_the_file(tmp_path: Path) -> None:
    ours = splats(4, 4)
    write_ply(tmp_path / "a.ply", ours)
    theirs = read_ply(tmp_path / "a.ply")
    (tmp_path / "a.ply").write_bytes(b"")
    assert torch.equal(ours.harmonics, theirs.harmonics)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: b"solid " + d, "is not a PLY file"),
        (lambda d: d[:-3], "is truncated"),
        (lambda d: d.replace(b"binary_little_endian", b"ascii"), "is not a PLY file, or a damaged"),
        (lambda d: d.replace(b"property float y", b"property floot y"), "is not a PLY file, or"),
        (lambda d: d.replace(b"property float y", b"property float x"), "two properties with same"),
        (lambda d: d.replace(b"vertex", b"face"), "no element called vertex"),
        (lambda d: d.replace(b"opacity", b"0pacity"), "lacks opacity"),
        (lambda d: d.replace(b"float opacity", b"double opacity"), "is truncated"),
        (lambda d: d.replace(b"f_rest_8", b"f_best_8"), "8 f_rest properties"),
        (lambda d: d.replace(b"f_rest_8", b"f_rest_9"), "f_rest properties"),
        (lambda d: d[:-4] + b"\x00\x00\xc0\x7f", "rot_2, rot_3 that are not finite"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, damage, message: str) -> None:
    write_ply(tmp_path / "a.ply", splats(3, 4))
    (tmp_path / "b.ply").write_bytes(damage((tmp_path / "a.ply").read_bytes()))
    with pytest.raises(InputError, match=message):
        read_ply(tmp_path / "b.ply")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.ply cannot be read: No such file"):
        read_ply(tmp_path / "no.ply")


def test_fields_must_agree() -> None:
    ours = splats(3)
    with pytest.raises(InputError, match="must agree in number, got 3 centres"):
        Splats(ours.center, ours.log_scale[:2], ours.rotation, ours.opacity, ours.harmonics)
