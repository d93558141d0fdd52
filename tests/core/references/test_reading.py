"""Reference pictures as files hold them: depths, alpha, ways up, and what is refused."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from splatmend.core import InputError
from splatmend.core.references import read_pairs, read_picture_rgba, read_references

Picture = NDArray[np.uint8]


@pytest.fixture
def alpha(scene: Picture) -> Picture:
    """0 to 255 from left to right, (160, 192)."""
    return np.tile(np.linspace(0, 255, scene.shape[1]).astype(np.uint8), (scene.shape[0], 1))


def write(path: Path, picture: NDArray[Any]) -> Path:
    """Write RGB, RGBA or grey with OpenCV, without loss where the format can."""
    path.parent.mkdir(exist_ok=True)
    order = [2, 1, 0, 3][: picture.shape[2]] if picture.ndim == 3 else ...
    lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if path.suffix == ".webp" else []
    assert cv2.imwrite(str(path), picture[..., order] if picture.ndim == 3 else picture, lossless)
    return path


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff", ".bmp", ".jpg"])
def test_formats(suffix: str, scene: Picture, tmp_path: Path) -> None:
    color, alpha = read_picture_rgba(write(tmp_path / f"a{suffix}", scene))
    assert (color.dtype, alpha) == (np.uint8, None)
    assert np.abs(color.astype(int) - scene).mean() < (8 if suffix == ".jpg" else 1e-9)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff"])
def test_alpha_is_a_plane_of_its_own(
    suffix: str, scene: Picture, alpha: Picture, tmp_path: Path
) -> None:
    color, read = read_picture_rgba(write(tmp_path / f"a{suffix}", np.dstack((scene, alpha))))
    assert read is not None
    assert np.array_equal(read, alpha)
    seen = alpha > 0  # WebP may drop what is invisible
    assert np.array_equal(color[seen], scene[seen])
    opaque = np.full_like(alpha, 255)
    assert read_picture_rgba(write(tmp_path / "b.png", np.dstack((scene, opaque))))[1] is None


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bits_are_rounded_to_8(
    suffix: str, scene: Picture, alpha: Picture, tmp_path: Path
) -> None:
    deep = scene.astype(np.uint16) * 257 + 100
    color, none = read_picture_rgba(write(tmp_path / f"a{suffix}", deep))
    assert np.array_equal(color, scene)
    assert none is None
    layers = np.dstack((deep, alpha.astype(np.uint16) * 257))
    color, read = read_picture_rgba(write(tmp_path / f"b{suffix}", layers))
    assert np.array_equal(color, scene)
    assert read is not None
    assert np.array_equal(read, alpha)
    gray, _ = read_picture_rgba(write(tmp_path / f"c{suffix}", deep[..., 0]))
    assert np.array_equal(gray, np.repeat(scene[..., :1], 3, 2))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1"])
def test_grey_and_palettes_become_rgb(mode: str, scene: Picture, tmp_path: Path) -> None:
    picture = Image.fromarray(scene).convert(mode)
    picture.save(tmp_path / "a.png")
    color, alpha = read_picture_rgba(tmp_path / "a.png")
    assert np.array_equal(color, np.asarray(picture.convert("RGB")))
    assert alpha is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("extra", ["unassalpha", "assocalpha"])
def test_tiff_says_whether_alpha_was_multiplied_in(
    extra: Any, dtype: Any, scene: Picture, alpha: Picture, tmp_path: Path
) -> None:
    times = 257 if dtype == np.uint16 else 1
    share = alpha[..., None] / 255 if extra == "assocalpha" else 1.0
    layers = np.dstack((scene * share, alpha)) * times
    stored = np.rint(layers).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=[extra])
    color, read = read_picture_rgba(tmp_path / "a.tif")
    assert read is not None
    assert np.array_equal(read, alpha)
    seen = alpha > 128
    assert np.abs(color[seen].astype(int) - scene[seen]).max() <= 2


def oriented(picture: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The picture as a camera stores it that writes this EXIF orientation."""
    stored = {
        1: picture,
        2: np.fliplr(picture),
        3: np.rot90(picture, 2),
        4: np.flipud(picture),
        5: np.swapaxes(picture, 0, 1),
        6: np.rot90(picture),
        7: np.rot90(np.swapaxes(picture, 0, 1), 2),
        8: np.rot90(picture, -1),
    }[orientation]
    return np.ascontiguousarray(stored)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "layers"),
    [("JPEG", 3), ("PNG", 3), ("PNG", 4), ("WEBP", 4), ("TIFF", 3)],
)
def test_pictures_are_turned_upright(
    kind: str, layers: int, orientation: int, scene: Picture, alpha: Picture, tmp_path: Path
) -> None:
    upright = scene if layers == 3 else np.dstack((scene, np.maximum(alpha, 1)))
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    path = tmp_path / "a"
    Image.fromarray(oriented(upright, orientation)).save(path, kind, exif=exif, **options)
    color, read = read_picture_rgba(path)
    assert color.shape == scene.shape
    assert np.abs(color.astype(int) - scene).mean() < (8 if kind == "JPEG" else 1e-9)
    if layers == 4:
        assert read is not None
        assert np.array_equal(read, upright[..., 3])


def test_deep_pictures_are_turned_upright_too(scene: Picture, tmp_path: Path) -> None:
    deep = oriented(scene.astype(np.uint16) * 257, 6)
    tag = (274, "H", 1, 6, True)
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb", extratags=[tag])
    assert np.array_equal(read_picture_rgba(tmp_path / "a.tif")[0], scene)
    png = write(tmp_path / "a.png", deep).read_bytes()
    exif = Image.Exif()
    exif[274] = 6
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(f">I{len(body)}sI", len(body) - 4, body, zlib.crc32(body))
    (tmp_path / "a.png").write_bytes(png[:33] + chunk + png[33:])
    assert np.array_equal(read_picture_rgba(tmp_path / "a.png")[0], scene)


def encoded(picture: Image.Image, kind: str) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind)
    return data.getvalue()


def test_bad_files_are_one_clear_line_each(scene: Picture, tmp_path: Path) -> None:
    picture = Image.fromarray(scene)
    files = {
        "empty.png": (b"", "is an empty file"),
        "text.png": (b"no picture at all\n" * 99, "save it as PNG, JPEG, WebP, TIFF or BMP"),
        "moving.gif": (encoded(picture, "GIF"), "save it as PNG"),
        "cmyk.jpg": (encoded(picture.convert("CMYK"), "JPEG"), "is CMYK, which is not supported"),
        "cmyk.tif": (encoded(picture.convert("CMYK"), "TIFF"), "save it as RGB"),
        "lab.tif": (encoded(picture.convert("LAB"), "TIFF"), "is CIELAB"),
        "float.tif": (encoded(picture.convert("F"), "TIFF"), "float32 pixels: save it with 8 or"),
        "dot.png": (encoded(picture.resize((1, 1)), "PNG"), "is 1 x 1 pixels, .* at least 32"),
        "grey.png": (encoded(Image.new("RGB", (64, 64), "grey"), "PNG"), "one plain colour"),
    }
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP"):
        whole = encoded(picture, kind)
        files[f"cut.{kind}"] = whole[: len(whole) // 2], "damaged"
    for name, (data, said) in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(InputError, match=said) as error:
            read_references(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"no such file: .*lost.png; name a picture"):
        read_references(tmp_path / "lost.png")


def names(references: Any) -> list[str]:
    return [Path(reference.name).name for reference in references]


def test_a_folder_is_read_by_name(scene: Picture, tmp_path: Path) -> None:
    folder = tmp_path / "anna"
    for name in ("b.jpg", "c.PNG", "a.webp"):
        write(folder / name, scene)
    (folder / "notes.txt").write_text("not a picture")
    (folder / "._b.jpg").write_bytes(b"what another system leaves behind")
    write(folder / "more" / "d.png", scene)
    read = read_references(folder)
    assert (read.kind, names(read)) == ("pictures", ["a.webp", "b.jpg", "c.PNG"])
    listed = read_references([folder / "c.PNG", str(folder / "more"), folder / "b.jpg"])
    assert names(listed) == ["c.PNG", "d.png", "b.jpg"]
    assert names(read_references(str(folder / "b.jpg"))) == ["b.jpg"]


def test_folders_that_hold_too_little_or_too_much(scene: Picture, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one picture of the person"):
        read_references([])
    folder = tmp_path / "many"
    folder.mkdir()
    with pytest.raises(InputError, match="holds no picture: name a folder with PNG"):
        read_references(folder)
    (folder / "a.heic").touch()
    with pytest.raises(InputError, match=r"holds no picture, only a\.heic: name"):
        read_references(folder)
    write(folder / "0.png", scene)
    for index in range(1, 2500):
        (folder / f"{index}.png").touch()  # reading any of these would be another error
    with pytest.raises(InputError, match=r"2500 references were given, .* one of every 3"):
        read_references(folder)


def test_renders_and_truths_of_one_name_are_pairs(
    scene: Picture, blurred: Picture, alpha: Picture, tmp_path: Path
) -> None:
    renders, photos = tmp_path / "renders", tmp_path / "photos"
    write(renders / "2.png", np.dstack((blurred, alpha)))
    write(photos / "2.tiff", scene)
    write(renders / "1.png", np.dstack((blurred, alpha)))
    write(photos / "1.png", np.dstack((scene, alpha[:, ::-1])))
    write(renders / "3.png", blurred)
    write(photos / "4.png", scene)
    pairs = read_pairs(renders, photos)
    assert (pairs.kind, names(pairs)) == ("pairs", ["1.png", "2.tiff"])
    for pair, expected in zip(pairs, (alpha[:, ::-1], alpha), strict=True):
        assert pair.render is not None
        assert pair.alpha is not None
        assert np.array_equal(pair.picture, scene)
        assert np.array_equal(pair.render, blurred)
        assert np.array_equal(pair.alpha, expected)
    assert read_references(tmp_path).fingerprint == pairs.fingerprint
    assert read_references([tmp_path]).fingerprint == pairs.fingerprint
    with pytest.raises(InputError, match="cannot be mixed"):
        read_references([tmp_path, photos / "4.png"])


def test_pairs_that_do_not_fit(scene: Picture, tmp_path: Path) -> None:
    renders, photos = tmp_path / "renders", tmp_path / "photos"
    with pytest.raises(InputError, match=r"no such folder: .*renders"):
        read_pairs(renders, photos)
    for index in range(5):
        write(renders / f"r{index}.png", scene)
    write(photos / "p.png", scene)
    with pytest.raises(InputError, match=r"holds r0, r1, r2 and 2 more, .*photos holds p; give"):
        read_pairs(renders, photos)
    write(photos / "r1.png", scene[:100])
    with pytest.raises(InputError, match=r"r1.png is 192 x 160 pixels and .*r1.png 192 x 100"):
        read_pairs(renders, photos)
    write(photos / "r1.jpg", scene)
    with pytest.raises(InputError, match=r"photos holds r1.jpg and r1.png: keep one"):
        read_pairs(renders, photos)
